//! URLs that are printed for people: input addresses and playback URLs, as they are pasted into ffmpeg, VLC, GStreamer,
//! srt-live-transmit and OBS.
//!
//! These programs differ in what they decode: srt-live-transmit decodes nothing, and ffmpeg reads `+` as a space and
//! decodes stream ids only. So only what would end the value or the URL is encoded, and everything else is written as it
//! is.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Characters that are percent-encoded in a query: those that would end the value or the URL, and those that no URL may
/// contain.
pub(crate) const QUERY: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'<').add(b'>');

/// Returns the URL of an SRT listener for callers. `address` is `host:port`. The passphrase is not in it.
pub(crate) fn srt_url(address: &str, stream_id: Option<&str>) -> String {
    let id = stream_id.map(|id| format!("?streamid={}", utf8_percent_encode(id, QUERY)));
    format!("srt://{address}{}", id.unwrap_or_default())
}

/// Returns the URL of an RTMP listener for encoders or players. It holds the stream key, which grants access. RTMP
/// programs send both as they are written, so nothing is encoded.
pub(crate) fn rtmp_url(secure: bool, address: &str, app: &str, key: &str) -> String {
    format!("{}://{address}/{app}/{key}", if secure { "rtmps" } else { "rtmp" })
}

/// Returns the URL of an RTSP listener. It holds no password.
pub(crate) fn rtsp_url(secure: bool, address: &str, path: &str) -> String {
    format!("{}://{address}/{path}", if secure { "rtsps" } else { "rtsp" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Output, Source};

    #[test]
    fn printed_srt_url_encodes_only_what_ends_a_value() {
        for (id, printed) in [
            ("cam-1", "cam-1"),
            ("live/cam_1.main~x:2", "live/cam_1.main~x:2"),
            ("#!::r=live/cam,m=publish", "%23!::r=live/cam,m=publish"),
            ("a b&c=d%e+f", "a%20b%26c=d%25e%2Bf"),
            ("caf\u{e9}", "caf%C3%A9"),
        ] {
            let url = srt_url("127.0.0.1:9000", Some(id));
            assert_eq!(url, format!("srt://127.0.0.1:9000?streamid={printed}"));
            // It also reads back to a caller with that stream id.
            let caller = Output::from_url("a", &url);
            assert_eq!(caller.common.errors, [], "{url}");
            let crate::flow::OutputKind::SrtCaller(caller) = caller.kind else { panic!("{url}") };
            assert_eq!(caller.srt.stream_id.as_deref(), Some(id));
        }
        assert_eq!(srt_url("[::1]:9000", None), "srt://[::1]:9000");
        let caller = Source::from_url("a", &rtsp_url(false, "[::1]:554", "cam/1"));
        assert_eq!(caller.to_url(), "rtsp://[::1]:554/cam/1");
        assert_eq!(rtmp_url(true, "h:443", "live", "KEY"), "rtmps://h:443/live/KEY");
    }
}
