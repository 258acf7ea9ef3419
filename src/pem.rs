//! Certificates and keys in files.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Decode;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// Not there, not PEM, or without what it should hold.
    #[error("{0}: {1}")]
    Pem(PathBuf, pem::Error),
    /// No certificate in it.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
}

/// The file's certificates, one at least.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let pem = |e| PemError::Pem(path.to_owned(), e);
    let found = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if found.is_empty() { Err(PemError::Empty(path.to_owned())) } else { Ok(found) }
}

/// The file's first private key.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| PemError::Pem(path.to_owned(), e))
}

/// When the first certificate of a chain in a file ends, or the last authority of a bundle does: from then on somebody is not
/// believed. `None` for what holds no certificate that can be read.
pub(crate) fn end(chain: Option<&Path>, authorities: Option<&Path>) -> Option<DateTime<Utc>> {
    let first = chain.and_then(|path| ends(path).into_iter().min());
    let last = authorities.and_then(|path| ends(path).into_iter().max());
    first.into_iter().chain(last).min()
}

fn ends(path: &Path) -> Vec<DateTime<Utc>> {
    let read = certificates(path).unwrap_or_default();
    let parsed = read.iter().filter_map(|der| x509_cert::Certificate::from_der(der).ok());
    let ends = parsed.map(|certificate| certificate.tbs_certificate.validity.not_after.to_system_time());
    ends.map(DateTime::from).collect()
}
