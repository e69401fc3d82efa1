//! Engines.

use crate::{
    access::{StreamlinkAccess, User, ask},
    error::StreamlinkError,
    guard::{
        Failure, MAX_STRUCT, Versioned, bytes, c_string, give, guard, json, optional_text, place, quiet, read_sized,
        take, text,
    },
    handle::{give_handle, live, take_handle},
    run,
    status::Status,
    text::StreamlinkText,
};
use std::{
    ffi::{CString, c_char, c_void},
    sync::Arc,
};
use streamlink_core::{Engine, PeerLimits, RegionEgress};

/// Owns the threads on which flows run, and the ports that flows share.
pub struct StreamlinkEngine {
    pub(crate) engine: Arc<Engine>,
}

/// A name for a place that outputs can leave from. Fields are only ever added, at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkRegion {
    /// The size of this struct, in bytes; the same for all regions of an array.
    pub size: usize,
    /// Its name.
    pub name: *const c_char,
    /// A local address, to which the sockets of outputs are bound; NULL if there is an interface.
    pub address: *const c_char,
    /// The name of an interface; NULL if there is an address.
    pub interface_name: *const c_char,
}

// SAFETY: `size` is first, and all other fields may be zero.
unsafe impl Versioned for StreamlinkRegion {}

/// Maximum number of regions.
const MAX_REGIONS: u32 = 4096;

/// Settings of an engine. Zeroes stand for the defaults; see STREAMLINK_INIT(). Nothing is kept that it points to, except
/// for the function and its pointer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkEngineOptions {
    /// The size of this struct, in bytes.
    pub size: usize,
    /// Threads, 1 to 1024; 0: one a processor core. Flows and connections add none.
    pub threads: u32,
    /// Number of regions; 4096 at most.
    pub region_count: u32,
    /// Regions that outputs can leave from.
    pub regions: *const StreamlinkRegion,
    /// The host name that input addresses and playback URLs show for listeners on every address; NULL: the first address
    /// of this machine that is not a loopback one.
    pub public_host: *const c_char,
    /// Asked about the publishers and players of listeners; NULL: nobody is asked.
    pub access: StreamlinkAccess,
    /// Handed to `access`.
    pub access_user: *mut c_void,
    /// The certificates, its own first, and the private key that listeners show when they speak TLS (rtmps, rtsps), as
    /// PEM.
    pub tls_certificates: *const u8,
    /// The length of `tls_certificates` in bytes; 0: there are none.
    pub tls_certificates_length: usize,
    /// The private key.
    pub tls_key: *const u8,
    /// The length of `tls_key` in bytes.
    pub tls_key_length: usize,
    /// Certificates, as PEM, that callers trust beside those of the system: of authorities, and of servers themselves. The
    /// setting `tls_fingerprint` of a caller trusts a certificate by its SHA-256 fingerprint instead.
    pub tls_roots: *const u8,
    /// The length of `tls_roots` in bytes; 0: there are none.
    pub tls_roots_length: usize,
    /// Connections of one peer address to a listening port that may be open and have not said yet what they want, 1 to
    /// 1000000; 0: 128. The addresses of an IPv6 /64 network count as one, here and below.
    pub peer_pending: u32,
    /// Connections of one peer address to a listening port that may be open in all, 1 to 1000000; 0: 1000.
    pub peer_connections: u32,
    /// Attempts of one peer address per second that may be refused at a listening port, such as wrong passwords, before
    /// its next ones are turned away unseen, 1 to 1000000; 0: 20.
    pub peer_refusals_per_second: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: `size` is first, and all other fields may be zero.
unsafe impl Versioned for StreamlinkEngineOptions {}

/// Limits of one peer address at a listening port.
fn peer_limits(options: &StreamlinkEngineOptions) -> Result<PeerLimits, Failure> {
    if options.reserved != 0 {
        return Err(Failure::argument("options: reserved is not 0"));
    }
    let check = |field: &str, value: u32| {
        if value <= 1_000_000 {
            Ok(value)
        } else {
            Err(Failure::argument(format!("options: {field} is {value}, above 1000000")))
        }
    };
    let mut limits = PeerLimits::new();
    let pending = check("peer_pending", options.peer_pending)?;
    if pending > 0 {
        limits = limits.pending(pending);
    }
    let connections = check("peer_connections", options.peer_connections)?;
    if connections > 0 {
        limits = limits.connections(connections);
    }
    let refusals = check("peer_refusals_per_second", options.peer_refusals_per_second)?;
    if refusals > 0 {
        limits = limits.refusals_per_second(refusals);
    }
    Ok(limits)
}

/// Creates an engine. `options` may be NULL. On success `*engine` is the new engine, which is to be destroyed with
/// streamlink_engine_destroy().
///
/// A process that forks must not use an engine in the child: its threads are not there. Create one after fork().
///
/// # Safety
/// `options` is NULL or as its description says; `engine` points to memory for a pointer; `error` is NULL or does so
/// too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_create(
    options: *const StreamlinkEngineOptions,
    engine: *mut *mut StreamlinkEngine,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        place(engine, "engine")?;
        // SAFETY: the caller has set the size of `options`, which has so many bytes.
        let options = unsafe { read_sized(options, "options") }?;
        let mut builder = Engine::builder();
        if options.threads > 0 {
            builder = builder.workers(options.threads.try_into().unwrap_or(usize::MAX));
        }
        builder = builder.peer_limits(peer_limits(&options)?);
        // SAFETY: so many are there, as the caller says.
        for (name, egress) in unsafe { read_regions(options.regions, options.region_count) }? {
            builder = builder.region(name, egress);
        }
        // SAFETY: a text or NULL, as the description says.
        if let Some(host) = unsafe { optional_text(options.public_host, "public_host") }? {
            builder = builder.public_host(host);
        }
        if let Some(hook) = options.access {
            let user = User(options.access_user);
            builder = builder.access(move |request| ask(hook, user, request));
        }
        // SAFETY: so many bytes are there, as the caller says.
        let (certificates, key, roots) = unsafe {
            (
                bytes(options.tls_certificates, options.tls_certificates_length, "tls_certificates")?,
                bytes(options.tls_key, options.tls_key_length, "tls_key")?,
                bytes(options.tls_roots, options.tls_roots_length, "tls_roots")?,
            )
        };
        if !certificates.is_empty() || !key.is_empty() {
            builder = builder.tls_identity(certificates, key)?;
        }
        if !roots.is_empty() {
            builder = builder.tls_roots(roots)?;
        }
        let made = StreamlinkEngine { engine: Arc::new(builder.build()?) };
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give_handle(engine, made) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Reads an array of regions, whose elements have the size that the first one says.
///
/// # Safety
/// `regions` is NULL or points to `count` regions of the size that the first one says, with texts that are NULL or end
/// with NUL.
unsafe fn read_regions(regions: *const StreamlinkRegion, count: u32) -> Result<Vec<(String, RegionEgress)>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > MAX_REGIONS {
        return Err(Failure::argument(format!("region_count is {count}, above {MAX_REGIONS}")));
    }
    place(regions.cast_mut(), "regions")?;
    // SAFETY: there is a first one, as the contract says.
    let stride = unsafe { regions.cast::<usize>().read() };
    if !stride.is_multiple_of(align_of::<StreamlinkRegion>()) || stride > MAX_STRUCT {
        return Err(Failure::argument("regions: size is not that of the struct; STREAMLINK_INIT() sets it"));
    }
    let mut read = Vec::new();
    for i in 0..count as usize {
        // SAFETY: the element lies within the array, as the contract says.
        let element = unsafe { regions.byte_add(i * stride) };
        // SAFETY: as above.
        let region = unsafe { read_sized(element, "regions") }?;
        if region.size != stride {
            return Err(Failure::argument("regions: all have the same size"));
        }
        // SAFETY: texts or NULL, as the contract says.
        read.push(unsafe { read_region(region) }?);
    }
    Ok(read)
}

/// # Safety
/// All texts are NULL or end with NUL.
unsafe fn read_region(region: StreamlinkRegion) -> Result<(String, RegionEgress), Failure> {
    // SAFETY: as the contract says.
    let (name, address, interface) = unsafe {
        (
            text(region.name, "region.name")?,
            optional_text(region.address, "region.address")?,
            optional_text(region.interface_name, "region.interface_name")?,
        )
    };
    let egress = match (address, interface) {
        (Some(address), None) => {
            let parsed = address.parse().map_err(|_| Failure::argument(format!("`{address}` is no address")))?;
            RegionEgress::Address(parsed)
        }
        (None, Some(name)) => RegionEgress::Interface(name.to_owned()),
        _ => return Err(Failure::argument("a region has an address or an interface")),
    };
    Ok((name.to_owned(), egress))
}

/// Sets or replaces the certificates, its own first, and the private key that listeners show when they speak TLS, as PEM.
/// Handshakes that follow use them, also those of listeners that are running; connections stay. Nothing is kept that the
/// arguments point to.
///
/// # Safety
/// `engine` is an engine that was not destroyed; `certificates` and `key` point to so many bytes as their lengths say;
/// `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_set_tls_identity(
    engine: *const StreamlinkEngine,
    certificates: *const u8,
    certificates_length: usize,
    key: *const u8,
    key_length: usize,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `engine` alive during the call.
        let (engine, certificates, key) = unsafe {
            (
                live(engine, "engine")?,
                bytes(certificates, certificates_length, "certificates")?,
                bytes(key, key_length, "key")?,
            )
        };
        engine.engine.set_tls_identity(certificates, key)?;
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Statistics of all flows as OpenMetrics text, for a scraper. On success `*metrics` is to be freed with
/// streamlink_text_free().
///
/// # Safety
/// `engine` is an engine that was not destroyed; `metrics` points to memory for a pointer; `error` is NULL or does so
/// too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_metrics(
    engine: *const StreamlinkEngine,
    metrics: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `engine` alive during the call.
        let engine = unsafe { live(engine, "engine") }?;
        place(metrics, "metrics")?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(metrics, StreamlinkText::new(engine.engine.metrics())) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Statistics of all flows as a JSON array, in the order of their names; see streamlink_stats_to_json(). On success
/// `*stats` is to be freed with streamlink_text_free().
///
/// # Safety
/// `engine` is an engine that was not destroyed; `stats` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_stats_to_json(
    engine: *const StreamlinkEngine,
    stats: *mut *mut StreamlinkText,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `engine` alive during the call.
        let engine = unsafe { live(engine, "engine") }?;
        place(stats, "stats")?;
        let written = json(&engine.engine.stats())?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(stats, written) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Names of the flows that run in an engine.
pub struct StreamlinkFlowList {
    names: Vec<CString>,
}

/// Lists the flows that run in an engine, also those that other code has started, in the order of their names. On success
/// `*flows` is to be freed with streamlink_flow_list_free(). See streamlink_engine_flow().
///
/// # Safety
/// `engine` is an engine that was not destroyed; `flows` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_flows(
    engine: *const StreamlinkEngine,
    flows: *mut *mut StreamlinkFlowList,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `engine` alive during the call.
        let engine = unsafe { live(engine, "engine") }?;
        place(flows, "flows")?;
        let names = engine.engine.flows().iter().map(|flow| c_string(flow.name())).collect();
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(flows, StreamlinkFlowList { names }) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// The number of flows of a list. NULL: 0.
///
/// # Safety
/// `flows` is NULL or a list that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_list_count(flows: *const StreamlinkFlowList) -> usize {
    // SAFETY: the caller passes NULL, or keeps `flows` alive during the call.
    unsafe { flows.as_ref() }.map_or(0, |flows| flows.names.len())
}

/// The name of a flow of a list, counted from 0. Lives as long as the list. NULL: there are not so many.
///
/// # Safety
/// `flows` is NULL or a list that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_list_name(flows: *const StreamlinkFlowList, index: usize) -> *const c_char {
    // SAFETY: the caller passes NULL, or keeps `flows` alive during the call.
    let found = unsafe { flows.as_ref() }.and_then(|flows| flows.names.get(index));
    found.map_or(std::ptr::null(), |name| name.as_ptr())
}

/// Frees a list. NULL is allowed.
///
/// # Safety
/// `flows` is NULL or a list that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_list_free(flows: *mut StreamlinkFlowList) {
    // SAFETY: the caller hands over `flows`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take(flows) }));
}

/// Stops the flows of an engine, waits until their sockets are closed and their callbacks have ended, and destroys it.
/// From within a callback it does not wait. The handles of its flows stay valid, and are to be destroyed: their calls
/// return STREAMLINK_STATUS_STOPPED; the engine's threads end with the last of them. NULL is allowed.
///
/// # Safety
/// `engine` is NULL or an engine that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_engine_destroy(engine: *mut StreamlinkEngine) {
    let body = || {
        // SAFETY: the caller hands over `engine`, which is NULL or was not freed before.
        if let Some(engine) = unsafe { take_handle(engine) } {
            run::finish(move || run::wait(&engine.engine, engine.engine.shutdown()));
        }
    };
    quiet((), body);
}
