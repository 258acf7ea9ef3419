//! `openexec serve`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::notify::{self, State};
use super::signals::Signals;
use super::{BAD_CONFIGURATION, fail};
use crate::app::{self, Ending, Parts, Running, StartError};
use crate::clock::SystemClock;
use crate::config::env::ProcessEnvironment;
use crate::config::ledger::LedgerConfig;
use crate::config::{self, Config};
use crate::huge_pages;
use crate::logging;
use crate::registry::Registry;
use crate::reload::Watch;
use crate::takeover::Taken;
use clap::Args;

/// What the environment may say; it wins over the file.
pub(super) const ENVIRONMENT: &str = "\
Environment (it wins over the configuration file):
  OPENEXEC_MODE
      `demo` approves everything; `clawshield` asks for signed approvals
      [default: demo, on loopback addresses only]
  OPENEXEC_CONFIG
      the configuration file
  OPENEXEC_LISTEN
      the main listener: address and port, or unix:/path
      [default: 127.0.0.1:5000]
  OPENEXEC_ADMIN_LISTEN
      the admin listener: address and port [default: 127.0.0.1:5001]
  OPENEXEC_ADMIN_TOKEN
      who has it reads and resolves executions; 16 characters or more
  OPENEXEC_ADMIN_READ_TOKEN
      who has it reads executions; another token
  OPENEXEC_DB_URL
      the ledger: `sqlite:///relative.db`, `sqlite:////absolute.db`,
      `postgresql://user@host/database`, `memory:`
      [default: sqlite:///openexec.db]
  OPENEXEC_DB_PASSWORD
      the password of its user
  OPENEXEC_LEDGER_FENCE
      `auto`, or `always`: approvals from before each start are refused, for
      ledgers that die with the pod [default: auto]
  OPENEXEC_UPSTREAM
      the address of the upstream `app`: http://host:port or unix:/path
  OPENEXEC_POD_IPS
      addresses, comma-separated, at which others reach this machine or pod: a
      service on 127.0.0.1 must not answer there (`bypass_check`)
  OPENEXEC_APP_PROBES
      the service's probes, as JSON (`probes`)
  OPENEXEC_ALLOWED_ACTIONS
      what may be executed, comma-separated; unset: all; empty: nothing
  OPENEXEC_LOG
      the log's filter: a level, or target=level pairs [default: info]
  OPENEXEC_LOG_FORMAT
      `text` or `json` [default: text on a terminal, else json]
  CLAWSHIELD_SECRET_KEY
      the key of HMAC approvals
  CLAWSHIELD_PUBLIC_KEY
      the key of Ed25519 approvals, as a PEM text
  CLAWSHIELD_TENANT_ID
      the tenant that is acted for
  CLAWSHIELD_BASE_URL
  CLAWSHIELD_API_KEY
      accepted, and not used yet
  OTEL_EXPORTER_OTLP_ENDPOINT
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
      where traces go over HTTP, such as http://127.0.0.1:4318, to which
      /v1/traces is added; the second is the whole URL [default: no traces]
  OTEL_EXPORTER_OTLP_HEADERS
  OTEL_EXPORTER_OTLP_TRACES_HEADERS
      sent along: name=value,name=value
  OTEL_EXPORTER_OTLP_TIMEOUT
  OTEL_EXPORTER_OTLP_TRACES_TIMEOUT
      milliseconds for an export [default: 10000]
  OTEL_EXPORTER_OTLP_PROTOCOL
  OTEL_EXPORTER_OTLP_TRACES_PROTOCOL
      `http/protobuf`, and nothing else
  OTEL_TRACES_SAMPLER
  OTEL_TRACES_SAMPLER_ARG
      `always_on`, `always_off`, or `traceidratio` and the share, each also
      behind `parentbased_` [default: parentbased_always_on]
  OTEL_SERVICE_NAME
  OTEL_RESOURCE_ATTRIBUTES
      who we are in traces, and what else is said of us: name=value,name=value
      [default: openexec]
  OTEL_BSP_MAX_QUEUE_SIZE
      spans that wait for the collector; more are dropped [default: 8192]
  OTEL_SDK_DISABLED
      `true`: no traces, whatever else is set

A secret (keys, tokens, trace headers) can be in a file instead, which NAME_FILE names.
`openexec --help` lists the exit codes.";

/// Serve.
#[derive(Args, Default)]
pub(super) struct Serve {
    /// Take the listening sockets of the server that runs; it then ends, and no connection is refused in between
    ///
    /// Both need the same startup.takeover_socket in their configuration. With no server there, this one starts as
    /// usual.
    #[arg(long)]
    takeover: bool,
}

impl Serve {
    pub(super) fn run(&self, path: Option<&Path>) -> ExitCode {
        let config = match Config::load(path, &ProcessEnvironment) {
            Ok(config) => config,
            Err(error) => return fail(error, BAD_CONFIGURATION),
        };
        if self.takeover && config.startup.takeover_socket.is_none() {
            return fail("--takeover needs startup.takeover_socket in the configuration", BAD_CONFIGURATION);
        }
        if matches!(config.ledger, LedgerConfig::Memory { .. }) {
            // Each execution is kept in new memory, and a huge page is one fault for many of them.
            huge_pages::allow_again();
        }
        logging::start(&ProcessEnvironment);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(error, 71),
        };
        let ended = runtime.block_on(serve(config, path, self.takeover));
        // A check of the ledger that still runs is not waited for: the next start makes it again.
        runtime.shutdown_background();
        if let Err(error) = &ended {
            tracing::error!("{error}");
        }
        logging::flush();
        ended.map_or_else(|error| ExitCode::from(error.exit_code()), |()| ExitCode::SUCCESS)
    }
}

async fn serve(config: Config, path: Option<&Path>, takeover: bool) -> Result<(), StartError> {
    // Before anything is claimed: a signal that comes while the ledger opens must not be lost.
    let mut signals = Signals::new();
    let watched = path.map(Path::to_owned);
    let files = move || config::files(watched.as_deref(), &ProcessEnvironment);
    let mut watch = Watch::start(files).expect("SIGHUP can be handled");
    let taken = match &config.startup.takeover_socket {
        Some(socket) if takeover => Taken::ask(socket)?,
        _ => None,
    };
    let parts = Parts { config, registry: Registry::default(), clock: Arc::new(SystemClock), taken };
    let mut running = app::start(parts).await?;
    notify::tell(State::Ready, &ProcessEnvironment);
    loop {
        tokio::select! {
            () = signals.next() => {
                notify::tell(State::Stopping, &ProcessEnvironment);
                running.stop(signals.next()).await;
                return Ok(());
            }
            ending = running.ending() => match ending {
                Ending::Failed(error) => return Err(error),
                Ending::TakenOver => {
                    notify::tell(State::Stopping, &ProcessEnvironment);
                    running.hand_over(signals.next()).await;
                    return Ok(());
                }
            },
            () = watch.changed() => reload(&mut running, path),
        }
    }
}

/// Checked first, applied as a whole; the one in use stays when anything is wrong with the new one.
fn reload(running: &mut Running, path: Option<&Path>) {
    let applied = match Config::load(path, &ProcessEnvironment) {
        Ok(config) => match running.reload(&config) {
            Ok(()) => Ok(config.warnings),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    };
    running.metrics().configured(applied.is_ok(), true);
    match applied {
        Ok(warnings) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            tracing::info!("the configuration was read again and is in use");
        }
        Err(error) => tracing::error!(%error, "the configuration was read again and stays as it was"),
    }
}
