//! Fuzz targets: every parser of external bytes, fed with mutated recordings of real programs.
//!
//! The seeds are in `corpus/`, with one folder for each target: recorded conversations of ffmpeg and GStreamer with
//! this library, and texts. The targets have two users:
//!
//! - `fuzz/` of the repository runs them under libFuzzer, which is guided by coverage (see `fuzz/README.md`).
//! - The tests of this module are the quick check. They mutate the seeds at random, for two seconds a target or for the
//!   time that is set:
//!
//! ```text
//! STREAMLINK_FUZZ_SECONDS=3600 STREAMLINK_FUZZ_SEED=7 cargo test -p streamlink-core --all-features --lib fuzz::
//! ```
//!
//! The module is compiled for tests and for fuzzing only. It unwraps values of the corpus and of our own handshakes,
//! and fails if they are invalid.
//!
//! Each input must cause no panic (arithmetic is checked in these builds), take at most one second, and use bounded
//! memory. An input that fails is written to the system's temporary folder. Once the fault is fixed, the input is added
//! to the corpus.

// A panic is the finding.
#![allow(clippy::unwrap_used, clippy::panic)]

#[cfg(test)]
mod mutation;
mod rtmp;
mod rtp;
mod rtsp;
mod settings;
mod srt;
mod transport_stream;

#[cfg(feature = "serde")]
use self::settings::feed_json;
use self::{
    rtmp::{feed_amf, feed_rtmp_client, feed_rtmp_server},
    rtp::{feed_fec, feed_rist, feed_rtp, feed_udp},
    rtsp::{feed_rtsp_client, feed_rtsp_server, feed_sdp},
    settings::{feed_allowlist, feed_url},
    srt::feed_srt,
    transport_stream::feed_transport_stream,
};
use crate::test_rng::TestRng;
use bytes::Bytes;

/// Defines each target as a function for libFuzzer and as a test: its name, the folder of its seeds, and the function.
macro_rules! targets {
    ($($(#[$attribute:meta])* $name:ident, $corpus:literal, $target:ident;)*) => {
        $(
            $(#[$attribute])*
            #[cfg(fuzzing)]
            #[doc = concat!("Feeds an input to the target `", stringify!($name), "`.")]
            pub fn $name(input: &[u8]) {
                // Choices of a target follow from the last byte, so that an input alone gives the same run again.
                let seed = input.last().copied().map_or(1, |byte| u64::from(byte) + 1);
                $target(input, &mut TestRng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
            }
        )*

        #[cfg(test)]
        mod quick {
            $(
                $(#[$attribute])*
                #[test]
                fn $name() {
                    super::mutation::fuzz($corpus, super::$target);
                }
            )*
        }
    };
}

targets! {
    rtmp_server, "rtmp_server", feed_rtmp_server;
    rtmp_client, "rtmp_client", feed_rtmp_client;
    amf, "rtmp_client", feed_amf;
    rtsp_server, "rtsp_server", feed_rtsp_server;
    rtsp_client, "rtsp_client", feed_rtsp_client;
    sdp, "sdp", feed_sdp;
    srt_listener, "srt_listener", feed_srt;
    srt_caller, "srt_caller", feed_srt;
    srt_filter, "srt_filter", feed_srt;
    rtp, "rtp", feed_rtp;
    rtp_fec, "rtp", feed_fec;
    rist, "rtp", feed_rist;
    udp, "ts", feed_udp;
    transport_stream, "ts", feed_transport_stream;
    urls, "url", feed_url;
    #[cfg(feature = "serde")]
    json, "json", feed_json;
    allowlists, "allowlist", feed_allowlist;
}

fn random(bytes: &mut [u8]) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (i as u8).wrapping_add(17);
    }
}

/// Splits a stream into pieces, as it may arrive.
fn pieces<'a>(mut input: &'a [u8], rng: &mut TestRng) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let most = [1, 7, 200, 5000, 70_000][rng.below(5)];
    while !input.is_empty() && pieces.len() < 20_000 {
        let (piece, rest) = input.split_at(input.len().min(1 + rng.below(most)));
        pieces.push(piece);
        input = rest;
    }
    pieces
}

/// Returns the datagrams of an input, each of which follows its length in two bytes.
fn datagrams(mut input: &[u8]) -> Vec<Bytes> {
    let mut found = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        found.push(Bytes::copy_from_slice(&rest[..length]));
        input = &rest[length..];
    }
    found
}
