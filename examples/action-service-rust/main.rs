//! An action service: it accepts a mail at `POST /mail/send`, once for each `Idempotency-Key`, and says at
//! `GET /status/<key>` what became of it. It sends nothing: mails are rows of DIR/mails.db.

mod store;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::store::{Mail, Store};

const MAX_BODY: usize = 256 * 1024;
const MAX_KEY: usize = 128;
// Longer than OpenExec keeps an idle connection (4 s), or a request could meet a connection that is being closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// An error is no answer: the connection closes. An answer is a fact, which OpenExec records and never asks about
/// again. Where this service does not know what happened, it says nothing, and OpenExec asks `/status`.
type Outcome = Result<(StatusCode, Value), Box<dyn Error + Send + Sync>>;

/// An action service to put behind OpenExec
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8700")]
    listen: SocketAddr,
    /// Where to keep the mails
    #[arg(long, value_name = "DIR", default_value = "examples/action-service-rust/data")]
    data: PathBuf,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let store = Arc::new(Store::open(&arguments.data)?);
    let listener = TcpListener::bind(arguments.listen).await?;
    println!("action service on http://{}, data in {}", arguments.listen, arguments.data.display());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, Arc::clone(&store)))),
            // Out of file descriptors, say. That passes, and must not end the service.
            Err(error) => {
                eprintln!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, store: Arc<Store>) {
    let service = service_fn(move |request| respond(request, Arc::clone(&store)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        eprintln!("a connection ended: {error:?}");
    }
}

async fn respond(
    request: Request<Incoming>,
    store: Arc<Store>,
) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    let path = request.uri().path().to_owned();
    let (status, document) = match (request.method(), path.as_str(), path.strip_prefix("/status/")) {
        (&Method::GET, "/healthz", _) => (StatusCode::OK, json!({"status": "ok"})),
        (&Method::POST, "/mail/send", _) => send(request, store).await?,
        (&Method::GET, _, Some(key)) => look_up(key.to_owned(), store).await?,
        _ => refuse(StatusCode::NOT_FOUND, "no such path"),
    };
    let mut response = Response::new(Full::new(Bytes::from(document.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn send(request: Request<Incoming>, store: Arc<Store>) -> Outcome {
    let key = request.headers().get("idempotency-key").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let collected = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = match tokio::time::timeout(PATIENCE, collected).await? {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Ok(refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"));
        }
        Err(error) => return Err(error),
    };
    let Some(key) = key.filter(|key| is_key(key)) else {
        return Ok(refuse(StatusCode::BAD_REQUEST, "Idempotency-Key is needed: 1 to 128 of A-Z a-z 0-9 - . _ ~"));
    };
    let Ok(mail) = serde_json::from_slice::<Mail>(&body) else {
        return Ok(refuse(StatusCode::BAD_REQUEST, "the body is no mail: `to`, `subject` and perhaps `text`"));
    };
    if !mail.to.contains('@') || mail.subject.trim().is_empty() || mail.subject.contains(['\r', '\n']) {
        return Ok(refuse(StatusCode::UNPROCESSABLE_ENTITY, "`to` is no address, or `subject` is not one line"));
    }
    // SQLite blocks while it syncs. The work goes on to its end even if the client leaves.
    Ok(match tokio::task::spawn_blocking(move || store.send_once(&key, &mail)).await?? {
        Some(message_id) => (StatusCode::ACCEPTED, json!({"message_id": message_id})),
        None => refuse(StatusCode::UNPROCESSABLE_ENTITY, "this Idempotency-Key belongs to another mail"),
    })
}

async fn look_up(key: String, store: Arc<Store>) -> Outcome {
    Ok(match tokio::task::spawn_blocking(move || store.message_id(&key)).await?? {
        Some(message_id) => (StatusCode::OK, json!({"message_id": message_id})),
        None => refuse(StatusCode::NOT_FOUND, "nothing was done under this key"),
    })
}

fn is_key(key: &str) -> bool {
    (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

fn refuse(status: StatusCode, reason: &str) -> (StatusCode, Value) {
    (status, json!({"error": reason}))
}
