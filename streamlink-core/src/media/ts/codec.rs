//! Codecs of elementary streams, told from stream types and descriptors (ISO/IEC 13818-1 table 2-34, ETSI EN 300 468,
//! ATSC A/53, and the registration descriptors of SMPTE RA).

use super::sections::descriptors;

/// The codec of an elementary stream that can be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TsCodec {
    H264,
    Hevc,
    Aac,
    AacLatm,
    /// Layers I to III; only III can be carried, and only the frames tell.
    MpegAudio,
    Ac3,
    Eac3,
    Opus {
        channels: u8,
    },
}

impl TsCodec {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H264 => "H.264",
            Self::Hevc => "HEVC",
            Self::Aac => "AAC",
            Self::AacLatm => "AAC (LATM)",
            Self::MpegAudio => "MPEG audio",
            Self::Ac3 => "AC-3",
            Self::Eac3 => "E-AC-3",
            Self::Opus { .. } => "Opus",
        }
    }

    pub(crate) fn is_video(self) -> bool {
        matches!(self, Self::H264 | Self::Hevc)
    }
}

/// Returns the common name of the codec of a stream, whether RTMP can carry it or not.
pub(crate) fn name(program: &[u8], stream_type: u8, stream: &[u8]) -> &'static str {
    match ts_codec(program, stream_type, stream) {
        Ok(kind) => kind.name(),
        Err(name) => name,
    }
}

/// Returns the codec of a stream by its type, its descriptors and those of its program, or the name of one that RTMP
/// cannot carry.
pub(crate) fn ts_codec(program: &[u8], stream_type: u8, stream: &[u8]) -> Result<TsCodec, &'static str> {
    let is_disc = descriptors(program).any(|(tag, body)| tag == 0x05 && body.starts_with(b"HDMV"));
    match stream_type {
        0x01 => Err("MPEG-1 video"),
        0x02 => Err("MPEG-2 video"),
        0x03 | 0x04 => Ok(TsCodec::MpegAudio),
        0x05 | 0x06 => private(stream),
        0x0d => Err("DSM-CC"),
        0x0f => Ok(TsCodec::Aac),
        0x10 => Err("MPEG-4 Part 2 video"),
        0x11 => Ok(TsCodec::AacLatm),
        0x15 if registered(stream, b"KLVA") => Err("KLV metadata"),
        0x15 => Err("timed metadata"),
        0x1b => Ok(TsCodec::H264),
        0x1f | 0x20 => Err("H.264 (second layer or view)"),
        0x21 => Err("JPEG 2000"),
        0x24 => Ok(TsCodec::Hevc),
        0x25..=0x29 => Err("HEVC (second layer)"),
        0x33 => Err("VVC"),
        0x42 | 0xd2 | 0xd4 => Err("AVS video"),
        0x80 if is_disc || !registered(stream, b"DCII") && descriptors(program).next().is_none() => Err("LPCM"),
        0x80 => Err("MPEG-2 video (DigiCipher II)"),
        0x81 => Ok(TsCodec::Ac3),
        0x82 if is_disc => Err("DTS"),
        0x82 => Err("subtitles (SCTE 27)"),
        0x83 if is_disc => Err("TrueHD"),
        0x83 => Err("LPCM"),
        0x84 if is_disc => Ok(TsCodec::Eac3),
        0x85 if is_disc => Err("DTS-HD"),
        0x86 if is_disc => Err("DTS-HD"),
        0x86 => Err("SCTE 35"),
        0x87 => Ok(TsCodec::Eac3),
        0x88 | 0x8a => Err("DTS"),
        0x90 if is_disc => Err("subtitles (PGS)"),
        0xd1 => Err("Dirac"),
        0xea => Err("VC-1"),
        _ => match private(stream) {
            Err("private data") => Err("unknown stream type"),
            known => known,
        },
    }
}

fn registered(stream: &[u8], format: &[u8; 4]) -> bool {
    descriptors(stream).any(|(tag, body)| tag == 0x05 && body.starts_with(format))
}

/// Returns the codec of private data, which its descriptors name.
fn private(stream: &[u8]) -> Result<TsCodec, &'static str> {
    let mut opus_channels = None;
    let mut named = Err("private data");
    for (tag, body) in descriptors(stream) {
        match (tag, body.get(..4).unwrap_or(body)) {
            (0x05, b"Opus") => named = Ok(TsCodec::Opus { channels: 2 }),
            (0x05, b"AC-3") | (0x6a, _) => named = Ok(TsCodec::Ac3),
            (0x05, b"EAC3") | (0x7a, _) => named = Ok(TsCodec::Eac3),
            (0x05, b"HEVC") => named = Ok(TsCodec::Hevc),
            (0x05, b"AV01") => named = Err("AV1"),
            (0x05, b"VVC ") => named = Err("VVC"),
            (0x05, b"KLVA") => named = Err("KLV metadata"),
            (0x05, b"BSSD") => named = Err("LPCM (SMPTE ST 302)"),
            (0x05, b"CUEI") => named = Err("SCTE 35"),
            (0x05, b"ID3 ") => named = Err("timed metadata"),
            (0x05, b"drac") => named = Err("Dirac"),
            (0x05, b"VC-1") => named = Err("VC-1"),
            (0x05, b"DTS1" | b"DTS2" | b"DTS3") | (0x7b, _) => named = Err("DTS"),
            (0x45 | 0x46, _) => named = Err("VBI data"),
            (0x56, _) => named = Err("teletext"),
            (0x59, _) => named = Err("DVB subtitles"),
            (0x6f, _) => named = Err("application signalling"),
            // Number of channels, as FFmpeg writes it.
            (0x7f, [0x80, config, ..]) => opus_channels = Some(*config),
            (0x7f, [0x20, ..]) => named = Err("TTML subtitles"),
            (0x7f, [0x15, ..]) => named = Err("AC-4"),
            _ => {}
        }
    }
    match (named, opus_channels) {
        (Ok(TsCodec::Opus { .. }), Some(channels @ 1..=2)) => Ok(TsCodec::Opus { channels }),
        // Surround needs a mapping that is not in the stream.
        (Ok(TsCodec::Opus { .. }), Some(_)) => Err("Opus (surround)"),
        (named, _) => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_kinds_are_told_from_types_and_descriptors() {
        let of = |stream_type: u8, own: &[u8], program: &[u8]| ts_codec(program, stream_type, own);
        assert_eq!(of(0x1b, &[], &[]), Ok(TsCodec::H264));
        assert_eq!(of(0x06, b"\x05\x04HEVC", &[]), Ok(TsCodec::Hevc));
        assert_eq!(of(0x06, &[0x6a, 1, 0], &[]), Ok(TsCodec::Ac3));
        assert_eq!(of(0x06, b"\x05\x04Opus\x7f\x02\x80\x01", &[]), Ok(TsCodec::Opus { channels: 1 }));
        assert_eq!(of(0x06, b"\x05\x04Opus\x7f\x02\x80\x06", &[]), Err("Opus (surround)"));
        assert_eq!(of(0x06, &[0x56, 0], &[]), Err("teletext"));
        assert_eq!(of(0x06, &[0x59, 0], &[]), Err("DVB subtitles"));
        assert_eq!(of(0x06, b"\x05\x04KLVA", &[]), Err("KLV metadata"));
        assert_eq!(of(0x15, b"\x05\x04KLVA", &[]), Err("KLV metadata"));
        assert_eq!(of(0x06, &[], &[]), Err("private data"));
        assert_eq!(of(0x80, &[], b"\x05\x04HDMV"), Err("LPCM"));
        assert_eq!(of(0x86, &[], &[]), Err("SCTE 35"));
        assert_eq!(of(0xc0, &[], &[]), Err("unknown stream type"));
    }
}
