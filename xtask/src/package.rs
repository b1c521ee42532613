//! `cargo xtask package`: one archive for each Postgres version, with what has to be copied where.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use pg_test::Install;
use pg_test::install::{target_dir, workspace};

use crate::extension::{self, Profile, VERSION, upgrade_scripts};
use crate::run::run;
use crate::setup::{self, Wanted};

pub fn package() -> Result<()> {
    for install in setup::run(Wanted::All)? {
        if !install.has_headers() {
            println!("Postgres {}: no package, as its headers are not here", install.major);
            continue;
        }
        extension::install(&install, Profile::Release)?;
        println!("{}", archive(&install)?.display());
    }
    Ok(())
}

fn archive(install: &Install) -> Result<PathBuf> {
    let parent = target_dir().join("package");
    let name = format!("shardkeeper-{VERSION}-pg{}-linux-{}", install.major, std::env::consts::ARCH);
    let tree = parent.join(&name);
    let _ = fs::remove_dir_all(&tree);
    let (libraries, scripts) = (tree.join("lib"), tree.join("extension"));
    fs::create_dir_all(&libraries)?;
    fs::create_dir_all(&scripts)?;
    copy(&Path::new(&install.config("pkglibdir")?).join("shardkeeper.so"), &libraries)?;
    let installed = install.extension_dir()?;
    copy(&installed.join("shardkeeper.control"), &scripts)?;
    copy(&installed.join(format!("shardkeeper--{VERSION}.sql")), &scripts)?;
    for upgrade in upgrade_scripts()? {
        copy(&installed.join(upgrade), &scripts)?;
    }
    copy(&workspace().join("LICENSE"), &tree)?;
    fs::write(
        tree.join("INSTALL"),
        format!(
            "For Postgres {}. Copy\n  lib/*        to  $(pg_config --pkglibdir)\n  \
             extension/*  to  $(pg_config --sharedir)/extension\n\
             Add shardkeeper to shared_preload_libraries, restart, and run CREATE EXTENSION shardkeeper CASCADE;\n",
            install.major
        ),
    )?;
    let archive = parent.join(format!("{name}.tar.gz"));
    run(Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&parent).arg(&name))?;
    fs::remove_dir_all(&tree)?;
    Ok(archive)
}

fn copy(file: &Path, directory: &Path) -> Result<()> {
    let name = file.file_name().context("a file has a name")?;
    fs::copy(file, directory.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}
