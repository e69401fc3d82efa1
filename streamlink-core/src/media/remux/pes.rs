//! PES packets (ISO/IEC 13818-1 section 2.4.3.6): what comes in them, and when it is decoded and shown.

use crate::media::ts::transport::TransportPacket;

/// A piece of the stream of PES packets of one PID.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A PES packet begins.
    Start(Option<Stamp>),
    /// More data of the PES packet.
    Data(&'a [u8]),
    /// End of a PES packet.
    End,
    /// Packets were lost before the next piece; `within`: perhaps a part of the PES packet in progress.
    Lost { within: bool },
    /// The packet ended without the stuffing that the last one nearly always has: perhaps the stream was cut here.
    Unended,
}

/// The timestamps of a PES packet, in units of 90 kHz, 33 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) pts: u64,
    /// Absent if it is the same.
    pub(super) dts: Option<u64>,
}

impl Stamp {
    /// Returns the time of decoding.
    pub(super) fn decoding(self) -> u64 {
        self.dts.unwrap_or(self.pts)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Head,
    Body,
}

/// Reads the PES packets of one PID. Holds at most one header and the payload of one packet.
#[derive(Debug, Default)]
pub(super) struct PesReader {
    counter: Option<u8>,
    /// Payload of the last packet, which one that was sent twice repeats.
    payload: Vec<u8>,
    head: Vec<u8>,
    phase: Phase,
    /// Number of bytes to come, if the header says it.
    left: Option<usize>,
    /// Lengths in headers do not count: those of video are often unknown, and sometimes wrong.
    is_video: bool,
    /// The last packet ended in stuffing, as the last of a PES packet does.
    stuffed: bool,
}

/// Maximum length of a header: nine bytes, and as many as one byte counts.
const MAX_HEAD: usize = 9 + 255;

impl PesReader {
    /// Reads a video stream.
    pub(super) fn video() -> Self {
        Self { is_video: true, ..Self::default() }
    }

    /// Takes a packet; `take` is called with the pieces in it.
    pub(super) fn packet(&mut self, packet: &TransportPacket<'_>, take: &mut impl FnMut(Piece<'_>)) {
        if packet.payload.is_empty() || packet.scrambled {
            return;
        }
        let last = self.counter.replace(packet.counter);
        // A packet that was sent twice repeats the payload (section 2.4.3.3). Another payload with the same counter is
        // that of another stream, or comes after a loss of a multiple of sixteen packets.
        let is_repeated = last == Some(packet.counter) && self.payload == packet.payload;
        if !is_repeated {
            self.payload.clear();
            self.payload.extend_from_slice(packet.payload);
        }
        if let Some(last) = last
            && !packet.discontinuity
        {
            if is_repeated {
                return;
            }
            if (last + 1) & 0x0f != packet.counter {
                if self.phase == Phase::Head {
                    self.phase = Phase::Idle;
                }
                self.left = None;
                take(Piece::Lost { within: !(packet.starts && self.stuffed) });
            }
        }
        let was_stuffed = std::mem::replace(&mut self.stuffed, packet.stuffed);
        if packet.starts {
            if self.is_video && self.phase == Phase::Body && !was_stuffed {
                take(Piece::Unended);
            }
            self.end(take);
            self.head.clear();
            self.phase = Phase::Head;
        }
        match self.phase {
            Phase::Idle => {}
            Phase::Head if self.head.is_empty() => self.begin(packet.payload, take),
            Phase::Head => {
                let mut head = std::mem::take(&mut self.head);
                head.extend_from_slice(packet.payload);
                self.begin(&head, take);
            }
            Phase::Body => self.data(packet.payload, take),
        }
    }

    /// Returns whether the last PES packet seems to be whole.
    pub(super) fn seems_whole(&self) -> bool {
        self.stuffed || self.phase != Phase::Body
    }

    /// Ends the PES packet in progress.
    fn end(&mut self, take: &mut impl FnMut(Piece<'_>)) {
        if self.phase == Phase::Body {
            take(Piece::End);
        }
        self.phase = Phase::Idle;
    }

    fn begin(&mut self, bytes: &[u8], take: &mut impl FnMut(Piece<'_>)) {
        match header(bytes) {
            Header::Short if bytes.len() <= MAX_HEAD => self.head = bytes.to_vec(),
            Header::Short | Header::Other => self.phase = Phase::Idle,
            Header::Whole { stamp, length, left } => {
                self.phase = Phase::Body;
                self.left = left.filter(|_| !self.is_video);
                take(Piece::Start(stamp));
                self.data(bytes.get(length..).unwrap_or_default(), take);
            }
        }
    }

    fn data(&mut self, data: &[u8], take: &mut impl FnMut(Piece<'_>)) {
        let Some(left) = &mut self.left else { return take(Piece::Data(data)) };
        let now = data.get(..*left).unwrap_or(data);
        *left -= now.len();
        let whole = *left == 0;
        take(Piece::Data(now));
        if whole {
            self.end(take);
        }
    }
}

enum Header {
    /// More bytes are needed.
    Short,
    /// No PES packet with the data of a stream.
    Other,
    Whole {
        stamp: Option<Stamp>,
        length: usize,
        /// Number of bytes behind it, if it says so.
        left: Option<usize>,
    },
}

fn header(bytes: &[u8]) -> Header {
    if bytes.iter().zip([0, 0, 1]).any(|(byte, wanted)| *byte != wanted) {
        return Header::Other;
    }
    let Some(&[_, _, _, stream, high, low, mark, flags, more]) = bytes.first_chunk() else { return Header::Short };
    if matches!(stream, 0..=0xbc | 0xbe | 0xbf | 0xf0..=0xf2 | 0xf8 | 0xff) || mark & 0xc0 != 0x80 {
        return Header::Other;
    }
    let length = 9 + usize::from(more);
    let Some(fields) = bytes.get(9..length) else { return Header::Short };
    let announced = usize::from(u16::from_be_bytes([high, low]));
    let left = (announced > 0).then(|| (announced + 6).saturating_sub(length));
    let stamp = match flags >> 6 {
        2 => timestamp(fields).map(|pts| Stamp { pts, dts: None }),
        3 => timestamp(fields).map(|pts| Stamp { pts, dts: fields.get(5..).and_then(timestamp) }),
        _ => None,
    };
    Header::Whole { stamp, length, left }
}

fn timestamp(bytes: &[u8]) -> Option<u64> {
    let &[a, b, c, d, e] = bytes.first_chunk()?;
    if a & c & e & 1 == 0 {
        return None; // damaged
    }
    let [a, b, c, d, e] = [a, b, c, d, e].map(u64::from);
    Some((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(reader: &mut PesReader, packets: &[(bool, u8, &[u8])]) -> Vec<String> {
        let mut out = Vec::new();
        for (starts, counter, payload) in packets {
            let packet = TransportPacket { starts: *starts, counter: *counter, payload, ..TransportPacket::default() };
            reader.packet(&packet, &mut |piece| out.push(format!("{piece:?}")));
        }
        out
    }

    #[test]
    fn pes_of_known_and_unknown_length_is_read() {
        let mut reader = PesReader::default();
        let bounded: &[u8] = &[0, 0, 1, 0xc0, 0, 10, 0x80, 0x80, 5, 0x21, 0, 1, 0, 1, 7, 8, 9, 9];
        let stamp = "Start(Some(Stamp { pts: 0, dts: None }))";
        assert_eq!(pieces(&mut reader, &[(true, 0, bounded)]), [stamp, "Data([7, 8])", "End"]);
        let unbounded: &[u8] = &[0, 0, 1, 0xe0, 0, 0, 0x80, 0, 0, 1, 2];
        let got = pieces(&mut reader, &[(true, 1, unbounded), (false, 2, &[3]), (false, 2, &[3]), (false, 4, &[4])]);
        assert_eq!(got, ["Start(None)", "Data([1, 2])", "Data([3])", "Lost { within: true }", "Data([4])"]);
    }

    #[test]
    fn pes_of_another_stream_is_read_though_its_counter_is_that_of_the_last() {
        let start: &[u8] = &[0, 0, 1, 0xe0, 0, 0, 0x80, 0, 0, 1, 2];
        let other: &[u8] = &[0, 0, 1, 0xe0, 0, 0, 0x80, 0, 0, 5, 6];
        let mut reader = PesReader::video();
        let got = pieces(&mut reader, &[(true, 0, start), (false, 1, &[3]), (true, 1, other), (false, 2, &[7])]);
        let lost = "Lost { within: true }";
        let unended = "Unended";
        let first = ["Start(None)", "Data([1, 2])", "Data([3])"];
        let second = ["End", "Start(None)", "Data([5, 6])", "Data([7])"];
        assert_eq!(got, [&first[..], &[lost, unended], &second[..]].concat());

        let mut reader = PesReader::video();
        let got = pieces(&mut reader, &[(true, 0, start), (false, 1, &[3]), (false, 1, &[4])]);
        assert_eq!(got, [&first[..], &[lost, "Data([4])"]].concat(), "sixteen packets were lost");
    }

    #[test]
    fn pes_of_video_with_a_wrong_length_is_read_to_its_end() {
        let mut reader = PesReader::video();
        let short: &[u8] = &[0, 0, 1, 0xe0, 0, 5, 0x80, 0, 0, 1, 2, 3, 4];
        assert_eq!(pieces(&mut reader, &[(true, 0, short)]), ["Start(None)", "Data([1, 2, 3, 4])"]);
    }

    #[test]
    fn pes_header_split_over_packets_is_read() {
        let mut reader = PesReader::default();
        let whole: &[u8] = &[0, 0, 1, 0xe0, 0, 0, 0x80, 0xc0, 10, 0x31, 0, 1, 0, 5, 0x11, 0, 1, 0, 3, 1, 2];
        for cut in 1..whole.len() {
            let (a, b) = whole.split_at(cut);
            let got = pieces(&mut reader, &[(true, 0, a), (false, 1, b)]);
            let got: Vec<_> = got.into_iter().filter(|piece| piece != "End" && piece != "Data([])").collect();
            assert_eq!(got[0], "Start(Some(Stamp { pts: 2, dts: Some(1) }))", "{cut}");
            reader = PesReader::default();
        }
    }
}
