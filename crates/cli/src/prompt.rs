//! A question on the terminal whose answer is not shown.

use std::io::{self, BufRead, Stdin, Write};

use agent_team_mesh::client::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Asks on stderr and reads one line from the terminal with echo off. Keys are read one by one, Ctrl-C among them, so
/// that the terminal is never left without an echo; after a Ctrl-C there is no answer.
pub fn without_echo(question: &str) -> io::Result<Option<Secret>> {
    let stdin = io::stdin();
    io::stderr().write_all(question.as_bytes())?;
    let silenced = Silenced::new(&stdin)?;
    let mut line = Vec::new();
    let mut input = stdin.lock();
    let answered = loop {
        let Some(&byte) = input.fill_buf()?.first() else { break !line.is_empty() };
        input.consume(1);
        match byte {
            b'\n' => break true,
            CTRL_C => break false,
            CTRL_D => break !line.is_empty(),
            BACKSPACE | DELETE => drop(line.pop()),
            byte => line.push(byte),
        }
    };
    drop(silenced);
    io::stderr().write_all(b"\n")?;
    let text =
        String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok(answered.then(|| Secret::new(text)))
}

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: u8 = 8;
const DELETE: u8 = 127;

/// A terminal without echo and without signals from the keyboard; as it was again when this goes.
struct Silenced<'a> {
    stdin: &'a Stdin,
    before: Termios,
}

impl<'a> Silenced<'a> {
    fn new(stdin: &'a Stdin) -> io::Result<Self> {
        let before = tcgetattr(stdin)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON);
        tcsetattr(stdin, OptionalActions::Flush, &silent)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Silenced<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no mending.
        let _ = tcsetattr(self.stdin, OptionalActions::Flush, &self.before);
    }
}
