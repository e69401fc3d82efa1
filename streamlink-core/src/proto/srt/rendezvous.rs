//! Rendezvous (draft-sharabayko-srt-01, section 4.3.2): both ends call each other, and neither listens.
//!
//! Both wave a hand, and know each other's cookies then. The end with the greater one is the initiator, whose terms the
//! other answers, the responder: as a caller and its listener do, with an agreement at the end. Every packet is repeated
//! until the peer has gone on.

use super::{
    agreement::Agreement,
    caller::{Progress, REPEAT},
    connection::Connection,
    crypto::{CipherMode, Keys},
    handshake::{Extensions, Handshake, HandshakeType},
    packet::{Control, write_control},
    sequence::Sequence,
    terms::{Local, Rejection, Terms},
};
use crate::secret::Secret;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Largest packet that we take, in bytes.
const MTU: u32 = 1500;
/// Maximum number of terms of the peer that are read in one attempt. Each may cost a derivation of a key.
const MAX_READ: u32 = 16;

/// Part that an end has in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Initiator,
    Responder,
}

impl Side {
    /// Returns our part, by the difference of the cookies as signed numbers; `None` if they are the same. Where the
    /// difference has no sign of its own, the greater number decides.
    fn of(ours: u32, theirs: u32) -> Option<Self> {
        let difference = ours.wrapping_sub(theirs) as i32;
        match difference {
            0 => None,
            i32::MIN if (ours as i32) > (theirs as i32) => Some(Self::Initiator),
            i32::MIN..0 => Some(Self::Responder),
            _ => Some(Self::Initiator),
        }
    }
}

/// The other end, as its packets tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PeerEnd {
    cookie: u32,
    socket_id: u32,
    side: Side,
}

/// Agreement of the responder, which waits for the last packet of the initiator.
#[derive(Debug)]
struct Agreed {
    agreement: Box<Agreement>,
    answer: Handshake,
    at: Instant,
}

/// Handshake of one end of a rendezvous.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    terms: Terms,
    local: Local,
    cookie: u32,
    initial_sequence: Sequence,
    keys: Option<Keys>,
    peer: Option<PeerEnd>,
    /// Of the responder: what was agreed, once the peer's terms are known.
    agreed: Option<Agreed>,
    /// Number of terms of the peer that were read.
    read: u32,
    /// Packet to be sent at the end.
    parting: Option<Vec<u8>>,
    next_send: Instant,
    deadline: Instant,
}

impl Rendezvous {
    /// Starts a rendezvous at `local.start`.
    pub(crate) fn new(terms: Terms, local: Local, timeout: Duration) -> Self {
        let random = Zeroizing::new(local.random.bytes());
        let [a, b, c, d, e, f, g, h] = local.random.bytes();
        let mode = terms.cipher.unwrap_or(CipherMode::Ctr);
        let generate = |secret: &Secret| Keys::generate(terms.key_length, mode, &random, secret.reveal());
        Self {
            // 0 is not allowed.
            cookie: u32::from_be_bytes([a, b, c, d]).max(1),
            initial_sequence: Sequence::new(u32::from_be_bytes([e, f, g, h])),
            keys: terms.passphrase.as_ref().map(generate),
            peer: None,
            agreed: None,
            read: 0,
            parting: None,
            next_send: local.start,
            deadline: local.start + timeout,
            terms,
            local,
        }
    }

    #[cfg(test)]
    pub(super) fn peer_is_unknown(&self) -> bool {
        self.peer.is_none()
    }

    /// Returns the packet that is to be sent once the handshake has ended: the agreement of the initiator, or a rejection.
    pub(crate) fn take_parting(&mut self) -> Option<Vec<u8>> {
        self.parting.take()
    }

    /// Returns the packet that is due, if there is one.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.next_send {
            return None;
        }
        self.next_send = now + REPEAT;
        let mut handshake = self.plain(HandshakeType::WaveAHand);
        if let Some(peer) = self.peer {
            handshake.kind = HandshakeType::Conclusion;
            match (peer.side, &self.agreed) {
                (Side::Initiator, _) => handshake.extensions = self.request(),
                (Side::Responder, Some(agreed)) => handshake.extensions = agreed.answer.extensions.clone(),
                (Side::Responder, None) => {}
            }
        }
        Some(self.packet(&handshake, now))
    }

    /// Returns a handshake packet of ours without extensions.
    fn plain(&self, kind: HandshakeType) -> Handshake {
        Handshake {
            version: 5,
            encryption: if self.keys.is_some() { (self.terms.key_length / 8) as u16 } else { 0 },
            extension_field: 0,
            initial_sequence: self.initial_sequence,
            mtu: MTU,
            window: self.terms.buffer as u32,
            kind,
            socket_id: self.local.id,
            cookie: self.cookie,
            extensions: Extensions::default(),
        }
    }

    /// Returns our terms as the initiator asks for them.
    fn request(&self) -> Extensions {
        Extensions {
            srt: Some(self.terms.extension()),
            key_material: self.keys.as_ref().and_then(Keys::material),
            filter: self.terms.filter.map(|filter| filter.to_string()),
            ..Extensions::default()
        }
    }

    fn packet(&self, handshake: &Handshake, now: Instant) -> Vec<u8> {
        let timestamp = now.saturating_duration_since(self.local.start).as_micros() as u32; // timestamps wrap
        // Only a peer that was not heard yet has no socket that could be named.
        let to = self.peer.map_or(0, |peer| peer.socket_id);
        let body = handshake.write();
        write_control(&Control::Handshake(&body), timestamp, to)
    }

    /// Returns the time at which there is something to do.
    pub(crate) fn next_timeout(&self) -> Instant {
        self.next_send.min(self.deadline)
    }

    pub(crate) fn handle_timeout(&self, now: Instant) -> Progress {
        if now >= self.deadline { Progress::TimedOut } else { Progress::Calling }
    }

    /// Handles a handshake packet of the peer.
    pub(crate) fn handle(&mut self, body: &[u8], timestamp: u32, now: Instant) -> Progress {
        let Some(theirs) = Handshake::parse(body) else { return Progress::Calling };
        if let HandshakeType::Rejection(code) = theirs.kind {
            return Progress::Rejected(Rejection(code));
        }
        let is_rendezvous =
            matches!(theirs.kind, HandshakeType::WaveAHand | HandshakeType::Conclusion | HandshakeType::Agreement);
        if !is_rendezvous || theirs.socket_id == 0 {
            return Progress::Calling;
        }
        if theirs.version != 5 || theirs.cookie == 0 {
            return self.reject(Rejection::VERSION, now);
        }
        let Some(side) = Side::of(self.cookie, theirs.cookie) else { return self.reject(Rejection::COOKIES, now) };
        let peer = PeerEnd { cookie: theirs.cookie, socket_id: theirs.socket_id, side };
        if self.peer != Some(peer) {
            // The first packet, or one of a peer that has begun again.
            self.peer = Some(peer);
            self.agreed = None;
            self.next_send = now;
        }
        match (theirs.kind, side) {
            (HandshakeType::Agreement, Side::Responder) => self.finish(now),
            (HandshakeType::Conclusion, Side::Initiator) => self.conclude(&theirs, timestamp, now),
            (HandshakeType::Conclusion, Side::Responder) => self.accept(&theirs, timestamp, now),
            // The peer has not heard what we have sent since, and gets it again.
            _ => {
                self.next_send = self.next_send.min(now + REPEAT / 10);
                Progress::Calling
            }
        }
    }

    /// Handles another packet of the peer, which it sends to the socket once it is connected.
    pub(crate) fn handle_other(&mut self, now: Instant) -> Progress {
        self.finish(now)
    }

    /// Accepts the terms of the initiator, or refuses them.
    fn accept(&mut self, request: &Handshake, timestamp: u32, now: Instant) -> Progress {
        // A conclusion without terms comes from an end that takes itself for the responder, too, or does not know yet.
        if request.extensions.response || request.extensions.srt.is_none() && request.extensions.fault.is_none() {
            return Progress::Calling;
        }
        self.next_send = now;
        if self.agreed.is_some() {
            return Progress::Calling; // repeated: it gets the same answer
        }
        self.read += 1;
        if self.read > MAX_READ {
            return self.reject(Rejection::ROGUE, now);
        }
        let accepted = self.terms.prepare(request).and_then(|derivation| {
            let wrapping = derivation.map(|derivation| derivation.run());
            self.terms.accept(request, timestamp, &self.local, wrapping)
        });
        match accepted {
            Ok((mut agreement, answer)) => {
                agreement.initial_sequence = self.initial_sequence;
                agreement.peer_sequence = request.initial_sequence;
                self.agreed = Some(Agreed { agreement: Box::new(agreement), answer, at: now });
                Progress::Calling
            }
            Err(rejection) => self.reject(rejection, now),
        }
    }

    /// Takes the answer of the responder.
    fn conclude(&mut self, answer: &Handshake, timestamp: u32, now: Instant) -> Progress {
        if !answer.extensions.response && answer.extensions.fault.is_none() {
            self.next_send = self.next_send.min(now + REPEAT / 10);
            return Progress::Calling; // it has not heard our terms yet
        }
        let result = self.terms.conclude(answer, timestamp, &self.local, self.keys.clone(), self.initial_sequence);
        match result {
            Ok(mut agreement) => {
                agreement.peer_sequence = answer.initial_sequence;
                self.parting = Some(self.packet(&self.plain(HandshakeType::Agreement), now));
                Progress::Connected(Box::new(Connection::new(agreement, now)))
            }
            Err(rejection) => self.reject(rejection, now),
        }
    }

    /// Completes the handshake of the responder.
    fn finish(&mut self, now: Instant) -> Progress {
        match self.agreed.take() {
            Some(Agreed { mut agreement, at, .. }) => {
                // The peer's clock has gone on since.
                let elapsed = now.saturating_duration_since(at).as_micros() as u32; // timestamps wrap
                agreement.peer_timestamp = agreement.peer_timestamp.wrapping_add(elapsed);
                Progress::Connected(Box::new(Connection::new(*agreement, now)))
            }
            None => Progress::Calling,
        }
    }

    /// Tells the peer why there is no connection.
    fn reject(&mut self, rejection: Rejection, now: Instant) -> Progress {
        self.parting = Some(self.packet(&self.plain(HandshakeType::Rejection(rejection.0)), now));
        Progress::Rejected(rejection)
    }
}
