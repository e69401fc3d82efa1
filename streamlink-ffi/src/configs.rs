//! Flows as JSON: a list that is checked before anything is started, and the configuration of a running flow.

use crate::{
    engine::StreamlinkEngine,
    error::StreamlinkError,
    flow::StreamlinkFlow,
    guard::{Failure, c_string, give, guard, object, place, quiet, take, text},
    handle::{give_handle, live},
    status::Status,
    text::StreamlinkText,
};
use std::ffi::{CString, c_char};
use streamlink_core::{Flow, FlowHandle};

/// Flows that were read from JSON, and are valid.
pub struct StreamlinkFlowConfigs {
    flows: Vec<(CString, Flow)>,
}

impl StreamlinkFlowConfigs {
    fn get(&self, index: usize) -> Result<&(CString, Flow), Failure> {
        self.flows.get(index).ok_or_else(|| Failure::new(Status::NotFound, format!("there is no flow {index}")))
    }
}

/// Reads one flow, or a list of flows, from JSON in the form of streamlink_flow_start_json(), and starts nothing. All
/// errors of all flows are told, also where two flows have one name or listen on one address with one key. On success
/// `*configs` is to be freed with streamlink_flow_configs_free().
///
/// # Safety
/// `json` is a text; `configs` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_configs_from_json(
    json: *const c_char,
    configs: *mut *mut StreamlinkFlowConfigs,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: a text, as the contract says.
        let json = unsafe { text(json, "json") }?;
        place(configs, "configs")?;
        let flows = Flow::list_from_json(json)?;
        let flows = flows.into_iter().map(|flow| (c_string(flow.name()), flow)).collect();
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(configs, StreamlinkFlowConfigs { flows }) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// The number of flows. NULL: 0.
///
/// # Safety
/// `configs` is NULL or an object that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_configs_count(configs: *const StreamlinkFlowConfigs) -> usize {
    // SAFETY: the caller passes NULL, or keeps `configs` alive during the call.
    unsafe { configs.as_ref() }.map_or(0, |configs| configs.flows.len())
}

/// The name of a flow, counted from 0. Lives as long as the object. NULL: there are not so many.
///
/// # Safety
/// `configs` is NULL or an object that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_configs_name(
    configs: *const StreamlinkFlowConfigs,
    index: usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL, or keeps `configs` alive during the call.
    let found = unsafe { configs.as_ref() }.and_then(|configs| configs.flows.get(index));
    found.map_or(std::ptr::null(), |(name, _)| name.as_ptr())
}

/// Starts a flow, counted from 0, as streamlink_flow_start(). STREAMLINK_STATUS_NOT_FOUND: there are not so many.
///
/// # Safety
/// `engine` and `configs` are objects that were not destroyed; `flow` points to memory for a pointer; `error` is NULL or
/// does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_configs_start(
    configs: *const StreamlinkFlowConfigs,
    index: usize,
    engine: *const StreamlinkEngine,
    flow: *mut *mut StreamlinkFlow,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `configs` and `engine` alive during the call.
        let (configs, engine) = unsafe { (object(configs, "configs")?, live(engine, "engine")?) };
        place(flow, "flow")?;
        let started = StreamlinkFlow::start(engine, configs.get(index)?.1.clone())?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give_handle(flow, started) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Frees the flows that were read; those that were started from them go on. NULL is allowed.
///
/// # Safety
/// `configs` is NULL or an object that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_configs_free(configs: *mut StreamlinkFlowConfigs) {
    // SAFETY: the caller hands over `configs`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take(configs) }));
}

/// The configuration of a running flow as it is now, with all changes since it was started, as JSON. An ellipsis stands
/// for each secret: passphrases, stream keys, stream ids, users and passwords. On success `*json` is to be freed with
/// streamlink_text_free().
///
/// # Safety
/// `flow` is a flow that was not destroyed; `json` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_configuration(
    flow: *const StreamlinkFlow,
    json: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    // SAFETY: as the contract says.
    unsafe { write_configuration(flow, json, error, |flow| flow.configuration().to_json()) }
}

/// The configuration of a running flow as streamlink_flow_configuration(), with its secrets, generated stream keys among
/// them: streamlink_flow_start_json() starts the same flow again. Not for a log.
///
/// # Safety
/// As streamlink_flow_configuration().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_configuration_with_secrets(
    flow: *const StreamlinkFlow,
    json: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    // SAFETY: as the contract says.
    unsafe { write_configuration(flow, json, error, |flow| flow.configuration_with_secrets().to_json()) }
}

/// Writes the configuration that `read` returns as JSON.
///
/// # Safety
/// As streamlink_flow_configuration().
unsafe fn write_configuration(
    flow: *const StreamlinkFlow,
    json: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
    read: impl FnOnce(&FlowHandle) -> String,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call.
        let flow = unsafe { live(flow, "flow") }?;
        place(json, "json")?;
        let written = read(&flow.handle);
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(json, StreamlinkText::new(written)) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}
