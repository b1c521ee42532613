//! Starts a server, says where, and waits to be killed: the harness's own test needs a victim.
use pg_test::{Cluster, Options};

fn main() -> anyhow::Result<()> {
    let cluster = Cluster::with(Options { nodes: 0, ..Options::plain() })?;
    println!("{}", cluster.directory().display());
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
