//! `cargo xtask bench NAME`: the measurements of `pg_test`, on a release build of the extension.
use anyhow::{Context, Result};
use pg_test::Install;

use crate::extension::{self, Profile, cargo};
use crate::run::run;
use crate::setup::{self, Wanted};

pub fn bench(args: &[String]) -> Result<()> {
    let mut names = args.to_vec();
    let version = match names.iter().position(|word| word == "--pg") {
        Some(at) => {
            names.remove(at);
            let value = if at < names.len() { names.remove(at) } else { String::new() };
            Some(value.parse().with_context(|| format!("--pg is not a major version: {value:?}"))?)
        }
        None => None,
    };
    setup::run(version.map_or(Wanted::Distribution, Wanted::Major))?;
    let install = match version {
        Some(major) => Install::of(major)?,
        None => Install::chosen()?,
    };
    // It asks for what goes wrong, and overflows are part of that.
    let profile = if names.iter().any(|name| name == "chaos") { Profile::Cluster } else { Profile::Release };
    if !names.is_empty() {
        extension::install(&install, profile)?;
    }
    let build = ["--quiet", "--profile", profile.name(), "--package", "pg_test", "--bin", "bench", "--"];
    run(cargo("run").args(build).args(names).env("SHARDKEEPER_PG", install.major.to_string()))
}
