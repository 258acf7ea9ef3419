//! Our certificate, and whose certificates clients must show.
//!
//! HTTP/1.1 is all that is offered: HTTP/2 would need Pingora's own session, whose limits on streams, resets and header
//! floods were not set and tested here, and gains nothing for single requests of a few KiB.

use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::pem::{PemError, certificates, private_key};

/// The oldest version of TLS that clients may speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
pub enum MinVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "TLS1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "TLS1.3")]
    Tls13,
}

/// What is wrong with a listener's certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Names without the authority that vouches for them.
    #[error("`client_names` needs `client_ca`")]
    NamesWithoutAuthority,
    /// Not a DNS name.
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
    /// The authority cannot be used.
    #[error("`client_ca`: {0}")]
    Authority(#[from] VerifierBuilderError),
    /// rustls does not take it: a key that belongs to another certificate, say.
    #[error(transparent)]
    Rustls(#[from] Error),
}

/// With `client_ca`, a client without a certificate of that authority gets no further than the handshake; with
/// `client_names`, one whose certificate names none of them does not either.
///
/// # Errors
/// See [`TlsError`].
pub fn server_config(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
    client_names: &[String],
    min_version: MinVersion,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = match min_version {
        MinVersion::Tls12 => &[&rustls::version::TLS12, &rustls::version::TLS13],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let builder = match client_ca {
        Some(ca) => builder.with_client_cert_verifier(clients(ca, client_names, provider)?),
        None if !client_names.is_empty() => return Err(TlsError::NamesWithoutAuthority),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(certificates(certificate)?, private_key(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn clients(
    ca: &Path,
    names: &[String],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca)? {
        roots.add(authority)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    if names.is_empty() {
        return Ok(verifier);
    }
    let name = |name: &String| match ServerName::try_from(name.clone()) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        _ => Err(TlsError::Name(name.clone())),
    };
    let names = names.iter().map(name).collect::<Result<_, _>>()?;
    Ok(Arc::new(Named { verifier, names, algorithms: provider.signature_verification_algorithms }))
}

/// Lets in whom the authority vouches for, if the certificate is for one of these names.
#[derive(Debug)]
struct Named {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Named {
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(certificate, intermediates, now)?;
        let parsed = ParsedCertificate::try_from(certificate)?;
        let is_named = self.names.iter().any(|name| verify_server_name(&parsed, name).is_ok());
        if is_named { Ok(verified) } else { Err(CertificateError::NotValidForName.into()) }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
