//! Other protocols that reach a port or a caller by mistake, told by the first byte of a connection. A message that names
//! them says more than one about malformed bytes.

/// Protocol that is not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// A TLS handshake or alert (RFC 8446 section 5.1).
    Tls,
    /// A request or a response of HTTP.
    Http,
    Rtmp,
    /// RTMP with an encrypted handshake: versions 6, 8 and 9.
    Rtmpe,
    Rtsp,
}

impl Foreign {
    /// Returns the protocol of bytes that begin a connection, as far as they tell it. One byte is enough for most.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let starts = |words: &[&str]| {
            words.iter().any(|word| {
                let length = word.len().min(bytes.len());
                bytes.get(..length) == word.as_bytes().get(..length)
            })
        };
        match bytes.first()? {
            0x15 | 0x16 => Some(Self::Tls),
            3 => Some(Self::Rtmp),
            6 | 8 | 9 => Some(Self::Rtmpe),
            _ if starts(&["GET ", "POST ", "HEAD ", "PUT ", "CONNECT ", "HTTP/"]) => Some(Self::Http),
            _ if starts(&["OPTIONS ", "DESCRIBE ", "ANNOUNCE ", "SETUP ", "RTSP/"]) => Some(Self::Rtsp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_told_by_their_first_bytes() {
        for (bytes, protocol) in [
            (&b"\x16\x03\x01\x02\x00"[..], Some(Foreign::Tls)),
            (b"\x15\x03\x03\x00\x02", Some(Foreign::Tls)),
            (b"GET /cam HTTP/1.0\r\n", Some(Foreign::Http)),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(Foreign::Http)),
            (b"P", Some(Foreign::Http)),
            (b"\x03\0\0\0\0", Some(Foreign::Rtmp)),
            (b"\x06", Some(Foreign::Rtmpe)),
            (b"OPTIONS rtsp://h/cam RTSP/1.0\r\n", Some(Foreign::Rtsp)),
            (b"\xff\xfe", None),
            (b"GETTING", None),
            (b"", None),
        ] {
            assert_eq!(Foreign::of(bytes), protocol, "{bytes:?}");
        }
    }
}
