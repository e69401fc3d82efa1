//! Tests of regions: engines, relays and nodes, with outputs to real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panics")]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod failover;
mod reports;
mod rig;
mod srt_link;

/// Is a relay when started by [`common::RelayProcess`]; a test of nothing otherwise.
#[test]
fn relay_process() {
    common::run_as_relay();
}
