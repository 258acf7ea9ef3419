//! The service's own probes, for a kubelet that cannot reach a service behind the gate: it hears whether the service's
//! answer was good, and nothing else of it.

use std::io;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Method, Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use openexec_protocol::refusal::{Code, Refusal};
use pingora::protocols::http::ServerSession;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Admin, TEXT};
use crate::config::pod::AppProbe;
use crate::config::upstream::Place;
use crate::execute::respond;

/// Below it each probe has its name: `container/readiness`.
pub(super) const PATH: &str = "/probes/";
/// Probes at once, of all.
pub(super) const MOST_PROBES: usize = 32;

/// A connection to the service.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

impl Admin {
    /// `/probes/{container}/{probe}`
    pub(super) async fn app_probe(&self, session: &mut ServerSession) {
        let header = session.req_header();
        if header.method != Method::GET && header.method != Method::HEAD {
            return respond::refusal(session, &respond::method_not_allowed("GET, HEAD")).await;
        }
        let (rules, name) = (self.gate.rules(), header.uri.path().strip_prefix(PATH).unwrap_or_default());
        let Some(probe) = rules.probes.get(name) else {
            return respond::refusal(session, &Refusal::new(Code::NotFound, "No such path")).await;
        };
        let Some(_permit) = self.probing.take() else {
            let refusal = Refusal::new(Code::Overloaded, "Too many probes").with_retry_after(1);
            return respond::refusal(session, &refusal).await;
        };
        let (status, text) = match timeout(probe.timeout, ask(probe)).await {
            // What a kubelet takes for success.
            Ok(Ok(status)) if (200..400).contains(&status) => (200, "ok\n".to_owned()),
            Ok(Ok(status)) => (503, format!("the service answers {status}\n")),
            Ok(Err(_)) => (503, "the service cannot be reached\n".to_owned()),
            Err(_) => (503, "the service does not answer in time\n".to_owned()),
        };
        respond::document(session, status, TEXT, text).await;
    }
}

/// The status of its answer; 200 where a connection is all that is wanted.
async fn ask(probe: &AppProbe) -> io::Result<u16> {
    let transport: Box<dyn Transport> = match &probe.origin.place {
        Place::Tcp(host, port) => Box::new(TcpStream::connect((host.as_str(), *port)).await?),
        Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    let Some(path) = &probe.path else { return Ok(200) };
    let stream: Box<dyn Transport> = match &probe.origin.server_name {
        Some(name) => Box::new(TlsConnector::from(UNVERIFIED.clone()).connect(name.clone(), transport).await?),
        None => transport,
    };
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.clone().into();
    let headers = request.headers_mut();
    *headers = probe.headers.clone();
    headers.entry(header::HOST).or_insert_with(|| probe.origin.authority.clone());
    headers.entry(header::USER_AGENT).or_insert(header::HeaderValue::from_static(crate::USER_AGENT));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let answer = std::pin::pin!(sender.send_request(request));
    let answer = match select(answer, std::pin::pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        // What it has read is there all the same.
        Either::Right((_, answer)) => answer.await,
    };
    answer.map(|answer| answer.status().as_u16()).map_err(io::Error::other)
}

/// As a kubelet does it: whose certificate a service on this machine shows is not what is asked. Nothing secret is sent.
static UNVERIFIED: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions of TLS that are safe")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    Arc::new(config)
});

#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
