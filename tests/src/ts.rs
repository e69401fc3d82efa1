//! Transport streams (ISO/IEC 13818-1) made by hand, as no program makes them.

/// Puts a section behind its pointer, with its checksum, into a transport packet.
pub fn table(pid: u16, counter: u8, section: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for byte in section {
        crc ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            crc = if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 };
        }
    }
    let mut packet = vec![0x47, 0x40 | (pid >> 8) as u8, pid as u8, 0x10 | counter & 15, 0];
    packet.extend_from_slice(section);
    packet.extend(crc.to_be_bytes());
    packet.resize(188, 0xff);
    packet
}

fn stamp(mark: u8, time: u64) -> [u8; 5] {
    [
        mark | (time >> 29) as u8 & 0x0e | 1,
        (time >> 22) as u8,
        (time >> 14) as u8 | 1,
        (time >> 7) as u8,
        (time << 1) as u8 | 1,
    ]
}

/// Returns a transport stream of PES packets with H.264, each with its time (90 kHz), if it has one.
pub fn transport_stream(packets: &[(Option<u64>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut counter = 0u8;
    let mut last = 0;
    for (number, (time, data)) in packets.iter().enumerate() {
        let tables = number as u8;
        out.extend(table(0, tables, &[0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xf0, 0]));
        out.extend(table(0x1000, tables, &[2, 0xb0, 18, 0, 1, 0xc1, 0, 0, 0xe1, 0, 0xf0, 0, 0x1b, 0xe1, 0, 0xf0, 0]));
        last = time.unwrap_or(last);
        let mut pes = vec![0, 0, 1, 0xe0, 0, 0, 0x80];
        match time {
            Some(time) => {
                pes.extend([0x80, 5]);
                pes.extend(stamp(0x20, *time));
            }
            None => pes.extend([0, 0]),
        }
        pes.extend_from_slice(data);
        let mut rest = &pes[..];
        let mut starts = true;
        while !rest.is_empty() {
            // The first packet has the clock, half a second before the picture.
            let mut adaptation = Vec::new();
            if starts {
                let clock = last.saturating_sub(45_000);
                adaptation.push(0x10);
                adaptation.extend(((clock >> 1) as u32).to_be_bytes());
                adaptation.extend([(clock << 7) as u8 | 0x7e, 0]);
            }
            let room = 184 - if adaptation.is_empty() { 0 } else { 1 + adaptation.len() };
            let (part, next) = rest.split_at(rest.len().min(room));
            let stuffing = room - part.len();
            if stuffing > 0 && adaptation.is_empty() {
                adaptation.resize(stuffing - 1, 0xff);
                if let Some(flags) = adaptation.first_mut() {
                    *flags = 0;
                }
            } else {
                adaptation.resize(adaptation.len() + stuffing, 0xff);
            }
            let has_adaptation = starts || stuffing > 0;
            let start = if starts { 0x40 } else { 0 };
            out.extend([0x47, start | 1, 0, if has_adaptation { 0x30 } else { 0x10 } | counter]);
            counter = (counter + 1) & 15;
            if has_adaptation {
                out.push(adaptation.len() as u8);
                out.extend_from_slice(&adaptation);
            }
            out.extend_from_slice(part);
            rest = next;
            starts = false;
        }
    }
    assert_eq!(out.len() % 188, 0);
    out
}
