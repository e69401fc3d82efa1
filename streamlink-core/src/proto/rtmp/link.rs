//! One side of a connection, up to commands: the handshake, chunks, acknowledgements, pings.

use super::{Body, ChunkReader, Fault, Framing, Handshake, Message, message};
use crate::{
    media::{
        RtmpKind,
        flv::amf0::{self, Value},
    },
    random::Random,
};
use bytes::Bytes;
use std::collections::VecDeque;

/// The chunk size that we announce to players and publishers: most messages are one chunk.
pub(crate) const CHUNK_SIZE: usize = 60_000;
/// The acknowledgement window that we announce, in bytes (what other servers announce).
pub(crate) const WINDOW: u32 = 2_500_000;
/// Bytes of answers that may wait for a peer that does not read, before it is cut off.
const MAX_PENDING: usize = 64 << 10;
/// Messages in one aggregate message at most.
const MAX_AGGREGATE: usize = 4096;

/// One side of a connection. Bytes that it wants to send gather in [`Link::take_output`]. In this order: what every read
/// touches lies together.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Link {
    handshake: Option<Box<Handshake>>,
    /// Bytes that have come, and how many of them were acknowledged.
    received: u64,
    acknowledged: u64,
    window: u32,
    /// The parts of an aggregate message.
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

    /// Whether what was read last ends within a message.
    pub(crate) fn is_within_message(&self) -> bool {
        self.reader.is_within_message()
    }

    /// How our messages are cut.
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Media messages may come from now on.
    pub(crate) fn expect_media(&mut self) {
        self.reader.expect_media();
    }

    /// Media that we send is for this message stream.
    pub(crate) fn set_stream(&mut self, stream: u32) {
        self.framing.stream = stream;
    }

    /// What is to be sent. It never stops in the middle of a message.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// So many bytes have come from the peer; acknowledges them when it is time (section 5.4.3).
    pub(crate) fn received(&mut self, bytes: usize) {
        self.received = self.received.wrapping_add(bytes as u64);
        if self.received.wrapping_sub(self.acknowledged) >= u64::from(self.window) && self.handshake.is_none() {
            self.acknowledged = self.received;
            // Modulo 2^32, as everybody does.
            self.control(message::ACKNOWLEDGEMENT, self.received as u32);
        }
    }

    /// Takes bytes from `input` up to the end of a message that concerns the session.
    ///
    /// # Errors
    /// When the peer breaks the protocol, exceeds a bound, or lets our answers pile up.
    pub(crate) fn read<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Message<'a>>, Fault> {
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
                return Err(Fault::Malformed("it does not read our answers"));
            }
        }
    }

    /// Whether the handshake is complete.
    pub(crate) fn is_open(&self) -> bool {
        self.handshake.is_none()
    }

    /// Handles what concerns the connection alone, and brings the rest into one form.
    fn protocol<'a>(&mut self, mut message: Message<'a>) -> Result<Option<Message<'a>>, Fault> {
        let number = |at: usize| {
            let bytes = message.body.get(at..at + 4).and_then(|b| b.first_chunk());
            bytes.map(|b| u32::from_be_bytes(*b)).ok_or(Fault::Malformed("a control message that is too short"))
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
            _ => {} // shared objects, and what nobody knows
        }
        Ok(None)
    }

    /// A protocol control message with one number.
    pub(crate) fn control(&mut self, kind: u8, value: u32) {
        self.framing.write(kind, 0, 0, &value.to_be_bytes(), &mut self.out);
    }

    /// Announces a chunk size, which holds from here on.
    pub(crate) fn announce_chunk_size(&mut self, bytes: usize) {
        self.control(message::SET_CHUNK_SIZE, u32::try_from(bytes).unwrap_or(u32::MAX >> 1));
        self.framing.chunk_size = bytes;
    }

    /// Set Peer Bandwidth, of the dynamic kind (section 5.4.5).
    pub(crate) fn set_peer_bandwidth(&mut self) {
        let [a, b, c, d] = WINDOW.to_be_bytes();
        self.framing.write(message::SET_PEER_BANDWIDTH, 0, 0, &[a, b, c, d, 2], &mut self.out);
    }

    /// A user control event (section 6.2).
    pub(crate) fn event(&mut self, event: u16, numbers: &[u32]) {
        let mut body = event.to_be_bytes().to_vec();
        numbers.iter().for_each(|n| body.extend(n.to_be_bytes()));
        self.framing.write(message::USER_CONTROL, 0, 0, &body, &mut self.out);
    }

    /// A command or data message.
    pub(crate) fn amf(&mut self, kind: u8, stream: u32, values: &[Value]) {
        let body = amf0::write_all(values);
        self.framing.write(kind, 0, stream, &body, &mut self.out);
    }
}

/// FLV tags in one message (section 7.1.6); their times count from that of the first.
fn split_aggregate(message: Message<'_>) -> Result<VecDeque<Message<'static>>, Fault> {
    let whole = Bytes::from(message.body);
    let (mut parts, mut first, mut at) = (VecDeque::new(), None, 0usize);
    while let Some(&[kind, l1, l2, l3, t1, t2, t3, t4, _, _, _]) = whole.get(at..).and_then(|r| r.first_chunk()) {
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        let time = u32::from_be_bytes([t4, t1, t2, t3]);
        let start = at + 11;
        let body = match whole.len().checked_sub(start) {
            Some(left) if left >= length => Body::Gathered(whole.slice(start..start + length)),
            _ => return Err(Fault::Malformed("an aggregate message that breaks off")),
        };
        let offset = time.wrapping_sub(*first.get_or_insert(time));
        if matches!(kind, message::AUDIO | message::VIDEO | message::DATA) {
            let timestamp = message.timestamp.wrapping_add(offset);
            parts.push_back(Message { kind, timestamp, stream: message.stream, body });
        }
        if parts.len() > MAX_AGGREGATE {
            return Err(Fault::Malformed("too many messages in one"));
        }
        at = start + length + 4; // and the size of the tag, again
    }
    Ok(parts)
}

impl Message<'_> {
    /// What kind of media this is, if it is any.
    pub(crate) fn media(&self) -> Option<RtmpKind> {
        match self.kind {
            message::AUDIO => Some(RtmpKind::Audio),
            message::VIDEO => Some(RtmpKind::Video),
            message::DATA => Some(RtmpKind::Data),
            _ => None,
        }
    }
}

/// The message type id of a kind of media.
impl From<RtmpKind> for u8 {
    fn from(kind: RtmpKind) -> u8 {
        match kind {
            RtmpKind::Audio => message::AUDIO,
            RtmpKind::Video => message::VIDEO,
            RtmpKind::Data => message::DATA,
        }
    }
}
