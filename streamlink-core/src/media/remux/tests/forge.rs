//! Transport streams made of others: moved PIDs, stepped clocks, PES packets that are not aligned with pictures.

use crate::media::ts::sections::tests::{packetize, section};

/// A program: its number, the PID of its map, and its streams by type and PID.
pub(super) type TestProgram<'a> = (u16, u16, &'a [(u8, u16)]);

pub(super) const PACKET: usize = 188;
pub(super) const VIDEO_PID: u16 = 0x100;
pub(super) const AUDIO_PID: u16 = 0x101;

pub(super) fn pid(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1] & 0x1f, packet[2]])
}

pub(super) fn starts(packet: &[u8]) -> bool {
    packet[1] & 0x40 != 0
}

fn payload(packet: &[u8]) -> usize {
    if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 }
}

fn add(old: u64, ticks: i64) -> u64 {
    (old as i64 + ticks).rem_euclid(1 << 33) as u64
}

/// Moves all timestamps and clock references of a part of a stream.
pub(super) fn shift(stream: &mut [u8], ticks: i64) {
    for packet in stream.chunks_exact_mut(PACKET) {
        if packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & 0x10 != 0 {
            let b = &mut packet[6..11];
            let old = u64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]])) << 1 | u64::from(b[4] >> 7);
            let new = add(old, ticks);
            b[..4].copy_from_slice(&((new >> 1) as u32).to_be_bytes());
            b[4] = b[4] & 0x7f | ((new & 1) as u8) << 7;
        }
        let start = payload(packet);
        if !starts(packet) || packet.get(start..start + 3) != Some(&[0, 0, 1]) {
            continue;
        }
        let flags = packet[start + 7] >> 6;
        for (present, at) in [(flags & 2 != 0, start + 9), (flags == 3, start + 14)] {
            if present {
                let b = &mut packet[at..at + 5];
                let old = u64::from(b[0] >> 1 & 7) << 30
                    | u64::from(b[1]) << 22
                    | u64::from(b[2] >> 1) << 15
                    | u64::from(b[3]) << 7
                    | u64::from(b[4] >> 1);
                put(b, add(old, ticks));
            }
        }
    }
}

fn put(b: &mut [u8], time: u64) {
    b[0] = b[0] & 0xf1 | ((time >> 30) as u8 & 7) << 1;
    b[1] = (time >> 22) as u8;
    b[2] = ((time >> 15) as u8) << 1 | 1;
    b[3] = (time >> 7) as u8;
    b[4] = (time as u8) << 1 | 1;
}

/// Takes the timestamps from all pictures but every n-th one, and halves the times of those.
pub(super) fn thin_stamps(stream: &mut [u8], every: usize) {
    let mut first = None;
    let pictures = stream.chunks_exact_mut(PACKET).filter(|p| pid(p) == VIDEO_PID && starts(p));
    for (number, packet) in pictures.enumerate() {
        let start = payload(packet);
        let length = usize::from(packet[start + 8]);
        let flags = packet[start + 7] >> 6;
        if !number.is_multiple_of(every) {
            packet[start + 7] &= 0x3f;
            packet[start + 9..start + 9 + length].fill(0xff);
        }
        for at in
            [start + 9, start + 14].into_iter().take(usize::from(flags - 1)).filter(|_| number.is_multiple_of(every))
        {
            let b = &mut packet[at..at + 5];
            let old = u64::from(b[0] >> 1 & 7) << 30
                | u64::from(b[1]) << 22
                | u64::from(b[2] >> 1) << 15
                | u64::from(b[3]) << 7
                | u64::from(b[4] >> 1);
            let first = *first.get_or_insert(old);
            put(b, add(first, (old as i64 - first as i64) / 2));
        }
    }
}

/// Makes the tables of programs, each with its number, the PID of its map, and its streams.
pub(super) fn tables(programs: &[TestProgram<'_>], counter: u8) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut maps = Vec::new();
    for (number, pid, streams) in programs {
        entries.extend(number.to_be_bytes());
        entries.extend((0xe000 | pid).to_be_bytes());
        let clock = streams.first().map_or(0x1fff, |stream| stream.1);
        let mut body = (0xe000 | clock).to_be_bytes().to_vec();
        body.extend([0xf0, 0]);
        for (stream_type, pid) in *streams {
            body.push(*stream_type);
            body.extend((0xe000 | pid).to_be_bytes());
            body.extend([0xf0, 0]);
        }
        let mut counter = counter & 0x0f;
        maps.extend(packetize(*pid, &mut counter, &section(2, *number, 0, (0, 0), &body)));
    }
    let mut counter = counter & 0x0f;
    [packetize(0, &mut counter, &section(0, 1, 0, (0, 0), &entries)), maps].concat()
}

/// Returns a stream without its tables, with other ones before each half second or so, and with other PIDs.
pub(super) fn retable(stream: &[u8], programs: &[TestProgram<'_>], moved: &[(u16, u16)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut counter = 0;
    for (number, packet) in stream.chunks_exact(PACKET).enumerate() {
        if number % 200 == 0 {
            out.extend(tables(programs, counter));
            counter += 1;
        }
        if pid(packet) == 0 || pid(packet) == 0x11 || pid(packet) == 0x1000 {
            continue;
        }
        let at = out.len();
        out.extend_from_slice(packet);
        if let Some((_, new)) = moved.iter().find(|(old, _)| *old == pid(packet)) {
            out[at + 1] = out[at + 1] & 0xe0 | (new >> 8) as u8;
            out[at + 2] = *new as u8;
        }
    }
    out
}

/// Returns the position of the packet in which the n-th PES packet of a PID begins.
pub(super) fn pes_start(stream: &[u8], of: u16, number: usize) -> usize {
    let mut all = stream.chunks_exact(PACKET).enumerate().filter(|(_, p)| pid(p) == of && starts(p));
    all.nth(number).unwrap().0 * PACKET
}

/// Cuts the video anew into PES packets of this many bytes; those in which no picture begins have no timestamp.
pub(super) fn unalign(stream: &[u8], size: usize) -> Vec<u8> {
    let mut video = Vec::new();
    let mut stamps = Vec::new();
    for packet in stream.chunks_exact(PACKET).filter(|p| pid(p) == VIDEO_PID && packet_has_payload(p)) {
        let mut start = payload(packet);
        if starts(packet) {
            let end = start + 9 + usize::from(packet[start + 8]);
            stamps.push((video.len(), packet[start + 7] & 0xc0, packet[start + 9..end].to_vec()));
            start = end;
        }
        video.extend_from_slice(&packet[start..]);
    }
    let mut out = Vec::new();
    let mut counter = 0u8;
    let mut others = stream.chunks_exact(PACKET).filter(|p| pid(p) != VIDEO_PID);
    let count = others.clone().count();
    let mut gone = 0;
    let pieces = video.len().div_ceil(size);
    for (number, chunk) in video.chunks(size).enumerate() {
        // The tables come first; the sound goes along.
        while gone < 3 + number * count / pieces {
            out.extend(others.next().into_iter().flatten());
            gone += 1;
        }
        let from = number * size;
        let stamp = stamps.iter().find(|(at, _, _)| (from..from + chunk.len()).contains(at));
        let (flags, fields) = stamp.map_or((0, &[][..]), |(_, flags, fields)| (*flags, &fields[..]));
        // The last packet ends in stuffing, which tells a whole picture from half a one: a byte of stuffing in the header
        // makes room for it.
        let is_full = number + 1 == pieces && (9 + fields.len() + chunk.len()).is_multiple_of(184);
        let spare: &[u8] = if is_full { &[0xff] } else { &[] };
        let mut pes = vec![0, 0, 1, 0xe0, 0, 0, 0x80, flags, (fields.len() + spare.len()) as u8];
        pes.extend_from_slice(fields);
        pes.extend_from_slice(spare);
        pes.extend_from_slice(chunk);
        for (at, part) in pes.chunks(184).enumerate() {
            let start = if at == 0 { 0x41 } else { 0x01 };
            out.extend([0x47, start, 0, if part.len() < 184 { 0x30 } else { 0x10 } | counter]);
            counter = (counter + 1) & 0x0f;
            if part.len() < 184 {
                let length = 183 - part.len();
                out.push(length as u8);
                if length > 0 {
                    out.push(0);
                    out.extend(vec![0xff; length - 1]);
                }
            }
            out.extend_from_slice(part);
        }
    }
    out.extend(others.flatten());
    out
}

fn packet_has_payload(packet: &[u8]) -> bool {
    packet[3] & 0x10 != 0
}

/// Makes the transport packets of a PES packet of sound.
pub(super) fn sound_packets(counter: &mut u8, time: u64, data: &[u8]) -> Vec<u8> {
    let mut stamp = [0x21, 0, 1, 0, 1];
    put(&mut stamp, time);
    let length = (3 + stamp.len() + data.len()) as u16;
    let [high, low] = length.to_be_bytes();
    let pes = [&[0, 0, 1, 0xc0, high, low, 0x80, 0x80, 5][..], &stamp, data].concat();
    let mut out = Vec::new();
    for (number, part) in pes.chunks(184).enumerate() {
        let start = if number == 0 { 0x40 } else { 0 };
        let has_room = if part.len() < 184 { 0x30 } else { 0x10 };
        out.extend([0x47, start | (AUDIO_PID >> 8) as u8, AUDIO_PID as u8, has_room | *counter]);
        *counter = (*counter + 1) & 0x0f;
        if part.len() < 184 {
            let room = 183 - part.len();
            out.push(room as u8);
            out.extend([0u8].iter().chain(std::iter::repeat(&0xff)).take(room));
        }
        out.extend_from_slice(part);
    }
    out
}
