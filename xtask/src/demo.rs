//! `cargo xtask demo`: a table of one server grows over six servers and shrinks back, while an application writes to it
//! and feels how long each write takes.
mod application;
mod look;
mod operation;
mod screen;
mod story;

use anyhow::{Result, bail};
use pg_test::{Cluster, Install, Options};

use crate::cluster::{attend, number, on_interrupt, print_connections};
use crate::extension::{self, Profile};
use crate::setup::{self, Wanted};
use screen::Screen;

/// What the role on a node needs for data to move away from there.
const LEAVE: &str = "ALTER ROLE app REPLICATION; GRANT CREATE ON DATABASE app TO app";

pub fn demo(args: &[String]) -> Result<()> {
    let (mut keep, mut version) = (false, None);
    let mut args = args.iter();
    while let Some(option) = args.next() {
        match option.as_str() {
            "--keep" => keep = true,
            "--pg" => version = Some(number::<u16>(option, args.next())?),
            _ => bail!("usage: cargo xtask demo [--keep] [--pg N]"),
        }
    }
    let mut screen = Screen::new();
    screen.step("Install what is missing (a minute or two, the first time)", |_| {
        setup::run(version.map_or(Wanted::Distribution, Wanted::Major))
    })?;
    let install = match version {
        Some(major) => Install::of(major)?,
        None => Install::chosen()?,
    };
    screen.step("Build the extension (two or three minutes, the first time)", |_| {
        extension::install(&install, Profile::Cluster)
    })?;
    let cluster = screen.step("Start a coordinator, and five plain Postgres servers for later", |screen| {
        let options = Options {
            nodes: story::NODES.len(),
            names: &story::NODES,
            version: Some(install.major),
            ..Options::default()
        };
        let cluster = Cluster::with(options)?;
        for node in cluster.nodes() {
            node.run(LEAVE)?;
        }
        for server in cluster.servers() {
            screen.say(&format!("{:<12} 127.0.0.1:{}", server.name, server.port()));
        }
        screen.note(&format!("on the five: {LEAVE};"));
        Ok(cluster)
    })?;
    story::tell(&mut screen, &cluster)?;
    screen.end();
    if keep {
        // Before anything is said: a Ctrl-C from here on ends it in order.
        let interrupted = on_interrupt()?;
        let picture = story::picture(&cluster);
        println!("\nAll of it is yours until you press Ctrl-C. The tree at its widest: {}\n", picture.display());
        print_connections(&cluster);
        attend(&cluster, &interrupted);
    }
    Ok(())
}
