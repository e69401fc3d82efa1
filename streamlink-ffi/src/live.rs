//! Changes of a running flow: its outputs, sources and bandwidth.

use crate::{
    config::{self, StreamlinkOutput, StreamlinkSource},
    error::StreamlinkError,
    flow::StreamlinkFlow,
    guard::{Failure, guard, object, text},
    handle::live,
    run,
    status::Status,
};
use std::ffi::c_char;
use streamlink_core::{Applied, Bitrate, ConfigErrorKind, Error, OutputEdit, SourceEdit};

/// Way in which a change was applied.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkApplied {
    /// In place: connections go on.
    InPlace = 0,
    /// The changed endpoint alone closes its sockets, or opens them; its peers connect again. No other endpoint notices.
    Reconnect = 1,
}

/// Tells the caller how a change was applied, if it wants to know.
///
/// # Safety
/// `to` is NULL or points to memory for a number that the caller owns.
unsafe fn tell(to: *mut i32, applied: Applied) {
    let number = match applied {
        Applied::InPlace => StreamlinkApplied::InPlace,
        // Also what is newer than this crate: peers may have to connect again.
        _ => StreamlinkApplied::Reconnect,
    };
    if !to.is_null() {
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { to.write(number as i32) };
    }
}

/// Adds an output, as it is now. It gets what comes from now on; no other output notices.
///
/// # Safety
/// Both are objects that were not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_add_output(
    flow: *const StreamlinkFlow,
    output: *const StreamlinkOutput,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` and `output` alive during the call.
        let (flow, output) = unsafe { (live(flow, "flow")?, object(output, "output")?) };
        Ok(run::wait(&flow.engine, flow.handle.add_output(output.get()))?)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Puts another output in the place of one. It is checked and opened first: when that fails, the old one stays. From
/// within a callback it does not wait until the sockets of the old one are closed.
///
/// # Safety
/// Both are objects that were not destroyed; `name` is a text; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_replace_output(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    output: *const StreamlinkOutput,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` and `output` alive during the call; `name` is a text that ends with NUL.
        let (flow, name, output) = unsafe { (live(flow, "flow")?, text(name, "name")?, object(output, "output")?) };
        Ok(run::wait(&flow.engine, flow.handle.replace_output(name, output.get()))?)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Removes an output, and waits until its sockets are closed; from within a callback, which may run on a thread of that
/// output, it does not wait. No other output notices.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `name` is a text; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_remove_output(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `name` is a text that ends with NUL.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(name, "name")?) };
        Ok(run::wait(&flow.engine, flow.handle.remove_output(name))?)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Changes one setting of an output in place: "name", "description", "allow" (players that it does not admit are cut
/// off) or "max_players" (1 to 1000000). `*applied` is STREAMLINK_APPLIED_IN_PLACE then; `applied` may be NULL.
///
/// # Safety
/// `flow` is a flow that was not destroyed; the others are texts; `applied` is NULL or points to memory for a number; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_edit_output(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    key: *const c_char,
    value: *const c_char,
    applied: *mut i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let (flow, name, key, value) =
            unsafe { (live(flow, "flow")?, text(name, "name")?, text(key, "key")?, text(value, "value")?) };
        let wrong = |problem: ConfigErrorKind| Failure::field(key, &problem);
        let edit = match key {
            "name" => OutputEdit::new().rename(value),
            "description" => OutputEdit::new().description(value),
            "allow" => OutputEdit::new().allow(value.parse().map_err(wrong)?),
            "max_players" => {
                let problem =
                    || ConfigErrorKind::Malformed { value: value.into(), expected: "a number of players".into() };
                OutputEdit::new().max_players(value.parse().map_err(|_| wrong(problem()))?)
            }
            _ => return Err(wrong(ConfigErrorKind::Conflict("cannot be changed in place".into()))),
        };
        let done = flow.handle.edit_output(name, edit)?;
        // SAFETY: NULL or memory for a number, as the contract says.
        unsafe { tell(applied, done) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Cuts off a player of an output that listens, by its address as streamlink_player_stats has it. It may come again: an
/// allowlist keeps it out. STREAMLINK_STATUS_NOT_FOUND: there is no such output, or no such player of it.
///
/// # Safety
/// `flow` is a flow that was not destroyed; the others are texts; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_kick_player(
    flow: *const StreamlinkFlow,
    output: *const c_char,
    peer: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `output` and `peer` are texts that end with NUL.
        let (flow, output, peer) = unsafe { (live(flow, "flow")?, text(output, "output")?, text(peer, "peer")?) };
        let peer = peer.parse().map_err(|_| Failure::argument(format!("`{peer}` is no address")))?;
        Ok(run::wait(&flow.engine, flow.handle.kick_player(output, peer))?)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Adds a source, as it is now, behind those that are there: a backup like those that the flow was started with. Its
/// media must be of their family. Players stay connected when it takes over.
///
/// # Safety
/// All are objects that were not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_add_source(
    flow: *const StreamlinkFlow,
    source: *const StreamlinkSource,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` and `source` alive during the call.
        let (flow, source) = unsafe { (live(flow, "flow")?, object(source, "source")?) };
        Ok(run::wait(&flow.engine, flow.handle.add_source(source.get()))?)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Puts another source of the same family in the place of one; players stay connected, and its media continues that of
/// the old one. It is opened before the old one ends, except where both need the same socket. When it cannot be opened,
/// the old one stays. `*applied` is STREAMLINK_APPLIED_RECONNECT then; `applied` may be NULL.
///
/// # Safety
/// All are objects that were not destroyed; `name` is a text; `applied` is NULL or points to memory for a number; `error`
/// is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_replace_source(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    source: *const StreamlinkSource,
    applied: *mut i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` and `source` alive during the call; `name` is a text that ends with NUL.
        let (flow, name, source) = unsafe { (live(flow, "flow")?, text(name, "name")?, object(source, "source")?) };
        let done = run::wait(&flow.engine, flow.handle.replace_source(name, source.get()))?;
        // SAFETY: NULL or memory for a number, as the contract says.
        unsafe { tell(applied, done) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Removes a source, and waits until its sockets are closed; from within a callback it does not wait. If it feeds the flow,
/// another one takes over, and players stay connected. The last source cannot be removed: STREAMLINK_STATUS_INVALID_CONFIG.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `name` is a text; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_remove_source(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `name` is a text that ends with NUL.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(name, "name")?) };
        Ok(run::wait(&flow.engine, flow.handle.remove_source(name))?)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Switches to a source by hand, at its next key frame or the like; until then the flow stays as it is. It then stays with
/// the source until that is lost; from then on the failover policy holds again. STREAMLINK_EVENT_KIND_SWITCHED tells when
/// it has. STREAMLINK_STATUS_INVALID_CONFIG: the source is disabled, or the flow merges its sources.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `source` is a text; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_switch_to(
    flow: *const StreamlinkFlow,
    source: *const c_char,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `source` is a text that ends with NUL.
        let (flow, source) = unsafe { (live(flow, "flow")?, text(source, "source")?) };
        Ok(flow.handle.switch_to(source)?)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Enables or disables a source. A disabled one holds its configuration, name and counters, and no sockets. If it
/// feeds the flow, another one takes over.
/// `enabled`: not 0: enabled. `*applied` is STREAMLINK_APPLIED_RECONNECT, or STREAMLINK_APPLIED_IN_PLACE if it was so
/// before; `applied` may be NULL. From within a callback it does not wait until sockets are closed.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `name` is a text; `applied` is NULL or points to memory for a number; `error` is
/// NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_set_source_enabled(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    enabled: i32,
    applied: *mut i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    // SAFETY: as the contract says.
    unsafe {
        set_enabled(flow, name, applied, error, |flow, name| {
            run::wait(&flow.engine, flow.handle.set_source_enabled(name, enabled != 0))
        })
    }
}

/// Enables or disables an output. A disabled one holds its configuration, name and counters, and no sockets. Its
/// peers are disconnected.
/// `enabled`: not 0: enabled. `*applied` is STREAMLINK_APPLIED_RECONNECT, or STREAMLINK_APPLIED_IN_PLACE if it was so
/// before; `applied` may be NULL. From within a callback it does not wait until sockets are closed.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `name` is a text; `applied` is NULL or points to memory for a number; `error` is
/// NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_set_output_enabled(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    enabled: i32,
    applied: *mut i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    // SAFETY: as the contract says.
    unsafe {
        set_enabled(flow, name, applied, error, |flow, name| {
            run::wait(&flow.engine, flow.handle.set_output_enabled(name, enabled != 0))
        })
    }
}

/// Enables or disables an endpoint by `set`, and tells how that was applied.
///
/// # Safety
/// As streamlink_flow_set_source_enabled().
unsafe fn set_enabled(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    applied: *mut i32,
    error: *mut *mut StreamlinkError,
    set: impl FnOnce(&StreamlinkFlow, &str) -> Result<Applied, Error>,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `name` is a text that ends with NUL.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(name, "name")?) };
        let done = set(flow, name)?;
        // SAFETY: NULL or memory for a number, as the contract says.
        unsafe { tell(applied, done) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Changes how the sources back each other, from the next packet on; the numbers are those of
/// streamlink_flow_builder_set_failover(). A merge cannot begin or end while the flow runs, and backups cannot become cold
/// or hot: STREAMLINK_STATUS_INVALID_CONFIG. `*applied` is STREAMLINK_APPLIED_IN_PLACE; `applied` may be NULL.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `applied` is NULL or points to memory for a number; `error` is NULL or points to
/// memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_set_failover(
    flow: *const StreamlinkFlow,
    policy: i32,
    time_ms: u32,
    loss_threshold_ms: u32,
    cold: i32,
    applied: *mut i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call.
        let flow = unsafe { live(flow, "flow") }?;
        let failover = config::failover(policy, time_ms, loss_threshold_ms, cold)?;
        let done = flow.handle.set_failover(failover)?;
        // SAFETY: NULL or memory for a number, as the contract says.
        unsafe { tell(applied, done) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Changes one setting of a source in place: "name", "description" or "allow" (a sender that it does not admit is cut
/// off). `*applied` is STREAMLINK_APPLIED_IN_PLACE then; `applied` may be NULL.
///
/// # Safety
/// As streamlink_flow_edit_output().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_edit_source(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    key: *const c_char,
    value: *const c_char,
    applied: *mut i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: as the contract says.
        let (flow, name, key, value) =
            unsafe { (live(flow, "flow")?, text(name, "name")?, text(key, "key")?, text(value, "value")?) };
        let wrong = |problem: ConfigErrorKind| Failure::field(key, &problem);
        let edit = match key {
            "name" => SourceEdit::new().rename(value),
            "description" => SourceEdit::new().description(value),
            "allow" => SourceEdit::new().allow(value.parse().map_err(wrong)?),
            _ => return Err(wrong(ConfigErrorKind::Conflict("cannot be changed in place".into()))),
        };
        let done = flow.handle.edit_source(name, edit)?;
        // SAFETY: NULL or memory for a number, as the contract says.
        unsafe { tell(applied, done) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Changes the maximum bandwidth, in bits per second, from the next packet on.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_set_max_bandwidth(
    flow: *const StreamlinkFlow,
    bits_per_second: u64,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call.
        let flow = unsafe { live(flow, "flow") }?;
        Ok(flow.handle.set_max_bandwidth(Bitrate::bps(bits_per_second))?)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Changes what happens above the maximum bandwidth: a streamlink_bandwidth_policy.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_set_bandwidth_policy(
    flow: *const StreamlinkFlow,
    policy: i32,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call.
        let flow = unsafe { live(flow, "flow") }?;
        Ok(flow.handle.set_bandwidth_policy(config::policy(policy)?)?)
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}
