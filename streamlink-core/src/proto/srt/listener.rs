//! Listener side of the handshake (draft-sharabayko-srt-01, section 4.3.1). No state is kept for a peer until it has
//! returned the cookie that was sent to its address.

use super::{
    handshake::{Extensions, Handshake, HandshakeType, MAGIC},
    packet::{Control, write_control},
    terms::Rejection,
};
use hmac::{Hmac, Mac};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// Period of a cookie. A cookie is valid in the period in which it was made, and in the next.
const COOKIE_AGE: Duration = Duration::from_secs(60);

/// Classification of a handshake packet.
#[derive(Debug)]
pub(crate) enum Greeting {
    /// Induction of a caller. It is answered with a cookie ([`Listener::welcome`]) or refused, and no state is kept.
    Induction(Box<Handshake>),
    /// Conclusion of a peer that has proved its address, and asks for a connection.
    Request(Box<Handshake>),
    /// Packet that gets no answer.
    Ignore,
}

/// Answers handshakes without keeping any state for them.
pub(crate) struct Listener {
    secret: Zeroizing<[u8; 32]>,
    start: Instant,
}

impl Listener {
    pub(crate) fn new(secret: [u8; 32], now: Instant) -> Self {
        Self { secret: Zeroizing::new(secret), start: now }
    }

    fn minute(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / COOKIE_AGE.as_secs()
    }

    fn cookie(&self, peer: SocketAddr, minute: u64) -> u32 {
        // Invariant: HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<sha1::Sha1>::new_from_slice(&self.secret[..]) else { return 0 };
        mac.update(peer.to_string().as_bytes());
        mac.update(&minute.to_be_bytes());
        mac.finalize().into_bytes().first_chunk().map_or(0, |b| u32::from_be_bytes(*b))
    }

    fn timestamp(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.start).as_micros() as u32 // timestamps wrap
    }

    /// Classifies one handshake packet. Only requests of callers are answered, each once.
    pub(crate) fn greet(&self, body: &[u8], peer: SocketAddr, now: Instant) -> Greeting {
        let Some(handshake) = Handshake::parse(body).filter(Handshake::is_request) else { return Greeting::Ignore };
        match handshake.kind {
            HandshakeType::Induction if (4..=5).contains(&handshake.version) => {
                Greeting::Induction(Box::new(handshake))
            }
            HandshakeType::Conclusion => {
                let minute = self.minute(now);
                let good = [minute, minute.saturating_sub(1)].iter().any(|m| self.cookie(peer, *m) == handshake.cookie);
                if good {
                    Greeting::Request(Box::new(handshake))
                } else {
                    Greeting::Ignore // forged or too old; an honest caller starts again
                }
            }
            _ => Greeting::Ignore,
        }
    }

    /// Returns the answer to an induction, which carries the cookie. It is no longer than the induction, whose source
    /// address may be forged.
    pub(crate) fn welcome(&self, induction: &Handshake, peer: SocketAddr, now: Instant) -> Vec<u8> {
        let reply = Handshake {
            version: 5,
            encryption: 0,
            extension_field: MAGIC,
            cookie: self.cookie(peer, self.minute(now)),
            extensions: Extensions::default(),
            ..induction.clone()
        };
        let body = reply.write();
        write_control(&Control::Handshake(&body), self.timestamp(now), induction.socket_id)
    }

    /// Returns the packet that refuses a request. It is no longer than the request.
    pub(crate) fn reject(&self, request: &Handshake, reason: Rejection, now: Instant) -> Vec<u8> {
        let mut answer = request.clone();
        answer.kind = HandshakeType::Rejection(reason.0);
        answer.extensions = Extensions::default();
        answer.extension_field = 0;
        let body = answer.write();
        write_control(&Control::Handshake(&body), self.timestamp(now), request.socket_id)
    }
}
