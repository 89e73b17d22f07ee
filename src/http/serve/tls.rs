//! Certificates: from files, which are watched, or self-signed and kept in the data directory.

use std::{
    fs,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
};

use super::{ServeOptions, Tls};
use crate::node::{
    error::{ErrorCode, NodeError, Reason},
    identity::write_secret,
};

/// The file in the data directory with the self-signed certificate and its key.
const FILE: &str = "api-tls.pem";
/// Validity of a self-signed certificate.
const VALIDITY: Duration = Duration::from_secs(800 * 24 * 60 * 60);
/// An older certificate is replaced when the node starts.
const MAX_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// How far the clocks of clients may be behind.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// How often the files of a certificate are read again.
const POLL: Duration = Duration::from_secs(5);
/// How often a certificate that ends soon is warned of.
const WARN_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// A certificate that ends sooner is worth a warning.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A fault in the dates of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateWarning {
    /// The fault, for people.
    pub message: String,
    /// Whether clients accept the certificate now.
    pub is_valid: bool,
}

pub(super) struct Loaded {
    pub(super) acceptor: TlsAcceptor,
    pub(super) fingerprint: String,
    current: Arc<Current>,
    /// The content of both files. `None` for a self-signed certificate, which is not watched.
    read: Option<Pem>,
}

/// A certificate chain and its key, in PEM.
#[derive(PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// The certificate that new connections get.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Returns the certificate that `options` name. `None` without TLS.
pub(super) fn load(options: &ServeOptions, data_dir: &Path) -> Result<Option<Loaded>, NodeError> {
    let (key, read) = match &options.tls {
        Tls::Off => return Ok(None),
        Tls::Files { cert, key } => {
            let pem = Pem { cert: read(cert)?, key: read(key)? };
            (certified(&pem, cert, key)?, Some(pem))
        }
        Tls::SelfSigned => {
            let (pem, path) = (self_signed(options, data_dir)?, data_dir.join(FILE));
            (certified(&Pem { cert: pem.clone(), key: pem }, &path, &path)?, None)
        }
    };
    let fingerprint = key.cert.first().map(|own| data_encoding::HEXUPPER.encode(&Sha256::digest(own)));
    let current = Arc::new(Current(RwLock::new(Arc::new(key))));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(format!("cannot use TLS: {e}")))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Ok(Some(Loaded { acceptor, fingerprint: fingerprint.unwrap_or_default(), current, read }))
}

impl Loaded {
    /// Reads the files of the certificate again, now and then and when `hurry` is notified. New connections get what is in
    /// them. Files that cannot be used, for example because only one of them is new yet, leave the certificate as it is. Warns
    /// each day of a certificate that ends soon.
    pub(super) async fn watch(self, options: ServeOptions, hurry: Arc<Notify>) {
        let Tls::Files { cert, key } = &options.tls else { return };
        let Self { current, read: mut known, .. } = self;
        let (mut unreadable, mut warned) = (None, Instant::now());
        loop {
            drop(tokio::time::timeout(POLL, hurry.notified()).await);
            if warned.elapsed() >= WARN_INTERVAL {
                warned = Instant::now();
                warn(&options, Path::new(""));
            }
            let (from_cert, from_key) = (cert.clone(), key.clone());
            let found = tokio::task::spawn_blocking(move || {
                Ok::<_, NodeError>(Pem { cert: read(&from_cert)?, key: read(&from_key)? })
            });
            let found = match found.await {
                Ok(Ok(pem)) => pem,
                Ok(Err(error)) => {
                    if unreadable.as_ref() != Some(&error.message) {
                        tracing::warn!("the certificate is not read again: {error}");
                        unreadable = Some(error.message);
                    }
                    continue;
                }
                Err(_) => continue,
            };
            unreadable = None;
            if known.as_ref() == Some(&found) {
                continue;
            }
            match certified(&found, cert, key) {
                Ok(new) => {
                    *current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                    tracing::info!("the certificate was read again from {}", cert.display());
                    warn(&options, Path::new(""));
                }
                Err(error) => tracing::warn!("the changed certificate is not used: {error}"),
            }
            known = Some(found);
        }
    }
}

/// Errors: files that cannot be used.
pub(super) fn check_files(cert: &Path, key: &Path) -> Result<(), NodeError> {
    certified(&Pem { cert: read(cert)?, key: read(key)? }, cert, key).map(drop)
}

/// Logs a warning if the dates of the certificate are not those of a good one.
pub(super) fn warn(options: &ServeOptions, data_dir: &Path) {
    if let Some(CertificateWarning { message, .. }) = warning(options, data_dir) {
        tracing::warn!("{message}");
    }
}

/// Returns what is wrong with the dates of the certificate that `options` name. `None`: nothing, or there is none.
pub(super) fn warning(options: &ServeOptions, data_dir: &Path) -> Option<CertificateWarning> {
    let (path, way_out) = match &options.tls {
        Tls::Off => return None,
        Tls::Files { cert, .. } => (cert.clone(), "renew it: a running node reads the new files by itself"),
        Tls::SelfSigned => {
            (data_dir.join(FILE), "remove this file and start the node again to get a new one")
        }
    };
    let own = CertificateDer::from_pem_slice(&fs::read(&path).ok()?).ok()?;
    let Validity { start, end } = Validity::of(&own)?;
    let now = unix_now();
    let (says, is_valid) = if now < start {
        (format!("is not valid before {}; is the clock of this machine behind?", date(start)), false)
    } else if now > end {
        (format!("expired on {}; {way_out}", date(end)), false)
    } else if end - now < i64::try_from(ENDS_SOON.as_secs()).unwrap_or(i64::MAX) {
        (format!("expires on {}; {way_out}", date(end)), true)
    } else {
        return None;
    };
    Some(CertificateWarning { message: format!("the certificate {} {says}", path.display()), is_valid })
}

/// The dates of a certificate, in seconds since 1970.
struct Validity {
    start: i64,
    end: i64,
}

impl Validity {
    fn of(der: &[u8]) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        let validity = parsed.validity();
        Some(Self { start: validity.not_before.timestamp(), end: validity.not_after.timestamp() })
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn date(unix_s: i64) -> String {
    let since = Duration::from_secs(unix_s.try_into().unwrap_or(0));
    let text = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string();
    text.split('T').next().unwrap_or_default().into()
}

fn unusable(message: String) -> NodeError {
    NodeError::new(ErrorCode::BadRequest, message).reason(Reason::CertificateInvalid)
}

fn certified(pem: &Pem, cert: &Path, key: &Path) -> Result<CertifiedKey, NodeError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.cert).collect();
    let chain = chain.map_err(|e| unusable(format!("cannot use the certificate {}: {e}", cert.display())))?;
    if chain.is_empty() {
        return Err(unusable(format!("there is no certificate in {}", cert.display())));
    }
    if is_encrypted(&pem.key) {
        let message = format!(
            "the private key in {} is encrypted, and a node cannot ask for its password",
            key.display()
        );
        return Err(NodeError::new(ErrorCode::BadRequest, message).reason(Reason::CertificateKeyEncrypted));
    }
    let private = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|e| match e {
        pem::Error::NoItemsFound => unusable(format!("there is no private key in {}", key.display())),
        e => unusable(format!("cannot use the private key {}: {e}", key.display())),
    })?;
    CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => unusable(format!(
            "{} is not the private key of the certificate {}",
            key.display(),
            cert.display()
        )),
        e => unusable(format!("cannot use {} with {}: {e}", cert.display(), key.display())),
    })
}

/// Whether a private key needs a password, in PKCS #8 or in the older format of OpenSSL.
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

fn read(path: &Path) -> Result<Vec<u8>, NodeError> {
    fs::read(path).map_err(|e| unusable(format!("cannot read {}: {e}", path.display())))
}

/// Returns the kept certificate if it is recent and has the right names, else makes a new one.
fn self_signed(options: &ServeOptions, data_dir: &Path) -> Result<Vec<u8>, NodeError> {
    let path = data_dir.join(FILE);
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
    names.extend(options.tls_names.iter().cloned());
    if !options.addr.ip().is_unspecified() {
        names.push(options.addr.ip().to_string());
    }
    names.sort();
    names.dedup();
    let first_line = format!("# storgo-node, self-signed, for {}\n", names.join(" "));
    let fail = |e| NodeError::io(format_args!("use {}", path.display()), &e);
    match fs::read(&path) {
        Ok(kept) if kept.starts_with(first_line.as_bytes()) && is_recent(&kept) => return Ok(kept),
        Ok(_) => fs::remove_file(&path).map_err(fail)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail(e)),
    }
    let pem = first_line + &make(names)?;
    write_secret(&path, pem.as_bytes()).map_err(fail)?;
    Ok(pem.into_bytes())
}

/// Whether a certificate was made lately, by its own dates. One of the future was: the clock is behind now.
fn is_recent(pem: &[u8]) -> bool {
    let validity = CertificateDer::from_pem_slice(pem).ok().and_then(|own| Validity::of(&own));
    let max_age = i64::try_from((MAX_AGE + CLOCK_SKEW).as_secs()).unwrap_or(i64::MAX);
    validity.is_some_and(|validity| unix_now() - validity.start < max_age)
}

fn make(names: Vec<String>) -> Result<String, NodeError> {
    let fail =
        |e: rcgen::Error| NodeError::new(ErrorCode::BadRequest, format!("cannot make a certificate: {e}"));
    let mut params = rcgen::CertificateParams::new(names).map_err(fail)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let start = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = start + now.saturating_sub(CLOCK_SKEW);
    params.not_after = start + now + VALIDITY;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "storgo-node");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = rcgen::KeyPair::generate().map_err(fail)?;
    let cert = params.self_signed(&key).map_err(fail)?;
    Ok(cert.pem() + &key.serialize_pem())
}
