//! How the demo looks: numbered steps with the time each took, commands as one would type them, and on a terminal a line
//! that changes while something goes on.
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub struct Screen {
    steps: u32,
    start: Instant,
    terminal: bool,
    colours: bool,
    /// The line that changes is the last one on the terminal.
    live: Cell<bool>,
    /// A picture of the hierarchy was shown.
    pictured: Cell<bool>,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const COMMAND: &str = "36";

impl Screen {
    pub fn new() -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none();
        Screen {
            steps: 0,
            start: Instant::now(),
            terminal,
            colours,
            live: Cell::new(false),
            pictured: Cell::new(false),
        }
    }

    pub fn step<T>(&mut self, title: &str, work: impl FnOnce(&Screen) -> Result<T>) -> Result<T> {
        self.steps += 1;
        println!("\n{}", self.paint(BOLD, &format!("{}. {title}", self.steps)));
        let start = Instant::now();
        let result = work(self);
        self.clear();
        let result = result.with_context(|| title.to_owned())?;
        println!("   {}", self.paint(DIM, &format!("done in {}", seconds(start.elapsed()))));
        Ok(result)
    }

    /// A line of our own.
    pub fn say(&self, text: &str) {
        self.lines(text, |line| line.to_owned());
    }

    /// What one would type.
    pub fn command(&self, text: &str) {
        self.lines(text, |line| self.paint(COMMAND, line));
    }

    /// What is good to know beside.
    pub fn note(&self, text: &str) {
        self.lines(text, |line| self.paint(DIM, line));
    }

    /// How it stands: on a terminal in place of the last such line, elsewhere a line of its own if it is `due`.
    pub fn live(&self, text: &str, due: bool) {
        if self.terminal {
            // Back to the beginning, and what is there away.
            print!("\r\x1b[2K   {}", self.paint(DIM, text));
            self.live.set(true);
        } else if due {
            println!("   {text}");
        }
        let _ = std::io::stdout().flush();
    }

    fn clear(&self) {
        if self.live.replace(false) {
            print!("\r\x1b[2K");
        }
    }

    /// What to remember.
    pub fn strong(&self, text: &str) {
        self.lines(text, |line| self.paint(BOLD, line));
    }

    /// A hierarchy as it stands. The first one tells how long a newcomer waited for it.
    pub fn picture(&self, tree: &str) {
        self.say(tree);
        if !self.pictured.replace(true)
            && let Some(age) = process_age()
        {
            self.note(&format!("(the first picture: {} after the command was typed)", seconds(age)));
        }
    }

    fn lines(&self, text: &str, paint: impl Fn(&str) -> String) {
        self.clear();
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            println!("{}", format!("   {}", paint(line)).trim_end());
        }
        // A long step follows: what was said must be seen before.
        let _ = std::io::stdout().flush();
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn end(&self) {
        println!("\n{}", self.paint(BOLD, &format!("{} steps in {}.", self.steps, seconds(self.start.elapsed()))));
    }
}

/// Since the command was typed, with the building of this program: `cargo run` becomes the program that it runs, so the
/// process is as old as cargo.
fn process_age() -> Option<Duration> {
    /// What the kernel counts in, for every program: USER_HZ.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which is in parentheses and may contain anything; the start is the 22nd field of all.
    let start: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 = std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(uptime - start / TICKS_A_SECOND).ok()
}

pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// 336776 as 336,776.
pub fn number(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}
