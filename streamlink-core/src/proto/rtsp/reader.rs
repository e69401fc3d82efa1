//! Splitting of the bytes of a connection into messages and interleaved frames (RFC 2326 section 10.12).
//!
//! Some servers send bytes between their frames that belong to nothing, or frames that are longer than they say. Once a
//! message was read, such bytes are passed over up to the next message or plausible frame, and counted.

use super::{
    ProtocolError,
    message::{Head, Request, Response, is_method_byte},
};
use crate::{media::compact, proto::foreign::Foreign};
use bytes::{Buf, Bytes, BytesMut};
use std::fmt;

/// Maximum length of the header of a message, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Maximum length of the body of a message (SDP), in bytes.
const MAX_BODY: usize = 64 << 10;
/// Maximum length of a method, in bytes.
const MAX_METHOD: usize = 24;
/// Maximum length of a frame that is accepted because of what follows it, in bytes.
const MAX_DOUBTED: usize = 2048;
/// Maximum number of bytes passed over in a row.
const MAX_SKIPPED: usize = 256 << 10;

#[derive(Clone, PartialEq)]
pub(crate) enum Item {
    Request(Box<Request>),
    Response(Box<Response>),
    Frame { channel: u8, data: Bytes },
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(request) => request.fmt(f),
            Self::Response(response) => response.fmt(f),
            Self::Frame { channel, data } => write!(f, "Frame({channel}, {} bytes)", data.len()),
        }
    }
}

/// Splits bytes into messages and frames. Holds at most one incomplete message or frame, within the limits above.
#[derive(Default)]
pub(crate) struct Reader {
    rest: Bytes,
    /// Size of the buffer that contains `rest`.
    buffer: usize,
    /// Number of bytes at the beginning of `rest` in which no head ends.
    searched: usize,
    /// A message was read, so that the peer speaks RTSP.
    is_rtsp: bool,
    /// Number of bytes passed over since the last message or frame.
    skipped: usize,
    /// Number of runs of bytes passed over, to be counted.
    runs: u64,
    /// Channels of the frames so far, a bit for each.
    channels: [u64; 4],
}

/// Beginning of the bytes that are to be read next.
enum Beginning {
    Frame,
    Message,
    Garbage,
    /// More bytes are needed to decide.
    Incomplete,
}

impl Reader {
    /// Adds received bytes. The bytes are copied once. Frames share this copy, unless they are small compared with it.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.rest.is_empty() {
            self.rest = Bytes::copy_from_slice(bytes);
            self.buffer = self.rest.len();
            return;
        }
        // A frame that comes in many pieces grows in place, as nobody else has a part of it.
        let mut whole = std::mem::take(&mut self.rest).try_into_mut().unwrap_or_else(|shared| {
            let mut whole = BytesMut::with_capacity(shared.len() + bytes.len());
            whole.extend_from_slice(&shared);
            whole
        });
        whole.extend_from_slice(bytes);
        self.buffer = whole.capacity();
        self.rest = whole.freeze();
    }

    /// Returns the next message or frame, if it is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, ProtocolError> {
        loop {
            let item = match self.beginning() {
                Beginning::Incomplete => return Ok(None),
                Beginning::Garbage => {
                    self.skip()?;
                    continue;
                }
                Beginning::Frame => self.frame(),
                Beginning::Message => match self.message()? {
                    Parsed::Item(item) => Some(item),
                    Parsed::Incomplete => None,
                    Parsed::Garbage => {
                        self.skip()?;
                        continue;
                    }
                },
            };
            if item.is_some() {
                self.skipped = 0;
            }
            return Ok(item);
        }
    }

    /// Returns the number of times that bytes were passed over since the last call.
    pub(crate) fn take_skips(&mut self) -> u64 {
        std::mem::take(&mut self.runs)
    }

    /// Returns the kind of the next message, as far as its first bytes tell it.
    fn beginning(&mut self) -> Beginning {
        if self.skipped > 0 {
            return match self.rest.first() {
                None => Beginning::Incomplete,
                Some(b'$') => self.frame_begins(),
                // Requests are not looked for: their methods are words that garbage may hold.
                Some(_) => self.version_begins(),
            };
        }
        // Some peers send empty lines between messages, or end a body with a NUL.
        while matches!(self.rest.first(), Some(b'\r' | b'\n' | 0)) {
            self.advance(1);
        }
        match self.rest.first() {
            None => Beginning::Incomplete,
            Some(b'$') => self.frame_begins(),
            Some(_) => self.message_begins(),
        }
    }

    /// Returns whether a `$` begins a frame. It is not doubted on a channel with frames before, if nothing was passed
    /// over, nor is the first frame. Otherwise it has to hold a packet, or to be followed by something known.
    fn frame_begins(&self) -> Beginning {
        let Some(&[_, channel, high, low]) = self.rest.first_chunk() else { return Beginning::Incomplete };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let is_first = self.channels == [0; 4];
        let is_seen = self.has_seen(channel);
        let is_in_step = self.skipped == 0;
        if is_in_step && (is_seen || is_first || !self.is_rtsp) {
            return Beginning::Frame;
        }
        let Some(version) = self.rest.get(4) else { return Beginning::Incomplete };
        // RTP and RTCP, whose shortest packet has 8 bytes.
        let is_packet = version >> 6 == 2 && length >= 8;
        if is_packet && (is_seen || is_in_step) {
            return Beginning::Frame;
        }
        if length > MAX_DOUBTED || !(is_packet || is_in_step) {
            return Beginning::Garbage;
        }
        if self.rest.len() < 4 + length {
            return Beginning::Incomplete;
        }
        match self.rest.get(4 + length) {
            None | Some(b'$' | b'R' | b'r') => Beginning::Frame,
            Some(_) => Beginning::Garbage,
        }
    }

    fn has_seen(&self, channel: u8) -> bool {
        self.channels.get(usize::from(channel / 64)).is_some_and(|bits| bits >> (channel % 64) & 1 == 1)
    }

    /// Returns whether the bytes begin with the version of a response.
    fn version_begins(&self) -> Beginning {
        let word: &[u8] = b"RTSP/";
        let length = word.len().min(self.rest.len());
        let begins = self.rest.get(..length).zip(word.get(..length)).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
        match (begins, length == word.len()) {
            (true, true) => Beginning::Message,
            (true, false) => Beginning::Incomplete,
            (false, _) => Beginning::Garbage,
        }
    }

    /// Returns whether the bytes can be the start line of a message: a version, or a method and a space.
    fn message_begins(&self) -> Beginning {
        let length = self.rest.iter().take(MAX_METHOD).take_while(|byte| is_method_byte(**byte)).count();
        let Some(next) = self.rest.get(length) else { return Beginning::Incomplete };
        let word = self.rest.get(..length).unwrap_or_default();
        let begins = match next {
            b'/' => word.eq_ignore_ascii_case(b"RTSP"),
            b' ' | b'\t' => length > 0,
            _ => false,
        };
        if begins { Beginning::Message } else { Beginning::Garbage }
    }

    fn advance(&mut self, count: usize) {
        self.rest.advance(count.min(self.rest.len()));
        self.searched = 0;
    }

    /// Passes over the first byte, and those behind it that can begin nothing.
    fn skip(&mut self) -> Result<(), ProtocolError> {
        if !self.is_rtsp {
            return Err(ProtocolError::Malformed(match Foreign::of(&self.rest) {
                Some(Foreign::Tls) => "TLS, where plain RTSP is expected (`rtsps` is RTSP over TLS)",
                Some(Foreign::Http) => "HTTP, where RTSP is expected (tunnels over HTTP are not supported)",
                Some(Foreign::Rtmp | Foreign::Rtmpe) => "RTMP, where RTSP is expected",
                _ => "not an RTSP message",
            }));
        }
        let after = self.rest.get(1..).unwrap_or_default();
        let next = memchr::memchr3(b'$', b'R', b'r', after).unwrap_or(after.len());
        if self.skipped == 0 {
            self.runs += 1;
        }
        self.skipped += 1 + next;
        self.advance(1 + next);
        if self.skipped > MAX_SKIPPED {
            return Err(ProtocolError::Malformed("neither a message nor a frame in 256 KiB"));
        }
        Ok(())
    }

    fn frame(&mut self) -> Option<Item> {
        let &[_, channel, high, low] = self.rest.first_chunk()?;
        let length = 4 + usize::from(u16::from_be_bytes([high, low]));
        if self.rest.len() < length {
            return None;
        }
        let mut data = self.rest.split_to(length);
        data.advance(4);
        self.searched = 0;
        if let Some(bits) = self.channels.get_mut(usize::from(channel / 64)) {
            *bits |= 1 << (channel % 64);
        }
        // Prevents a small frame that is kept from keeping the whole buffer alive.
        Some(Item::Frame { channel, data: compact(data, self.buffer) })
    }

    fn message(&mut self) -> Result<Parsed, ProtocolError> {
        let end = find_end(&self.rest, self.searched);
        if end.map_or(self.rest.len(), |(end, _)| end) > MAX_HEAD {
            return if self.skipped > 0 {
                Ok(Parsed::Garbage)
            } else {
                Err(ProtocolError::Malformed("a header that is too long"))
            };
        }
        let Some((end, body)) = end else {
            self.searched = self.rest.len().saturating_sub(3);
            return Ok(Parsed::Incomplete);
        };
        let Some(head) = self.rest.get(..end).and_then(Head::parse) else { return Ok(Parsed::Garbage) };
        let length = head.headers().content_length();
        if length > MAX_BODY {
            return Err(ProtocolError::Malformed("a body that is too long"));
        }
        let Some(content) = self.rest.get(body..body + length) else { return Ok(Parsed::Incomplete) };
        let content = content.to_vec();
        self.advance(body + length);
        self.is_rtsp = true;
        Ok(Parsed::Item(match head {
            Head::Request(request) => Item::Request(Box::new(Request { body: content, ..request })),
            Head::Response(response) => Item::Response(Box::new(Response { body: content, ..response })),
        }))
    }
}

/// Result of an attempt to read a message.
enum Parsed {
    Item(Item),
    Incomplete,
    Garbage,
}

/// Returns where the head ends, and where the body begins: behind an empty line, with or without CR.
fn find_end(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let rest = bytes.get(from..)?;
    memchr::memchr_iter(b'\n', rest).find_map(|at| match rest.get(at + 1..)? {
        [b'\n', ..] => Some((from + at, from + at + 2)),
        [b'\r', b'\n', ..] => Some((from + at, from + at + 3)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(channel: u8, data: &[u8]) -> Vec<u8> {
        let mut frame = vec![b'$', channel];
        frame.extend_from_slice(&(data.len() as u16).to_be_bytes());
        frame.extend_from_slice(data);
        frame
    }

    /// Returns the items of bytes that arrive in pieces of this length, and the number of runs passed over.
    fn read(bytes: &[u8], step: usize) -> (Vec<Item>, u64) {
        let mut reader = Reader::default();
        let mut items = Vec::new();
        for piece in bytes.chunks(step) {
            reader.push(piece);
            while let Some(item) = reader.next().unwrap() {
                items.push(item);
            }
        }
        (items, reader.take_skips())
    }

    const OK: &[u8] = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n";

    #[test]
    fn rtsp_reader_resynchronises_after_stray_bytes() {
        let packet: Vec<u8> = [0x80, 96].into_iter().chain((0..200).map(|n| n as u8)).collect();
        let whole = frame(0, &packet);
        for stray in [&b"x"[..], b"AB", b"\x01\x02$", b"$$$$$$$$", b"RTSPx", b"OPTIONS", &[0xff; 3000]] {
            let bytes = [OK, &whole, stray, &whole, &whole, b"\0\0", OK, &whole].concat();
            for step in [1, 7, 1000, 100_000] {
                let (items, runs) = read(&bytes, step);
                let frames = items.iter().filter(|i| matches!(i, Item::Frame { data, .. } if *data == packet)).count();
                let messages = items.iter().filter(|item| matches!(item, Item::Response(_))).count();
                assert_eq!((messages, frames, runs), (2, 4, 1), "{stray:?} {step}: {items:?}");
            }
        }
    }

    #[test]
    fn rtsp_reader_gives_up_on_endless_garbage() {
        let mut reader = Reader::default();
        reader.push(OK);
        assert!(reader.next().unwrap().is_some());
        let mut given_up = false;
        for _ in 0..1000 {
            reader.push(&[0xff; 1000]);
            given_up |= reader.next().is_err();
        }
        assert!(given_up);
        let mut reader = Reader::default();
        reader.push(b"\x16\x03\x01");
        assert!(reader.next().is_err(), "a peer that never spoke RTSP");
    }

    #[test]
    fn rtsp_reader_takes_messages_with_lf_line_ends() {
        let bytes = b"RTSP/1.0 200 OK\nCSeq: 1\nContent-Length: 3\n\nabcRTSP/1.0 404\nCSeq: 2\n\n";
        for step in [1, 5, 1000] {
            let (items, runs) = read(bytes, step);
            let [Item::Response(first), Item::Response(second)] = &items[..] else { panic!("{items:?}") };
            assert_eq!((first.body.as_slice(), second.status, runs), (&b"abc"[..], 404, 0));
        }
    }
}
