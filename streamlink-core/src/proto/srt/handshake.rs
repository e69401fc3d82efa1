//! Handshake packets of version 5 (draft-sharabayko-srt-01, sections 3.2.1 and 4.3): fields and extensions.

use super::sequence::Sequence;
use crate::packet_filter::PacketFilter;

/// Length of the fields before the extensions, in bytes.
const FIXED: usize = 48;
/// Mark in the extension field that tells a listener of version 5 from an older one.
pub(crate) const MAGIC: u16 = 0x4a17;
/// Maximum number of extensions that are read from one handshake.
const MAX_EXTENSIONS: usize = 8;
/// Maximum length of a stream id, in bytes (`SRTO_STREAMID`).
pub(crate) const MAX_STREAM_ID: usize = 512;

/// Version that we announce: 1.5.5. libsrt encrypts in the way of 1.5.3 for peers up to that version.
pub(crate) const SRT_VERSION: u32 = 0x01_05_05;

/// Flags of HSREQ and HSRSP (section 3.2.1.1.1): sends and receives with TSBPD, can encrypt, drops late packets, sends
/// periodic loss reports, marks retransmissions, knows packet filters.
pub(crate) const FLAGS: u32 = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20 | 0x80;
/// Flag of a peer in stream mode, which cannot carry live transmission.
pub(crate) const FLAG_STREAM: u32 = 0x40;
/// Flag of a peer that drops late packets.
pub(crate) const FLAG_DROP: u32 = 0x08;

/// Type of a handshake packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeType {
    Induction,
    Conclusion,
    /// Rejection by the peer with this code: below 1000 one of libsrt's, above that one of the application's.
    Rejection(u32),
    /// First packet of each end of a rendezvous.
    WaveAHand,
    /// Last packet of a rendezvous.
    Agreement,
    /// Other types, which are not supported.
    Other(u32),
}

const WAVE_A_HAND: u32 = 0;
const INDUCTION: u32 = 1;
const AGREEMENT: u32 = 0xffff_fffe;
const CONCLUSION: u32 = 0xffff_ffff;
/// First type number of rejections. They end before the negative numbers.
const REJECTIONS: u32 = 1000;

/// Handshake packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) version: u32,
    /// Key length in units of 8 bytes; 0 for no encryption.
    pub(crate) encryption: u16,
    pub(crate) extension_field: u16,
    pub(crate) initial_sequence: Sequence,
    pub(crate) mtu: u32,
    pub(crate) window: u32,
    pub(crate) kind: HandshakeType,
    pub(crate) socket_id: u32,
    pub(crate) cookie: u32,
    pub(crate) extensions: Extensions,
}

/// Extensions that we understand. Others are skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// Set for HSRSP and KMRSP, which answer HSREQ and KMREQ.
    pub(crate) response: bool,
    /// HSREQ or HSRSP.
    pub(crate) srt: Option<SrtExtension>,
    /// KMREQ or KMRSP: key material, or a status word.
    pub(crate) key_material: Option<Vec<u8>>,
    pub(crate) stream_id: Option<String>,
    /// Name of the congestion controller, if it is not `live`.
    pub(crate) congestion: Option<String>,
    /// Group of connections (bonding) of which this one is a member.
    pub(crate) group: Option<GroupExtension>,
    /// Configuration of a packet filter.
    pub(crate) filter: Option<String>,
    /// Part that cannot be read.
    pub(crate) fault: Option<ExtensionFault>,
}

/// Extension that makes a connection a member of a group (`SRT_CMD_GROUP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupExtension {
    /// Identifier of the sender's group. It has [`GROUP_MARK`] set.
    pub(crate) id: u32,
    /// Type of the group: [`BROADCAST`], [`BACKUP`] or an unknown one.
    pub(crate) kind: u8,
    pub(crate) weight: u16,
}

/// Bit that identifiers of groups have, and those of sockets have not.
pub(crate) const GROUP_MARK: u32 = 1 << 30;
/// Group in which every packet is sent over all connections.
pub(crate) const BROADCAST: u8 = 1;
/// Group in which packets are sent over one connection, and over another one when that fails.
pub(crate) const BACKUP: u8 = 2;

/// Part of the extensions that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtensionFault {
    /// The extensions are cut short, or one of them is too long.
    Malformed,
    /// The stream id is no UTF-8 text, or too long.
    StreamId,
    /// The configuration of a packet filter is no UTF-8 text, too long, or there are two.
    Filter,
}

/// SRT handshake extension (section 3.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SrtExtension {
    pub(crate) version: u32,
    pub(crate) flags: u32,
    /// Latency in milliseconds that its sender wants for received media.
    pub(crate) receive_delay: u16,
    /// Latency in milliseconds that its sender wants the peer to use.
    pub(crate) send_delay: u16,
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

impl Handshake {
    /// Parses the contents of a handshake packet.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let version = be32(body, 0)?;
        let number = be32(body, 20)?;
        let kind = match number {
            INDUCTION => HandshakeType::Induction,
            CONCLUSION => HandshakeType::Conclusion,
            WAVE_A_HAND => HandshakeType::WaveAHand,
            AGREEMENT => HandshakeType::Agreement,
            // The other types are negative as signed numbers.
            n if (REJECTIONS..0x8000_0000).contains(&n) => HandshakeType::Rejection(n - REJECTIONS),
            n => HandshakeType::Other(n),
        };
        let rest = body.get(FIXED..)?;
        let extended = version == 5 && kind == HandshakeType::Conclusion;
        let extensions = if extended { Extensions::parse(rest) } else { Extensions::default() };
        Some(Self {
            version,
            encryption: be16(body, 4)?,
            extension_field: be16(body, 6)?,
            initial_sequence: Sequence::new(be32(body, 8)?),
            mtu: be32(body, 12)?,
            window: be32(body, 16)?,
            kind,
            socket_id: be32(body, 24)?,
            cookie: be32(body, 28)?,
            extensions,
        })
    }

    /// Returns whether this is a request of a caller, the only packet that a listener answers. A request is an
    /// induction or a conclusion with a socket id to answer to. Answers of a listener and rejections are none: a
    /// listener that answered them could be made to exchange packets with another one, or with itself, without end.
    pub(crate) fn is_request(&self) -> bool {
        let is_answer = match self.kind {
            // A caller has no cookie yet, and a listener's answer has the mark.
            HandshakeType::Induction => self.cookie != 0 || (self.version == 5 && self.extension_field == MAGIC),
            HandshakeType::Conclusion => self.extensions.response,
            // A listener takes no part in a rendezvous.
            HandshakeType::WaveAHand | HandshakeType::Agreement => true,
            HandshakeType::Rejection(_) | HandshakeType::Other(_) => true,
        };
        self.socket_id != 0 && !is_answer
    }

    /// Serializes the contents of a handshake packet.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED + 64);
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.encryption.to_be_bytes());
        let mut extensions = Vec::new();
        let flags = self.extensions.write(&mut extensions);
        let field = if self.kind == HandshakeType::Conclusion { flags } else { self.extension_field };
        bytes.extend(field.to_be_bytes());
        bytes.extend(self.initial_sequence.number().to_be_bytes());
        bytes.extend(self.mtu.to_be_bytes());
        bytes.extend(self.window.to_be_bytes());
        let kind = match self.kind {
            HandshakeType::Induction => INDUCTION,
            HandshakeType::Conclusion => CONCLUSION,
            HandshakeType::WaveAHand => WAVE_A_HAND,
            HandshakeType::Agreement => AGREEMENT,
            HandshakeType::Rejection(code) => code.saturating_add(REJECTIONS),
            HandshakeType::Other(number) => number,
        };
        bytes.extend(kind.to_be_bytes());
        bytes.extend(self.socket_id.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend([0; 16]); // the peer's address, which is not used
        bytes.extend(extensions);
        bytes
    }
}

impl Extensions {
    /// Reads the extensions. A fault is recorded, so that the peer can be told.
    fn parse(mut rest: &[u8]) -> Self {
        let mut found = Self::default();
        for _ in 0..MAX_EXTENSIONS {
            if rest.is_empty() {
                break;
            }
            let next = found.read_next(rest);
            let Some(next) = next else {
                found.fault.get_or_insert(ExtensionFault::Malformed);
                break;
            };
            rest = next;
        }
        found
    }

    /// Reads one extension, and returns the bytes behind it.
    fn read_next<'a>(&mut self, rest: &'a [u8]) -> Option<&'a [u8]> {
        let kind = be16(rest, 0)?;
        let words = usize::from(be16(rest, 2)?);
        let end = 4 + 4 * words;
        let content = rest.get(4..end)?;
        self.response |= matches!(kind, 2 | 4);
        match kind {
            1 | 2 => {
                self.srt = Some(SrtExtension {
                    version: be32(content, 0)?,
                    flags: be32(content, 4)?,
                    receive_delay: be16(content, 8)?,
                    send_delay: be16(content, 10)?,
                });
            }
            3 | 4 => self.key_material = Some(content.to_vec()),
            5 => {
                self.stream_id = read_text(content, MAX_STREAM_ID);
                if self.stream_id.is_none() {
                    self.fault.get_or_insert(ExtensionFault::StreamId);
                }
            }
            6 => self.congestion = Some(read_text(content, 64)?),
            7 => {
                let text = read_text(content, PacketFilter::MAX_TEXT).filter(|_| self.filter.is_none());
                if text.is_none() {
                    self.fault.get_or_insert(ExtensionFault::Filter);
                }
                self.filter = text.or(self.filter.take());
            }
            8 => {
                let id = be32(content, 0)?;
                let data = be32(content, 4)?;
                let kind = (data >> 24) as u8; // the highest byte
                let weight = data as u16; // the lower half
                self.group = Some(GroupExtension { id, kind, weight }).filter(|group| group.id & GROUP_MARK != 0);
                self.group?;
            }
            _ => {}
        }
        rest.get(end..)
    }

    /// Appends the extensions. Returns the flags that announce them.
    fn write(&self, bytes: &mut Vec<u8>) -> u16 {
        let mut flags = 0;
        let mut put = |kind: u16, content: &[u8]| {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(((content.len() / 4) as u16).to_be_bytes()); // contents have at most 512 bytes
            bytes.extend(content);
        };
        let offset = u16::from(self.response);
        if let Some(srt) = &self.srt {
            let mut content = srt.version.to_be_bytes().to_vec();
            content.extend(srt.flags.to_be_bytes());
            content.extend(srt.receive_delay.to_be_bytes());
            content.extend(srt.send_delay.to_be_bytes());
            put(1 + offset, &content);
            flags |= 1;
        }
        if let Some(material) = &self.key_material {
            put(3 + offset, material);
            flags |= 2;
        }
        if let Some(id) = &self.stream_id {
            put(5, &write_text(id));
            flags |= 4;
        }
        if let Some(filter) = &self.filter {
            put(7, &write_text(filter));
            flags |= 4;
        }
        if let Some(group) = &self.group {
            let data = u32::from(group.kind) << 24 | u32::from(group.weight);
            put(8, &[group.id.to_be_bytes(), data.to_be_bytes()].concat());
            flags |= 4;
        }
        flags
    }
}

/// Reads a text, which is sent in words of four bytes, each with its bytes reversed (section 3.2.1.3).
fn read_text(content: &[u8], most: usize) -> Option<String> {
    let mut bytes: Vec<u8> = content.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    bytes.truncate(end);
    if bytes.len() > most {
        return None;
    }
    String::from_utf8(bytes).ok()
}

fn write_text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.chunks(4).flat_map(|word| word.iter().rev().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn srt_handshake_round_trips_with_all_extensions() {
        let mut handshake = Handshake {
            version: 5,
            encryption: 2,
            extension_field: 7,
            initial_sequence: Sequence::new(77),
            mtu: 1500,
            window: 8192,
            kind: HandshakeType::Conclusion,
            socket_id: 5,
            cookie: 6,
            extensions: Extensions {
                srt: Some(SrtExtension { version: SRT_VERSION, flags: FLAGS, receive_delay: 120, send_delay: 200 }),
                key_material: Some(vec![0x12, 0x20, 0x29, 1]),
                stream_id: Some("#!::r=cam1,m=publish".into()),
                filter: Some("fec,cols:10,rows:5".into()),
                group: Some(GroupExtension { id: GROUP_MARK | 77, kind: BROADCAST, weight: 500 }),
                ..Extensions::default()
            },
        };
        assert_eq!(Handshake::parse(&handshake.write()), Some(handshake.clone()));
        assert!(handshake.is_request());
        handshake.extensions.response = true;
        assert_eq!(Handshake::parse(&handshake.write()), Some(handshake.clone()));
        assert!(!handshake.is_request());
        assert_eq!(write_text("abcde"), *b"dcba\0\0\0e");
        assert_eq!(read_text(b"dcba\0\0\0e", 512).as_deref(), Some("abcde"));
    }

    #[test]
    fn srt_handshake_records_extensions_that_cannot_be_read() {
        let mut bytes = vec![0; FIXED];
        bytes[..4].copy_from_slice(&5u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&CONCLUSION.to_be_bytes());
        for (extension, fault) in [
            (&[0, 5, 0, 1, 0xff, 0xfe, 0, 0][..], Some(ExtensionFault::StreamId)),
            (&[0, 5, 0, 2, b'a', 0, 0, 0][..], Some(ExtensionFault::Malformed)),
            (&[0, 1, 0, 1, 0, 1, 5, 0][..], Some(ExtensionFault::Malformed)),
            (&[0, 5][..], Some(ExtensionFault::Malformed)),
            (&[0, 5, 0, 1, 0, 0, 0, b'a'][..], None),
            (&[0, 7, 0, 1, 0xff, 0xfe, 0, 0][..], Some(ExtensionFault::Filter)),
            (&[[0, 7, 0, 17].as_slice(), &[b'x'; 68]].concat(), Some(ExtensionFault::Filter)),
            (&[0, 7, 0, 1, 0, b'c', b'e', b'f', 0, 7, 0, 1, 0, b'c', b'e', b'f'][..], Some(ExtensionFault::Filter)),
            (&[0, 7, 0, 1, 0, b'c', b'e', b'f'][..], None),
            (&[0, 8, 0, 1, 0x40, 0, 0, 1][..], Some(ExtensionFault::Malformed)),
            (&[0, 8, 0, 2, 0, 0, 0, 1, 1, 0, 0, 0][..], Some(ExtensionFault::Malformed)),
            (&[0, 8, 0, 2, 0x40, 0, 0, 1, 1, 0, 0, 0][..], None),
        ] {
            let found = Handshake::parse(&[&bytes, extension].concat()).unwrap();
            assert_eq!(found.extensions.fault, fault, "{extension:?}");
        }
    }

    proptest! {
        #[test]
        fn srt_handshake_parser_accepts_any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 48..300)) {
            bytes[..4].copy_from_slice(&5u32.to_be_bytes());
            bytes[20..24].copy_from_slice(&CONCLUSION.to_be_bytes());
            for length in [0u8, 1, 3, 60] {
                if let Some(extension) = bytes.get_mut(48..52) {
                    extension.copy_from_slice(&[0, length % 9, 0, length]);
                }
                let _ = Handshake::parse(&bytes);
            }
        }
    }
}
