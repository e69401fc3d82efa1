//! Standard error: lines with their time, above a table that is drawn over itself and never erases them.

use crate::output::{Handed, Output};
use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use terminal_size::{Height, Width, terminal_size_of};

/// Size of a terminal that does not tell its own.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// Number of texts that wait for a reader of standard error. A terminal that was stopped, and a pipe that is not read, hold up
/// neither the media, whose threads write the log, nor commands and signals.
const WAITING: usize = 1024;

/// Standard error, shared by all tasks and by the logger.
#[derive(Clone, Debug)]
pub(crate) struct Screen(Arc<Mutex<Drawn>>);

/// Table that is on the screen now.
#[derive(Debug)]
struct Drawn {
    rows: Vec<String>,
    /// Lines that were typed below the table.
    typed: usize,
    /// Standard error; `None` after the end.
    output: Option<Output>,
}

impl Default for Screen {
    fn default() -> Self {
        let output = Some(Output::new(io::stderr(), WAITING));
        Self(Arc::new(Mutex::new(Drawn { rows: Vec::new(), typed: 0, output })))
    }
}

impl Screen {
    fn drawn(&self) -> MutexGuard<'_, Drawn> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if there is a terminal to draw a table on.
    pub(crate) fn is_terminal(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Returns the columns and lines of the terminal.
    pub(crate) fn size(&self) -> (usize, usize) {
        let size = terminal_size_of(io::stderr());
        size.map_or(USUAL_SIZE, |(Width(columns), Height(lines))| (columns.into(), lines.into()))
    }

    /// Writes a line with the time in front.
    pub(crate) fn line(&self, text: &str) {
        self.plain(&format!("{} {text}", now()));
    }

    /// Writes text as it is, above the table.
    pub(crate) fn plain(&self, text: &str) {
        let mut drawn = self.drawn();
        let above = format!("{}{}\n", drawn.erase(), text.trim_end_matches('\n'));
        drawn.write(&above);
    }

    /// Draws the table in the place of the one before.
    pub(crate) fn draw(&self, rows: Vec<String>) {
        let mut drawn = self.drawn();
        let above = drawn.erase();
        drawn.rows = rows;
        drawn.write(&above);
    }

    /// Waits until all lines are written, unless nobody reads them.
    pub(crate) fn end(&self) {
        let output = self.drawn().output.take();
        if let Some(output) = output {
            output.end();
        }
    }

    /// Records that a line was typed on the terminal, below the table.
    pub(crate) fn typed(&self) {
        self.drawn().typed += 1;
    }
}

impl Drawn {
    /// Returns the text that erases the table.
    fn erase(&mut self) -> String {
        let lines = self.rows.len() + self.typed;
        let text = if self.rows.is_empty() { String::new() } else { format!("\x1b[{lines}A\r\x1b[J") };
        self.typed = 0;
        text
    }

    /// Says that lines before the last one were left out.
    fn tell_left_out(&mut self, count: u64) {
        let notice = format!("{}{} standard error was not read, {count} lines were left out\n", self.erase(), now());
        self.write(&notice);
    }

    /// Writes text, and the table below it. Its lines do not wrap, so that their number is known.
    fn write(&mut self, above: &str) {
        let table: String = self.rows.iter().map(|row| format!("{row}\n")).collect();
        let table = if table.is_empty() { table } else { format!("\x1b[?7l{table}\x1b[?7h") };
        // A relay goes on without its terminal, so a failure to write is ignored.
        let Some(output) = &mut self.output else { return };
        if let Handed::Again(count) = output.write(format!("{above}{table}")) {
            self.tell_left_out(count);
        }
    }
}

/// The logger writes a whole record at a time.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.plain(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the time in UTC, as in `2026-03-01T12:00:00Z`.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
