//! Asks a running server's admin listener.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::request::Builder;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::BAD_CONFIGURATION;
use crate::config::env::{self, Environment, ProcessEnvironment};
use crate::config::{self, ConfigError};

/// Longer than an answer takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Larger than any answer.
const LARGEST: usize = 64 << 20;

/// Where the admin listener is.
#[derive(clap::Args)]
pub(super) struct AdminAddress {
    /// The admin listener's address [default: the configuration file's, or else 127.0.0.1:5001]
    #[arg(long, env = env::ADMIN_LISTEN, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

/// A running server, seen by its admin listener.
pub(super) struct AdminClient {
    /// 0.0.0.0 and [::] are good too: Linux takes them for this machine.
    address: SocketAddr,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    #[error("the admin listener at {0} cannot be asked: {1}")]
    Unreachable(SocketAddr, String),
    #[error(
        "no admin token: set {} (or, to look only, {}), or NAME_FILE to a file that holds it",
        env::ADMIN_TOKEN,
        env::ADMIN_READ_TOKEN
    )]
    NoToken,
    #[error("{0}")]
    Token(String),
    #[error("{detail} ({code})")]
    Refused { status: StatusCode, code: String, detail: String },
}

impl AskError {
    /// As sysexits.h has them.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            AskError::Configuration(_) => BAD_CONFIGURATION,
            AskError::Unreachable(..) => 69,
            AskError::NoToken | AskError::Token(_) => 77,
            AskError::Refused { status, .. } if matches!(status.as_u16(), 401 | 403) => 77,
            AskError::Refused { .. } => 1,
        }
    }
}

impl AdminAddress {
    /// From the argument or the variable, or else from this configuration file.
    pub(super) fn client(&self, config: Option<&Path>) -> Result<AdminClient, AskError> {
        let address = self.admin.map_or_else(|| config::admin_listen(config), Ok)?;
        Ok(AdminClient { address })
    }
}

impl AdminClient {
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, AskError> {
        self.ask(Method::GET, path, Bytes::new())
    }

    pub(super) fn post(&self, path: &str, body: String) -> Result<Value, AskError> {
        self.ask(Method::POST, path, body.into())
    }

    /// What needs no token: the status, and the text that comes with it.
    pub(super) fn probe(&self, path: &str, patience: Duration) -> Result<(StatusCode, String), AskError> {
        let (status, body) = self.send(Request::get(path), Bytes::new(), patience)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Value, AskError> {
        let secret = |name| ProcessEnvironment.secret(name).map_err(AskError::Token);
        let token = match (secret(env::ADMIN_TOKEN)?, secret(env::ADMIN_READ_TOKEN)?) {
            (Some(token), _) | (None, Some(token)) => token,
            (None, None) => return Err(AskError::NoToken),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json");
        let (status, body) = self.send(request, body, PATIENCE)?;
        let answer: Value =
            serde_json::from_slice(&body).map_err(|_| self.unreachable("no JSON came back".to_owned()))?;
        if status.is_success() {
            return Ok(answer);
        }
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Err(AskError::Refused { status, code: text("code"), detail: text("detail") })
    }

    fn send(&self, request: Builder, body: Bytes, patience: Duration) -> Result<(StatusCode, Bytes), AskError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| self.unreachable(e.to_string()))?;
        let request = request
            .header(header::HOST, self.address.to_string())
            .body(Full::new(body))
            .map_err(|e| self.unreachable(e.to_string()))?;
        match runtime.block_on(async { timeout(patience, exchange(self.address, request)).await }) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.unreachable(error.to_string())),
            Err(_) => Err(self.unreachable("no answer in time".to_owned())),
        }
    }

    fn unreachable(&self, why: String) -> AskError {
        AskError::Unreachable(self.address, why)
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), AnyError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}
