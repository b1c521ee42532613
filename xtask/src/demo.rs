//! `cargo xtask demo`: one partitioned database over five servers, from nothing, with every command shown.
use std::time::Instant;

use anyhow::{Context, Result, bail};
use pg_test::{Cluster, Install, Options};

use crate::cluster::{on_interrupt, print_connections};
use crate::{extension, setup};

const NODES: usize = 4;

pub fn demo(args: &[String]) -> Result<()> {
    let keep = match args {
        [] => false,
        [option] if option == "--keep" => true,
        _ => bail!("usage: cargo xtask demo [--keep]"),
    };
    let mut steps = Steps::default();
    steps.step("Install what is missing", setup::run)?;
    let install = Install::chosen()?;
    steps.step("Build the extension", || extension::install(&install))?;
    let cluster = steps.step(&format!("Start a coordinator and {NODES} plain Postgres servers"), || {
        Cluster::with(Options { nodes: NODES, ..Options::default() })
    })?;
    steps.step("Register the servers as nodes", || cluster.add_nodes())?;
    if keep {
        // Before anything is said: a Ctrl-C from here on ends it in order.
        let interrupted = on_interrupt()?;
        print_connections(&cluster);
        let _ = interrupted.recv();
    }
    Ok(())
}

/// Numbers the steps and says how long each took.
#[derive(Default)]
struct Steps {
    count: u32,
}

impl Steps {
    fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.count += 1;
        println!("\n{}. {title}", self.count);
        let start = Instant::now();
        let result = work().with_context(|| title.to_owned())?;
        println!("   done in {:.1} s", start.elapsed().as_secs_f64());
        Ok(result)
    }
}
