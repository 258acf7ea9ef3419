//! Asks a running server's admin listener.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::env::{self, Environment, ProcessEnvironment};

/// Longer than an answer takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Larger than any answer.
const LARGEST: usize = 64 << 20;

/// Where the admin listener is, and what it is shown.
#[derive(clap::Args)]
pub(super) struct AdminClient {
    /// The admin listener's address
    #[arg(long, env = env::ADMIN_LISTEN, default_value = "127.0.0.1:5001", value_name = "ADDRESS")]
    admin: SocketAddr,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the admin listener at {0} cannot be asked: {1}")]
    Unreachable(SocketAddr, String),
    #[error("neither {token} nor {token}_FILE is set", token = env::ADMIN_TOKEN)]
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
            AskError::Unreachable(..) => 69,
            AskError::NoToken | AskError::Token(_) => 77,
            AskError::Refused { status, .. } if matches!(status.as_u16(), 401 | 403) => 77,
            AskError::Refused { .. } => 1,
        }
    }
}

impl AdminClient {
    pub(super) fn get(&self, path: &str) -> Result<Value, AskError> {
        self.ask(Method::GET, path, Bytes::new())
    }

    pub(super) fn post(&self, path: &str, body: String) -> Result<Value, AskError> {
        self.ask(Method::POST, path, body.into())
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Value, AskError> {
        let secret = |name| ProcessEnvironment.secret(name).map_err(AskError::Token);
        let token = match (secret(env::ADMIN_TOKEN)?, secret(env::ADMIN_READ_TOKEN)?) {
            (Some(token), _) | (None, Some(token)) => token,
            (None, None) => return Err(AskError::NoToken),
        };
        let unreachable = |why: String| AskError::Unreachable(self.admin, why);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| unreachable(e.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.admin.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| unreachable(e.to_string()))?;
        let exchange = async { timeout(PATIENCE, exchange(self.admin, request)).await };
        let (status, body) = match runtime.block_on(exchange) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable("no answer in time".to_owned())),
        };
        let answer: Value = serde_json::from_slice(&body).map_err(|_| unreachable("no JSON came back".to_owned()))?;
        if status.is_success() {
            return Ok(answer);
        }
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Err(AskError::Refused { status, code: text("code"), detail: text("detail") })
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
