//! `openexec probe`: the health check of an image that has neither a shell nor curl.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use http::StatusCode;

use super::admin_client::AdminAddress;
use super::{fail, printable};

/// Asks a running server's admin listener; no token is needed.
#[derive(Args)]
pub(super) struct Probe {
    #[command(flatten)]
    admin: AdminAddress,
    /// Ask whether the process answers at all, also when it would execute nothing now
    #[arg(long)]
    live: bool,
    /// How long an answer may take, in seconds
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
    /// Ask again until it is, for so many seconds at most
    #[arg(long, default_value_t = 0, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    wait: u64,
}

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);
/// The server answers, and says no.
const NOT_READY: u8 = 1;

impl Probe {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        loop {
            match self.ask(config) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                Err((problem, code)) => return fail(problem, code),
                Ok(()) => return ExitCode::SUCCESS,
            }
        }
    }

    fn ask(&self, config: Option<&Path>) -> Result<(), (String, u8)> {
        let path = if self.live { "/livez" } else { "/readyz" };
        let asked = self.admin.client(config).and_then(|admin| admin.probe(path, Duration::from_secs(self.timeout)));
        match asked {
            Ok((StatusCode::OK, _)) => Ok(()),
            // A reason a line, of whoever listens there.
            Ok((StatusCode::SERVICE_UNAVAILABLE, reasons)) => {
                let reasons: Vec<_> = reasons.lines().map(printable).collect();
                Err((format!("not ready: {}", reasons.join(", ")), NOT_READY))
            }
            Ok((status, _)) => Err((format!("{path} answers {status}: is that OpenExec's admin listener?"), NOT_READY)),
            Err(error) => Err((error.to_string(), error.exit_code())),
        }
    }
}
