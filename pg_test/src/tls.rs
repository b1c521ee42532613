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

    /// A list of revoked certificates by that authority: with the servers' own on it, or empty.
    pub fn revoked(&self, servers: bool) -> PathBuf {
        self.dir.join(if servers { "revoked.crl" } else { "none.crl" })
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
            &["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", "ca.key", "-out", "ca.crt"],
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
    lists(&dir)?;
    for readable in ["ca.crt", "server.crt", "none.crl", "revoked.crl"] {
        user::give(&dir.join(readable))?;
    }
    let server_key = dir.join("server.key");
    fs::set_permissions(&server_key, fs::Permissions::from_mode(0o600))?;
    user::give(&server_key)?;
    fs::remove_file(dir.join("ca.key"))?;
    Ok(Authority { dir })
}

/// What `openssl ca` keeps its books by.
const BOOKS: &str = "[ca]\ndefault_ca = books\n[books]\ndatabase = index.txt\ncrlnumber = crlnumber\ncertificate = ca.crt\n\
    private_key = ca.key\ndefault_md = sha256\ndefault_crl_days = 2\ncrl_extensions = crl\n[crl]\nauthorityKeyIdentifier = keyid\n";

fn lists(dir: &Path) -> Result<()> {
    fs::write(dir.join("books.cnf"), BOOKS)?;
    fs::write(dir.join("index.txt"), "")?;
    fs::write(dir.join("crlnumber"), "01\n")?;
    let books = ["ca", "-config", "books.cnf"];
    openssl(dir, &[&books[..], &["-gencrl", "-out", "none.crl"]])?;
    openssl(dir, &[&books[..], &["-revoke", "server.crt"]])?;
    openssl(dir, &[&books[..], &["-gencrl", "-out", "revoked.crl"]])
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
