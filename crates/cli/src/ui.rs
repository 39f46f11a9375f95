//! The only place that prints. Results go to stdout, talk to stderr; everything that is text passes through
//! [`text::visible`], so that nobody's words drive the terminal.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use anstyle::Style;
use serde_json::{Map, Value};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use crate::args::GlobalArgs;
use crate::error::{CliError, Exit};
use crate::settings::Env;
use crate::text;

/// Styles by meaning.
pub mod style {
    use anstyle::{AnsiColor, Style};

    pub const GOOD: Style = AnsiColor::Green.on_default();
    pub const BAD: Style = AnsiColor::Red.on_default();
    pub const FAINT: Style = Style::new().dimmed();
    pub const STRONG: Style = Style::new().bold();
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON document a line
    Json,
}

/// The terminal, or what stands for it.
pub struct Ui {
    json: bool,
    quiet: bool,
    raw: bool,
    colour_out: bool,
    colour_err: bool,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    /// Whether stderr is a log of JSON lines: what is said there is one of them.
    logs_json: bool,
    /// Where documents go instead of stdout, when commands run inside another one.
    collected: Option<Mutex<Vec<Value>>>,
}

/// A line made of plain and styled pieces, each of them harmless.
#[derive(Debug, Default)]
pub struct Line(Vec<(Option<Style>, String)>);

impl Line {
    pub fn new(text: impl AsRef<str>) -> Self {
        Self::default().text(text)
    }

    pub fn styled(style: Style, text: impl AsRef<str>) -> Self {
        Self::default().with(style, text)
    }

    pub fn text(mut self, text: impl AsRef<str>) -> Self {
        self.0.push((None, text::visible(text.as_ref())));
        self
    }

    pub fn with(mut self, style: Style, text: impl AsRef<str>) -> Self {
        self.0.push((Some(style), text::visible(text.as_ref())));
        self
    }

    /// Another line after this one, on the same line.
    pub fn append(mut self, mut more: Self) -> Self {
        self.0.append(&mut more.0);
        self
    }

    fn render(&self, colour: bool) -> String {
        let pieces = self.0.iter().map(|(style, text)| match style {
            Some(style) if colour => format!("{style}{text}{style:#}"),
            _ => text.clone(),
        });
        pieces.collect()
    }
}

impl<T: AsRef<str>> From<T> for Line {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

impl Ui {
    pub fn new(args: &GlobalArgs, env: &Env) -> Self {
        let (stdout_is_terminal, stderr_is_terminal) =
            (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let colour = !args.no_color && !env.no_color();
        Self {
            json: args.json || env.json().unwrap_or(false),
            quiet: args.quiet,
            raw: args.raw,
            colour_out: colour && stdout_is_terminal,
            colour_err: colour && stderr_is_terminal,
            stdout_is_terminal,
            stderr_is_terminal,
            logs_json: false,
            collected: None,
        }
    }

    /// The same terminal for a command inside a command: its document is kept, not printed.
    pub fn collecting(&self) -> Self {
        Self { collected: Some(Mutex::default()), ..*self }
    }

    /// The documents kept.
    pub fn collected(self) -> Vec<Value> {
        self.collected
            .map(|kept| kept.into_inner().unwrap_or_else(PoisonError::into_inner))
            .unwrap_or_default()
    }

    /// For a failure before the command line was understood.
    pub fn json_only() -> Self {
        Self {
            json: true,
            quiet: false,
            raw: false,
            colour_out: false,
            colour_err: false,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
            logs_json: false,
            collected: None,
        }
    }

    /// Whether only the reply's text is wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether somebody watches the result grow.
    pub fn streams(&self) -> bool {
        self.stdout_is_terminal && !self.json && !self.quiet
    }

    /// Whether somebody watches the talk.
    pub fn shows_progress(&self) -> bool {
        self.stderr_is_terminal && !self.json && !self.quiet
    }

    pub fn start_log(&mut self, verbose: u8, format: Option<LogFormat>) {
        let (ours, others) = match (verbose, format) {
            (0, None) => return,
            (0, Some(_)) => (Level::INFO, Level::INFO),
            (1, _) => (Level::DEBUG, Level::INFO),
            _ => (Level::DEBUG, Level::DEBUG),
        };
        self.logs_json = format == Some(LogFormat::Json);
        // Not `EnvFilter`: it reads patterns, and brings a regular expression engine for that.
        let targets =
            ["openclaw_client", "agent_team_mesh", "agent_mesh_gateway"].map(|target| (target, ours));
        let filter = Targets::new().with_default(others).with_targets(targets);
        let log = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_writer(std::io::stderr)
            .with_ansi(self.colour_err);
        // Nobody else has set one.
        let _ = match format {
            Some(LogFormat::Json) => {
                tracing::subscriber::set_global_default(log.json().flatten_event(true).finish().with(filter))
            }
            Some(LogFormat::Text) | None => {
                tracing::subscriber::set_global_default(log.finish().with(filter))
            }
        };
    }

    /// A line of the result, for people; nothing under `--json`.
    pub fn out(&self, line: impl Into<Line>) {
        if !self.json {
            self.write_out(&format!("{}\n", line.into().render(self.colour_out)));
        }
    }

    /// Talk: warnings, progress.
    pub fn note(&self, line: impl Into<Line>) {
        if self.logs_json {
            tracing::info!("{}", line.into().render(false));
        } else if !self.quiet {
            let text = format!("{}\n", line.into().render(self.colour_err));
            // Nothing can be said about a stderr that is gone.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }

    /// What helps against what was said just before.
    pub fn hint(&self, text: impl AsRef<str>) {
        self.note(Line::styled(style::STRONG, "hint: ").text(text));
    }

    /// A line on stderr that others wait for, whatever the options.
    pub fn announce(&self, text: &str) {
        let _ = std::io::stderr().write_all(format!("{}\n", text::visible(text)).as_bytes());
    }

    /// A warning, also under `--json` and `--quiet`: it is on stderr.
    pub fn warn(&self, text: impl AsRef<str>) {
        if self.logs_json {
            tracing::warn!("{}", text::visible(text.as_ref()));
            return;
        }
        let line = Line::styled(style::STRONG, "warning: ").text(text);
        let _ = std::io::stderr().write_all(format!("{}\n", line.render(self.colour_err)).as_bytes());
    }

    /// A text of our own that a program reads: a script or a page, whose control characters belong to it.
    pub fn script(&self, text: &str) {
        if !self.json {
            self.write_out(text);
        }
    }

    /// A peer's text, whole, ending in a line break.
    pub fn peer_text(&self, text: &str) {
        if self.json {
            return;
        }
        let shown = if self.raw && !self.stdout_is_terminal { text.to_owned() } else { text::visible(text) };
        let end = if shown.ends_with('\n') { "" } else { "\n" };
        self.write_out(&format!("{shown}{end}"));
    }

    /// The same among lines of ours and of others, each of its lines indented: none can pass for one of those.
    pub fn quoted(&self, text: &str) {
        let lines = text.lines().map(|line| format!("  {line}\n"));
        self.peer_text(&lines.collect::<String>());
    }

    /// A piece of a peer's text, at once.
    pub fn peer_text_piece(&self, piece: &str) {
        self.write_out(&text::visible(piece));
    }

    /// The document of a command that did its job, or of one that did not but has something to tell.
    pub fn document(&self, command: &str, exit: Exit, fields: Value) {
        if self.json {
            self.print_document(command, exit, fields, None);
        }
    }

    /// One document of a stream, for people who asked for JSON Lines.
    pub fn json_line(&self, document: &Value) {
        self.write_out(&format!("{}\n", text::to_json(document)));
    }

    /// Whether one JSON document is wanted.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The document, and the error beside it; in text mode the error goes to stderr.
    pub fn document_with_error(&self, command: &str, fields: Value, error: CliError) -> Exit {
        self.failure(command, error.with_fields(fields))
    }

    /// A failure: one document, or two lines on stderr.
    pub fn failure(&self, command: &str, error: CliError) -> Exit {
        let exit = error.exit;
        if self.json {
            let shown = error.to_json();
            self.print_document(command, exit, Value::Object(error.fields), Some(shown));
            return exit;
        }
        // What a peer says in an error must not look like a hint of ours.
        let mut line = Line::styled(style::BAD, "error: ").text(text::one_line(&error.message));
        if let Some(hint) = &error.hint {
            line = line.text("\n").with(style::STRONG, "hint: ").text(hint);
        }
        let _ = std::io::stderr().write_all(format!("{}\n", line.render(self.colour_err)).as_bytes());
        exit
    }

    fn print_document(&self, command: &str, exit: Exit, fields: Value, error: Option<Value>) {
        let mut document = Map::new();
        document.insert("command".to_owned(), command.into());
        document.insert("ok".to_owned(), (exit == Exit::Done).into());
        if let Value::Object(fields) = fields {
            document.extend(fields);
        }
        if let Some(error) = error {
            document.insert("error".to_owned(), error);
        }
        match &self.collected {
            Some(kept) => kept.lock().unwrap_or_else(PoisonError::into_inner).push(Value::Object(document)),
            None => self.write_out(&format!("{}\n", text::to_json(&Value::Object(document)))),
        }
    }

    fn write_out(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            // Whoever reads has read enough: `agent-mesh list | head -1` is no failure.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "error: cannot write the result: {error}");
                std::process::exit(Exit::Failed as i32);
            }
        }
    }

    /// A table as wide as its content.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<String>>) {
        if self.json {
            return;
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        // Never broken inside a word: a narrow terminal wraps the line, and the words can still be searched for.
        table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        table.set_header(header);
        table.add_rows(
            rows.into_iter().map(|row| row.into_iter().map(|cell| text::one_line(&cell)).collect::<Vec<_>>()),
        );
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.write_out(&format!("{}\n", table.trim_fmt()));
    }
}
