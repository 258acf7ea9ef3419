//! Names become addresses, again and again: services move. What was found last stays while a look-up fails.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Upstream;
use super::endpoint::{Address, Endpoint};
use crate::config::upstream::{Origin, Place};

/// Longer than a resolver needs that works.
const LOOK_UP_TIME: Duration = Duration::from_secs(5);

/// Between two look-ups that failures ask for.
const SOON: Duration = Duration::from_millis(100);

pub(super) async fn keep_resolving(upstream: Weak<Upstream>, now: Arc<Notify>) {
    loop {
        let Some(found) = upstream.upgrade() else { return };
        found.resolve().await;
        if !found.config.addresses.iter().any(Origin::is_name) {
            return;
        }
        let pause = found.config.dns_refresh;
        drop(found);
        tokio::select! {
            () = sleep(pause) => {}
            () = now.notified() => sleep(SOON).await,
        }
    }
}

impl Upstream {
    async fn resolve(&self) {
        let known = self.endpoints();
        let mut found: Vec<Arc<Endpoint>> = Vec::new();
        let looked_up = futures_util::future::join_all(self.config.addresses.iter().map(addresses)).await;
        for ((index, origin), looked_up) in self.config.addresses.iter().enumerate().zip(looked_up) {
            match looked_up {
                Ok(addresses) => {
                    for address in addresses {
                        let fresh = Endpoint::new(address, origin.authority.clone(), origin.server_name.clone(), index);
                        if found.iter().any(|endpoint| endpoint.is_same(&fresh)) {
                            continue;
                        }
                        let same = known.iter().find(|endpoint| endpoint.is_same(&fresh));
                        found.push(same.cloned().unwrap_or_else(|| Arc::new(fresh)));
                    }
                }
                Err(error) => {
                    tracing::warn!(upstream = self.name(), address = %origin, %error, "the name was not found");
                    self.metrics.unresolved.inc();
                    found.extend(known.iter().filter(|endpoint| endpoint.origin == index).cloned());
                }
            }
        }
        let is_news = found.len() != known.len() || found.iter().zip(known.iter()).any(|(a, b)| !Arc::ptr_eq(a, b));
        if is_news || self.endpoints.borrow().is_none() {
            let addresses: Vec<String> = found.iter().map(|endpoint| endpoint.address.to_string()).collect();
            tracing::info!(upstream = self.name(), ?addresses, "the upstream's addresses");
            self.endpoints.send_replace(Some(found.into()));
        }
        self.publish_health();
    }
}

/// Sorted, so that the same answer in another order is no news.
async fn addresses(origin: &Origin) -> std::io::Result<Vec<Address>> {
    match &origin.place {
        Place::Unix(path) => Ok(vec![Address::Unix(path.clone())]),
        Place::Tcp(host, port) => {
            let mut found: Vec<SocketAddr> = match host.parse() {
                Ok(ip) => vec![SocketAddr::new(ip, *port)],
                Err(_) => timeout(LOOK_UP_TIME, lookup_host((host.as_str(), *port))).await??.collect(),
            };
            found.sort();
            found.dedup();
            if found.is_empty() {
                return Err(std::io::Error::other("the name has no address"));
            }
            Ok(found.into_iter().map(Address::Tcp).collect())
        }
    }
}
