//! Chunks (RTMP specification, section 5.3): messages are cut into chunks, and chunks of several chunk streams may
//! alternate.
//!
//! [`ChunkReader`] reassembles messages. Its memory is bounded: [`MAX_STREAMS`] chunk streams, and [`MAX_BUFFERED`]
//! bytes of incomplete messages. [`Framing`] does the opposite without copying: it names the slices (headers and pieces
//! of the message's body) that a vectored write hands to the kernel.

use super::{ProtocolError, message};
use bytes::{Bytes, BytesMut};
use std::ops::Deref;

/// Maximum number of chunk streams of one connection. Encoders use fewer than ten.
const MAX_STREAMS: usize = 64;
/// Maximum length of a media message, in bytes.
const MAX_MEDIA: usize = 16 << 20;
/// Maximum length of any other message, in bytes.
const MAX_OTHER: usize = 64 << 10;
/// Maximum number of bytes of incomplete messages from a peer that sends media.
const MAX_BUFFERED: usize = 24 << 20;
/// Maximum number of bytes of incomplete messages from a peer that was not admitted yet.
const MAX_BUFFERED_EARLY: usize = 128 << 10;
/// Chunk size before a peer sets another, in bytes (section 5.4.1).
const DEFAULT_CHUNK_SIZE: usize = 128;
/// Maximum number of bytes reserved for a message when its first piece arrives, from a peer that sends media. Others get
/// memory for what has arrived only: they could begin a message on every chunk stream.
const MAX_RESERVE: usize = 256 << 10;
/// The timestamp field of a header that an extended timestamp of four bytes follows.
const EXTENDED: u32 = 0xff_ffff;
/// Maximum length of a chunk header: 3 bytes of basic header, 11 of message header, 4 of extended timestamp.
const MAX_HEAD: usize = 18;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// The message type id.
    pub(crate) kind: u8,
    /// Milliseconds; wraps.
    pub(crate) timestamp: u32,
    /// The message stream id.
    pub(crate) stream: u32,
    pub(crate) body: Body<'a>,
}

impl Message<'_> {
    /// Copies the body into memory of its own.
    pub(crate) fn into_owned(self) -> Message<'static> {
        let Self { kind, timestamp, stream, body } = self;
        Message { kind, timestamp, stream, body: Body::Gathered(body.into()) }
    }
}

/// The body of a message. Borrowed from the read buffer, or owned if reassembled from several chunks.
#[derive(Clone, Debug)]
pub(crate) enum Body<'a> {
    /// All of it was in one read.
    Read(&'a [u8]),
    /// Reassembled.
    Gathered(Bytes),
}

impl Body<'_> {
    /// Removes the first bytes, of which there must be as many.
    pub(crate) fn without(self, bytes: usize) -> Self {
        match self {
            Self::Read(body) => Self::Read(&body[bytes..]),
            Self::Gathered(body) => Self::Gathered(body.slice(bytes..)),
        }
    }
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(body) => body,
            Self::Gathered(body) => body,
        }
    }
}

impl From<Body<'_>> for Bytes {
    fn from(body: Body<'_>) -> Self {
        match body {
            Body::Read(body) => Self::copy_from_slice(body),
            Body::Gathered(body) => body,
        }
    }
}

impl PartialEq for Body<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Body<'_> {}

/// Reassembles the messages of one connection.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    /// Streams that carry media come first.
    streams: Vec<ChunkStream>,
    /// The chunk whose body is in progress: the index of its stream, and the number of bytes to come.
    body: Option<(usize, usize)>,
    chunk_size: usize,
    buffered: usize,
    /// Media is expected, not commands alone.
    media: bool,
    /// Length of the header in progress, when it came in pieces.
    have: usize,
    head: [u8; MAX_HEAD],
}

/// State of one chunk stream.
#[derive(Debug, Default)]
struct ChunkStream {
    id: u32,
    timestamp: u32,
    delta: u32,
    length: u32,
    kind: u8,
    stream: u32,
    /// The extended timestamp of its last header, if there was one.
    extended: Option<u32>,
    /// The message in progress.
    partial: Option<BytesMut>,
}

/// The state of a header.
enum Head {
    /// Number of bytes needed in all.
    Needs(usize),
    Complete {
        format: u8,
        id: u32,
        /// Length of the basic header, in bytes.
        basic: usize,
        /// Length of the whole header, in bytes.
        length: usize,
        /// The extended timestamp, if it has one.
        extended: Option<u32>,
    },
}

impl ChunkReader {
    pub(crate) fn new() -> Self {
        Self {
            streams: Vec::new(),
            body: None,
            chunk_size: DEFAULT_CHUNK_SIZE,
            buffered: 0,
            media: false,
            have: 0,
            head: [0; MAX_HEAD],
        }
    }

    /// Returns whether a message, or the header of one, has begun.
    pub(crate) fn is_within_message(&self) -> bool {
        self.body.is_some() || self.have > 0 || self.buffered > 0
    }

    /// Admits long messages from now on.
    pub(crate) fn expect_media(&mut self) {
        self.media = true;
    }

    /// Takes bytes from `input` up to the end of a message. `None`: all was taken, and more is needed.
    ///
    /// Changes of the chunk size and aborts are handled here, and not returned.
    ///
    /// # Errors
    /// When the peer breaks the protocol or exceeds a bound.
    pub(crate) fn read<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Message<'a>>, ProtocolError> {
        loop {
            let done = match self.body {
                Some((at, left)) => self.read_body(at, left, input)?,
                None => match self.read_head(input)? {
                    Progress::Starved => return Ok(None),
                    Progress::Started => self.finish_if_empty(),
                    Progress::Complete(message) => Some(message),
                },
            };
            match done {
                Some(message) if self.obey(&message)? => {}
                Some(message) => return Ok(Some(message)),
                None if input.is_empty() => return Ok(None),
                None => {}
            }
        }
    }

    /// Handles Set Chunk Size and Abort (sections 5.4.1 and 5.4.2); returns whether the message was one of them.
    fn obey(&mut self, message: &Message<'_>) -> Result<bool, ProtocolError> {
        let value = || -> Result<u32, ProtocolError> {
            let bytes = message.body.first_chunk().ok_or(ProtocolError::Malformed("control message too short"))?;
            Ok(u32::from_be_bytes(*bytes))
        };
        match message.kind {
            message::SET_CHUNK_SIZE => match value()? {
                size @ 1..=0x7fff_ffff => self.chunk_size = size as usize,
                size => return Err(ProtocolError::ChunkSize(size)),
            },
            message::ABORT => {
                let id = value()?;
                if let Some(stream) = self.streams.iter_mut().find(|s| s.id == id)
                    && let Some(partial) = stream.partial.take()
                {
                    self.buffered -= partial.len();
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn read_head(&mut self, input: &mut &[u8]) -> Result<Progress, ProtocolError> {
        // Nearly always the whole header is there.
        if self.have == 0
            && let Head::Complete { format, id, basic, length, extended } = self.head(input)?
        {
            let (head, rest) = input.split_at(length);
            *input = rest;
            return self.begin(format, id, &head[basic..], extended);
        }
        loop {
            match self.head(&self.head[..self.have])? {
                Head::Needs(length) => {
                    let take = length.saturating_sub(self.have).min(input.len());
                    if take == 0 {
                        return Ok(Progress::Starved);
                    }
                    let (taken, rest) = input.split_at(take);
                    self.head[self.have..self.have + take].copy_from_slice(taken);
                    self.have += take;
                    *input = rest;
                }
                Head::Complete { format, id, basic, extended, .. } => {
                    let head = self.head;
                    self.have = 0;
                    return self.begin(format, id, &head[basic..], extended);
                }
            }
        }
    }

    /// Parses a header as far as it has arrived.
    fn head(&self, head: &[u8]) -> Result<Head, ProtocolError> {
        let Some(first) = head.first() else { return Ok(Head::Needs(1)) };
        let format = first >> 6;
        let (basic, id) = match (first & 0x3f, head) {
            (0, [_, low, ..]) => (2, 64 + u32::from(*low)),
            (0, _) => return Ok(Head::Needs(2)),
            (1, [_, low, high, ..]) => (3, 64 + u32::from(*low) + 256 * u32::from(*high)),
            (1, _) => return Ok(Head::Needs(3)),
            (id, _) => (1, u32::from(id)),
        };
        let length = basic + [11, 7, 3, 0][usize::from(format)];
        if head.len() < length {
            return Ok(Head::Needs(length));
        }
        let has_extended = match format {
            3 => self.streams.iter().any(|s| s.id == id && s.extended.is_some()),
            _ => be24(&head[basic..]) == EXTENDED,
        };
        if !has_extended {
            return Ok(Head::Complete { format, id, basic, length, extended: None });
        }
        match head.get(length..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => {
                let extended = Some(u32::from_be_bytes(*bytes));
                Ok(Head::Complete { format, id, basic, length: length + 4, extended })
            }
            None => Ok(Head::Needs(length + 4)),
        }
    }

    /// Begins or continues a message after a complete header. `fields`: the bytes behind the basic header.
    fn begin(&mut self, format: u8, id: u32, fields: &[u8], extended: Option<u32>) -> Result<Progress, ProtocolError> {
        let mut at = match self.streams.iter().position(|s| s.id == id) {
            Some(at) => at,
            // librtmp's first ping starts with a header of format 1.
            None if format > 1 => return Err(ProtocolError::Malformed("type 2 or 3 chunk without a preceding header")),
            None if self.streams.len() >= MAX_STREAMS => {
                return Err(ProtocolError::Malformed("too many chunk streams"));
            }
            None => {
                self.streams.push(ChunkStream { id, ..ChunkStream::default() });
                self.streams.len() - 1
            }
        };
        if at > 0 && message::is_media(self.streams[at].kind) && !message::is_media(self.streams[at - 1].kind) {
            self.streams.swap(at, at - 1);
            at -= 1;
        }
        let stream = &mut self.streams[at];
        if format == 3 && stream.partial.is_some() {
            // The middle of a message. Not all encoders repeat the extended timestamp there: if it differs, these bytes
            // belong to the message.
            let stray = extended.filter(|value| stream.extended != Some(*value));
            return self.resume(at, stray.map(u32::to_be_bytes));
        }
        if let Some(abandoned) = stream.partial.take() {
            self.buffered -= abandoned.len(); // a new message begins: the old one will never be complete
        }
        if format <= 1 {
            stream.length = be24(&fields[3..]);
            stream.kind = fields[6];
        }
        if format == 0 {
            stream.stream = u32::from_le_bytes([fields[7], fields[8], fields[9], fields[10]]);
        }
        if format < 3 {
            stream.extended = extended;
            stream.delta = extended.unwrap_or_else(|| be24(fields));
        }
        // A header of format 3 after one of format 0 repeats its timestamp as a delta (section 5.3.1.2.4).
        stream.timestamp = if format == 0 { stream.delta } else { stream.timestamp.wrapping_add(stream.delta) };
        let limit = if self.media && message::is_media(stream.kind) { MAX_MEDIA } else { MAX_OTHER };
        let length = stream.length as usize;
        if length > limit {
            return Err(ProtocolError::TooLong { kind: stream.kind, length });
        }
        stream.partial = Some(BytesMut::new());
        self.body = Some((at, length.min(self.chunk_size)));
        Ok(Progress::Started)
    }

    /// Begins the next chunk of a message. `stray`: bytes of its body that were read with the header.
    fn resume(&mut self, at: usize, stray: Option<[u8; 4]>) -> Result<Progress, ProtocolError> {
        let stream = &self.streams[at];
        let have = stream.partial.as_ref().map_or(0, BytesMut::len);
        let left = (stream.length as usize).saturating_sub(have).min(self.chunk_size);
        self.body = Some((at, left));
        let Some(bytes) = stray else { return Ok(Progress::Started) };
        let mut rest = &bytes[..];
        let done = self.read_body(at, left, &mut rest)?;
        // Bytes behind the end of the chunk belong to the next header.
        self.head[..rest.len()].copy_from_slice(rest);
        self.have = rest.len();
        Ok(done.map_or(Progress::Started, |message| Progress::Complete(message.into_owned())))
    }

    /// Completes a message without a body after its header.
    fn finish_if_empty(&mut self) -> Option<Message<'static>> {
        match self.body {
            Some((at, 0)) => {
                self.body = None;
                self.complete(at)
            }
            _ => None,
        }
    }

    fn read_body<'a>(
        &mut self,
        at: usize,
        left: usize,
        input: &mut &'a [u8],
    ) -> Result<Option<Message<'a>>, ProtocolError> {
        let take = left.min(input.len());
        let (taken, rest) = input.split_at(take);
        *input = rest;
        self.body = (take < left).then_some((at, left - take));
        let stream = &mut self.streams[at];
        let length = stream.length as usize;
        if take == length {
            // All of it is here, as nearly always: no buffer is needed.
            stream.partial = None;
            return Ok(Some(stream.message(Body::Read(taken))));
        }
        self.buffered += take;
        if self.buffered > if self.media { MAX_BUFFERED } else { MAX_BUFFERED_EARLY } {
            return Err(ProtocolError::Malformed("too many bytes of incomplete messages"));
        }
        let partial = stream.partial.get_or_insert_default();
        if self.media && partial.capacity() == 0 {
            partial.reserve(length.min(MAX_RESERVE));
        }
        partial.extend_from_slice(taken);
        let whole = partial.len() >= length;
        Ok(if whole { self.complete(at) } else { None })
    }

    fn complete(&mut self, at: usize) -> Option<Message<'static>> {
        let stream = &mut self.streams[at];
        let body = stream.partial.take()?.freeze();
        self.buffered -= body.len();
        Some(stream.message(Body::Gathered(body)))
    }
}

impl ChunkStream {
    fn message<'a>(&self, body: Body<'a>) -> Message<'a> {
        Message { kind: self.kind, timestamp: self.timestamp, stream: self.stream, body }
    }
}

enum Progress {
    /// More bytes are needed.
    Starved,
    /// The body of a chunk follows.
    Started,
    Complete(Message<'static>),
}

fn be24(bytes: &[u8]) -> u32 {
    match bytes {
        [a, b, c, ..] => u32::from_be_bytes([0, *a, *b, *c]),
        _ => 0,
    }
}

/// The framing of a connection's outgoing messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    /// The chunk size announced to the peer, in bytes.
    pub(crate) chunk_size: usize,
    /// The message stream of the media.
    pub(crate) stream: u32,
}

/// The chunk headers of one message: a full one, and the short one of all chunks that follow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkHeads {
    first: [u8; 16],
    first_length: usize,
    next: [u8; 5],
    next_length: usize,
    body: usize,
    chunk_size: usize,
}

impl ChunkHeads {
    pub(crate) const EMPTY: Self =
        Self { first: [0; 16], first_length: 0, next: [0; 5], next_length: 0, body: 0, chunk_size: 1 };

    /// Length of the whole message on the wire, in bytes.
    pub(crate) fn total(&self) -> usize {
        let more = self.body.saturating_sub(1) / self.chunk_size;
        self.first_length + self.body + more * self.next_length
    }

    /// Calls `take` with the slices of the message from byte `from` on, in order, until it returns false.
    pub(crate) fn slices<'a>(&'a self, body: &'a [u8], from: usize, mut take: impl FnMut(&'a [u8]) -> bool) -> bool {
        let mut skip = from;
        let mut give = |slice: &'a [u8]| {
            let rest = slice.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(slice.len());
            rest.is_empty() || take(rest)
        };
        if !give(&self.first[..self.first_length]) {
            return false;
        }
        for (i, piece) in body.chunks(self.chunk_size).enumerate() {
            if i > 0 && !give(&self.next[..self.next_length]) {
                return false;
            }
            if !give(piece) {
                return false;
            }
        }
        true
    }
}

impl Framing {
    /// The framing for players after they were admitted.
    pub(crate) const PLAYERS: Self = Self { chunk_size: super::link::CHUNK_SIZE, stream: super::server::STREAM };

    /// Returns the chunk headers of a message: always full ones, so that the same bytes fit every connection at any
    /// time.
    pub(crate) fn heads(&self, kind: u8, timestamp: u32, stream: u32, body: usize) -> ChunkHeads {
        let chunk_stream = message::chunk_stream(kind);
        let field = timestamp.min(EXTENDED);
        let mut heads = ChunkHeads { body, chunk_size: self.chunk_size.max(1), ..ChunkHeads::EMPTY };
        heads.first[0] = chunk_stream;
        heads.first[1..4].copy_from_slice(&field.to_be_bytes()[1..]);
        heads.first[4..7].copy_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_be_bytes()[1..]);
        heads.first[7] = kind;
        heads.first[8..12].copy_from_slice(&stream.to_le_bytes());
        heads.next[0] = 0xc0 | chunk_stream;
        heads.first_length = 12;
        heads.next_length = 1;
        if field == EXTENDED {
            heads.first[12..].copy_from_slice(&timestamp.to_be_bytes());
            heads.next[1..].copy_from_slice(&timestamp.to_be_bytes());
            heads.first_length = 16;
            heads.next_length = 5;
        }
        heads
    }

    /// Appends a whole message to `out`.
    pub(crate) fn write(&self, kind: u8, timestamp: u32, stream: u32, body: &[u8], out: &mut Vec<u8>) {
        self.heads(kind, timestamp, stream, body.len()).slices(body, 0, |slice| {
            out.extend_from_slice(slice);
            true
        });
    }
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
