//! Whom an upstream's certificate must be from, and the certificate that we show.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::pem::{PemError, certificates, private_key};

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// One of them without the other.
    #[error("`certificate` and `key` belong together")]
    Half,
    /// rustls does not take it.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// TLS 1.2 and later, with the given authority only, or with the system's.
///
/// # Errors
/// See [`TlsError`].
pub fn client_config(
    ca: Option<&Path>,
    certificate: Option<&Path>,
    key: Option<&Path>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            for authority in certificates(ca)? {
                roots.add(authority)?;
            }
        }
        None => {
            // A single bad file of the system's must not stop everything; without any, nothing is believed.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(TlsError::Half),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
