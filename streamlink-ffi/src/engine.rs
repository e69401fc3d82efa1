//! Engines.

use crate::{
    access::{StreamlinkAccess, User, ask},
    error::StreamlinkError,
    guard::{Failure, Versioned, bytes, give, guard, optional_text, place, quiet, read_sized, text},
    handle::{give_handle, live, take_handle},
    run,
    status::Status,
    text::StreamlinkText,
};
use std::{
    ffi::{c_char, c_void},
    sync::Arc,
};
use streamlink_core::{Engine, PeerLimits, RegionEgress};

/// Owns the threads on which flows run, and the ports that flows share.
pub struct StreamlinkEngine {
    pub(crate) engine: Arc<Engine>,
}

/// A name for a place that outputs can leave from.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkRegion {
    /// Its name.
    pub name: *const c_char,
    /// A local address, to which the sockets of outputs are bound; NULL if there is an interface.
    pub address: *const c_char,
    /// The name of an interface; NULL if there is an address.
    pub interface: *const c_char,
}

/// Settings of an engine. Zeroes stand for the defaults; see STREAMLINK_INIT(). Nothing is kept that it points to, except
/// for the function and its pointer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkEngineOptions {
    /// The size of this struct, in bytes.
    pub size: usize,
    /// Threads, 1 to 1024; 0: one a processor core. Flows and connections add none.
    pub threads: u32,
    /// How many regions there are.
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

/// What one peer address may use of a listening port.
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
        // SAFETY: as the contract says.
        let options = unsafe { read_sized(options, "options") }?;
        let mut builder = Engine::builder();
        if options.threads > 0 {
            builder = builder.workers(options.threads.try_into().unwrap_or(usize::MAX));
        }
        builder = builder.peer_limits(peer_limits(&options)?);
        for i in 0..options.region_count as usize {
            place(options.regions.cast_mut(), "regions")?;
            // SAFETY: so many are there, as the caller says.
            let region = unsafe { *options.regions.add(i) };
            // SAFETY: texts or NULL, as the description says.
            let (name, egress) = unsafe { read_region(region) }?;
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
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
}

/// # Safety
/// All texts are NULL or end with NUL.
unsafe fn read_region(region: StreamlinkRegion) -> Result<(String, RegionEgress), Failure> {
    // SAFETY: as the contract says.
    let (name, address, interface) = unsafe {
        (
            text(region.name, "region.name")?,
            optional_text(region.address, "region.address")?,
            optional_text(region.interface, "region.interface")?,
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
        // SAFETY: as the contract says.
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
    // SAFETY: `error` is as the contract says.
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
        // SAFETY: as the contract says.
        let engine = unsafe { live(engine, "engine") }?;
        place(metrics, "metrics")?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { give(metrics, StreamlinkText::new(engine.engine.metrics())) };
        Ok(())
    };
    // SAFETY: `error` is as the contract says.
    unsafe { guard(error, body) }
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
        // SAFETY: as the contract says.
        if let Some(engine) = unsafe { take_handle(engine) } {
            run::finish(move || run::wait(&engine.engine, engine.engine.shutdown()));
        }
    };
    quiet((), body);
}
