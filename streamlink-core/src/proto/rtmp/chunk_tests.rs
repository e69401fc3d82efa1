use super::*;
use proptest::prelude::*;

fn read_all(reader: &mut ChunkReader, bytes: &[u8], splits: &[usize]) -> Result<Vec<Message<'static>>, ProtocolError> {
    let mut messages = Vec::new();
    let mut from = 0;
    for split in splits.iter().copied().filter(|s| *s < bytes.len()).chain([bytes.len()]) {
        let mut input = &bytes[from..split.max(from)];
        from = from.max(split);
        while let Some(message) = reader.read(&mut input)? {
            messages.push(message.into_owned());
        }
        assert!(input.is_empty());
    }
    Ok(messages)
}

fn reader() -> ChunkReader {
    let mut reader = ChunkReader::new();
    reader.expect_media();
    reader
}

fn message(kind: u8, timestamp: u32, body: Vec<u8>) -> Message<'static> {
    Message { kind, timestamp, stream: 1, body: Body::Gathered(body.into()) }
}

/// Returns the chunks of a message one by one, so that they can be interleaved.
fn chunks(message: &Message<'_>, chunk_size: usize) -> Vec<Vec<u8>> {
    let framing = Framing { chunk_size, stream: 1 };
    let mut bytes = Vec::new();
    framing.write(message.kind, message.timestamp, message.stream, &message.body, &mut bytes);
    let heads = framing.heads(message.kind, message.timestamp, message.stream, message.body.len());
    assert_eq!(bytes.len(), heads.total());
    let mut rest = &bytes[..];
    let mut out = Vec::new();
    let mut head = heads.first_length;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at((head + chunk_size).min(rest.len()));
        out.push(chunk.to_vec());
        rest = tail;
        head = heads.next_length;
    }
    out
}

proptest! {
    /// Messages on three chunk streams, interleaved and split in any way, are read as they were written.
    #[test]
    fn rtmp_chunks_reassemble_at_any_interleaving_and_split(
        bodies in prop::collection::vec((0usize..3, 0usize..700, any::<u32>()), 1..12),
        chunk_size in 1usize..300,
        order in prop::collection::vec(0usize..3, 0..200),
        mut splits in prop::collection::vec(0usize..8000, 0..40),
    ) {
        let kinds = [message::AUDIO, VIDEO, message::DATA];
        let messages: Vec<Message<'_>> = bodies.iter().enumerate()
            .map(|(i, (lane, length, timestamp))| message(kinds[*lane], *timestamp, vec![i as u8; *length])).collect();
        let mut lanes: Vec<std::collections::VecDeque<Vec<u8>>> = (0..3)
            .map(|lane| messages.iter().filter(|m| m.kind == kinds[lane]).flat_map(|m| chunks(m, chunk_size)).collect())
            .collect();
        let mut bytes = Vec::new();
        Framing { chunk_size: 128, stream: 0 }.write(1, 0, 0, &(chunk_size as u32).to_be_bytes(), &mut bytes);
        for lane in order.into_iter().chain((0..3).flat_map(|lane| std::iter::repeat_n(lane, 10_000))) {
            if let Some(chunk) = lanes[lane].pop_front() {
                bytes.extend(chunk);
            }
        }
        splits.sort_unstable();
        let read = read_all(&mut reader(), &bytes, &splits).unwrap();
        for kind in kinds {
            let (got, sent): (Vec<_>, Vec<_>) = (
                read.iter().filter(|m| m.kind == kind).collect(), messages.iter().filter(|m| m.kind == kind).collect());
            prop_assert_eq!(got, sent);
        }
    }

    #[test]
    fn rtmp_chunk_reader_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut reader = reader();
        let _ = read_all(&mut reader, &bytes, &[]);
        prop_assert!(reader.streams.len() <= MAX_STREAMS && reader.buffered <= MAX_BUFFERED);
    }

    /// A vectored write may stop anywhere: the slices from there on are the rest.
    #[test]
    fn rtmp_chunk_slices_resume_at_any_position(length in 0usize..1000, chunk_size in 1usize..400, timestamp in any::<u32>(), at in 0usize..1200) {
        let body: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let heads = Framing { chunk_size, stream: 1 }.heads(VIDEO, timestamp, 1, length);
        let from = |at| {
            let mut out = Vec::new();
            heads.slices(&body, at, |slice| { out.extend_from_slice(slice); true });
            out
        };
        let whole = from(0);
        prop_assert_eq!(whole.len(), heads.total());
        prop_assert_eq!(from(at), whole.get(at..).unwrap_or_default());
    }
}

const VIDEO: u8 = message::VIDEO;

#[test]
fn rtmp_chunk_headers_of_all_formats_parse() {
    let mut bytes = Vec::new();
    bytes.extend([0x06, 0, 0, 100, 0, 0, 2, VIDEO, 1, 0, 0, 0, 1, 2]); // 0: at 100
    bytes.extend([0x46, 0, 0, 40, 0, 0, 1, VIDEO, 3]); // 1: 40 later
    bytes.extend([0x86, 0, 0, 20, 4]); // 2: 20 later, as long
    bytes.extend([0xc6, 5]); // 3: again 20 later
    bytes.extend([0x00, 10, 0, 0, 7, 0, 0, 1, VIDEO, 1, 0, 0, 0, 6]); // chunk stream 74
    bytes.extend([0x01, 0, 1, 0, 0, 8, 0, 0, 1, VIDEO, 1, 0, 0, 0, 7]); // chunk stream 320
    let splits: Vec<usize> = (0..bytes.len()).collect();
    let read = read_all(&mut reader(), &bytes, &splits).unwrap();
    let seen: Vec<(u32, &[u8])> = read.iter().map(|m| (m.timestamp, &m.body[..])).collect();
    assert_eq!(seen, [(100, &[1, 2][..]), (140, &[3]), (160, &[4]), (180, &[5]), (7, &[6]), (8, &[7])]);
}

#[test]
fn rtmp_extended_timestamps_repeated_or_not() {
    let first = |length: u8, time: [u8; 4]| {
        let mut head = vec![0x06, 0xff, 0xff, 0xff, 0, 0, length, VIDEO, 1, 0, 0, 0];
        head.extend(time);
        head
    };
    let time = [0x01, 0x00, 0x00, 0x00];
    for repeated in [true, false] {
        for tail in [1, 2, 3, 4, 5, 100] {
            let length = 128 + tail;
            let mut bytes = first(length as u8, time);
            bytes.extend([9; 128]);
            bytes.push(0xc6);
            if repeated {
                bytes.extend(time);
            }
            bytes.extend(vec![9; tail]);
            bytes.extend(first(3, [0xff; 4])); // a timestamp of 2^32-1
            bytes.extend([1, 2, 3]);
            for splits in [Vec::new(), (0..bytes.len()).collect()] {
                let read = read_all(&mut reader(), &bytes, &splits).unwrap();
                assert_eq!(read.len(), 2, "{repeated} {tail}");
                assert_eq!((read[0].timestamp, &read[0].body[..]), (1 << 24, &vec![9; length][..]));
                assert_eq!((read[1].timestamp, &read[1].body[..]), (u32::MAX, &[1, 2, 3][..]));
            }
        }
    }
    // As a delta that wraps, and in a header of format 3 that begins a message.
    let mut bytes = first(1, [0xff, 0xff, 0xff, 0xf0]);
    bytes.push(1);
    bytes.extend([0x46, 0xff, 0xff, 0xff, 0, 0, 1, VIDEO, 0x01, 0, 0, 0, 2]);
    bytes.extend([0xc6, 0x01, 0, 0, 0, 3]);
    let read = read_all(&mut reader(), &bytes, &[]).unwrap();
    let times: Vec<u32> = read.iter().map(|m| m.timestamp).collect();
    assert_eq!(times, [0xffff_fff0, 0x00ff_fff0, 0x01ff_fff0]);
}

#[test]
fn rtmp_chunk_size_changes_and_abort() {
    let mut bytes = Vec::new();
    let control = Framing { chunk_size: 128, stream: 0 };
    bytes.extend([0x06, 0, 0, 0, 0, 0, 200, VIDEO, 1, 0, 0, 0]);
    bytes.extend([1; 128]);
    control.write(message::ABORT, 0, 0, &[0, 0, 0, 6], &mut bytes);
    control.write(message::SET_CHUNK_SIZE, 0, 0, &[0, 0, 1, 0], &mut bytes);
    bytes.extend([0x06, 0, 0, 5, 0, 0, 200, VIDEO, 1, 0, 0, 0]);
    bytes.extend([2; 200]);
    let mut reader = reader();
    let read = read_all(&mut reader, &bytes, &[]).unwrap();
    assert_eq!(read, [message(VIDEO, 5, vec![2; 200])]);
    assert_eq!(reader.buffered, 0);
}

#[test]
fn rtmp_hostile_chunks_are_refused() {
    let refuse = |bytes: &[u8]| read_all(&mut reader(), bytes, &[]).unwrap_err();
    let set = |size: u32| {
        let mut bytes = Vec::new();
        Framing { chunk_size: 128, stream: 0 }.write(1, 0, 0, &size.to_be_bytes(), &mut bytes);
        bytes
    };
    assert_eq!(refuse(&set(0)), ProtocolError::ChunkSize(0));
    assert_eq!(refuse(&set(1 << 31)), ProtocolError::ChunkSize(1 << 31));
    assert!(read_all(&mut reader(), &set(0x7fff_ffff), &[]).is_ok());
    for first in [0xc6, 0x86] {
        assert_eq!(
            refuse(&[first, 0, 0, 0, 0]),
            ProtocolError::Malformed("type 2 or 3 chunk without a preceding header")
        );
    }
    let long = [0x03, 0, 0, 0, 0xff, 0xff, 0xff, message::COMMAND, 0, 0, 0, 0];
    assert_eq!(refuse(&long), ProtocolError::TooLong { kind: message::COMMAND, length: 0xff_ffff });
    let mut early = ChunkReader::new();
    let video = [0x06, 0, 0, 0, 0x02, 0, 0, VIDEO, 0, 0, 0, 0];
    assert!(early.read(&mut &video[..]).is_err(), "no long messages before they are expected");
    let many: Vec<u8> =
        (0..70u8).flat_map(|i| [0x00, i, 0, 0, 0, 0, 0, 9, VIDEO, 0, 0, 0, 0].into_iter().chain([0; 9])).collect();
    assert_eq!(refuse(&many), ProtocolError::Malformed("too many chunk streams"));
    // Many long messages in progress at once: each has sent a chunk of 4 MiB of its 8.
    let mut bytes = set(4 << 20);
    for id in 0..7u8 {
        bytes.extend([0x00, id, 0, 0, 0, 0x80, 0, 0, VIDEO, 0, 0, 0, 0]);
        bytes.extend(vec![0; 4 << 20]);
    }
    assert_eq!(refuse(&bytes), ProtocolError::Malformed("too many bytes of incomplete messages"));
}

#[test]
fn chunk_reader_sets_nothing_aside_for_messages_of_a_peer_that_was_not_let_in() {
    let mut reader = ChunkReader::new();
    for id in 3..63u8 {
        // A command of 64 KiB on each chunk stream, of which one chunk comes.
        let mut bytes = vec![id, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 0];
        bytes.extend([0; 128]);
        assert!(matches!(reader.read(&mut &bytes[..]), Ok(None)));
    }
    let held: usize = reader.streams.iter().flat_map(|stream| &stream.partial).map(BytesMut::capacity).sum();
    assert!(held <= 2 * MAX_BUFFERED_EARLY, "{held} bytes for {} that came", reader.buffered);
}
