//! What each part of a run took.
use std::time::Instant;

use anyhow::{Context, Result};

#[derive(Default)]
pub struct Clock {
    lines: Vec<String>,
}

impl Clock {
    pub fn part<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("== {name}");
        let start = Instant::now();
        let result = work();
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        self.lines.push(format!("{name:<12} {verdict:<6} {:>7.1} s", start.elapsed().as_secs_f64()));
        result.with_context(|| name.to_owned())
    }

    pub fn print(&self) {
        println!("\n== summary");
        for line in &self.lines {
            println!("{line}");
        }
    }
}
