//! Caller side of the handshake (draft-sharabayko-srt-01, section 4.3.1). Induction and conclusion are each repeated
//! until answered, or until the time is up.

use super::{
    agreement::Agreement,
    connection::Connection,
    crypto::{CipherMode, Keys},
    handshake::{Extensions, GroupExtension, Handshake, HandshakeType, MAGIC},
    packet::{Control, write_control},
    sequence::Sequence,
    terms::{Local, Rejection, Terms},
};
use crate::secret::Secret;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Interval at which a handshake packet is repeated until it is answered.
pub(super) const REPEAT: Duration = Duration::from_millis(250);

/// Progress of a call.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The handshake is not complete yet.
    Calling,
    Connected(Box<Connection>),
    /// The listener has rejected the call.
    Rejected(Rejection),
    /// The listener has not answered in time.
    TimedOut,
}

/// Handshake of a caller with a listener.
#[derive(Debug)]
pub(crate) struct Caller {
    terms: Terms,
    local: Local,
    stream_id: Option<String>,
    initial_sequence: Sequence,
    keys: Option<Keys>,
    material: Option<Vec<u8>>,
    group: Option<GroupExtension>,
    /// Cookie of the listener, set once it has answered the induction.
    cookie: Option<u32>,
    next_send: Instant,
    deadline: Instant,
}

impl Caller {
    /// Starts a call at `local.start`.
    pub(crate) fn new(terms: Terms, local: Local, stream_id: Option<String>, timeout: Duration) -> Self {
        let random = Zeroizing::new(local.random.bytes());
        let number = local.random.bytes();
        let mode = terms.cipher.unwrap_or(CipherMode::Ctr);
        let generate = |secret: &Secret| Keys::generate(terms.key_length, mode, &random, secret.reveal());
        let keys = terms.passphrase.as_ref().map(generate);
        let material = keys.as_ref().and_then(Keys::material);
        Self {
            initial_sequence: Sequence::new(u32::from_be_bytes(number)),
            keys,
            material,
            group: None,
            cookie: None,
            next_send: local.start,
            deadline: local.start + timeout,
            terms,
            local,
            stream_id,
        }
    }

    /// Makes the connection a member of a group, whose packets have common numbers and times. `next` is the number of the
    /// group's next packet, and `start` the start of its timestamps.
    pub(crate) fn in_group(mut self, group: GroupExtension, next: Sequence, start: Instant) -> Self {
        self.group = Some(group);
        self.initial_sequence = next;
        self.local.start = start;
        self
    }

    /// Returns the packet that is due, if there is one.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.next_send {
            return None;
        }
        self.next_send = now + REPEAT;
        let mut handshake = Handshake {
            version: 4,
            encryption: 0,
            extension_field: 2,
            initial_sequence: self.initial_sequence,
            mtu: 1500,
            window: self.terms.buffer as u32,
            kind: HandshakeType::Induction,
            socket_id: self.local.id,
            cookie: 0,
            extensions: Extensions::default(),
        };
        if let Some(cookie) = self.cookie {
            handshake.version = 5;
            handshake.kind = HandshakeType::Conclusion;
            handshake.cookie = cookie;
            handshake.encryption = if self.keys.is_some() { (self.terms.key_length / 8) as u16 } else { 0 };
            handshake.extensions.srt = Some(self.terms.extension());
            handshake.extensions.key_material = self.material.clone();
            handshake.extensions.stream_id = self.stream_id.clone();
            handshake.extensions.group = self.group;
            handshake.extensions.filter = self.terms.filter.map(|filter| filter.to_string());
        }
        let body = handshake.write();
        let timestamp = now.saturating_duration_since(self.local.start).as_micros() as u32;
        Some(write_control(&Control::Handshake(&body), timestamp, 0))
    }

    /// Returns the time at which the caller has something to do.
    pub(crate) fn next_timeout(&self) -> Instant {
        self.next_send.min(self.deadline)
    }

    pub(crate) fn handle_timeout(&self, now: Instant) -> Progress {
        if now >= self.deadline { Progress::TimedOut } else { Progress::Calling }
    }

    /// Handles a handshake packet of the listener.
    pub(crate) fn handle(&mut self, body: &[u8], timestamp: u32, now: Instant) -> Progress {
        let Some(answer) = Handshake::parse(body) else { return Progress::Calling };
        match (answer.kind, self.cookie) {
            (HandshakeType::Rejection(code), _) => Progress::Rejected(Rejection(code)),
            (HandshakeType::Induction, None) => {
                if answer.version != 5 || answer.extension_field != MAGIC {
                    return Progress::Rejected(Rejection::VERSION);
                }
                self.cookie = Some(answer.cookie);
                self.next_send = now;
                Progress::Calling
            }
            // A listener that does not know groups, or has made another type of group, would not deliver the same media.
            (HandshakeType::Conclusion, Some(_))
                if answer.extensions.group.map(|theirs| theirs.kind) != self.group.map(|ours| ours.kind) =>
            {
                Progress::Rejected(Rejection::GROUP)
            }
            (HandshakeType::Conclusion, Some(_)) => {
                let sequence = self.initial_sequence;
                match self.terms.conclude(&answer, timestamp, &self.local, self.keys.clone(), sequence) {
                    Ok(agreement) => Progress::Connected(Box::new(self.connect(agreement, now))),
                    Err(reason) => Progress::Rejected(reason),
                }
            }
            _ => Progress::Calling,
        }
    }

    fn connect(&self, agreement: Agreement, now: Instant) -> Connection {
        Connection::new(agreement, now)
    }
}
