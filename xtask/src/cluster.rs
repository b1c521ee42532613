//! `cargo xtask cluster`: a cluster to try things by hand, until Ctrl-C.
use std::sync::mpsc;

use anyhow::{Context, Result, bail};
use pg_test::install::Install;
use pg_test::{Cluster, Options};

use crate::{extension, setup};

pub fn run(args: &[String]) -> Result<()> {
    let mut options = Options { nodes: 4, ..Options::default() };
    let mut build = true;
    let mut version = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--nodes" => options.nodes = number(arg, args.next())?,
            "--pg" => version = Some(number::<u16>(arg, args.next())?),
            "--plain" => {
                options.extension = false;
                options.preload = false;
                build = false;
            }
            "--no-preload" => options.preload = false,
            "--no-build" => build = false,
            "--tls" => options.tls = true,
            _ => bail!("unknown option {arg}; there are --nodes N, --pg N, --plain, --no-preload, --no-build, --tls"),
        }
    }
    setup::run()?;
    let install = match version {
        Some(major) => Install::of(major)?,
        None => Install::chosen()?,
    };
    if build {
        extension::install(&install)?;
    }
    options.version = Some(install.major);
    let interrupted = on_interrupt()?;
    let cluster = Cluster::with(options)?;
    print_connections(&cluster);
    let _ = interrupted.recv();
    Ok(())
}

pub fn print_connections(cluster: &Cluster) {
    for server in cluster.servers() {
        println!("{:<12} port {}  {}", server.name, server.port(), server.psql_command());
    }
    println!("ordinary role app, password app; logs in {}/*/log", cluster.directory().display());
    println!("Ctrl-C ends it and removes everything");
}

/// A message for Ctrl-C, SIGTERM or SIGHUP, so that what was started is dropped in order.
pub fn on_interrupt() -> Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel();
    ctrlc::set_handler(move || {
        let _ = sender.send(());
    })
    .context("cannot handle Ctrl-C")?;
    Ok(receiver)
}

fn number<T: std::str::FromStr>(option: &str, value: Option<&String>) -> Result<T> {
    value.and_then(|text| text.parse().ok()).with_context(|| format!("{option} needs a number"))
}
