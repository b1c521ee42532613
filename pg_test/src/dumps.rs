//! Databases copied by dump and restore, in the ways that people do it.
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::server::{DATABASE, Server};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// `pg_dump | psql`.
    Plain,
    /// The custom format, restored by several jobs.
    Jobs,
    /// The same into a database that has everything already.
    Clean,
}

/// A dump of the database `app`, restored into `database` of the same server without any error.
pub fn copy(server: &Server, database: &str, way: Way) -> Result<()> {
    match way {
        Way::Plain => plain(server, database),
        Way::Jobs => custom(server, database, &[]),
        Way::Clean => custom(server, database, &["--clean", "--if-exists"]),
    }
    .with_context(|| format!("{way:?} on {}", server.name))
}

fn command(server: &Server, program: &str) -> Command {
    let mut command = Command::new(server.install.program(program));
    command.arg("-h").arg(server.socket_dir()).args(["-p", &server.port().to_string(), "-U", "postgres"]);
    command
}

fn plain(server: &Server, database: &str) -> Result<()> {
    let mut dump =
        command(server, "pg_dump").arg(DATABASE).stdout(Stdio::piped()).spawn().context("cannot run pg_dump")?;
    let mut restore = command(server, "psql");
    restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", database]);
    restore.stdin(dump.stdout.take().context("piped")?);
    let restored = without_errors(&mut restore);
    ensure!(dump.wait()?.success(), "pg_dump failed");
    restored
}

fn custom(server: &Server, database: &str, options: &[&str]) -> Result<()> {
    let file = server.data_dir().with_extension("dump");
    without_errors(command(server, "pg_dump").args(["-Fc", "-f"]).arg(&file).arg(DATABASE))?;
    let mut restore = command(server, "pg_restore");
    if !options.is_empty() {
        // It drops managed tables one by one.
        restore.env("PGOPTIONS", "-c shardkeeper.allow_manual_ddl=on");
    }
    let output = restore.args(["-j", "4", "-d", database]).args(options).arg(&file).output()?;
    std::fs::remove_file(&file)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let wrong = said.lines().find(|line| line.contains("ERROR") && !line.contains(HARMLESS));
    ensure!(wrong.is_none(), "{said}");
    Ok(())
}

/// What `--clean` says of the key of any partition, until 18 at least; the table goes all the same.
const HARMLESS: &str = "cannot drop inherited constraint";

fn without_errors(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && !said.contains("ERROR"), "{command:?}:\n{said}");
    Ok(())
}
