//! Reading of messages: requests and responses (with rtsp-types), and interleaved frames (RFC 2326 section 10.12).

use super::ProtocolError;
use crate::media::compact;
use bytes::{Buf, Bytes, BytesMut};
use rtsp_types::{Message, ParseError};
use std::fmt;

/// Maximum length of the header of a message, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Maximum length of the body of a message (SDP), in bytes.
const MAX_BODY: usize = 64 << 10;

pub(crate) type Request = rtsp_types::Request<Vec<u8>>;
pub(crate) type Response = rtsp_types::Response<Vec<u8>>;

#[derive(Clone, PartialEq)]
pub(crate) enum Item {
    Request(Box<Request>),
    Response(Box<Response>),
    Frame { channel: u8, data: Bytes },
}

// Headers are left out because they may contain a password.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Request(request) => write!(f, "Request({:?})", request.method()),
            Item::Response(response) => write!(f, "Response({})", u16::from(response.status())),
            Item::Frame { channel, data } => write!(f, "Frame({channel}, {} bytes)", data.len()),
        }
    }
}

/// Splits bytes into messages and frames. Holds at most one incomplete message or frame, within the limits above.
#[derive(Default)]
pub(crate) struct Reader {
    rest: Bytes,
    /// Size of the buffer that contains `rest`.
    buffer: usize,
}

impl Reader {
    /// Adds received bytes. The bytes are copied once. Frames share this copy, unless they are small compared with it.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.rest.is_empty() {
            self.rest = Bytes::copy_from_slice(bytes);
        } else {
            let mut whole = BytesMut::with_capacity(self.rest.len() + bytes.len());
            whole.extend_from_slice(&self.rest);
            whole.extend_from_slice(bytes);
            self.rest = whole.freeze();
        }
        self.buffer = self.rest.len();
    }

    /// Returns the next message or frame, if it is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, ProtocolError> {
        // Some peers send empty lines between messages.
        while matches!(self.rest.first(), Some(b'\r' | b'\n')) {
            self.rest.advance(1);
        }
        match self.rest.first() {
            None => Ok(None),
            Some(b'$') => Ok(self.frame()),
            Some(_) => self.message(),
        }
    }

    fn frame(&mut self) -> Option<Item> {
        let &[_, channel, high, low] = self.rest.first_chunk()?;
        let length = 4 + usize::from(u16::from_be_bytes([high, low]));
        if self.rest.len() < length {
            return None;
        }
        let mut data = self.rest.split_to(length);
        data.advance(4);
        // Prevents a small frame that is kept from keeping the whole buffer alive.
        Some(Item::Frame { channel, data: compact(data, self.buffer) })
    }

    fn message(&mut self) -> Result<Option<Item>, ProtocolError> {
        let head = memchr::memmem::find(&self.rest, b"\r\n\r\n");
        if head.unwrap_or(self.rest.len()) > MAX_HEAD {
            return Err(ProtocolError::Malformed("a header that is too long"));
        }
        if head.is_none() {
            return Ok(None);
        }
        match Message::<Vec<u8>>::parse(&self.rest) {
            Ok((message, consumed)) => {
                self.rest.advance(consumed.min(self.rest.len()));
                Ok(Some(match message {
                    Message::Request(request) => Item::Request(Box::new(request)),
                    Message::Response(response) => Item::Response(Box::new(response)),
                    Message::Data(data) => Item::Frame { channel: data.channel_id(), data: data.into_body().into() },
                }))
            }
            Err(ParseError::Incomplete(_)) if self.rest.len() <= MAX_HEAD + MAX_BODY => Ok(None),
            Err(ParseError::Incomplete(_)) => Err(ProtocolError::Malformed("a body that is too long")),
            Err(ParseError::Error) => Err(ProtocolError::Malformed("not an RTSP message")),
        }
    }
}
