//! Facts that groups of MPEG-TS need: whole packets, and random access points.

/// First byte of a transport packet (ISO 13818-1 section 2.4.3.2).
pub(super) const SYNC: u8 = 0x47;
/// Length of a transport packet, in bytes.
const PACKET: usize = 188;

/// Returns whether the bytes are a row of whole transport packets.
pub(crate) fn is_transport_stream(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.len().is_multiple_of(PACKET) && bytes.chunks(PACKET).all(|p| p.first() == Some(&SYNC))
}

/// Returns whether a random access point of video begins in the transport packets: a packet that begins a PES packet of
/// video and has `random_access_indicator` set (ISO 13818-1 section 2.4.3.5). Audio does not count, as every frame of it
/// is one.
pub(super) fn has_random_access_point(bytes: &[u8]) -> bool {
    bytes.chunks_exact(PACKET).any(is_random_access_point)
}

fn is_random_access_point(packet: &[u8]) -> bool {
    let begins_pes = packet.get(1).is_some_and(|byte| byte & 0x40 != 0);
    let has_both = packet.get(3).is_some_and(|byte| byte & 0x30 == 0x30);
    let is_flagged = packet.get(5).is_some_and(|byte| byte & 0x40 != 0);
    let length = packet.get(4).copied().map_or(0, usize::from);
    if !begins_pes || !has_both || !is_flagged || length == 0 {
        return false;
    }
    // Streams 0xE0 to 0xEF are video; 0xFD is the extended id, as VC-1 has it.
    let payload = packet.get(5 + length..).unwrap_or_default();
    matches!(payload, [0, 0, 1, 0xe0..=0xef | 0xfd, ..])
}

/// Returns the number of programs that a PAT in the transport packets lists; `None` without a whole PAT.
pub(crate) fn programs(bytes: &[u8]) -> Option<usize> {
    bytes.chunks_exact(PACKET).find_map(|packet| {
        let pid = u16::from_be_bytes([*packet.get(1)? & 0x1f, *packet.get(2)?]);
        let begins_section = packet.get(1)? & 0x40 != 0;
        if pid != 0 || !begins_section || packet.get(3)? & 0x10 == 0 {
            return None;
        }
        let adaptation = if packet.get(3)? & 0x20 == 0 { 0 } else { 1 + usize::from(*packet.get(4)?) };
        let payload = packet.get(4 + adaptation..)?;
        let section = payload.get(1 + usize::from(*payload.first()?)..)?;
        let [0, high, low, ..] = section else { return None };
        let length = usize::from(u16::from_be_bytes([high & 0x0f, *low]));
        // After the length come five bytes, then four for each program, then the CRC.
        let entries = section.get(8..(3 + length).checked_sub(4)?)?;
        Some(entries.chunks_exact(4).filter(|entry| entry.first() != Some(&0) || entry.get(1) != Some(&0)).count())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(random_access: bool, stream: u8) -> Vec<u8> {
        let mut packet = vec![0xff; PACKET];
        packet[..6].copy_from_slice(&[SYNC, 0x41, 0, 0x30, 1, if random_access { 0x40 } else { 0 }]);
        packet[6..10].copy_from_slice(&[0, 0, 1, stream]);
        packet
    }

    #[test]
    fn random_access_points_are_those_of_video() {
        assert!(has_random_access_point(&[video(false, 0xe0), video(true, 0xe0)].concat()));
        assert!(!has_random_access_point(&video(false, 0xe0)));
        assert!(!has_random_access_point(&video(true, 0xc0)));
        assert!(!has_random_access_point(&[SYNC, 0x41, 0, 0x30, 183, 0x40]));
        let mut long = video(true, 0xe0);
        long[4] = 255;
        assert!(!has_random_access_point(&long));
    }

    #[test]
    fn transport_streams_are_rows_of_whole_packets() {
        assert!(is_transport_stream(&video(true, 0xe0)));
        assert!(!is_transport_stream(&[]));
        assert!(!is_transport_stream(&video(true, 0xe0)[1..]));
        let mut second = [video(true, 0xe0), video(true, 0xe0)].concat();
        second[PACKET] = 0;
        assert!(!is_transport_stream(&second));
    }

    #[test]
    fn programs_of_a_pat_are_counted_without_the_network() {
        let mut pat = vec![0xff; PACKET];
        let section = [0, 0xb0, 17, 0, 1, 0xc1, 0, 0, 0, 0, 0xe0, 0x10, 0, 1, 0xe1, 0, 0, 2, 0xe2, 0];
        pat[..5].copy_from_slice(&[SYNC, 0x40, 0, 0x10, 0]);
        pat[5..5 + section.len()].copy_from_slice(&section);
        pat[6] = 0xb0;
        pat[7] = 21;
        assert_eq!(programs(&pat), Some(2));
        pat[7] = 2;
        assert_eq!(programs(&pat), None);
        assert_eq!(programs(&video(true, 0xe0)), None);
    }
}
