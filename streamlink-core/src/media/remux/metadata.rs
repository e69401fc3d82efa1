//! The metadata message that tells players what comes (Adobe's FLV specification E.5).

use super::{Core, Kind};
use crate::media::{
    Packet, RtmpKind,
    entry_point::NalCodec,
    flv::amf0::{Value, write_all},
};
use std::time::Instant;

impl Core {
    /// Sends metadata if they differ from those sent last.
    pub(super) fn describe(&mut self, time: u32, arrival: Instant, out: &mut Vec<Packet>) {
        let mut fields = vec![("duration".to_owned(), Value::Number(0.0))];
        let mut add = |name: &str, value: f64| fields.push((name.to_owned(), Value::Number(value)));
        // Receivers open the tracks that are announced here, so that one that begins later is not missed.
        if let Some(track) = &self.video {
            if track.picture.width > 0 {
                add("width", f64::from(track.picture.width));
                add("height", f64::from(track.picture.height));
            }
            if let Some(rate) = track.picture.frame_rate {
                add("framerate", rate);
            }
            let codec = match track.codec {
                NalCodec::H264 => 7.0,
                NalCodec::Hevc => f64::from(u32::from_be_bytes(*b"hvc1")),
            };
            add("videocodecid", codec);
        }
        if let Some(track) = self.audio.as_ref().filter(|track| track.sound.is_some() || track.kind != Kind::MpegAudio)
        {
            add("audiocodecid", track.codec.number());
            if let Some(sound) = &track.sound {
                add("audiosamplerate", f64::from(sound.sample_rate));
                add("audiosamplesize", 16.0);
                add("audiochannels", f64::from(sound.channels));
                fields.push(("stereo".to_owned(), Value::Boolean(sound.channels > 1)));
            }
        }
        fields.push(("encoder".to_owned(), Value::text("StreamLink")));
        let body = write_all(&[Value::text("onMetaData"), Value::EcmaArray(fields)]);
        if self.metadata.as_ref() != Some(&body) {
            self.metadata = Some(body.clone());
            out.push(Packet::rtmp(RtmpKind::Data, time, body, arrival));
        }
    }
}
