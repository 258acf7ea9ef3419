//! One look at a server: its metrics, whether it is ready, and what it executed last.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::Value;

use super::series::Series;
use crate::cli::admin_client::{AdminClient, AskError};

/// A server that does not answer in this time is of no use to whoever looks.
const PATIENCE: Duration = Duration::from_secs(3);
/// As many as a tall terminal shows.
const EXECUTIONS: usize = 200;

/// See the module.
pub(super) struct Look {
    pub(super) at: Instant,
    /// `Err`: why there is nothing to see.
    pub(super) seen: Result<Seen, String>,
}

pub(super) struct Seen {
    pub(super) series: Series,
    /// Why it is not ready; none: it is.
    pub(super) reasons: Vec<String>,
    /// `Err`: why they cannot be seen.
    pub(super) executions: Result<Vec<Value>, String>,
}

impl Look {
    pub(super) fn take(admin: &AdminClient) -> Self {
        Look { at: Instant::now(), seen: look(admin).map_err(|error| error.to_string()) }
    }
}

fn look(admin: &AdminClient) -> Result<Seen, AskError> {
    let (_, metrics) = admin.probe("/metrics", PATIENCE)?;
    let (status, reasons) = admin.probe("/readyz", PATIENCE)?;
    let reasons = match status {
        StatusCode::OK => Vec::new(),
        _ => reasons.lines().map(str::to_owned).collect(),
    };
    let executions = match admin.get(&format!("/executions?limit={EXECUTIONS}")) {
        Ok(page) => Ok(page["executions"].as_array().cloned().unwrap_or_default()),
        Err(error) => Err(error.to_string()),
    };
    Ok(Seen { series: Series::parse(&metrics), reasons, executions })
}
