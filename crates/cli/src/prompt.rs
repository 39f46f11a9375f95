//! A question on the terminal whose answer is not shown.

use std::io::{self, BufRead, Write};

use agent_team_mesh::client::Secret;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// Asks on stderr and reads one line from the terminal with echo off.
pub fn without_echo(question: &str) -> io::Result<Secret> {
    let stdin = io::stdin();
    io::stderr().write_all(question.as_bytes())?;
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    io::stderr().write_all(b"\n")?;
    read?;
    Ok(Secret::new(line))
}
