//! The words after `cargo xtask test`.
use anyhow::{Context, Result, bail, ensure};

const PARTS: [&str; 4] = ["fmt", "clippy", "core", "cluster"];

/// Which Postgres the tests run on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// One in turn, or what the change asks for.
    InTurn,
    All,
    Major(u16),
}

pub struct Options {
    /// A part, or a piece of the names of tests: `movement_write_fence::` is a file of them.
    pub name: Option<String>,
    pub full: bool,
    pub versions: Versions,
    /// How many tests run at a time.
    pub at_a_time: usize,
}

impl Options {
    /// The part that is named, if it is one.
    pub fn part(&self) -> Option<&str> {
        self.name.as_deref().filter(|name| PARTS.contains(name))
    }

    /// What the names of tests must contain.
    pub fn filter(&self) -> Option<&str> {
        self.name.as_deref().filter(|name| !PARTS.contains(name))
    }
}

pub fn parse(args: &[String]) -> Result<Options> {
    let mut options =
        Options { name: None, full: false, versions: Versions::InTurn, at_a_time: super::cluster::AT_A_TIME };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--full" => options.full = true,
            "--pg" => {
                let value = args.next().context("--pg needs a major version or all")?;
                options.versions = match value.as_str() {
                    "all" => Versions::All,
                    text => {
                        Versions::Major(text.parse().with_context(|| format!("--pg is not a major version: {text}"))?)
                    }
                };
            }
            "--jobs" => {
                let value = args.next().context("--jobs needs a number")?;
                options.at_a_time = value.parse().with_context(|| format!("--jobs is not a number: {value}"))?;
                ensure!(options.at_a_time > 0, "--jobs needs at least 1");
            }
            option if option.starts_with('-') => {
                bail!("unknown option {option}; there are --full, --pg N|all and --jobs N")
            }
            name => {
                ensure!(options.name.is_none(), "one name at a time");
                options.name = Some(name.to_owned());
            }
        }
    }
    Ok(options)
}
