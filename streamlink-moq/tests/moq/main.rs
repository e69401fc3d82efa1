//! Tests over stock relays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panics")]

#[path = "../common/mod.rs"]
mod common;

mod auth;
mod carriage;
mod failover;
mod hostile;
mod impaired;
mod interop;
mod latency;
mod transport;

/// Is a relay when started by [`common::RelayProcess`]; a test of nothing otherwise.
#[test]
fn relay_process() {
    common::run_as_relay();
}
