//! `cargo xtask bench NAME`: the measurements of `pg_test`, on a release build of the extension.
use anyhow::Result;
use pg_test::Install;

use crate::extension::{self, Profile, cargo};
use crate::run::run;
use crate::setup::{self, Wanted};

pub fn bench(names: &[String]) -> Result<()> {
    setup::run(Wanted::Distribution)?;
    if !names.is_empty() {
        extension::install(&Install::chosen()?, Profile::Release)?;
    }
    run(cargo("run").args(["--quiet", "--release", "--package", "pg_test", "--bin", "bench", "--"]).args(names))
}
