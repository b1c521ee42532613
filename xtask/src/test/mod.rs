//! `cargo xtask test`: all checks in the order of what they cost, with a summary whatever happens.
mod clock;
mod cluster;
mod options;
mod rotation;

use anyhow::Result;
use pg_test::Install;

use crate::extension::{self, ForVersion, Profile, cargo};
use crate::run::{run, succeeds};
use crate::setup::{self, Wanted};
use clock::Clock;
use options::Options;

pub fn test(args: &[String]) -> Result<()> {
    let options = options::parse(args)?;
    let mut clock = Clock::default();
    let result = parts(&options, &mut clock);
    clock.print();
    result
}

fn parts(options: &Options, clock: &mut Clock) -> Result<()> {
    let wants = |part: &str| options.name.is_none() || options.part() == Some(part);
    if wants("fmt") {
        clock.part("fmt", || {
            component("rustfmt", "fmt")?;
            run(cargo("fmt").args(["--all", "--check"]))
        })?;
        if options.part().is_some() {
            return Ok(());
        }
    }
    let versions = rotation::versions(options)?;
    println!("Postgres {}", versions.iter().map(u16::to_string).collect::<Vec<_>>().join(", "));
    let mut installs = clock.part("setup", || setup::run(Wanted::All))?;
    installs.retain(|install| versions.contains(&install.major));
    if wants("clippy") {
        clock.part("clippy", || clippy(&installs))?;
    }
    if wants("core") {
        clock.part("core", || {
            let seconds = if options.full { "600" } else { "20" };
            let mut core = cargo("test");
            core.args(["--profile", "cluster", "--package", "shardkeeper_core", "--package", "shardkeeper_draw"])
                .env("SHARDKEEPER_FUZZ_SECONDS", seconds);
            run(&mut core)?;
            run(cargo("test").args(["--profile", "cluster", "--package", "xtask", "--test", "floors"]))
        })?;
    }
    if options.part().is_some_and(|part| part != "cluster") {
        return Ok(());
    }
    let mut tests = clock.part("build tests", cluster::prepare)?;
    tests.alternate = options.versions == options::Versions::InTurn && installs.len() > 1;
    let mut report = cluster::Report::default();
    for install in &installs {
        let major = install.major;
        clock.part(&format!("build {major}"), || extension::install(install, Profile::Cluster))?;
        clock.part(&format!("cluster {major}"), || tests.run(install, options, &mut report))?;
    }
    report.end()
}

fn clippy(installs: &[Install]) -> Result<()> {
    component("clippy", "clippy")?;
    let strict = ["--", "-D", "warnings"];
    let profile = ["--profile", "cluster"];
    run(cargo("clippy").args(profile).args(["--workspace", "--exclude", "shardkeeper", "--all-targets"]).args(strict))?;
    for install in installs {
        run(cargo("clippy")
            .args(profile)
            .args(["--package", "shardkeeper", "--all-targets"])
            .for_version(install)
            .args(strict))?;
    }
    Ok(())
}

/// rustfmt and clippy are not part of a minimal toolchain.
fn component(component: &str, subcommand: &str) -> Result<()> {
    if succeeds(cargo(subcommand).arg("--version")) {
        return Ok(());
    }
    run(std::process::Command::new("rustup").args(["component", "add", component]))
}
