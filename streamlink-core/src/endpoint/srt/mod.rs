//! SRT endpoints. Listeners share a port, which one task drives with all its connections. Each caller has its own task
//! and socket.

mod attempts;
mod call_handshake;
mod caller;
mod connected_caller;
mod connection_io;
mod driver;
mod group_caller;
mod group_changes;
mod group_members;
mod groups;
mod handshake;
mod port;
mod rates;
mod route;
mod task;
mod terms;
mod turn_schedule;
