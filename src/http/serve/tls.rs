//! Certificates: from files, or self-signed and kept in the data directory.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
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

pub(super) struct Loaded {
    pub(super) acceptor: TlsAcceptor,
    pub(super) fingerprint: String,
}

/// Returns the certificate that `options` name. `None` without TLS.
pub(super) fn load(options: &ServeOptions, data_dir: &Path) -> Result<Option<Loaded>, NodeError> {
    match &options.tls {
        Tls::Off => Ok(None),
        Tls::Files { cert, key } => from_files(cert, key).map(Some),
        Tls::SelfSigned => {
            let pem = self_signed(options, data_dir)?;
            from_pem(&pem, &pem).map(Some)
        }
    }
}

pub(super) fn from_files(cert: &Path, key: &Path) -> Result<Loaded, NodeError> {
    from_pem(&read(cert)?, &read(key)?)
}

fn from_pem(cert: &[u8], key: &[u8]) -> Result<Loaded, NodeError> {
    let unusable = |e: &dyn std::fmt::Display| {
        NodeError::new(ErrorCode::BadRequest, format!("cannot use the certificate: {e}"))
            .reason(Reason::CertificateInvalid)
    };
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(cert).collect::<Result<_, _>>().map_err(|e| unusable(&e))?;
    let Some(own) = chain.first() else {
        return Err(unusable(&"the file has none"));
    };
    let fingerprint = data_encoding::HEXUPPER.encode(&Sha256::digest(own));
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| unusable(&e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| unusable(&e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint })
}

fn read(path: &Path) -> Result<Vec<u8>, NodeError> {
    fs::read(path)
        .map_err(|e| NodeError::new(ErrorCode::BadRequest, format!("cannot read {}: {e}", path.display())))
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
        Ok(kept) if kept.starts_with(first_line.as_bytes()) && is_recent(&path) => return Ok(kept),
        Ok(_) => fs::remove_file(&path).map_err(fail)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail(e)),
    }
    let pem = first_line + &make(names)?;
    write_secret(&path, pem.as_bytes()).map_err(fail)?;
    Ok(pem.into_bytes())
}

fn is_recent(path: &Path) -> bool {
    let age = fs::metadata(path).and_then(|meta| meta.modified()).ok().and_then(|made| made.elapsed().ok());
    age.is_some_and(|age| age < MAX_AGE)
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
