//! Freshly initialised data directories, made once for each version and copied for each server.
//!
//! There is one for each place in a cluster, not one for all: copies share the system identifier, and two servers of one
//! cluster must not.
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::install::{Install, server_readable};
use crate::user;

/// Counts changes of how a template is made.
const FORMAT: u32 = 2;
/// The role `app` with the password `app`, hashed once and not 4096 times: a test opens hundreds of sessions, and most of what
/// each costs would be this.
const APP: &str = "CREATE ROLE app LOGIN REPLICATION PASSWORD
    'SCRAM-SHA-256$1:c2hhcmRrZWVwZXItdGVzdA==$6YpaCUz2kczZI392X0LAUZUu0tZRzcojWZjl9tw2Ux0=:UUcdiqY10W7Rveenad6TgCD1WbkZXs4ZNPd6fVMRUUU='";
pub const SUPERUSER: &str = "postgres";
pub const SUPERUSER_PASSWORD: &str = "postgres";

/// Copies the template for the `place`-th server to `data`, making it first if need be.
pub fn copy(install: &Install, place: usize, data: &Path) -> Result<()> {
    let template = prepare(install, place)?;
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&template).arg(data))
}

fn prepare(install: &Install, place: usize) -> Result<PathBuf> {
    let parent = server_readable("templates")?;
    let name = format!("{}-{place}", key(install)?);
    let template = parent.join(&name);
    // Test processes run side by side: one makes it, the others wait.
    let lock = File::create(parent.join(format!("{name}.lock")))?;
    lock.lock().context("cannot lock the template")?;
    if template.is_dir() {
        return Ok(template);
    }
    let half = parent.join(format!("{name}.half"));
    let _ = fs::remove_dir_all(&half);
    fs::create_dir(&half)?;
    user::give(&half)?;
    let password = parent.join(format!("{name}.password"));
    fs::write(&password, SUPERUSER_PASSWORD)?;
    user::give(&password)?;
    run(user::command(install.program("initdb"))?
        .arg("--pgdata")
        .arg(&half)
        .args(["--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C.UTF-8"])
        .args(["--auth-local", "trust", "--auth-host", "scram-sha-256", "--no-sync"])
        .arg("--pwfile")
        .arg(&password)
        .current_dir("/"))?;
    fs::remove_file(&password)?;
    for (database, sql) in [("postgres", APP), ("postgres", "CREATE DATABASE app OWNER app")] {
        single_user(install, &half, database, sql)?;
    }
    fs::rename(&half, &template)?;
    Ok(template)
}

/// A template belongs to one build of the server: a new minor release gets a new one.
fn key(install: &Install) -> Result<String> {
    let version = install.config("version")?;
    let words: String = version.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
    Ok(format!("{words}-{FORMAT}"))
}

fn single_user(install: &Install, data: &Path, database: &str, sql: &str) -> Result<()> {
    use std::io::Write;
    let mut child = user::command(install.program("postgres"))?
        .args(["--single", "-j", "-F", "-c", "exit_on_error=true", "-D"])
        .arg(data)
        .arg(database)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        writeln!(input, "{sql};\n")?;
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
