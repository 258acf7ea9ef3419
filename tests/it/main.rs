//! Over real sockets. One binary: it links once and runs fast.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod admin;
mod care;
mod cli;
mod contract;
mod crash;
mod files;
mod forward;
mod framing;
mod http;
mod kill;
mod limits;
mod listen;
mod network;
mod openapi;
mod passthrough;
mod probe;
mod readme;
mod recovery;
mod reload;
mod replay;
mod service;
mod stop;
mod support;
mod takeover;
mod telemetry;
mod vectors;
