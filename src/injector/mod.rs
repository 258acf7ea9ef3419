//! The admission webhook: the API server asks about every pod that is created, and gets back what is to be changed.

pub mod review;
mod service;
pub mod settings;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

pub(crate) use self::service::announce;
use self::service::{Admin, Webhook};
use self::settings::Settings;
use crate::config::Limits;
use crate::config::listener::Place;
use crate::current::Current;
use crate::inject::settings::Sidecar;
use crate::listen::Permits;
use crate::listen::client::Listener;
use crate::listen::serve::{Shared, serve};
use crate::listen::socket::Socket;
use crate::metrics::Metrics;
use crate::shutdown::Phase;

/// A pod of the API server's largest size, twice over: it may come with its older self.
const REVIEW_BYTES: usize = 4 << 20;
/// For all reviews at once.
const BUFFERED_BYTES: usize = 64 << 20;
/// Few API servers ask, and few others.
const CONNECTIONS: usize = 1_024;
/// Between "not ready" and the last accepted connection, until the API server asks others.
const DELAY: Duration = Duration::from_secs(5);
/// For reviews that are being answered then.
const TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Where it cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("{0} cannot be listened on: {1}")]
pub struct StartError(Place, #[source] io::Error);

/// A new listening address, which needs a new process.
#[derive(Debug, thiserror::Error)]
#[error("{0} cannot change while the injector runs: restart it")]
pub struct NeedsRestart(&'static str);

/// An injector that serves.
pub struct Running {
    /// Where it is asked.
    pub listen: Place,
    /// Where probes and Prometheus ask.
    pub admin_listen: Place,
    settings: Settings,
    sidecar: Arc<Current<Sidecar>>,
    tls: Arc<Current<Arc<rustls::ServerConfig>>>,
    metrics: Arc<Metrics>,
    phase: Arc<Phase>,
    serving: Arc<Permits>,
    close_listeners: watch::Sender<bool>,
    services: [JoinHandle<()>; 2],
}

/// Starts both listeners.
///
/// # Errors
/// An address is taken, or not ours.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    let bind = |address| {
        let place = Place::Tcp(address);
        Socket::bind(&place).map_err(|error| StartError(place, error))
    };
    let (socket, admin_socket) = (bind(settings.listen)?, bind(settings.admin_listen)?);
    let (listen, admin_listen) = (socket.place.clone(), admin_socket.place.clone());
    let listen_on = |socket: Socket| {
        let place = socket.place.clone();
        Listener::new(socket).map_err(|error| StartError(place, error))
    };
    let (listener, admin_listener) = (listen_on(socket)?, listen_on(admin_socket)?);
    let metrics = Arc::new(Metrics::new());
    announce(&metrics);
    let (sidecar, tls) = (Current::new(settings.sidecar.clone()), Current::new(settings.tls.clone()));
    let (phase, serving) = (Arc::new(Phase::default()), Permits::new(usize::MAX));
    let limits = Current::new(Limits { body_bytes: REVIEW_BYTES, buffered_bytes: BUFFERED_BYTES, ..Limits::default() });
    let (close_listeners, _) = watch::channel(false);
    let shared = |tls| Shared {
        tls,
        limits: limits.clone(),
        permits: Permits::new(CONNECTIONS),
        serving: serving.clone(),
        metrics: metrics.clone(),
        bypass: None,
    };
    let webhook = Webhook {
        sidecar: sidecar.clone(),
        limits: limits.clone(),
        memory: Permits::new(BUFFERED_BYTES),
        metrics: metrics.clone(),
    };
    let admin = Admin { phase: phase.clone(), metrics: metrics.clone() };
    let services = [
        serve(listener, webhook, shared(Some(tls.clone())), None, &close_listeners),
        serve(admin_listener, admin, shared(None), None, &close_listeners),
    ];
    metrics.configured(true, false);
    metrics.certificates(&settings.certificate);
    tracing::info!(%listen, %admin_listen, image = settings.sidecar.image, version = crate::VERSION, "injecting");
    Ok(Running { listen, admin_listen, settings, sidecar, tls, metrics, phase, serving, close_listeners, services })
}

impl Running {
    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Other settings, and another certificate.
    ///
    /// # Errors
    /// They name other addresses.
    pub fn reload(&mut self, settings: Settings) -> Result<(), NeedsRestart> {
        if settings.listen != self.settings.listen {
            return Err(NeedsRestart("listen"));
        }
        if settings.admin_listen != self.settings.admin_listen {
            return Err(NeedsRestart("admin.listen"));
        }
        self.sidecar.set(settings.sidecar.clone());
        self.tls.set(settings.tls.clone());
        self.metrics.certificates(&settings.certificate);
        self.settings = settings;
        Ok(())
    }

    /// Not ready, then no new connections, then what is being answered; without any wait when `hurry` ends.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        tracing::info!("stopping");
        self.phase.stop();
        let gently = async {
            sleep(DELAY).await;
            let _ = self.close_listeners.send(true);
            // At once. Every connection that was accepted is counted then.
            for service in &mut self.services {
                let _ = service.await;
            }
            let deadline = Instant::now() + TIMEOUT;
            while self.serving.taken() > 0 && Instant::now() < deadline {
                sleep(POLL).await;
            }
        };
        tokio::select! {
            () = gently => {}
            () = hurry => {}
        }
        self.services.iter().for_each(JoinHandle::abort);
        tracing::info!("stopped");
    }
}
