//! `cargo xtask …`: set-up, demo, tests, benchmarks and packages, with nothing but Rust installed before.
mod bench;
mod build;
mod cluster;
mod demo;
mod extension;
mod package;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup                                 install all that is needed and missing
  demo [--keep] [--pg N]                a table grows from one server to six and back; --keep leaves them to you
  test [NAME] [--full] [--pg N|all] [--jobs N]
                                        all checks, or fmt, clippy, core, cluster, or tests by a piece of their names
  bench NAME [--full]                   measurements; without a name, the list
  package                               an archive for each Postgres version
  install [--pg N]                      build the extension into our private Postgres
  cluster [--ready] [--nodes N] [--pg N] [--plain] [--no-preload] [--no-build] [--tls]
                                        a cluster to try things by hand, until Ctrl-C; --ready with the extension
                                        and its nodes, --plain without the extension's files";

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
    let Some((command, rest)) = args.split_first() else {
        bail!("no command\n{USAGE}");
    };
    if rest.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return Ok(());
    }
    match command.as_str() {
        "setup" => print_setup(),
        "demo" => demo::demo(rest),
        "test" => test::test(rest),
        "bench" => bench::bench(rest),
        "package" => package::package(),
        "install" => extension::command(rest),
        "cluster" => cluster::run(rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command {other}\n{USAGE}"),
    }
}

fn print_setup() -> Result<()> {
    for install in setup::run(setup::Wanted::All)? {
        println!("Postgres {}: {}", install.major, install.bindir.display());
    }
    Ok(())
}
