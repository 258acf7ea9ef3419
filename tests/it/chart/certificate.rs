//! The webhook's certificate as the API server would judge it: by the webhook's `caBundle` and the Service's name.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use super::{RENDERED, find, items};
use crate::support::PATIENCE;

/// What is in base64, in a Secret or a `caBundle`.
pub fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// A client that believes the certificates of this bundle, for a server of this name.
fn client(bundle: &[u8], name: &str) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle) {
        roots.add(authority.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    ClientConnection::new(Arc::new(client), ServerName::try_from(name.to_owned()).unwrap()).unwrap()
}

/// A connection of that client.
pub fn connect(address: SocketAddr, bundle: &[u8], name: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(client(bundle, name), stream)
}

/// Whether that client gets on with a server that has the Secret's certificate.
pub fn is_believed(bundle: &[u8], secret: &Value, name: &str) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = CertificateDer::pem_slice_iter(&decoded(&secret["data"]["tls.crt"])).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&decoded(&secret["data"]["tls.key"])).unwrap();
    let server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let mut client = client(bundle, name);
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut there = Vec::new();
        client.write_tls(&mut there).unwrap();
        server.read_tls(&mut &*there).unwrap();
        let mut back = Vec::new();
        if server.process_new_packets().is_err() {
            return false;
        }
        server.write_tls(&mut back).unwrap();
        client.read_tls(&mut &*back).unwrap();
        if client.process_new_packets().is_err() {
            return false;
        }
    }
    true
}

#[test]
fn the_api_server_would_believe_the_generated_certificate() {
    for it in RENDERED.iter().filter(|it| matches!(it.case, "injector" | "demo")) {
        let secret = find(&it.objects, "Secret", "-injector-tls");
        assert!(secret["data"].get("ca.key").is_none(), "nobody can make another certificate");
        let service = find(&it.objects, "Service", "-injector");
        let name = format!("{}.gates.svc", super::name(service));
        let configuration = find(&it.objects, "MutatingWebhookConfiguration", "");
        assert_eq!(items(&configuration["webhooks"]).count(), 2);
        for webhook in items(&configuration["webhooks"]) {
            let bundle = decoded(&webhook["clientConfig"]["caBundle"]);
            assert!(is_believed(&bundle, secret, &name), "{} by {}", it.case, it.helm);
            assert!(!is_believed(&bundle, secret, "another.gates.svc"));
        }
        let other = RENDERED.iter().find(|other| other.case == it.case && other.helm != it.helm).unwrap();
        let others = decoded(&find(&other.objects, "Secret", "-injector-tls")["data"]["ca.crt"]);
        assert!(!is_believed(&others, secret, &name), "each has an authority of its own");
    }
}
