//! One side of a connection, up to commands: the handshake, chunks, acknowledgements, pings.

use super::{Body, ChunkReader, Framing, Handshake, Message, ProtocolError, message};
use crate::{
    media::{
        RtmpKind,
        flv::amf0::{self, Value},
    },
    random::Random,
};
use bytes::Bytes;
use std::collections::VecDeque;

/// The chunk size that we announce to players and publishers, in bytes: most messages are one chunk.
pub(crate) const CHUNK_SIZE: usize = 60_000;
/// The acknowledgement window that we announce, in bytes (as other servers do).
pub(crate) const WINDOW: u32 = 2_500_000;
/// Maximum number of bytes of responses pending for a peer that does not read, before it is disconnected.
const MAX_PENDING: usize = 64 << 10;
/// Maximum number of messages in one aggregate message.
const MAX_AGGREGATE: usize = 4096;

/// One side of a connection. Bytes that it wants to send gather in [`Link::take_output`].
#[derive(Debug)]
pub(crate) struct Link {
    handshake: Option<Box<Handshake>>,
    /// Number of bytes received, and of those acknowledged.
    received: u64,
    acknowledged: u64,
    window: u32,
    /// The remaining parts of an aggregate message.
    parts: VecDeque<Message<'static>>,
    reader: ChunkReader,
    out: Vec<u8>,
    framing: Framing,
}

impl Link {
    pub(crate) fn server(random: &Random) -> Self {
        Self::new(Handshake::server(random), Vec::new())
    }

    pub(crate) fn client(random: &Random) -> Self {
        let mut out = Vec::new();
        let handshake = Handshake::client(random, &mut out);
        Self::new(handshake, out)
    }

    fn new(handshake: Handshake, out: Vec<u8>) -> Self {
        Self {
            handshake: Some(Box::new(handshake)),
            received: 0,
            acknowledged: 0,
            window: WINDOW,
            parts: VecDeque::new(),
            reader: ChunkReader::new(),
            out,
            framing: Framing { chunk_size: 128, stream: 0 },
        }
    }

    /// Returns whether the bytes read last end within a message.
    pub(crate) fn is_within_message(&self) -> bool {
        self.reader.is_within_message()
    }

    /// Returns the framing of our messages.
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Admits media messages from now on.
    pub(crate) fn expect_media(&mut self) {
        self.reader.expect_media();
    }

    /// Sets the message stream of the media that we send.
    pub(crate) fn set_stream(&mut self, stream: u32) {
        self.framing.stream = stream;
    }

    /// Takes the bytes to be sent, which never end within a message.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Counts received bytes; acknowledges them when it is time (section 5.4.3).
    pub(crate) fn received(&mut self, bytes: usize) {
        self.received = self.received.wrapping_add(bytes as u64);
        if self.received.wrapping_sub(self.acknowledged) >= u64::from(self.window) && self.handshake.is_none() {
            self.acknowledged = self.received;
            // Modulo 2^32, as other implementations do.
            self.control(message::ACKNOWLEDGEMENT, self.received as u32);
        }
    }

    /// Takes bytes from `input` up to the end of a message for the session.
    ///
    /// # Errors
    /// When the peer breaks the protocol, exceeds a bound, or does not read our responses.
    pub(crate) fn read<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Message<'a>>, ProtocolError> {
        if let Some(handshake) = &mut self.handshake {
            if !handshake.read(input, &mut self.out)? {
                return Ok(None);
            }
            self.handshake = None;
        }
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Ok(Some(part));
            }
            let Some(message) = self.reader.read(input)? else { return Ok(None) };
            if let Some(message) = self.protocol(message)? {
                return Ok(Some(message));
            }
            if self.out.len() > MAX_PENDING {
                return Err(ProtocolError::Malformed("control responses not read (64 KiB pending)"));
            }
        }
    }

    /// Returns whether the handshake is complete.
    pub(crate) fn is_open(&self) -> bool {
        self.handshake.is_none()
    }

    /// Handles messages of the connection itself, and brings all others into one form.
    fn protocol<'a>(&mut self, mut message: Message<'a>) -> Result<Option<Message<'a>>, ProtocolError> {
        let number = |at: usize| {
            let bytes = message.body.get(at..at + 4).and_then(|b| b.first_chunk());
            bytes.map(|b| u32::from_be_bytes(*b)).ok_or(ProtocolError::Malformed("control message too short"))
        };
        match message.kind {
            message::ACKNOWLEDGEMENT => {}
            message::WINDOW_ACKNOWLEDGEMENT_SIZE => self.window = number(0)?.max(1),
            message::SET_PEER_BANDWIDTH => {
                number(0)?;
                self.control(message::WINDOW_ACKNOWLEDGEMENT_SIZE, WINDOW);
            }
            message::USER_CONTROL => {
                if let [a, b, data @ ..] = &message.body[..]
                    && u16::from_be_bytes([*a, *b]) == message::event::PING_REQUEST
                    && let Some(time) = data.first_chunk()
                {
                    self.event(message::event::PING_RESPONSE, &[u32::from_be_bytes(*time)]);
                }
            }
            // AMF3 messages of encoders hold AMF0 after one byte.
            message::DATA_AMF3 | message::COMMAND_AMF3 => {
                message.kind = if message.kind == message::DATA_AMF3 { message::DATA } else { message::COMMAND };
                if message.body.first() == Some(&0) {
                    message.body = message.body.without(1);
                }
                return Ok(Some(message));
            }
            message::AGGREGATE => self.parts = split_aggregate(message)?,
            message::AUDIO | message::VIDEO | message::DATA | message::COMMAND => return Ok(Some(message)),
            _ => {} // shared objects, and unknown types
        }
        Ok(None)
    }

    /// Queues a protocol control message with one number.
    pub(crate) fn control(&mut self, kind: u8, value: u32) {
        self.framing.write(kind, 0, 0, &value.to_be_bytes(), &mut self.out);
    }

    /// Announces a chunk size, and uses it from here on.
    pub(crate) fn announce_chunk_size(&mut self, bytes: usize) {
        self.control(message::SET_CHUNK_SIZE, u32::try_from(bytes).unwrap_or(u32::MAX >> 1));
        self.framing.chunk_size = bytes;
    }

    /// Queues Set Peer Bandwidth, of the dynamic kind (section 5.4.5).
    pub(crate) fn set_peer_bandwidth(&mut self) {
        let [a, b, c, d] = WINDOW.to_be_bytes();
        self.framing.write(message::SET_PEER_BANDWIDTH, 0, 0, &[a, b, c, d, 2], &mut self.out);
    }

    /// Queues a user control event (section 6.2).
    pub(crate) fn event(&mut self, event: u16, numbers: &[u32]) {
        let mut body = event.to_be_bytes().to_vec();
        for number in numbers {
            body.extend(number.to_be_bytes());
        }
        self.framing.write(message::USER_CONTROL, 0, 0, &body, &mut self.out);
    }

    /// Queues a command or data message.
    pub(crate) fn amf(&mut self, kind: u8, stream: u32, values: &[Value]) {
        let body = amf0::write_all(values);
        self.framing.write(kind, 0, stream, &body, &mut self.out);
    }
}

/// Splits an aggregate message into FLV tags (section 7.1.6); their timestamps are relative to that of the first.
fn split_aggregate(message: Message<'_>) -> Result<VecDeque<Message<'static>>, ProtocolError> {
    let whole = Bytes::from(message.body);
    let mut parts = VecDeque::new();
    let mut first = None;
    let mut at = 0usize;
    while let Some(&[kind, l1, l2, l3, t1, t2, t3, t4, _, _, _]) = whole.get(at..).and_then(|r| r.first_chunk()) {
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        let time = u32::from_be_bytes([t4, t1, t2, t3]);
        let start = at + 11;
        let body = match whole.len().checked_sub(start) {
            Some(left) if left >= length => Body::Gathered(whole.slice(start..start + length)),
            _ => return Err(ProtocolError::Malformed("truncated aggregate message")),
        };
        let offset = time.wrapping_sub(*first.get_or_insert(time));
        if matches!(kind, message::AUDIO | message::VIDEO | message::DATA) {
            let timestamp = message.timestamp.wrapping_add(offset);
            parts.push_back(Message { kind, timestamp, stream: message.stream, body });
        }
        if parts.len() > MAX_AGGREGATE {
            return Err(ProtocolError::Malformed("too many messages in one aggregate message"));
        }
        at = start + length + 4; // the tag is followed by its size
    }
    Ok(parts)
}

impl Message<'_> {
    /// Returns the kind of a media message; `None` for others.
    pub(crate) fn media(&self) -> Option<RtmpKind> {
        match self.kind {
            message::AUDIO => Some(RtmpKind::Audio),
            message::VIDEO => Some(RtmpKind::Video),
            message::DATA => Some(RtmpKind::Data),
            _ => None,
        }
    }
}

/// Converts a kind of media to its message type id.
impl From<RtmpKind> for u8 {
    fn from(kind: RtmpKind) -> Self {
        match kind {
            RtmpKind::Audio => message::AUDIO,
            RtmpKind::Video => message::VIDEO,
            RtmpKind::Data => message::DATA,
        }
    }
}
