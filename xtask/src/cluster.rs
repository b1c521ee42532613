//! `cargo xtask cluster`: a cluster to try things by hand, until Ctrl-C.
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pg_test::install::Install;
use pg_test::{Cluster, Options};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::extension::{self, Profile};
use crate::setup::{self, Wanted};

/// What can be typed while the cluster is there.
const COMMANDS: &str = "to see it survive, type: kill NAME, start NAME, freeze NAME or thaw NAME";
/// How often what was typed is looked for.
const LOOK: Duration = Duration::from_millis(100);

pub fn run(args: &[String]) -> Result<()> {
    // As a server is when the extension's files have come: everything else is what one tries.
    let mut options = Options { nodes: 4, extension: false, ..Options::default() };
    let (mut build, mut ready) = (true, false);
    let mut version = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--nodes" => options.nodes = number(arg, args.next())?,
            "--pg" => version = Some(number::<u16>(arg, args.next())?),
            "--plain" => {
                options.preload = false;
                build = false;
            }
            "--ready" => (options.extension, ready) = (true, true),
            "--no-preload" => options.preload = false,
            "--no-build" => build = false,
            "--tls" => options.tls = true,
            _ => bail!(
                "unknown option {arg}; there are --ready, --nodes N, --pg N, --plain, --no-preload, --no-build, --tls"
            ),
        }
    }
    setup::run(version.map_or(Wanted::Distribution, Wanted::Major))?;
    let install = match version {
        Some(major) => Install::of(major)?,
        None => Install::chosen()?,
    };
    if build {
        extension::install(&install, Profile::Cluster)?;
    }
    options.version = Some(install.major);
    let interrupted = on_interrupt()?;
    let cluster = Cluster::with(options)?;
    if ready {
        cluster.add_nodes()?;
    }
    print_connections(&cluster);
    if !ready {
        print_calls(&cluster);
    }
    attend(&cluster, &interrupted);
    Ok(())
}

/// Does to servers what is typed, until Ctrl-C.
pub fn attend(cluster: &Cluster, interrupted: &Receiver<()>) {
    let (sender, typed) = mpsc::channel();
    std::thread::spawn(move || {
        // Whoever types nothing, or has no terminal, has the cluster all the same.
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    while interrupted.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        for line in typed.try_iter() {
            match obey(cluster, &line) {
                Ok(done) => println!("{done}"),
                Err(error) => println!("{error:#}"),
            }
        }
    }
}

fn obey(cluster: &Cluster, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [verb, name] = words[..] else { bail!("{COMMANDS}") };
    let server = cluster.servers().find(|server| server.name == name);
    let server = server.with_context(|| format!("there is no server {name}"))?;
    match verb {
        "kill" => server.kill9().map(|()| format!("{name} has crashed")),
        "start" => server.start().map(|()| format!("{name} is up")),
        "freeze" => server.freeze().map(|()| format!("{name} stands still")),
        "thaw" => server.thaw().map(|()| format!("{name} goes on")),
        _ => bail!("{COMMANDS}"),
    }
}

pub fn print_connections(cluster: &Cluster) {
    for server in cluster.servers() {
        println!("{:<12} 127.0.0.1 port {}  {}", server.name, server.port(), server.psql_command());
    }
    println!("ordinary role app, password app; logs in {}/*/log", cluster.directory().display());
    println!("{COMMANDS}; Ctrl-C ends it and removes everything");
}

/// What makes it ready, to be pasted into psql.
fn print_calls(cluster: &Cluster) {
    println!("\non the coordinator:\n  CREATE EXTENSION shardkeeper;");
    for number in 1..=cluster.nodes().len() {
        // As in the tutorial.
        let region = if number <= 2 { "us" } else { "eu" };
        println!("  {};", cluster.call_to_add(number, &format!(", password => 'app', region => '{region}'")));
    }
    println!();
}

/// A message for Ctrl-C, SIGTERM or SIGHUP, so that what was started is dropped in order.
pub fn on_interrupt() -> Result<Receiver<()>> {
    let (sender, receiver) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle Ctrl-C")?;
    std::thread::spawn(move || signals.forever().try_for_each(|_| sender.send(())));
    Ok(receiver)
}

pub fn number<T: std::str::FromStr>(option: &str, value: Option<&String>) -> Result<T> {
    value.and_then(|text| text.parse().ok()).with_context(|| format!("{option} needs a number"))
}
