//! Certificates for the servers of one cluster, by an authority that lives as long as the cluster.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::user;

pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// What a client needs to trust the servers.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        vec![("ssl", "on".to_owned()), ("ssl_cert_file", file("server.crt")), ("ssl_key_file", file("server.key"))]
    }
}

pub(crate) fn create(home: &Path) -> Result<Authority> {
    let dir = home.join("tls");
    fs::create_dir(&dir)?;
    user::give(&dir)?;
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(
        &dir,
        &[
            &["req", "-x509", "-days", "2", "-subj", "/CN=test authority"][..],
            &key,
            &["-addext", "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out", "ca.crt"],
        ],
    )?;
    openssl(&dir, &[&["req", "-subj", "/CN=localhost"][..], &key, &["-keyout", "server.key", "-out", "server.csr"]])?;
    fs::write(dir.join("server.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
    openssl(
        &dir,
        &[&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            "server.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            "server.ext",
            "-out",
            "server.crt",
        ][..]],
    )?;
    for readable in ["ca.crt", "server.crt"] {
        user::give(&dir.join(readable))?;
    }
    let server_key = dir.join("server.key");
    fs::set_permissions(&server_key, fs::Permissions::from_mode(0o600))?;
    user::give(&server_key)?;
    fs::remove_file(dir.join("ca.key"))?;
    Ok(Authority { dir })
}

fn openssl(dir: &Path, args: &[&[&str]]) -> Result<()> {
    let output = Command::new("openssl").args(args.concat()).current_dir(dir).output().context("cannot run openssl")?;
    ensure!(
        output.status.success(),
        "openssl {}: {}",
        args.concat().join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
