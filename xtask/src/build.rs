//! cargo's builds, told in one line that says how far they are.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::extension::cargo;
use crate::run::{attempt, output, show};

/// Where there is no terminal, a line so often.
const STEP: Duration = Duration::from_secs(20);

/// Runs a build of `package` (`cargo build …`, `cargo test --no-run …`) and returns the messages that cargo writes as JSON.
pub fn build(what: &str, package: &str, command: &mut Command) -> Result<Vec<Value>> {
    let shown = show(command);
    let total = units(package).unwrap_or(0);
    let start = Instant::now();
    let mut child = command
        .args(["--quiet", "--message-format=json-render-diagnostics"])
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let messages = BufReader::new(child.stdout.take().context("cargo has an output")?).lines();
    let mut line = Line { what, total, done: 0, start, told: start, terminal: std::io::stdout().is_terminal() };
    let mut found = Vec::new();
    for message in messages {
        let Ok(message) = serde_json::from_str::<Value>(&message?) else { continue };
        if message["reason"] == "compiler-artifact" {
            line.done += 1;
            line.tell(message["fresh"] == false);
        }
        found.push(message);
    }
    let status = child.wait()?;
    line.end();
    ensure!(status.success(), "{shown}: {status}");
    Ok(found)
}

struct Line<'a> {
    what: &'a str,
    total: usize,
    done: usize,
    start: Instant,
    told: Instant,
    terminal: bool,
}

impl Line<'_> {
    /// What is built already passes in a moment, and is not worth a line.
    fn tell(&mut self, is_new: bool) {
        if self.terminal && is_new {
            print!("\r\x1b[2K{}", self.text());
            let _ = std::io::stdout().flush();
        } else if self.told.elapsed() >= STEP {
            self.told = Instant::now();
            println!("{}", self.text());
        }
    }

    fn text(&self) -> String {
        // The count of what is to come is an estimate: some are built twice, with other features.
        let total = self.total.max(self.done);
        format!("{}: {} of {total} crates, {} s", self.what, self.done, self.start.elapsed().as_secs())
    }

    fn end(&self) {
        if self.terminal {
            print!("\r\x1b[2K");
        }
        println!("{}: {:.1} s", self.what, self.start.elapsed().as_secs_f64());
    }
}

/// About how many crates and build scripts a build of `package` has.
fn units(package: &str) -> Result<usize> {
    let text = attempt(cargo("metadata").args(["--format-version", "1", "--offline"]))
        .map_or_else(|| output(cargo("metadata").args(["--format-version", "1"])), Ok)?;
    let metadata: Value = serde_json::from_str(&text)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut targets: BTreeMap<String, usize> = BTreeMap::new();
    let mut pending = Vec::new();
    for found in list(&metadata["packages"]) {
        let id = found["id"].as_str().unwrap_or_default().to_owned();
        let counts = |target: &Value| {
            list(&target["kind"])
                .iter()
                .any(|kind| ["lib", "rlib", "cdylib", "proc-macro", "custom-build"].iter().any(|wanted| kind == wanted))
        };
        if found["name"] == package {
            pending.push(id.clone());
        }
        targets.insert(id, list(&found["targets"]).iter().filter(|target| counts(target)).count());
    }
    let mut below: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let dependencies = list(&node["dependencies"]).iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect();
        below.insert(node["id"].as_str().unwrap_or_default().to_owned(), dependencies);
    }
    let mut count = 0;
    while let Some(id) = pending.pop() {
        // Each is counted once.
        count += targets.remove(&id).unwrap_or(0);
        pending.extend(below.remove(&id).unwrap_or_default());
    }
    Ok(count)
}
