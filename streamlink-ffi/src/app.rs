//! Media from the host's own process.

use crate::{
    error::StreamlinkError,
    flow::StreamlinkFlow,
    guard::{Failure, guard, place, quiet, text},
    handle::{give_handle, live, take_handle},
    packet::{StreamlinkPacket, unwrap},
    status::Status,
};
use std::ffi::c_char;
use streamlink_core::AppSource;

/// Handle by which the host pushes packets into a flow: its source `app://…`. May be used after the flow was stopped:
/// pushing is then STREAMLINK_STATUS_STOPPED.
pub struct StreamlinkAppSource {
    source: AppSource,
}

/// The place where packets are pushed into the source `app://…` of this name. On success `*source` is to be destroyed
/// with streamlink_app_source_destroy(), before or after the flow.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `name` is a text; `source` points to memory for a pointer; `error` is NULL or
/// does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_app_source(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    source: *mut *mut StreamlinkAppSource,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `name` is a text that ends with NUL.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(name, "name")?) };
        place(source, "source")?;
        let found = flow.handle.app_source(name)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give_handle(source, StreamlinkAppSource { source: found }) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Hands packets to the flow, and to all its outputs; the handles stay the caller's. Never blocks. Many at once cost less
/// than one by one. Returns the first refusal, after all were offered: STREAMLINK_STATUS_FULL, the flow is at its maximum
/// bandwidth; STREAMLINK_STATUS_STOPPED; STREAMLINK_STATUS_BAD_PACKET, malformed or of another family. There is no
/// streamlink_error for it: it is the hot path.
///
/// # Safety
/// `source` is an object that was not destroyed; `packets` points to `count` packets that were not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_app_source_push(
    source: *const StreamlinkAppSource,
    packets: *const *const StreamlinkPacket,
    count: usize,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `source` alive during the call.
        let Ok(source) = (unsafe { live(source, "source") }) else { return Status::InvalidArgument };
        if packets.is_null() || count > isize::MAX as usize / size_of::<usize>() {
            return if count == 0 { Status::Ok } else { Status::InvalidArgument };
        }
        // SAFETY: so many are there, as the contract says.
        let packets = unsafe { std::slice::from_raw_parts(packets, count) };
        if packets.iter().any(|packet| packet.is_null()) {
            return Status::InvalidArgument;
        }
        // SAFETY: packets that were not freed, as the contract says, and none is NULL.
        let packets = packets.iter().map(|packet| unsafe { &**packet }.packet.clone());
        source.source.push_all(packets).map_or_else(Status::from, |()| Status::Ok)
    };
    quiet(Status::Internal, body)
}

/// Hands packets to the flow as streamlink_app_source_push(), and frees their handles, whatever becomes of them; which
/// costs less.
///
/// # Safety
/// As streamlink_app_source_push(). The packets are freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_app_source_give(
    source: *const StreamlinkAppSource,
    packets: *const *mut StreamlinkPacket,
    count: usize,
) -> Status {
    let body = || {
        if packets.is_null() || count > isize::MAX as usize / size_of::<usize>() {
            return if count == 0 { Status::Ok } else { Status::InvalidArgument };
        }
        // SAFETY: so many are there, as the contract says.
        let packets = unsafe { std::slice::from_raw_parts(packets, count) };
        let missing = packets.iter().any(|packet| packet.is_null());
        // SAFETY: packets that were not freed, as the contract says.
        let packets = packets.iter().filter_map(|packet| unsafe { unwrap(*packet) });
        // SAFETY: the caller keeps `source` alive during the call.
        match unsafe { live(source, "source") }.ok() {
            Some(source) if !missing => source.source.push_all(packets).map_or_else(Status::from, |()| Status::Ok),
            _ => {
                for packet in packets {
                    drop(packet);
                }
                Status::InvalidArgument
            }
        }
    };
    quiet(Status::Internal, body)
}

/// Says what the packets of a source `app://rtsp` are: its SDP (RFC 8866), whose sections of media number the tracks.
/// Players can come from then on.
///
/// # Safety
/// `source` is an object that was not destroyed; `sdp` is a text; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_app_source_set_sdp(
    source: *const StreamlinkAppSource,
    sdp: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `source` alive during the call; `sdp` is a text that ends with NUL.
        let (source, sdp) = unsafe { (live(source, "source")?, text(sdp, "sdp")?) };
        source.source.set_sdp(sdp).map_err(Failure::from)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Destroys the place; the source itself stays, and ends with its flow. NULL is allowed.
///
/// # Safety
/// `source` is NULL or an object that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_app_source_destroy(source: *mut StreamlinkAppSource) {
    // SAFETY: the caller hands over `source`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take_handle(source) }));
}
