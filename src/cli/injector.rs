//! `openexec injector`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::signals::Signals;
use super::{BAD_CONFIGURATION, fail};
use crate::config::env::ProcessEnvironment;
use crate::injector::settings::Settings;
use crate::injector::{self, Running, StartError};
use crate::logging;
use crate::reload::Watch;

/// The admission webhook.
#[derive(Args)]
pub(super) struct Injector {
    /// Its settings (YAML): `openexec schema injector` describes them
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
    /// Only check the settings
    #[arg(long)]
    check: bool,
}

/// An address that cannot be listened on.
const NO_LISTENER: u8 = 69;

impl Injector {
    pub(super) fn run(self) -> ExitCode {
        let settings = match Settings::load(&self.settings) {
            Ok(_) if self.check => return ExitCode::SUCCESS,
            Ok(settings) => settings,
            Err(error) => return fail(error, BAD_CONFIGURATION),
        };
        logging::start(&ProcessEnvironment);
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(error, 71),
        };
        let ended = runtime.block_on(serve(settings, self.settings));
        if let Err(error) = &ended {
            tracing::error!("{error}");
        }
        logging::flush();
        ended.map_or_else(|_| ExitCode::from(NO_LISTENER), |()| ExitCode::SUCCESS)
    }
}

async fn serve(settings: Settings, path: PathBuf) -> Result<(), StartError> {
    let mut signals = Signals::new();
    let watched = path.clone();
    let mut watch = Watch::start(move || Settings::files(&watched)).expect("SIGHUP can be handled");
    let mut running = injector::start(settings).await?;
    loop {
        tokio::select! {
            () = signals.next() => {
                running.stop(signals.next()).await;
                return Ok(());
            }
            () = watch.changed() => reload(&mut running, &path),
        }
    }
}

/// The settings in use stay when anything is wrong with the new ones.
fn reload(running: &mut Running, path: &std::path::Path) {
    let applied = match Settings::load(path) {
        Ok(settings) => running.reload(settings).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    running.metrics().configured(applied.is_ok(), true);
    match applied {
        Ok(()) => tracing::info!("the settings were read again and are in use"),
        Err(error) => tracing::error!(%error, "the settings were read again and stay as they were"),
    }
}
