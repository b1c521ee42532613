//! `cargo xtask demo`: real flights in one partitioned table over five servers, with every command shown.
mod screen;
mod story;

use anyhow::{Result, bail};
use pg_test::{Cluster, Install, Options};

use crate::cluster::{on_interrupt, print_connections};
use crate::{extension, setup};
use screen::Screen;

const NODES: usize = 4;

pub fn demo(args: &[String]) -> Result<()> {
    let keep = match args {
        [] => false,
        [option] if option == "--keep" => true,
        _ => bail!("usage: cargo xtask demo [--keep]"),
    };
    let mut screen = Screen::new();
    screen.step("Install what is missing", |_| setup::run())?;
    screen.step("Build the extension", |_| extension::install(&Install::chosen()?))?;
    let cluster = screen.step(&format!("Start a coordinator and {NODES} plain Postgres servers"), |screen| {
        let cluster = Cluster::with(Options { nodes: NODES, ..Options::default() })?;
        for server in cluster.servers() {
            screen.say(&format!("{:<12} 127.0.0.1:{}", server.name, server.port()));
        }
        Ok(cluster)
    })?;
    story::tell(&mut screen, &cluster)?;
    screen.end();
    if keep {
        // Before anything is said: a Ctrl-C from here on ends it in order.
        let interrupted = on_interrupt()?;
        let picture = story::picture(&cluster)?;
        println!("\nAll of it is yours until you press Ctrl-C. The tree as a picture: {}\n", picture.display());
        print_connections(&cluster);
        let _ = interrupted.recv();
    }
    Ok(())
}
