//! From the settings of a flow to the terms of a connection.

use crate::{
    flow::SrtOptions,
    proto::srt::{Rejection, Terms},
};

use super::super::RefusalReason;

/// Packets that a connection's buffer holds at least, and at most.
const BUFFER: std::ops::RangeInclusive<u64> = 8192..=131_072;

/// Terms for a flow of so many bytes per second.
pub(crate) fn terms(options: &SrtOptions, bytes_per_second: u64) -> Terms {
    // Everything that can be under way: the latency and a second for repeats, in packets of the usual size.
    let latency = options.receive_latency.max(options.peer_latency).as_duration();
    let seconds = latency.as_secs_f64() + 1.0;
    let packets = (bytes_per_second as f64 * seconds / 1316.0) as u64;
    let overhead = u64::from(options.overhead_percent);
    let rate = match options.max_bandwidth {
        Some(rate) => rate.as_bps() / 8,
        None => bytes_per_second.saturating_mul(100 + overhead) / 100,
    };
    Terms {
        receive_latency: options.receive_latency.as_duration(),
        peer_latency: options.peer_latency.as_duration(),
        passphrase: options.passphrase.as_ref().map(|p| p.secret().clone()),
        key_length: options.key_length.bytes().into(),
        packet_drop: options.packet_drop,
        peer_idle: options.peer_idle_timeout,
        buffer: usize::try_from(packets.clamp(*BUFFER.start(), *BUFFER.end())).unwrap_or(8192),
        bytes_per_second: rate.max(1),
        ..Terms::default()
    }
}

/// What an event says of a rejection.
pub(super) fn reason(rejection: Rejection) -> RefusalReason {
    match rejection {
        Rejection::BAD_SECRET => RefusalReason::WrongPassphrase,
        Rejection::UNSECURE => RefusalReason::EncryptionMismatch,
        Rejection::FORBIDDEN => RefusalReason::NotAllowed,
        Rejection::NOT_FOUND => RefusalReason::NoSuchStream,
        Rejection::CONFLICT => RefusalReason::InUse,
        Rejection::BACKLOG | Rejection::RESOURCE => RefusalReason::TooManyPeers,
        Rejection(1000..) => RefusalReason::ByHost,
        _ => RefusalReason::Incompatible,
    }
}
