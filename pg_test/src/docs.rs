//! The documentation as a test: each ```sql block is run, and what follows it as ```text must be what psql shows.
//!
//! - All blocks of a file run in one psql session of a superuser, in order, on a fresh cluster. A block without a ```text
//!   block after it must not raise an error.
//! - ```` ```sql on n1 ```` runs on that node, ```` ```sql no-run ```` nowhere.
//! - A line of dots (`…`) in the expected text stands for any lines, dots within a line for any text. Widths of columns,
//!   empty lines and the minor version of Postgres do not count.
//! - There is what `cargo xtask cluster` starts, and nothing else: a page says all that its examples need, from its first line
//!   on. Only what waits for something is written as `<!-- sql …; -->`, and runs unseen.
//! - The node n1 is 10.0.0.11 with the password `secret`, n2 10.0.0.12, and so on.
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{Cluster, Options};
use crate::install::workspace;
use crate::server::{DATABASE, Server};
use crate::template::SUPERUSER;

const NODES: usize = 4;
const DOTS: char = '…';

pub struct Page {
    pub path: PathBuf,
    lines: Vec<String>,
    examples: Vec<Example>,
}

/// Commands, with what they are said to show. Lines count from zero.
struct Example {
    /// `None` is the coordinator.
    node: Option<usize>,
    sql: String,
    line: usize,
    /// The lines between the fences.
    expected: Option<std::ops::Range<usize>>,
}

/// Where the example is, where its text, and what is shown.
type Wrong = (usize, Option<std::ops::Range<usize>>, Vec<String>);

/// All pages with examples.
pub fn pages() -> Result<Vec<PathBuf>> {
    let mut found = vec![workspace().join("README.md")];
    let mut pending = vec![workspace().join("docs")];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

impl Page {
    pub fn read(path: &Path) -> Result<Page> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let examples = examples(&lines).with_context(|| path.display().to_string())?;
        Ok(Page { path: path.to_owned(), lines, examples })
    }

    pub fn has_examples(&self) -> bool {
        !self.examples.is_empty()
    }

    /// Runs all examples; the error shows all that are not true.
    pub fn check(self) -> Result<()> {
        let wrong = self.wrong()?;
        if wrong.is_empty() {
            return Ok(());
        }
        let report: Vec<String> = wrong.iter().map(|(line, _, shown)| self.report(*line, shown)).collect();
        bail!("{} examples are not true\n{}", wrong.len(), report.join("\n"))
    }

    /// Runs all examples and writes into the page what they show.
    pub fn correct(mut self) -> Result<()> {
        for (line, expected, shown) in self.wrong()?.into_iter().rev() {
            let report = self.report(line, &shown);
            let Some(range) = expected else { bail!("an example fails, and has no text to correct\n{report}") };
            self.lines.splice(range, shown);
        }
        fs::write(&self.path, self.lines.join("\n") + "\n")?;
        Ok(())
    }

    /// The examples that are not true, with what is shown instead.
    fn wrong(&self) -> Result<Vec<Wrong>> {
        let cluster = Cluster::with(Options { nodes: NODES, extension: false, ..Options::default() })?;
        let mut session = Session::start(&cluster.coordinator)?;
        let mut wrong = Vec::new();
        for example in &self.examples {
            let sql = real(&cluster, &example.sql);
            let shown = match example.node {
                None => session.run(&sql)?,
                Some(number) => Session::start(cluster.node(number))?.run(&sql)?,
            };
            let shown: Vec<String> = shown.iter().map(|line| documented(&cluster, line)).collect();
            let expected = example.expected.clone().map(|range| &self.lines[range]);
            let is_true = match expected {
                Some(lines) => is_same(lines, &shown),
                None => !shown.iter().any(|line| line.starts_with("ERROR:")),
            };
            if !is_true {
                wrong.push((example.line, example.expected.clone(), shown));
            }
        }
        Ok(wrong)
    }

    fn report(&self, line: usize, shown: &[String]) -> String {
        format!("{}:{}: psql shows\n{}\n", self.path.display(), line + 1, shown.join("\n"))
    }
}

fn examples(lines: &[String]) -> Result<Vec<Example>> {
    let mut examples: Vec<Example> = Vec::new();
    let mut at = 0;
    // Only text between an example and its output that says nothing: empty lines.
    let mut follows = false;
    while at < lines.len() {
        let line = lines[at].trim();
        if let Some(info) = line.strip_prefix("```") {
            let end = end_of(lines, at, "```")?;
            let mut words = info.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("sql"), None, None) => {
                    examples.push(Example { node: None, sql: lines[at + 1..end].join("\n"), line: at, expected: None });
                    follows = true;
                }
                (Some("sql"), Some("on"), Some(node)) => {
                    let number = node.strip_prefix('n').and_then(|number| number.parse().ok());
                    let number = number.with_context(|| format!("line {}: no node {node}", at + 1))?;
                    let sql = lines[at + 1..end].join("\n");
                    examples.push(Example { node: Some(number), sql, line: at, expected: None });
                    follows = true;
                }
                (Some("text"), None, None) if follows => {
                    if let Some(example) = examples.last_mut() {
                        example.expected = Some(at + 1..end);
                    }
                    follows = false;
                }
                (Some("sql"), Some("no-run"), None)
                | (None | Some("text" | "sh" | "json" | "ini" | "mermaid" | "python"), None, None) => {
                    follows = false;
                }
                _ => bail!("line {}: a block of unknown kind: {line}", at + 1),
            }
            at = end;
        } else if line.starts_with("<!-- sql") {
            let end = (at..lines.len()).find(|n| lines[*n].ends_with("-->")).context("a comment without end")?;
            let text = lines[at..=end].join("\n");
            let sql = text.trim().trim_start_matches("<!-- sql").trim_end_matches("-->").to_owned();
            examples.push(Example { node: None, sql, line: at, expected: None });
            follows = false;
            at = end;
        } else if !line.is_empty() {
            follows = false;
        }
        at += 1;
    }
    Ok(examples)
}

fn end_of(lines: &[String], start: usize, fence: &str) -> Result<usize> {
    let end = lines.iter().skip(start + 1).position(|line| line.trim() == fence);
    Ok(start + 1 + end.with_context(|| format!("line {}: the block has no end", start + 1))?)
}

/// psql, fed block by block.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::io::PipeReader>,
}

const MARK: &str = "~~ end of the example ~~";

impl Session {
    fn start(server: &Server) -> Result<Session> {
        let (reader, writer) = std::io::pipe()?;
        let mut child = Command::new(server.install.program("psql"))
            .args(["-X", "-q", "-U", SUPERUSER, "-d", DATABASE, "-h"])
            .arg(server.socket_dir())
            .args(["-p", &server.port().to_string()])
            .env("PGCONNECT_TIMEOUT", "10")
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .context("cannot run psql")?;
        let input = child.stdin.take();
        Ok(Session { child, input, output: BufReader::new(reader) })
    }

    /// The lines that psql shows, without where in the server's source an error was raised.
    fn run(&mut self, sql: &str) -> Result<Vec<String>> {
        let input = self.input.as_mut().context("the session has ended")?;
        // To where errors go: that is never buffered, and results are written out before.
        writeln!(input, "{sql}\n\\warn '{MARK}'")?;
        input.flush()?;
        let mut shown = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "psql ended in\n{sql}\n{}", shown.join("\n"));
            let line = line.trim_end();
            if line == MARK {
                while shown.last().is_some_and(String::is_empty) {
                    shown.pop();
                }
                return Ok(shown);
            }
            if !line.starts_with("LOCATION:") {
                shown.push(line.to_owned());
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// The addresses and passwords of this cluster instead of those of the documentation.
fn real(cluster: &Cluster, sql: &str) -> String {
    let mut sql = sql.replace("'secret'", "'app'");
    for (number, node) in (1..).zip(cluster.nodes()) {
        sql = sql
            .replace(&format!("host => '10.0.0.1{number}'"), &format!("host => '127.0.0.1', port => {}", node.port()));
    }
    sql
}

/// And back, of the same width where a table can have it.
fn documented(cluster: &Cluster, line: &str) -> String {
    let mut line = line.to_owned();
    for (number, node) in (1..).zip(cluster.nodes()) {
        let port = node.port().to_string();
        line = replace_port(&line, &port, number);
    }
    let own = cluster.coordinator.port().to_string();
    line.replace(&own, &format!("{:<width$}", 5432, width = own.len())).trim_end().to_owned()
}

fn replace_port(line: &str, port: &str, number: usize) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(port) {
        let (before, after) = (&rest[..at], &rest[at + port.len()..]);
        match before.rfind("127.0.0.1") {
            Some(host) if before[host + 9..].chars().all(|c| " |:,\"port".contains(c)) => {
                out.push_str(&before[..host]);
                out.push_str(&format!("10.0.0.1{number}{}", &before[host + 9..]));
            }
            _ => out.push_str(before),
        }
        // The width of the column stays: what the port lacks comes at the end of the cell.
        let (cell, others) = after.split_at(after.find(" |").unwrap_or(after.len()));
        let width = if others.is_empty() { 0 } else { port.len().saturating_sub(4) };
        out.push_str(&format!("5432{cell}{:width$}", ""));
        rest = others;
    }
    out + rest
}

/// Whether the expected lines, dots and all, are those that were shown.
fn is_same(expected: &[String], shown: &[String]) -> bool {
    let plain =
        |lines: &[String]| lines.iter().map(|line| plain(line)).filter(|line| !line.is_empty()).collect::<Vec<_>>();
    lines_match(&plain(expected), &plain(shown))
}

fn lines_match(expected: &[String], shown: &[String]) -> bool {
    match expected.split_first() {
        None => shown.is_empty(),
        Some((first, rest)) if *first == DOTS.to_string() => {
            (0..=shown.len()).any(|skipped| lines_match(rest, &shown[skipped..]))
        }
        Some((first, rest)) => shown.split_first().is_some_and(|(line, others)| {
            let pieces: Vec<&str> = first.split(DOTS).collect();
            pieces_match(&pieces, line) && lines_match(rest, others)
        }),
    }
}

/// The pieces stand in the line, in order, the first at its beginning and the last at its end.
fn pieces_match(pieces: &[&str], line: &str) -> bool {
    match pieces {
        [] => line.is_empty(),
        [only] => line == *only,
        [first, middle @ .., last] => {
            let Some(mut rest) = line.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
                return false;
            };
            middle
                .iter()
                .all(|piece| rest.find(piece.trim()).map(|at| rest = &rest[at + piece.trim().len()..]).is_some())
        }
    }
}

/// A line without what does not count: widths, the minor version.
fn plain(line: &str) -> String {
    let mut words = Vec::new();
    let mut after_product = false;
    for word in line.split_whitespace() {
        // A rule of a table.
        let is_rule = word.len() > 1 && word.chars().all(|c| "-+─".contains(c));
        let version = word.trim_end_matches([',', ':', ';']);
        let is_version = after_product && version.starts_with(|c: char| c.is_ascii_digit());
        after_product = word.ends_with("PostgreSQL");
        if is_rule {
            words.push("--".to_owned());
        } else if is_version {
            words.push(word.replace(version, "15"));
        } else {
            words.push(word.to_owned());
        }
    }
    words.dedup_by(|a, b| a == "--" && b == "--");
    words.join(" ")
}
