//! TLS as libpq does it: `sslmode`, root certificates, client certificates.

use super::stream::{Stream, Watched};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The levels of `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `ssl_min_protocol_version` and `ssl_max_protocol_version`. Older ones than 1.2 are not spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Older,
    Tls12,
    Tls13,
}

impl Protocol {
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_lowercase().as_str() {
            "tlsv1" | "tlsv1.1" => Some(Protocol::Older),
            "tlsv1.2" => Some(Protocol::Tls12),
            "tlsv1.3" => Some(Protocol::Tls13),
            _ => None,
        }
    }
}

/// What the options say of TLS, files by their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub mode: Mode,
    pub root: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
    /// `sslcrl` and `sslcrldir`.
    pub revoked: Option<String>,
    pub revoked_dir: Option<String>,
    /// `sslsni`.
    pub tell_name: bool,
    pub oldest: Option<Protocol>,
    pub newest: Option<Protocol>,
}

impl Settings {
    fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
        let all = [(Protocol::Tls12, &TLS12), (Protocol::Tls13, &TLS13)];
        let fits = |protocol: &Protocol| {
            self.oldest.is_none_or(|oldest| *protocol >= oldest) && self.newest.is_none_or(|newest| *protocol <= newest)
        };
        let versions: Vec<_> = all.into_iter().filter(|(protocol, _)| fits(protocol)).map(|(_, it)| it).collect();
        if versions.is_empty() {
            return Err("sessions of shardkeeper's own speak TLS 1.2 and 1.3, and the options allow neither".into());
        }
        Ok(versions)
    }
}

/// A set-up for connections with TLS.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// The error is a sentence for DETAIL.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier::new(settings, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&settings.versions()?)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let certificate = settings.certificate.as_ref().map(PathBuf::from).or_else(|| default_file("postgresql.crt"));
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let chain = certificates(&certificate)?;
                let key = settings.key.as_ref().map(PathBuf::from).or_else(|| default_file("postgresql.key"));
                let key = key.ok_or("sslcert needs sslkey")?;
                let key = PrivateKeyDer::from_pem_file(&key)
                    .map_err(|error| format!("cannot read sslkey {}: {error}", key.display()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| format!("cannot use sslcert: {error}"))?
            }
        };
        config.enable_sni = settings.tell_name;
        Ok(Tls(Arc::new(config)))
    }

    /// What makes one connection to `host`, the name that the certificate must have.
    pub fn connector(&self, host: &str) -> Connector {
        Connector { tls: MakeRustlsConnect::new(ClientConfig::clone(&self.0)), host: host.to_string() }
    }
}

pub struct Connector {
    tls: MakeRustlsConnect,
    host: String,
}

type Secured = <MakeRustlsConnect as MakeTlsConnect<Stream>>::Stream;

impl TlsConnect<Stream> for Connector {
    type Stream = Watched<Secured>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(mut self, stream: Stream) -> Self::Future {
        Box::pin(async move {
            let (asked, ways) = (stream.asked(), stream.ways());
            // An address or name that is none (the path of a socket) cannot be verified, and nobody asked for it then.
            let host = if self.host.starts_with('/') { "localhost" } else { self.host.as_str() };
            let connect = match MakeTlsConnect::<Stream>::make_tls_connect(&mut self.tls, host) {
                Ok(connect) => connect,
                Err(never) => match never {},
            };
            Ok(Watched::new(connect.connect(stream).await?, asked, ways))
        })
    }
}

/// Verifies as much as `sslmode` asks for.
#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    check_name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(settings: &Settings, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let mode = settings.mode;
        let roots = match (&settings.root, default_file("root.crt")) {
            (Some(path), _) if path == "system" => Some(system_roots()?),
            (Some(path), _) if mode >= Mode::VerifyCa || Path::new(path).exists() => Some(roots(Path::new(path))?),
            (None, Some(path)) => Some(roots(&path)?),
            _ if mode >= Mode::VerifyCa => {
                return Err("sslmode asks to verify the certificate, and sslrootcert is not set".into());
            }
            _ => None,
        };
        // As libpq: with a root certificate at hand, `require` verifies as `verify-ca` does; less than `require` never does.
        let inner = match roots {
            Some(roots) if mode >= Mode::Require => Some(
                // Without any list nothing counts as revoked; with one, each certificate must be covered by a current one.
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                    .with_crls(revoked(settings)?)
                    .enforce_revocation_expiration()
                    .build()
                    .map_err(|error| format!("cannot use sslrootcert, sslcrl or sslcrldir: {error}"))?,
            ),
            _ if settings.revoked.is_some() || settings.revoked_dir.is_some() => {
                return Err("sslcrl and sslcrldir need sslmode verify-ca or verify-full: without them no certificate is verified".into());
            }
            _ => None,
        };
        Ok(Self { inner, check_name: mode == Mode::VerifyFull, provider: Arc::clone(provider) })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// libpq's default places, in the home of the user that runs the server.
fn default_file(name: &str) -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os("HOME")?).join(".postgresql").join(name);
    path.exists().then_some(path)
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| format!("cannot use {}: {error}", path.display()))?;
    }
    Ok(store)
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() { Err("the system has no root certificates".into()) } else { Ok(store) }
}

/// The lists of revoked certificates. libpq goes without those that it cannot read; here that is an error.
fn revoked(settings: &Settings) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let mut files: Vec<PathBuf> = settings.revoked.iter().map(PathBuf::from).collect();
    if let Some(dir) = &settings.revoked_dir {
        let found = std::fs::read_dir(dir).map_err(|error| format!("cannot read sslcrldir {dir}: {error}"))?;
        files.extend(found.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_hashed_list(path)));
    }
    if settings.revoked.is_none() && settings.revoked_dir.is_none() {
        files.extend(default_file("root.crl"));
    }
    let mut lists = Vec::new();
    for file in files {
        let read = |error: rustls::pki_types::pem::Error| format!("cannot read {}: {error}", file.display());
        let found = CertificateRevocationListDer::pem_file_iter(&file).map_err(read)?;
        lists.extend(found.collect::<Result<Vec<_>, _>>().map_err(read)?);
    }
    if lists.is_empty() && (settings.revoked.is_some() || settings.revoked_dir.is_some()) {
        return Err("sslcrl and sslcrldir hold no list of revoked certificates".into());
    }
    Ok(lists)
}

/// As `openssl rehash` names them: `4b2c1f0a.r0`.
fn is_hashed_list(path: &Path) -> bool {
    path.extension().and_then(|text| text.to_str()).is_some_and(|text| {
        text.strip_prefix('r').is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = |error: rustls::pki_types::pem::Error| format!("cannot read {}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    if found.is_empty() { Err(format!("{} holds no certificate", path.display())) } else { Ok(found) }
}
