//! Description of tracks by the headers of their codecs, for sources whose media passes as it is.

use super::{aac, video};
use crate::media::{MediaTrack, entry_point::NalCodec};

/// Describes video by its sequence parameter set, if that can be read.
pub(crate) fn describe_video(track: &mut MediaTrack, codec: NalCodec, sequence_set: &[u8]) {
    if let Some(picture) = video::picture_of(codec, sequence_set) {
        track.profile = picture.profile;
        track.width = picture.width;
        track.height = picture.height;
        track.frame_rate = picture.frame_rate;
    }
}

/// Describes video by a decoder configuration record (ISO/IEC 14496-15 sections 5.3.3.1 and 8.3.3.1).
pub(crate) fn describe_video_record(track: &mut MediaTrack, codec: NalCodec, record: &[u8]) {
    if let Some(set) = sequence_set(codec, record) {
        describe_video(track, codec, set);
    }
}

/// Returns the first sequence parameter set of a decoder configuration record.
fn sequence_set(codec: NalCodec, record: &[u8]) -> Option<&[u8]> {
    let first = |sets: &[u8]| -> Option<std::ops::Range<usize>> {
        let &[high, low] = sets.first_chunk()?;
        Some(2..2 + usize::from(u16::from_be_bytes([high, low])))
    };
    if codec == NalCodec::H264 {
        let sets = record.get(6..).filter(|_| record.get(5).is_some_and(|count| count & 0x1f > 0))?;
        return sets.get(first(sets)?);
    }
    let mut rest = record.get(23..)?;
    for _ in 0..*record.get(22)? {
        let &[kind, high, low] = rest.first_chunk()?;
        rest = rest.get(3..)?;
        for _ in 0..u16::from_be_bytes([high, low]) {
            let set = first(rest)?;
            if kind & 0x3f == 33 {
                return rest.get(set);
            }
            rest = rest.get(set.end..)?;
        }
    }
    None
}

/// Describes AAC by its AudioSpecificConfig (ISO/IEC 14496-3 section 1.6.2.1), if that can be read.
pub(crate) fn describe_aac(track: &mut MediaTrack, config: &[u8]) {
    if let Some(config) = aac::config_of(config) {
        track.profile = config.profile;
        track.sample_rate = config.sample_rate;
        track.channels = config.channels;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sequence parameter sets of 640 by 360 that x264 and x265 write.
    const AVC: &[u8] = &[
        0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00,
        0x00, 0x03, 0x00, 0x32, 0x0f, 0x16, 0x2d, 0x96,
    ];

    #[test]
    fn headers_of_codecs_describe_tracks() {
        let mut track = MediaTrack::default();
        let record = [&[1, 0x64, 0, 0x1e, 0xff, 0xe1, 0, AVC.len() as u8][..], AVC, &[1, 0, 1, 0x68]].concat();
        describe_video_record(&mut track, NalCodec::H264, &record);
        assert_eq!((track.width, track.height, track.profile), (640, 360, Some("High")));
        describe_aac(&mut track, &[0x11, 0x90]);
        assert_eq!((track.sample_rate, track.channels, track.profile), (48_000, 2, Some("LC")));
    }

    proptest::proptest! {
        #[test]
        fn headers_survive_any_bytes(data in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut track = MediaTrack::default();
            for codec in [NalCodec::H264, NalCodec::Hevc] {
                describe_video(&mut track, codec, &data);
                describe_video_record(&mut track, codec, &data);
            }
            describe_aac(&mut track, &data);
        }
    }
}
