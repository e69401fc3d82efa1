//! SRT endpoints. Listeners share a port, which one task drives with all its connections. Each caller has its own task
//! and socket.

mod admission;
mod attempts;
mod caller;
mod driver;
mod link;
mod linked;
mod port;
mod rates;
mod route;
mod terms;
