//! The listener's half of the handshake (draft-sharabayko-srt-01, section 4.3.1). Until a peer has sent back the
//! cookie that went to its address, nothing of it is kept.

use super::{
    handshake::{Extensions, Handshake, Kind, MAGIC},
    packet::{Control, write_control},
    terms::Rejection,
};
use hmac::{Hmac, Mac};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// A cookie is good for the minute in which it was made, and the next.
const COOKIE_AGE: Duration = Duration::from_secs(60);

/// What a listener makes of a handshake packet.
#[derive(Debug)]
pub(crate) enum Greeting {
    /// Send this back; nothing is kept.
    Reply(Vec<u8>),
    /// The peer has shown its address, and asks for a connection.
    Request(Box<Handshake>),
    /// Not worth an answer.
    Ignore,
}

/// Answers handshakes without keeping anything of them.
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
        now.saturating_duration_since(self.start).as_micros() as u32 // wraps, as timestamps do
    }

    /// One handshake packet. `encryption`: the key length that is announced, in bytes.
    pub(crate) fn greet(&self, body: &[u8], peer: SocketAddr, now: Instant) -> Greeting {
        let Some(handshake) = Handshake::parse(body) else { return Greeting::Ignore };
        match handshake.kind {
            Kind::Induction if (4..=5).contains(&handshake.version) => {
                let reply = Handshake {
                    version: 5,
                    encryption: 0,
                    extension_field: MAGIC,
                    cookie: self.cookie(peer, self.minute(now)),
                    extensions: Extensions::default(),
                    ..handshake
                };
                let body = reply.write(false);
                let to = handshake.socket_id;
                Greeting::Reply(write_control(&Control::Handshake(&body), self.timestamp(now), to))
            }
            Kind::Conclusion => {
                let minute = self.minute(now);
                let good = [minute, minute.saturating_sub(1)].iter().any(|m| self.cookie(peer, *m) == handshake.cookie);
                match good {
                    false => Greeting::Ignore, // forged, or too old: the peer will begin anew
                    true if handshake.version != 5 => Greeting::Reply(self.reject(&handshake, Rejection::VERSION, now)),
                    true => Greeting::Request(Box::new(handshake)),
                }
            }
            _ => Greeting::Ignore,
        }
    }

    /// The packet that refuses a request.
    pub(crate) fn reject(&self, request: &Handshake, reason: Rejection, now: Instant) -> Vec<u8> {
        let mut answer = request.clone();
        answer.kind = Kind::Rejection(reason.0);
        answer.extensions = Extensions::default();
        answer.extension_field = 0;
        let body = answer.write(false);
        write_control(&Control::Handshake(&body), self.timestamp(now), request.socket_id)
    }
}
