//! `limits:`, checked: how much a client may take of everything.

use std::collections::BTreeMap;
use std::time::Duration;

use openexec_protocol::canonical;

use super::action::ActionConfig;
use super::{Check, raw};
use crate::execute::dispatch::RESERVED_BYTES;

/// Bounds on everything that a client can make big or slow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request's header.
    pub header_bytes: usize,
    /// From its first byte to its last.
    pub header_time: Duration,
    /// Bytes of `/execute`'s body.
    pub body_bytes: usize,
    /// Bytes of `/receipts/verify`'s body.
    pub receipt_body_bytes: usize,
    /// From the header's end to the body's.
    pub body_time: Duration,
    /// For each write of an answer.
    pub write_time: Duration,
    /// Between two requests on a connection.
    pub idle_time: Duration,
    /// Depth and values of a body's JSON.
    pub json: canonical::Limits,
    /// Connections at once.
    pub connections: usize,
    /// Requests on one connection.
    pub connection_requests: u32,
    /// Executions at once.
    pub in_flight: usize,
    /// Bytes of bodies that are being read or worked on, all together.
    pub buffered_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 16 << 10,
            header_time: Duration::from_secs(5),
            body_bytes: 256 << 10,
            receipt_body_bytes: 4 << 20,
            body_time: Duration::from_secs(10),
            write_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(60),
            json: canonical::Limits::default(),
            connections: 10_000,
            connection_requests: 10_000,
            in_flight: 1_024,
            buffered_bytes: 256 << 20,
        }
    }
}

impl Check {
    /// Those that are typed, and the defaults of the others.
    pub(super) fn limits(&mut self, file: raw::Limits) -> Limits {
        let default = Limits::default();
        let limits = Limits {
            header_bytes: file.header_bytes.unwrap_or(default.header_bytes),
            header_time: file.header_time.unwrap_or(default.header_time),
            body_bytes: file.body_bytes.unwrap_or(default.body_bytes),
            receipt_body_bytes: file.receipt_body_bytes.unwrap_or(default.receipt_body_bytes),
            body_time: file.body_time.unwrap_or(default.body_time),
            write_time: file.write_time.unwrap_or(default.write_time),
            idle_time: file.idle_time.unwrap_or(default.idle_time),
            json: canonical::Limits {
                depth: file.json_depth.unwrap_or(default.json.depth),
                nodes: file.json_nodes.unwrap_or(default.json.nodes),
            },
            connections: file.connections.unwrap_or(default.connections),
            connection_requests: file.connection_requests.unwrap_or(default.connection_requests),
            in_flight: file.in_flight.unwrap_or(default.in_flight),
            buffered_bytes: file.buffered_bytes.unwrap_or(default.buffered_bytes),
        };
        self.positive(&limits);
        limits
    }

    /// Or no action of a service could ever be executed.
    pub(super) fn room_for_answers(&mut self, limits: &Limits, actions: &BTreeMap<String, ActionConfig>) {
        let needed = limits.body_bytes.saturating_add(RESERVED_BYTES);
        let forwards = actions.values().any(|action| matches!(action, ActionConfig::Forward(_)));
        if forwards && limits.buffered_bytes < needed {
            self.problems.push(format!(
                "limits.buffered_bytes must be at least {needed}: body_bytes, and {RESERVED_BYTES} for a service's answer"
            ));
        }
    }

    /// A limit of nothing would refuse everything, and a time of years is a mistake.
    fn positive(&mut self, limits: &Limits) {
        let counts = [
            ("header_bytes", limits.header_bytes),
            ("body_bytes", limits.body_bytes),
            ("receipt_body_bytes", limits.receipt_body_bytes),
            ("json_depth", limits.json.depth),
            ("json_nodes", limits.json.nodes),
            ("connections", limits.connections),
            ("connection_requests", limits.connection_requests as usize),
            ("in_flight", limits.in_flight),
            ("buffered_bytes", limits.buffered_bytes),
        ];
        for (name, _) in counts.into_iter().filter(|(_, count)| *count == 0) {
            self.problems.push(format!("limits.{name} must be at least 1"));
        }
        let times = [
            ("header_time", limits.header_time),
            ("body_time", limits.body_time),
            ("write_time", limits.write_time),
            ("idle_time", limits.idle_time),
        ];
        for (name, time) in times {
            self.time(&format!("limits.{name}"), time, Duration::from_millis(1));
        }
    }
}
