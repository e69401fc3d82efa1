//! Conversion of the settings of a flow to the terms of a connection.

use crate::{
    flow::{CryptoMode, SrtOptions},
    proto::srt::{CipherMode, Rejection, Terms},
};

use super::{super::RefusalReason, rates::FlowRates};

/// Returns the terms of an endpoint's connections, at the current rates.
pub(crate) fn terms(options: &SrtOptions, rates: &FlowRates) -> Terms {
    let mut terms = Terms {
        receive_latency: options.receive_latency.as_duration(),
        peer_latency: options.peer_latency.as_duration(),
        passphrase: options.passphrase.as_ref().map(|p| p.secret().clone()),
        key_length: options.key_length.bytes().into(),
        cipher: match options.crypto_mode {
            CryptoMode::Auto => None,
            CryptoMode::AesCtr => Some(CipherMode::Ctr),
            CryptoMode::AesGcm => Some(CipherMode::Gcm),
        },
        filter: options.packet_filter,
        packet_drop: options.packet_drop,
        payload_size: options.payload_size.into(),
        peer_idle: options.peer_idle_timeout,
        ..Terms::default()
    };
    rates.now().apply(&mut terms);
    terms
}

/// Converts a rejection to the reason that events report.
pub(super) fn reason(rejection: Rejection) -> RefusalReason {
    match rejection {
        Rejection::BAD_SECRET => RefusalReason::WrongPassphrase,
        Rejection::UNSECURE => RefusalReason::EncryptionMismatch,
        Rejection::FORBIDDEN => RefusalReason::NotAllowed,
        Rejection::NOT_FOUND => RefusalReason::NoSuchStream,
        Rejection::CONFLICT => RefusalReason::InUse,
        Rejection::BACKLOG | Rejection::RESOURCE => RefusalReason::TooManyPeers,
        Rejection::BAD_REQUEST | Rejection::BAD_MODE => RefusalReason::Incompatible,
        Rejection(1000..) => RefusalReason::ByHost,
        _ => RefusalReason::Incompatible,
    }
}
