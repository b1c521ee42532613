//! A private copy of the distribution's Postgres, so that the extension is installed without touching the system.
//!
//! Postgres finds its libraries and its share directory relative to its own program, as long as the tree has the same shape.
//! So the programs are copied (a symbolic link would be resolved to the original) and all else is linked.
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pg_test::Install;
use pg_test::install::server_readable;

use super::apt::Distribution;
use crate::run::output;

pub fn prepare(original: &Distribution) -> Result<Install> {
    let major = original.major;
    let prefix = server_readable("postgres")?.join(major.to_string());
    let home = prefix.join(format!("lib/postgresql/{major}"));
    let install = Install { major, bindir: home.join("bin") };
    let stamp = stamp(original)?;
    let stamp_path = prefix.join("stamp");
    if fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
        return Ok(install);
    }
    println!("Postgres {major}: private copy in {}", prefix.display());
    let _ = fs::remove_dir_all(&prefix);
    copy_files(&original.home.join("bin"), &home.join("bin"))?;
    link_entries(&original.home.join("lib"), &home.join("lib"))?;
    let share = Path::new("share/postgresql").join(major.to_string());
    link_entries(&Path::new("/usr").join(&share), &prefix.join(&share))?;
    // Ours to write into, so a directory of its own.
    let extensions = prefix.join(&share).join("extension");
    fs::remove_file(&extensions)?;
    link_entries(&Path::new("/usr").join(&share).join("extension"), &extensions)?;
    symlink("/usr/include", prefix.join("include"))?;
    // Links are left alone by this, so it stays in our copy.
    output(Command::new("chmod").args(["-R", "a+rX"]).arg(&prefix))?;
    ensure!(
        Path::new(&install.config("sharedir")?) == prefix.join(&share)
            && Path::new(&install.config("pkglibdir")?) == home.join("lib"),
        "the copy of Postgres {major} in {} still looks into the original's directories",
        prefix.display()
    );
    fs::write(&stamp_path, stamp)?;
    Ok(install)
}

/// Changes when the distribution upgrades its server: its libraries then no longer fit our copied programs.
fn stamp(original: &Distribution) -> Result<String> {
    let program = original.home.join("bin/postgres");
    let meta = fs::metadata(&program).with_context(|| format!("cannot read {}", program.display()))?;
    Ok(format!("1 {} {} {}", meta.size(), meta.mtime(), meta.ino()))
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("cannot copy {}", entry.path().display()))?;
    }
    Ok(())
}

fn link_entries(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        symlink(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("cannot link {}", entry.path().display()))?;
    }
    Ok(())
}
