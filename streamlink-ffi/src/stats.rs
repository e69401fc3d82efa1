//! Statistics: a snapshot of a flow, and the functions that read it.

use crate::{
    endpoint_stats::{
        StreamlinkEndpointStats, StreamlinkMemberStats, StreamlinkPidStats, StreamlinkPlayerStats,
        StreamlinkRefusalStats, StreamlinkTrack, Texts, endpoint_stats, member_stats, pid_stats, player_stats,
        track_stats,
    },
    error::StreamlinkError,
    guard::{Failure, c_string, give, guard, object, place, quiet, take, write_sized},
    status::Status,
    text::StreamlinkText,
};
use std::{
    ffi::{CString, c_char},
    sync::OnceLock,
};
use streamlink_core::{EndpointStats, FlowStats, RegionStats};

/// A flow at one moment.
pub struct StreamlinkStats {
    stats: FlowStats,
    flow: CString,
    /// The texts of each endpoint, made when they are first asked for.
    texts: Vec<OnceLock<Box<Texts>>>,
    regions: Vec<RegionTexts>,
}

/// The texts of a region.
pub(crate) struct RegionTexts {
    pub(crate) name: CString,
    pub(crate) waiting: CString,
    /// The addresses of its legs.
    pub(crate) legs: Vec<CString>,
}

impl From<&RegionStats> for RegionTexts {
    fn from(region: &RegionStats) -> Self {
        Self {
            name: c_string(region.name.as_str()),
            waiting: c_string(region.waiting.as_deref().unwrap_or_default()),
            legs: region.legs.iter().map(|leg| c_string(leg.address.as_str())).collect(),
        }
    }
}

impl StreamlinkStats {
    pub(crate) fn new(stats: FlowStats) -> Self {
        let count = stats.sources.len() + stats.outputs.len();
        let flow = c_string(stats.name.as_str());
        let regions = stats.regions.iter().map(RegionTexts::from).collect();
        Self { stats, flow, texts: (0..count).map(|_| OnceLock::new()).collect(), regions }
    }

    pub(crate) fn region_count(&self) -> usize {
        self.stats.regions.len()
    }

    /// A region, and its texts.
    pub(crate) fn region(&self, index: usize) -> Result<(&RegionStats, &RegionTexts), Failure> {
        let found = self.stats.regions.get(index).zip(self.regions.get(index));
        found.ok_or_else(|| Failure::new(Status::NotFound, format!("there is no region {index}")))
    }

    /// An endpoint, whether it is a source, and its texts.
    fn endpoint(&self, index: usize) -> Result<(&EndpointStats, bool, &Texts), Failure> {
        let found = self.stats.sources.iter().map(|s| (s, true)).chain(self.stats.outputs.iter().map(|o| (o, false)));
        let missing = || Failure::new(Status::NotFound, format!("there is no endpoint {index}"));
        let (stats, is_source) = found.into_iter().nth(index).ok_or_else(missing)?;
        let texts = self.texts.get(index).ok_or_else(missing)?.get_or_init(|| Box::new(stats.into()));
        Ok((stats, is_source, texts))
    }
}

/// Returns the number of endpoints: sources first, then outputs, in their order.
///
/// # Safety
/// `stats` is NULL or a snapshot that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_count(stats: *const StreamlinkStats) -> usize {
    // SAFETY: the caller passes NULL, or keeps `stats` alive during the call.
    unsafe { stats.as_ref() }.map_or(0, |s| s.texts.len())
}

/// The maximum bandwidth of the flow, in bits per second.
///
/// # Safety
/// `stats` is NULL or a snapshot that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_max_bandwidth(stats: *const StreamlinkStats) -> u64 {
    // SAFETY: the caller passes NULL, or keeps `stats` alive during the call.
    unsafe { stats.as_ref() }.map_or(0, |s| s.stats.max_bandwidth.as_bps())
}

/// Of a merge (SMPTE ST 2022-7): packets that no source has brought in time.
///
/// # Safety
/// `stats` is NULL or a snapshot that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_merge_lost(stats: *const StreamlinkStats) -> u64 {
    // SAFETY: the caller passes NULL, or keeps `stats` alive during the call.
    unsafe { stats.as_ref() }.map_or(0, |s| s.stats.merge_lost)
}

/// Fills in an endpoint, counted from 0; `endpoint->size` must be set. See STREAMLINK_INIT().
///
/// # Safety
/// `stats` is a snapshot that was not freed; `endpoint` points to a struct of the size that it says; `error` is NULL or
/// points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_endpoint(
    stats: *const StreamlinkStats,
    index: usize,
    endpoint: *mut StreamlinkEndpointStats,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `stats` alive during the call.
        let (s, is_source, texts) = unsafe { object(stats, "stats") }?.endpoint(index)?;
        let filled = endpoint_stats(s, is_source, texts);
        // SAFETY: the caller has set the size of `endpoint`, which it has so much memory for.
        unsafe { write_sized(endpoint, &filled, "endpoint") }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Fills in a player of an endpoint, both counted from 0; `player->size` must be set.
///
/// # Safety
/// As streamlink_stats_endpoint().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_player(
    stats: *const StreamlinkStats,
    endpoint: usize,
    index: usize,
    player: *mut StreamlinkPlayerStats,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `stats` alive during the call.
        let (s, _, texts) = unsafe { object(stats, "stats") }?.endpoint(endpoint)?;
        let missing = || Failure::new(Status::NotFound, format!("there is no player {index}"));
        let (found, peer) = s.players.get(index).zip(texts.players.get(index)).ok_or_else(missing)?;
        let filled = player_stats(found, peer);
        // SAFETY: the caller has set the size of `player`, which it has so much memory for.
        unsafe { write_sized(player, &filled, "player") }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Fills in a member of an endpoint that is a group of connections, both counted from 0; `member->size` must be set.
///
/// # Safety
/// As streamlink_stats_endpoint().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_member(
    stats: *const StreamlinkStats,
    endpoint: usize,
    index: usize,
    member: *mut StreamlinkMemberStats,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `stats` alive during the call.
        let (s, _, texts) = unsafe { object(stats, "stats") }?.endpoint(endpoint)?;
        let missing = || Failure::new(Status::NotFound, format!("there is no member {index}"));
        let (found, address) = s.members.get(index).zip(texts.members.get(index)).ok_or_else(missing)?;
        let filled = member_stats(found, address);
        // SAFETY: the caller has set the size of `member`, which it has so much memory for.
        unsafe { write_sized(member, &filled, "member") }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Fills in the number of refusals for one reason, with endpoint and reason counted from 0; `refusal->size` must be set.
///
/// # Safety
/// As streamlink_stats_endpoint().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_refusal(
    stats: *const StreamlinkStats,
    endpoint: usize,
    index: usize,
    refusal: *mut StreamlinkRefusalStats,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `stats` alive during the call.
        let (s, _, texts) = unsafe { object(stats, "stats") }?.endpoint(endpoint)?;
        let missing = || Failure::new(Status::NotFound, format!("there is no refusal {index}"));
        let (found, reason) = s.refusals.get(index).zip(texts.refusals.get(index)).ok_or_else(missing)?;
        let filled = StreamlinkRefusalStats { size: 0, reason: reason.as_ptr(), count: found.count };
        // SAFETY: the caller has set the size of `refusal`, which it has so much memory for.
        unsafe { write_sized(refusal, &filled, "refusal") }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Fills in a PID of an endpoint, both counted from 0; `pid->size` must be set.
///
/// # Safety
/// As streamlink_stats_endpoint().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_pid(
    stats: *const StreamlinkStats,
    endpoint: usize,
    index: usize,
    pid: *mut StreamlinkPidStats,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `stats` alive during the call.
        let (s, ..) = unsafe { object(stats, "stats") }?.endpoint(endpoint)?;
        let missing = || Failure::new(Status::NotFound, format!("there is no PID {index}"));
        let found = s.pids.get(index).ok_or_else(missing)?;
        let filled = pid_stats(found);
        // SAFETY: the caller has set the size of `pid`, which it has so much memory for.
        unsafe { write_sized(pid, &filled, "pid") }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Fills in a track of an endpoint, both counted from 0; `track->size` must be set.
///
/// # Safety
/// As streamlink_stats_endpoint().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_track(
    stats: *const StreamlinkStats,
    endpoint: usize,
    index: usize,
    track: *mut StreamlinkTrack,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `stats` alive during the call.
        let (s, _, texts) = unsafe { object(stats, "stats") }?.endpoint(endpoint)?;
        let missing = || Failure::new(Status::NotFound, format!("there is no track {index}"));
        let (found, texts) = s.tracks.get(index).zip(texts.tracks.get(index)).ok_or_else(missing)?;
        let filled = track_stats(found, texts);
        // SAFETY: the caller has set the size of `track`, which it has so much memory for.
        unsafe { write_sized(track, &filled, "track") }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// The name of the flow; lives as long as the snapshot. NULL: "".
///
/// # Safety
/// `stats` is NULL or a snapshot that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_flow(stats: *const StreamlinkStats) -> *const c_char {
    // SAFETY: the caller passes NULL, or keeps `stats` alive during the call.
    unsafe { stats.as_ref() }.map_or(c"".as_ptr(), |s| s.flow.as_ptr())
}

/// Writes a snapshot as JSON: an object with the members name, max_bandwidth, merge_lost, sources, outputs and regions;
/// sources and outputs have the fields of streamlink_endpoint_stats under the names of the Rust API, durations as numbers of
/// milliseconds. Stream keys are hidden. On success `*json` is to be freed with streamlink_text_free().
///
/// # Safety
/// `stats` is a snapshot that was not freed; `json` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_to_json(
    stats: *const StreamlinkStats,
    json: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `stats` alive during the call.
        let stats = unsafe { object(stats, "stats") }?;
        place(json, "json")?;
        let written = crate::guard::json(&stats.stats)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(json, written) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Frees a snapshot. NULL is allowed.
///
/// # Safety
/// `stats` is NULL or a snapshot that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_stats_free(stats: *mut StreamlinkStats) {
    // SAFETY: the caller hands over `stats`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take(stats) }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{
        StreamlinkRegionStats, streamlink_stats_region, streamlink_stats_region_count, streamlink_stats_region_leg,
    };
    use std::ffi::CStr;

    #[test]
    fn stats_show_remote_outputs_and_their_region() {
        let json = r#"{"name":"f","max_bandwidth":1,"merge_lost":0,"sources":[],
            "outputs":[{"name":"o","protocol":"SRT","region":"eu","node":"node-1","state":"connected","packets":7}],
            "regions":[{"name":"eu","state":"waiting","waiting":"cannot connect","outputs":1,"packets":9,
                "legs":[{"address":"relay-a:443","packets":5,"connected_ms":1000}]}]}"#;
        let stats = StreamlinkStats::new(serde_json::from_str(json).unwrap());
        // SAFETY: texts of the snapshot, which lives on.
        let text = |text: *const c_char| unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned();
        // SAFETY: all may be zero; sizes are set.
        let mut endpoint: StreamlinkEndpointStats = unsafe { std::mem::zeroed() };
        endpoint.size = size_of::<StreamlinkEndpointStats>();
        // SAFETY: as above.
        let mut region: StreamlinkRegionStats = unsafe { std::mem::zeroed() };
        region.size = size_of::<StreamlinkRegionStats>();
        // SAFETY: as above.
        let mut leg: StreamlinkMemberStats = unsafe { std::mem::zeroed() };
        leg.size = size_of::<StreamlinkMemberStats>();
        let no_error = std::ptr::null_mut();
        // SAFETY: a snapshot and structs of our own.
        unsafe {
            assert_eq!(streamlink_stats_endpoint(&stats, 0, &mut endpoint, no_error), Status::Ok);
            assert_eq!(streamlink_stats_region_count(&stats), 1);
            assert_eq!(streamlink_stats_region(&stats, 0, &mut region, no_error), Status::Ok);
            assert_eq!(streamlink_stats_region_leg(&stats, 0, 0, &mut leg, no_error), Status::Ok);
            assert_eq!(streamlink_stats_region(&stats, 1, &mut region, no_error), Status::NotFound);
            assert_eq!(streamlink_stats_region_leg(&stats, 0, 1, &mut leg, no_error), Status::NotFound);
        }
        assert_eq!((endpoint.state, endpoint.packets), (2, 7));
        assert_eq!((text(endpoint.region), text(endpoint.node)), ("eu".to_owned(), "node-1".to_owned()));
        assert_eq!((text(region.name), text(region.waiting)), ("eu".to_owned(), "cannot connect".to_owned()));
        assert_eq!((region.state, region.outputs, region.packets, region.leg_count), (1, 1, 9, 1));
        assert_eq!((text(leg.address), leg.packets, leg.connected_ms), ("relay-a:443".to_owned(), 5, 1000));
    }
}
