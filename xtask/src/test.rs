//! `cargo xtask test`: all checks in the order of what they cost, with a summary whatever happens.
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use pg_test::Install;
use pg_test::install::workspace;

use crate::extension::{self, ForVersion, Profile, cargo};
use crate::run::{run, succeeds};
use crate::setup::{self, Wanted};

const PARTS: [&str; 5] = ["fmt", "clippy", "core", "cluster", "docs"];
/// Each cluster test runs several servers: more at a time only make each other's time limits run out.
const CLUSTERS_AT_A_TIME: &str = "2";

struct Options {
    /// A part, a file of cluster tests, or a filter for their names.
    name: Option<String>,
    full: bool,
    version: Option<u16>,
}

pub fn test(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    let mut summary = Summary::default();
    let result = parts(&options, &mut summary);
    summary.print();
    result
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options { name: None, full: false, version: None };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--full" => options.full = true,
            "--pg" => {
                let value = args.next().context("--pg needs a major version or all")?;
                options.version = match value.as_str() {
                    "all" => None,
                    text => Some(text.parse().with_context(|| format!("--pg is not a major version: {text}"))?),
                };
            }
            option if option.starts_with('-') => bail!("unknown option {option}; there are --full and --pg N|all"),
            name => {
                ensure!(options.name.is_none(), "one name at a time");
                options.name = Some(name.to_owned());
            }
        }
    }
    Ok(options)
}

fn parts(options: &Options, summary: &mut Summary) -> Result<()> {
    let name = options.name.as_deref();
    let wants = |part: &str| name.is_none_or(|name| name == part);
    let mut installs = summary.part("setup", || setup::run(Wanted::All))?;
    if let Some(major) = options.version {
        installs.retain(|install| install.major == major);
        ensure!(!installs.is_empty(), "Postgres {major} is not one of the prepared versions");
    }
    if wants("fmt") {
        summary.part("fmt", || {
            component("rustfmt", "fmt")?;
            run(cargo("fmt").args(["--all", "--check"]))
        })?;
    }
    if wants("clippy") {
        summary.part("clippy", || clippy(&installs))?;
    }
    if wants("core") {
        summary.part("core", || run(cargo("test").args(["--profile", "cluster", "--package", "shardkeeper_core"])))?;
    }
    let filter = name.filter(|name| !PARTS.contains(name));
    // A name can be that of a file of tests, of a part, or a piece of the names of tests.
    let file = name.filter(|name| workspace().join(format!("pg_test/tests/{name}.rs")).is_file());
    if filter.is_none() && file.is_none() && !wants("cluster") {
        return Ok(());
    }
    for install in &installs {
        let major = install.major;
        summary.part(&format!("build {major}"), || extension::install(install, Profile::Cluster))?;
        summary.part(&format!("cluster {major}"), || cluster_tests(install, filter, file, options.full))?;
    }
    Ok(())
}

fn clippy(installs: &[Install]) -> Result<()> {
    component("clippy", "clippy")?;
    let strict = ["--", "-D", "warnings"];
    run(cargo("clippy")
        .args(["--profile", "cluster", "--workspace", "--exclude", "shardkeeper", "--all-targets"])
        .args(strict))?;
    for install in installs {
        run(cargo("clippy")
            .args(["--profile", "cluster", "--package", "shardkeeper", "--all-targets"])
            .for_version(install)
            .args(strict))?;
    }
    Ok(())
}

fn cluster_tests(install: &Install, filter: Option<&str>, file: Option<&str>, full: bool) -> Result<()> {
    let mut command = cargo("test");
    command.args(["--profile", "cluster", "--package", "pg_test", "--no-fail-fast"]);
    if let Some(file) = file {
        command.args(["--test", file]);
    }
    command.args(["--", "--test-threads", CLUSTERS_AT_A_TIME]).args(filter.filter(|_| file.is_none()));
    command.env("SHARDKEEPER_PG", install.major.to_string());
    if full {
        command.env("SHARDKEEPER_FULL", "1");
    }
    run(&mut command)
}

/// rustfmt and clippy are not part of a minimal toolchain.
fn component(component: &str, subcommand: &str) -> Result<()> {
    if succeeds(cargo(subcommand).arg("--version")) {
        return Ok(());
    }
    run(std::process::Command::new("rustup").args(["component", "add", component]))
}

#[derive(Default)]
struct Summary {
    lines: Vec<String>,
}

impl Summary {
    fn part<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("== {name}");
        let start = Instant::now();
        let result = work();
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        self.lines.push(format!("{name:<12} {verdict:<6} {:>7.1} s", start.elapsed().as_secs_f64()));
        result.with_context(|| name.to_owned())
    }

    fn print(&self) {
        println!("\n== summary");
        for line in &self.lines {
            println!("{line}");
        }
    }
}
