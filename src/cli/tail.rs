//! `openexec executions tail`: executions as they come, and as their states change.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::admin_client::{AdminClient, AskError};
use super::executions::{explain, printable};

/// From when on, and how often.
#[derive(Args)]
pub(super) struct Tail {
    /// How many of those that are there already
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=500))]
    lines: u16,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
}

/// Executions of a question.
const PAGE: usize = 200;
/// Pages of a look. What came beyond that is said to be missing.
const PAGES: usize = 25;
/// Executions whose states are remembered, and those of them whose ends are awaited.
const REMEMBERED: usize = 2 * PAGES * PAGE;
const AWAITED: usize = 100;

impl Tail {
    pub(super) fn run(&self, admin: &AdminClient, json: bool) -> ExitCode {
        let mut seen = Seen::default();
        let mut wanted = Some(usize::from(self.lines));
        loop {
            // A server that is started anew is waited for; one that refuses us is not.
            match seen.look(admin, wanted.is_some()) {
                Ok(mut news) => {
                    if let Some(lines) = wanted.take() {
                        news.drain(..news.len().saturating_sub(lines));
                    }
                    news.iter().for_each(|row| print(row, json));
                }
                Err(AskError::Unreachable(..)) if wanted.is_none() => {}
                Err(error) => return explain(&error),
            }
            std::thread::sleep(Duration::from_secs(self.interval));
        }
    }
}

/// The states that executions had at the last look, by id.
#[derive(Default)]
struct Seen(HashMap<String, String>);

impl Seen {
    /// What is new or has changed, the oldest first.
    fn look(&mut self, admin: &AdminClient, is_first: bool) -> Result<Vec<Value>, AskError> {
        let mut rows = self.newest(admin, is_first)?;
        rows.extend(self.awaited(admin, &rows)?);
        rows.reverse();
        if self.0.len() > REMEMBERED {
            self.0.retain(|_, state| is_open(state));
        }
        rows.retain(|row| {
            let state = text(row, "state");
            self.0.insert(text(row, "id"), state.clone()).is_none_or(|before| before != state)
        });
        Ok(rows)
    }

    /// As far back as nothing is known yet.
    fn newest(&self, admin: &AdminClient, is_first: bool) -> Result<Vec<Value>, AskError> {
        let (mut rows, mut before) = (Vec::new(), String::new());
        for page in 1.. {
            let mut answer = admin.get(&format!("/executions?limit={PAGE}{before}"))?;
            let found = answer["executions"].as_array_mut().map(std::mem::take).unwrap_or_default();
            let is_known = found.iter().any(|row| self.0.contains_key(&text(row, "id")));
            rows.extend(found);
            let Some(next) = answer["next"].as_str().filter(|_| !is_known && !is_first) else { break };
            if page == PAGES {
                eprintln!("openexec: there were more than are shown here");
                break;
            }
            before = format!("&before={next}");
        }
        Ok(rows)
    }

    /// Those whose outcome was open at the last look, and that are older than what was listed.
    fn awaited(&self, admin: &AdminClient, listed: &[Value]) -> Result<Vec<Value>, AskError> {
        let is_listed = |id: &str| listed.iter().any(|row| row["id"] == id);
        let open = self.0.iter().filter(|(id, state)| is_open(state) && !is_listed(id));
        open.take(AWAITED).map(|(id, _)| admin.get(&format!("/executions/{id}"))).collect()
    }
}

fn is_open(state: &str) -> bool {
    matches!(state, "INTENT" | "UNKNOWN")
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().unwrap_or_default().to_owned()
}

fn print(row: &Value, json: bool) {
    if json {
        // As in a list: without payload and result.
        let mut row = row.clone();
        row.as_object_mut().into_iter().for_each(|row| row.retain(|name, _| name != "payload" && name != "result"));
        return say!("{row}");
    }
    let cell = |name: &str| printable(&row[name]);
    say!("{:<27} {:<12} {:<36} {} {}", cell("claimed_at"), cell("state"), cell("id"), cell("action"), cell("tenant"));
}
