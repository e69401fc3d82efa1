//! RTCP packets of RIST (TR-06-1 section 5): requests for retransmission, and echoes.

use crate::proto::rtp::rtcp_packets;

const SENDER_REPORT: u8 = 200;
const SOURCE_DESCRIPTION: u8 = 202;
const APPLICATION: u8 = 204;
const FEEDBACK: u8 = 205;
/// Format of the generic NACK among feedback packets (RFC 4585 section 6.2.1).
const GENERIC_NACK: u8 = 1;
const NAME: &[u8; 4] = b"RIST";
/// Subtypes of RIST's application packets.
const RANGES: u8 = 0;
const ECHO_REQUEST: u8 = 2;
const ECHO_RESPONSE: u8 = 3;
/// Maximum number of requests in one packet, which keeps it below 1200 bytes.
const MAX_REQUESTS: usize = 256;
/// Our CNAME (RFC 3550 section 6.5.1).
const CNAME: &[u8] = b"streamlink";

/// A packet of RTCP that concerns RIST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Requests for single packets and the 16 behind each: four bytes each.
    Bitmask(&'a [u8]),
    /// Requests for runs of packets: four bytes each.
    Ranges(&'a [u8]),
    EchoRequest {
        time: [u8; 8],
    },
    /// `delay`: time that the peer has taken to answer, in microseconds.
    EchoResponse {
        time: [u8; 8],
        delay: u32,
    },
}

/// Returns the messages of a compound packet; others are skipped.
pub(super) fn messages(compound: &[u8]) -> impl Iterator<Item = Message<'_>> {
    rtcp_packets(compound).filter_map(|(kind, subtype, body)| {
        let (_, rest) = body.split_first_chunk::<4>()?;
        match (kind, subtype) {
            (FEEDBACK, GENERIC_NACK) => Some(Message::Bitmask(rest.get(4..)?)),
            (APPLICATION, _) => {
                let data = rest.strip_prefix(NAME)?;
                match subtype {
                    RANGES => Some(Message::Ranges(data)),
                    ECHO_REQUEST => Some(Message::EchoRequest { time: *data.first_chunk()? }),
                    ECHO_RESPONSE => {
                        let (time, rest) = data.split_first_chunk()?;
                        Some(Message::EchoResponse { time: *time, delay: u32::from_be_bytes(*rest.first_chunk()?) })
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    })
}

/// Returns the sequence numbers that a message asks for, at most `most`.
pub(super) fn requested(message: Message<'_>, most: usize) -> Vec<u16> {
    let mut numbers = Vec::new();
    let (pairs, is_mask) = match message {
        Message::Bitmask(pairs) => (pairs, true),
        Message::Ranges(pairs) => (pairs, false),
        _ => return numbers,
    };
    for pair in pairs.chunks_exact(4).take(MAX_REQUESTS) {
        let &[a, b, c, d] = pair else { continue };
        let first = u16::from_be_bytes([a, b]);
        let more = u16::from_be_bytes([c, d]);
        numbers.push(first);
        if is_mask {
            let set = (0..16u16).filter(|bit| more >> bit & 1 == 1);
            numbers.extend(set.map(|bit| first.wrapping_add(bit + 1)));
        } else {
            let count = usize::from(more).min(most.saturating_sub(numbers.len()));
            numbers.extend((1..=count as u16).map(|step| first.wrapping_add(step))); // at most 65 535
        }
        if numbers.len() >= most {
            break;
        }
    }
    numbers.truncate(most);
    numbers
}

fn packet(kind: u8, subtype: u8, body: &[&[u8]]) -> Vec<u8> {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(4 + length);
    out.extend([0x80 | subtype, kind]);
    out.extend(((length / 4) as u16).to_be_bytes()); // in words, without the header; short
    for part in body {
        out.extend(*part);
    }
    out
}

/// Writes requests for packets of a stream, whose numbers are in order: as runs or as bitmasks, whichever is shorter.
pub(super) fn request(own: u32, ssrc: u32, missing: &[u16]) -> Vec<u8> {
    let runs = pairs(missing, |first, next, more| {
        let longer = more.checked_add(1)?;
        (next == first.wrapping_add(longer)).then_some(longer)
    });
    let masks = pairs(missing, |first, next, mask| {
        let behind = next.wrapping_sub(first);
        (1..=16).contains(&behind).then(|| mask | 1 << (behind - 1))
    });
    if runs.len() < masks.len() {
        return packet(APPLICATION, RANGES, &[&ssrc.to_be_bytes(), NAME, &runs.concat()]);
    }
    packet(FEEDBACK, GENERIC_NACK, &[&own.to_be_bytes(), &ssrc.to_be_bytes(), &masks.concat()])
}

/// Gathers numbers in pairs of the first and a description of the others. `joined` returns the description with another
/// number, if it can hold it.
fn pairs(missing: &[u16], joined: impl Fn(u16, u16, u16) -> Option<u16>) -> Vec<[u8; 4]> {
    let mut pairs: Vec<(u16, u16)> = Vec::new();
    for number in missing {
        let is_full = pairs.len() >= MAX_REQUESTS;
        if let Some((first, more)) = pairs.last_mut()
            && let Some(longer) = joined(*first, *number, *more)
        {
            *more = longer;
        } else if is_full {
            break;
        } else {
            pairs.push((*number, 0));
        }
    }
    let bytes = pairs.iter().map(|(first, more)| {
        let ([a, b], [c, d]) = (first.to_be_bytes(), more.to_be_bytes());
        [a, b, c, d]
    });
    bytes.collect()
}

/// Writes an echo request.
pub(super) fn echo_request(ssrc: u32, time: u64) -> Vec<u8> {
    packet(APPLICATION, ECHO_REQUEST, &[&ssrc.to_be_bytes(), NAME, &time.to_be_bytes(), &[0; 4]])
}

/// Writes the answer to an echo request, which is given at once.
pub(super) fn echo_response(ssrc: u32, time: [u8; 8]) -> Vec<u8> {
    packet(APPLICATION, ECHO_RESPONSE, &[&ssrc.to_be_bytes(), NAME, &time, &[0; 4]])
}

/// Writes a sender report with our CNAME (RFC 3550 sections 6.4.1 and 6.5).
pub(super) fn sender_report(ssrc: u32, ntp: u64, timestamp: u32, packets: u32, bytes: u32) -> Vec<u8> {
    let numbers = [timestamp, packets, bytes].map(u32::to_be_bytes).concat();
    let mut out = packet(SENDER_REPORT, 0, &[&ssrc.to_be_bytes(), &ntp.to_be_bytes(), &numbers]);
    // The item of type 1, and its end, in whole words.
    let mut item = vec![1, CNAME.len() as u8];
    item.extend(CNAME);
    item.resize((item.len() + 1).next_multiple_of(4), 0);
    out.extend(packet(SOURCE_DESCRIPTION, 1, &[&ssrc.to_be_bytes(), &item]));
    out
}
