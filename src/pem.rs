//! Certificates and keys in files.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
