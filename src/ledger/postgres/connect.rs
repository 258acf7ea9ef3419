//! Connections to the database: how they are made, kept and given up.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Pool, RecycleError, RecycleResult, Timeouts};
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use crate::config::ledger::{DatabaseTls, PostgresConfig};
use crate::upstream::tls::{TlsError, client_config};

/// Connections that are free, and those that are in use.
pub(super) type Connections = Pool<Server>;

/// Makes connections.
pub(super) struct Server {
    config: PostgresConfig,
    /// Drives them. Whoever asks first may be a thread that serves clients, and its clients' requests would hold up
    /// everybody's statements.
    runtime: Handle,
    /// The server that worked last.
    last: AtomicUsize,
}

/// A connection, driven by a task of its own.
pub(super) struct Connected {
    pub(super) client: Client,
    doubtful: Arc<AtomicBool>,
    /// Ends at once with it, whatever it still waits for.
    _driver: AbortOnDropHandle<()>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The password's file.
    #[error("{0} cannot be read: {1}")]
    Password(PathBuf, io::Error),
    /// A certificate's file.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody answers.
    #[error("no connection in time")]
    Late,
    /// The network, or the server's refusal.
    #[error("{}", describe(.0))]
    Server(#[from] tokio_postgres::Error),
}

/// The driver says "db error" of everything that the server refuses, and of the rest not why.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(refusal), _) => format!("{} ({})", refusal.message(), refusal.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// A pool of so many connections, which connects when it is asked to, on this runtime.
pub(super) fn pool(config: &PostgresConfig, connections: usize) -> Connections {
    let all = u32::try_from(config.servers.len()).unwrap_or(u32::MAX);
    let timeouts = Timeouts {
        wait: Some(config.statement_timeout),
        create: Some(config.connect_timeout.saturating_mul(all)),
        recycle: Some(config.connect_timeout),
    };
    Pool::builder(Server { config: config.clone(), runtime: Handle::current(), last: AtomicUsize::new(0) })
        .max_size(connections)
        .timeouts(timeouts)
        .runtime(Runtime::Tokio1)
        .build()
        .expect("a pool with a runtime can have timeouts")
}

async fn connect(config: PostgresConfig, mut server: tokio_postgres::Config) -> Result<Connected, ConnectError> {
    if let Some(path) = &config.password_file {
        // Small, and seldom read.
        let password = std::fs::read_to_string(path);
        let password = password.map_err(|error| ConnectError::Password(path.clone(), error))?;
        server.password(password.strip_suffix('\n').unwrap_or(&password));
    }
    match &config.tls {
        None => {
            let (client, connection) = server.connect(NoTls).await?;
            Ok(Connected::drive(client, connection))
        }
        Some(tls) => {
            let (client, connection) = server.connect(MakeRustlsConnect::new(tls_config(tls)?)).await?;
            Ok(Connected::drive(client, connection))
        }
    }
}

impl Manager for Server {
    type Type = Connected;
    type Error = ConnectError;

    /// From the server that worked last, to the others in turn.
    async fn create(&self) -> Result<Connected, ConnectError> {
        let servers = &self.config.servers;
        let first = self.last.load(Ordering::Relaxed);
        let mut failed = ConnectError::Late;
        for at in (first..first + servers.len()).map(|at| at % servers.len()) {
            let connecting = timeout(self.config.connect_timeout, connect(self.config.clone(), servers[at].clone()));
            // Ends with whoever waits for it, who else would leave more connections than there may be.
            match AbortOnDropHandle::new(self.runtime.spawn(connecting)).await {
                Ok(Ok(Ok(connected))) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(connected);
                }
                Ok(Ok(Err(error))) => failed = error,
                // The second: the runtime ends, or it panicked, which is printed.
                Ok(Err(_)) | Err(_) => failed = ConnectError::Late,
            }
        }
        Err(failed)
    }

    async fn recycle(&self, connected: &mut Connected, _: &Metrics) -> RecycleResult<ConnectError> {
        if connected.client.is_closed() { Err(RecycleError::message("closed")) } else { Ok(()) }
    }
}

fn tls_config(tls: &DatabaseTls) -> Result<ClientConfig, TlsError> {
    let config = client_config(tls.ca.as_deref(), tls.certificate.as_deref(), tls.key.as_deref())?;
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols.clear();
    Ok(config)
}

impl Connected {
    fn drive<S, T>(client: Client, mut connection: Connection<S, T>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let doubtful = Arc::new(AtomicBool::new(false));
        let seen = doubtful.clone();
        let driver = tokio::spawn(async move {
            let mut messages = poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                // A commit whose wait for the standby was cancelled is reported as one that was not, after a warning.
                // Its text may be in any language; where it comes from is not.
                if let AsyncMessage::Notice(notice) = message
                    && notice.code().code() == "01000"
                    && notice.routine().is_none_or(|routine| routine == "SyncRepWaitForLSN")
                {
                    seen.store(true, Ordering::Release);
                }
            }
        });
        Connected { client, doubtful, _driver: AbortOnDropHandle::new(driver) }
    }

    /// Whether what the server said lately may be less than it seemed. Asked once, it forgets it.
    pub(super) fn was_doubtful(&self) -> bool {
        self.doubtful.swap(false, Ordering::AcqRel)
    }
}
