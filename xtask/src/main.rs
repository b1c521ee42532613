//! `cargo xtask …`: set-up, demo, tests, benchmarks and packages, with nothing but Rust installed before.
mod cluster;
mod extension;
mod run;
mod setup;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes on one line; a backtrace would only hide it.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    match args.first().map(String::as_str) {
        Some("setup") => {
            for install in setup::run()? {
                println!("Postgres {}: {}", install.major, install.bindir.display());
            }
            Ok(())
        }
        Some("install") => {
            for install in setup::run()? {
                extension::install(&install)?;
            }
            Ok(())
        }
        Some("cluster") => cluster::run(&args[1..]),
        _ => bail!("no"),
    }
}
