//! The network of a pod whose app cannot be moved to loopback: nftables tables that lead its port to the gate.
//!
//! One table, `inet openexec`, for IPv4 and IPv6. The kernel puts it in the place of the one before as a whole, so
//! applying it twice is applying it once. What is not named here is refused, and a packet that conntrack cannot make
//! sense of is translated by nobody, so it is judged by its own port: the filter does not rely on the translation.
//!
//! - A connection from outside to the app's port is led to the gate, at whichever of the pod's addresses it arrives: the
//!   translated destination is an address of the interface that it came in on (the kernel's `redirect`), not loopback,
//!   so the gate must listen on `0.0.0.0`, or on `[::]` where the pod has IPv6. A gate that listens on IPv4 only is not
//!   reached over IPv6, and neither is the app.
//! - A connection from inside to the app's port on an address of the pod's own, other than loopback, is led there too (to
//!   127.0.0.1 or ::1). Thus the gate, which asks the app's port at the pod's address, sees whether the tables are there.
//! - Only loopback reaches the app, which is how the gate reaches it, and every other container of the pod.
//! - Fragments are put together before any of this, since conntrack is asked. UDP and other protocols are dropped, except
//!   for answers to what the pod asked. ICMP and ICMPv6 come in: without neighbour discovery there is no IPv6.
//! - The kubelet's probes come from the node, so from outside: they reach the ports of the gate, of its admin listener, and
//!   those that are allowed.
//! - A pod is no router: nothing is forwarded.
//!
//! The translation stands before the usual priority of translations (-100), so that what a service mesh's init container
//! writes comes second: a new connection is translated once. The mesh's proxy then does not see connections to the app's
//! port. Tried with such a table, and with no mesh; in localhost mode there are no tables to disagree.

pub mod nft;

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

/// Before `dstnat`, -100. By number: older versions of nft do not know the name in the hook `output`.
const TRANSLATE: i32 = -110;
/// `filter`.
const FILTER: i32 = 0;

/// The table of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: &'static str,
    priority: i32,
    policy: &'static str,
    rules: Vec<String>,
}

/// Which ports a pod has, all TCP.
#[derive(Clone, Debug)]
pub struct Ports {
    /// The app's, which only the gate is to reach.
    pub app: u16,
    /// The gate's, where connections to the app's end up.
    pub gate: u16,
    /// The gate's admin listener's.
    pub admin: u16,
    /// Others that may be reached from outside.
    pub allowed: Vec<u16>,
}

/// Ports that no table can be made of.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PortsError {
    /// The app's port must be the app's only.
    #[error("the app's port is {0}, and so is another: whatever is allowed there would reach the app")]
    App(u16),
    /// Two cannot listen on one.
    #[error("the gate and its admin listener are both on port {0}")]
    Gate(u16),
}

impl Table {
    /// The table of a pod with these ports.
    ///
    /// # Errors
    /// Two of them that must differ are the same.
    pub fn new(ports: &Ports) -> Result<Self, PortsError> {
        let Ports { app, gate, admin, allowed } = ports;
        let open: BTreeSet<u16> = allowed.iter().chain([gate, admin]).copied().collect();
        if open.contains(app) {
            return Err(PortsError::App(*app));
        }
        if gate == admin {
            return Err(PortsError::Gate(*gate));
        }
        let open: Vec<_> = open.iter().map(u16::to_string).collect();
        // Protocols by number: without /etc/protocols nft knows no names. 1 and 58 are ICMP and ICMPv6, 6 is TCP.
        let chain = |name, kind, hook, priority, policy, rules: &[String]| Chain {
            name,
            kind,
            hook,
            priority,
            policy,
            rules: rules.to_vec(),
        };
        Ok(Table {
            chains: vec![
                chain(
                    "from_outside",
                    "nat",
                    "prerouting",
                    TRANSLATE,
                    "accept",
                    &[format!("iif != lo tcp dport {app} counter redirect to :{gate}")],
                ),
                chain(
                    "from_inside",
                    "nat",
                    "output",
                    TRANSLATE,
                    "accept",
                    &[
                        format!(
                            "tcp dport {app} fib daddr type local ip daddr != 127.0.0.0/8 counter redirect to :{gate}"
                        ),
                        format!("tcp dport {app} fib daddr type local ip6 daddr != ::1 counter redirect to :{gate}"),
                    ],
                ),
                chain(
                    "input",
                    "filter",
                    "input",
                    FILTER,
                    "drop",
                    &[
                        "iif lo accept".to_owned(),
                        // Not what is `related`: beside ICMP, which comes in anyhow, that is what a helper expects.
                        "ct state established accept".to_owned(),
                        "meta l4proto { 1, 58 } accept".to_owned(),
                        format!("tcp dport {{ {} }} accept", open.join(", ")),
                        // Whoever asks hears at once that nobody is there.
                        "meta l4proto 6 counter reject with tcp reset".to_owned(),
                        "counter".to_owned(),
                    ],
                ),
                chain("forward", "filter", "forward", FILTER, "drop", &["counter".to_owned()]),
            ],
        })
    }
}

/// What `nft -f` reads: the table in the place of the one before, in one transaction.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It is made first, so that there is one to delete.
        writeln!(f, "table inet openexec {{}}\ndelete table inet openexec\ntable inet openexec {{")?;
        for (n, chain) in self.chains.iter().enumerate() {
            let Chain { name, kind, hook, priority, policy, rules } = chain;
            if n > 0 {
                writeln!(f)?;
            }
            writeln!(f, "\tchain {name} {{\n\t\ttype {kind} hook {hook} priority {priority}; policy {policy};")?;
            for rule in rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        write!(f, "}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(allowed: &[u16]) -> Ports {
        Ports { app: 8080, gate: 5000, admin: 5001, allowed: allowed.to_vec() }
    }

    #[test]
    fn a_table_is_what_the_documentation_shows() {
        let table = Table::new(&ports(&[9090])).unwrap().to_string();
        let shown = include_str!("../../docs/kubernetes-isolation.md");
        assert!(shown.contains(&format!("```text\n{table}\n```")), "{table}");
        // Ports that are named twice are there once, in their order.
        let table = Table::new(&ports(&[9090, 53, 9090, 5000])).unwrap().to_string();
        assert!(table.contains("tcp dport { 53, 5000, 5001, 9090 } accept"), "{table}");
    }

    #[test]
    fn no_port_may_be_the_apps_beside_its_own() {
        let refused = |change: fn(&mut Ports)| {
            let mut ports = ports(&[]);
            change(&mut ports);
            Table::new(&ports).unwrap_err()
        };
        assert_eq!(refused(|ports| ports.gate = 8080), PortsError::App(8080));
        assert_eq!(refused(|ports| ports.admin = 8080), PortsError::App(8080));
        assert_eq!(refused(|ports| ports.allowed = vec![9090, 8080]), PortsError::App(8080));
        assert_eq!(refused(|ports| ports.admin = 5000), PortsError::Gate(5000));
        assert!(Table::new(&ports(&[])).is_ok());
    }
}
