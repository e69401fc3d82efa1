//! Regions on other machines: the link to them, and its statistics.

use crate::{
    endpoint_stats::{StreamlinkMemberStats, member_stats, state_number},
    engine::StreamlinkEngine,
    error::StreamlinkError,
    guard::{Failure, Versioned, guard, object, optional_text, text, write_sized},
    handle::live,
    stats::StreamlinkStats,
    status::Status,
};
use std::{ffi::c_char, sync::Arc};
use streamlink_core::RegionLink;

/// The link of a flow to a region on other machines, at one moment. Texts live as long as the snapshot. Fields are only
/// ever added, at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkRegionStats {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// The name of the region.
    pub name: *const c_char,
    /// Reason for which its outputs wait, if the link has said so or has failed; "" otherwise.
    pub waiting: *const c_char,
    /// A streamlink_state: connected while a leg is, or an output is reported, and waiting otherwise.
    pub state: i32,
    /// Outputs of the flow in the region.
    pub outputs: u32,
    /// Number of failures of the link.
    pub restarts: u64,
    /// Bytes that the link has taken from the flow, once for all outputs.
    pub bytes: u64,
    /// Packets that the link has taken from the flow.
    pub packets: u64,
    /// Bits per second, over the last second.
    pub bit_rate: u64,
    /// Packets that the link has lost, because it did not keep up.
    pub dropped: u64,
    /// Number of legs that carry the flow; see streamlink_stats_region_leg().
    pub leg_count: usize,
}

// SAFETY: `size` is first, and all other fields may be zero.
unsafe impl Versioned for StreamlinkRegionStats {}

/// Returns the number of regions on other machines in which a flow has outputs.
///
/// # Safety
/// `stats` is NULL or a snapshot that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_region_count(stats: *const StreamlinkStats) -> usize {
    // SAFETY: the caller passes NULL, or keeps `stats` alive during the call.
    unsafe { stats.as_ref() }.map_or(0, StreamlinkStats::region_count)
}

/// Fills in a region, counted from 0; `region->size` must be set. See STREAMLINK_INIT().
///
/// # Safety
/// As streamlink_stats_endpoint().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_region(
    stats: *const StreamlinkStats,
    index: usize,
    region: *mut StreamlinkRegionStats,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `stats` alive during the call.
        let (s, texts) = unsafe { object(stats, "stats") }?.region(index)?;
        let filled = StreamlinkRegionStats {
            size: 0,
            name: texts.name.as_ptr(),
            waiting: texts.waiting.as_ptr(),
            state: state_number(s.state),
            outputs: s.outputs,
            restarts: s.restarts,
            bytes: s.bytes,
            packets: s.packets,
            bit_rate: s.bit_rate.as_bps(),
            dropped: s.dropped,
            leg_count: s.legs.len(),
        };
        // SAFETY: the caller has set the size of `region`, which it has so much memory for.
        unsafe { write_sized(region, &filled, "region") }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Fills in a leg of a region, both counted from 0; `leg->size` must be set.
///
/// # Safety
/// As streamlink_stats_endpoint().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_region_leg(
    stats: *const StreamlinkStats,
    region: usize,
    index: usize,
    leg: *mut StreamlinkMemberStats,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `stats` alive during the call.
        let (s, texts) = unsafe { object(stats, "stats") }?.region(region)?;
        let missing = || Failure::new(Status::NotFound, format!("there is no leg {index}"));
        let (found, address) = s.legs.get(index).zip(texts.legs.get(index)).ok_or_else(missing)?;
        let filled = member_stats(found, address);
        // SAFETY: the caller has set the size of `leg`, which it has so much memory for.
        unsafe { write_sized(leg, &filled, "leg") }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Adds a region on other machines to an engine. Outputs with this region then run there, and their statistics and events
/// are those of the flow. `url`: the relays that lead there and a path, as in "moq://relay-a,relay-b/studio". `options`: a
/// JSON object with the settings of the link, of which `key`, the public key of the region, is required; see
/// RegionLinkOptions::from_json of the crate streamlink-moq.
///
/// A library that was built without the feature `moq` returns STREAMLINK_STATUS_UNSUPPORTED.
///
/// # Safety
/// `engine` is an engine that was not destroyed; `name` and `url` are texts that end with NUL, and `options` is one or NULL;
/// `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_add_remote_region(
    engine: *const StreamlinkEngine,
    name: *const c_char,
    url: *const c_char,
    options: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `engine` alive during the call; `name` and `url` are texts that end with NUL;
        // `options` is NULL or such a text.
        let (engine, name, url, options) = unsafe {
            (live(engine, "engine")?, text(name, "name")?, text(url, "url")?, optional_text(options, "options")?)
        };
        let link = link(url, options)?;
        engine.engine.add_remote_region(name, link)?;
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Makes the link of a URL.
#[cfg(feature = "moq")]
fn link(url: &str, options: Option<&str>) -> Result<Arc<dyn RegionLink>, Failure> {
    let wrong = |error: streamlink_moq::Error| Failure::new(Status::InvalidConfig, error.to_string());
    let options = streamlink_moq::RegionLinkOptions::from_json(options.unwrap_or("{}")).map_err(wrong)?;
    streamlink_moq::region_link(url, options).map_err(wrong)
}

/// Returns the error of a build without links.
#[cfg(not(feature = "moq"))]
fn link(_url: &str, _options: Option<&str>) -> Result<Arc<dyn RegionLink>, Failure> {
    Err(Failure::new(Status::Unsupported, "this library was built without regions on other machines (feature `moq`)"))
}

#[cfg(all(test, feature = "moq"))]
mod tests {
    use super::*;

    #[test]
    fn remote_region_is_made_of_url_and_json() {
        let key = streamlink_moq::seal::RegionSecretKey::generate().public_key();
        let options = format!(r#"{{"key":"{key}","idle_timeout_ms":2000}}"#);
        assert!(link("moq://127.0.0.1:4443,127.0.0.1:4444/studio", Some(&options)).is_ok());
        for (url, options, said) in [
            ("moq://127.0.0.1:4443/studio", None, "missing field `key`"),
            ("moq://127.0.0.1:4443/studio", Some("{]"), "no JSON object"),
            ("http://127.0.0.1/studio", Some(options.as_str()), "moq://"),
        ] {
            let failure = link(url, options).err().unwrap();
            assert!(failure.message.contains(said), "{url}: {}", failure.message);
        }
    }
}
