//! Asks each address how it is, and drops connections that waited too long.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Method, Request, header};
use tokio::time::{Instant, sleep_until, timeout};

use super::Upstream;
use super::connection::body_of;
use super::endpoint::Endpoint;
use crate::config::upstream::Active;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);
const SHORT_SWEEP: Duration = Duration::from_millis(50);

pub(super) async fn keep_watching(upstream: Weak<Upstream>) {
    let mut next_check = Instant::now();
    loop {
        let Some(found) = upstream.upgrade() else { return };
        let endpoints = found.endpoints();
        for endpoint in endpoints.iter() {
            endpoint.drop_idle(found.config.idle_timeout);
        }
        if let Some(active) = found.config.active.as_ref().filter(|_| next_check <= Instant::now()) {
            let checks = endpoints.iter().map(|endpoint| check(&found, endpoint, active));
            futures_util::future::join_all(checks).await;
            next_check = Instant::now() + active.interval;
        }
        found.publish_health();
        let has_checks = found.config.active.is_some();
        drop(found);
        let sweep = Instant::now() + SWEEP;
        let next = if has_checks { next_check.clamp(Instant::now() + SHORT_SWEEP, sweep) } else { sweep };
        sleep_until(next).await;
    }
}

async fn check(upstream: &Upstream, endpoint: &Arc<Endpoint>, active: &Active) {
    let is_good = timeout(active.timeout, ask(upstream, endpoint, active)).await.unwrap_or(false);
    let was_bad = endpoint.failed_check.load(Ordering::Relaxed);
    // A change needs as many answers in a row as are configured.
    let in_a_row = endpoint.checks_in_a_row(is_good);
    let needed = if is_good { active.healthy } else { active.unhealthy };
    if was_bad == is_good && in_a_row >= needed {
        endpoint.failed_check.store(!is_good, Ordering::Relaxed);
        tracing::warn!(upstream = upstream.name(), address = %endpoint.address, healthy = is_good, "health changed");
    }
}

async fn ask(upstream: &Upstream, endpoint: &Arc<Endpoint>, active: &Active) -> bool {
    let Ok(connection) = endpoint.open(&upstream.config).await else { return false };
    let request = Request::builder()
        .method(Method::GET)
        .uri(&active.path)
        .header(header::HOST, endpoint.authority())
        .header(header::USER_AGENT, crate::USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(body_of(bytes::Bytes::new()));
    let Ok(request) = request else { return false };
    connection.send(request).await.is_ok_and(|response| response.head.status.is_success())
}
