//! Tests over stock relays.

#[path = "../common/mod.rs"]
mod common;

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
