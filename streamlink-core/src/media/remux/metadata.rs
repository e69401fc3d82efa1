//! The metadata message that tells players what comes (Adobe's FLV specification E.5).

use super::{Core, TsCodec};
use crate::media::{
    Packet, RtmpKind,
    entry_point::NalCodec,
    flv::amf0::{Value, write_all},
};
use std::time::Instant;

/// The properties of the media that its metadata tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Metadata {
    video: Option<VideoProperties>,
    audio: Option<AudioProperties>,
}

#[derive(Clone, Debug, PartialEq)]
struct VideoProperties {
    codec: NalCodec,
    /// In pixels; 0 until it is known.
    width: u32,
    height: u32,
    frame_rate: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
struct AudioProperties {
    /// Number or code of the codec.
    codec: f64,
    /// Sample rate in Hz and number of channels, once known.
    format: Option<(u32, u8)>,
}

impl Metadata {
    fn message(&self) -> Vec<u8> {
        let mut fields = vec![("duration".to_owned(), Value::Number(0.0))];
        let mut add = |name: &str, value: f64| fields.push((name.to_owned(), Value::Number(value)));
        if let Some(video) = &self.video {
            if video.width > 0 {
                add("width", f64::from(video.width));
                add("height", f64::from(video.height));
            }
            if let Some(rate) = video.frame_rate {
                add("framerate", rate);
            }
            let codec = match video.codec {
                NalCodec::H264 => 7.0,
                NalCodec::Hevc => f64::from(u32::from_be_bytes(*b"hvc1")),
            };
            add("videocodecid", codec);
        }
        if let Some(audio) = &self.audio {
            add("audiocodecid", audio.codec);
            if let Some((sample_rate, channels)) = audio.format {
                add("audiosamplerate", f64::from(sample_rate));
                add("audiosamplesize", 16.0);
                add("audiochannels", f64::from(channels));
                fields.push(("stereo".to_owned(), Value::Boolean(channels > 1)));
            }
        }
        fields.push(("encoder".to_owned(), Value::text("StreamLink")));
        write_all(&[Value::text("onMetaData"), Value::EcmaArray(fields)])
    }
}

impl Core {
    /// Sends metadata if they differ from those sent last. Called for each picture, it writes none that do not.
    pub(super) fn describe(&mut self, time: u32, arrival: Instant, out: &mut Vec<Packet>) {
        let metadata = self.metadata_now();
        if self.metadata.as_ref() != Some(&metadata) {
            let body = metadata.message();
            self.metadata = Some(metadata);
            out.push(Packet::rtmp(RtmpKind::Data, time, body, arrival));
        }
    }

    fn metadata_now(&self) -> Metadata {
        // Receivers open the tracks that are announced here, so that one that begins later is not missed.
        let video = self.video.as_ref().map(|track| VideoProperties {
            codec: track.codec,
            width: track.picture.width,
            height: track.picture.height,
            frame_rate: track.picture.frame_rate,
        });
        let known = self.audio.as_ref().filter(|track| track.sound.is_some() || track.kind != TsCodec::MpegAudio);
        let audio = known.map(|track| AudioProperties {
            codec: track.codec.number(),
            format: track.sound.as_ref().map(|sound| (sound.sample_rate, sound.channels)),
        });
        Metadata { video, audio }
    }
}
