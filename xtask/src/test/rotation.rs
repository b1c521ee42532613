//! Which versions of Postgres a run takes: one, another with each commit; both ends where what depends on the version was changed.
use std::process::Command;

use anyhow::{Result, ensure};
use pg_test::install::{target_dir, workspace};

use super::options::{Options, Versions};
use crate::extension::{Profile, built_for};
use crate::run::output;
use crate::setup::MAJORS;

/// Where the code is that the versions of Postgres differ for.
const DEPENDS: [&str; 2] = ["src/pg", "sql"];

pub fn versions(options: &Options) -> Result<Vec<u16>> {
    match options.versions {
        Versions::All => Ok(MAJORS.to_vec()),
        Versions::Major(major) => {
            ensure!(MAJORS.contains(&major), "Postgres {major} is not one of those supported: 15 to 18");
            Ok(vec![major])
        }
        // Whoever tries one test again and again does not want to wait for another build.
        Versions::InTurn if options.filter().is_some() => {
            let library = target_dir().join(Profile::Cluster.name()).join("libshardkeeper.so");
            let last = built_for(Profile::Cluster).filter(|_| library.is_file());
            Ok(vec![last.unwrap_or(MAJORS[0])])
        }
        Versions::InTurn if depends_on_version() => Ok(vec![MAJORS[0], MAJORS[MAJORS.len() - 1]]),
        Versions::InTurn => Ok(vec![MAJORS[commits() % MAJORS.len()]]),
    }
}

/// How many commits led here: what rotates, rotates with it. Zero without git.
pub fn commits() -> usize {
    git(&["rev-list", "--count", "HEAD"]).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether such code was changed in the last day, or is being changed: what is handed in together was made together.
fn depends_on_version() -> bool {
    let mut log = vec!["log", "--since=1 day ago", "--format=%h", "--"];
    log.extend(DEPENDS);
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(DEPENDS);
    [log, status].iter().any(|args| git(args).is_some_and(|text| !text.is_empty()))
}

fn git(args: &[&str]) -> Option<String> {
    output(Command::new("git").args(args).current_dir(workspace())).ok()
}
