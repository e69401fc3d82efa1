//! The host's word on who may connect to an SRT listener.

use crate::{guard::Versioned, guard::c_string, run};
use std::ffi::{c_char, c_void};
use streamlink_core::{Passphrase, SrtAccess, SrtRequest};

/// A caller that asks to be let in by an SRT listener; its address is on the allowlist, and has been proved. All texts
/// live until the callback returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkSrtRequest {
    /// The size of this struct, in bytes.
    pub size: usize,
    /// The name of the source or output that it would be for.
    pub endpoint: *const c_char,
    /// Where it calls from, as in "192.0.2.1:9000" or "[2001:db8::1]:9000".
    pub peer: *const c_char,
    /// The stream id as it came; NULL if there is none.
    pub stream_id: *const c_char,
    /// Not 0: it would send, to a source. 0: it would receive, from an output.
    pub publishes: i32,
}

/// The host's decision on a caller. It is all zero when the callback is called: a callback that writes nothing refuses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkSrtReply {
    /// The size of this struct, in bytes.
    pub size: usize,
    /// The code with which it is refused, which libsrt shows to its user: 1000 to 1999 stand for HTTP statuses plus
    /// 1000 (1401: unauthorized), 2000 and above are the host's own; others, also 0, are sent as 1403.
    pub reject: u32,
    /// Not empty: an accepted caller needs this passphrase of 10 to 79 bytes, which ends with NUL. Another length
    /// refuses it. Empty: it needs that of the source or output, if that has one.
    pub passphrase: [c_char; 80],
    /// Not 0: the caller may come in. 0: it is refused.
    pub accept: i32,
}

// SAFETY: `size` is first, and all other fields may be zero.
unsafe impl Versioned for StreamlinkSrtRequest {}
// SAFETY: as above.
unsafe impl Versioned for StreamlinkSrtReply {}

/// Asked about every caller of an SRT listener whom the allowlist admits. It is called on threads of its own, several
/// at the same time (16 for each port at most), which no media waits for. A caller is refused with code 1500 when there
/// is no answer within 2 seconds. Stopping a flow waits until questions about its callers have returned.
pub type StreamlinkSrtAccess = Option<
    unsafe extern "C" fn(user: *mut c_void, request: *const StreamlinkSrtRequest, reply: *mut StreamlinkSrtReply),
>;

/// The host's pointer, which we only hand back.
#[derive(Clone, Copy)]
pub(crate) struct User(pub(crate) *mut c_void);
// SAFETY: we do nothing with it; the header asks the host for callbacks that may come from any thread.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

impl User {
    pub(crate) fn get(self) -> *mut c_void {
        self.0
    }
}

/// Asks the host.
pub(crate) fn ask(
    hook: unsafe extern "C" fn(*mut c_void, *const StreamlinkSrtRequest, *mut StreamlinkSrtReply),
    user: User,
    request: &SrtRequest<'_>,
) -> SrtAccess {
    let (endpoint, peer) = (c_string(request.endpoint), c_string(request.peer.to_string()));
    let stream_id = request.stream_id.map(c_string);
    let asked = StreamlinkSrtRequest {
        size: size_of::<StreamlinkSrtRequest>(),
        endpoint: endpoint.as_ptr(),
        peer: peer.as_ptr(),
        stream_id: stream_id.as_ref().map_or(std::ptr::null(), |id| id.as_ptr()),
        publishes: request.publishes.into(),
    };
    let size = size_of::<StreamlinkSrtReply>();
    let mut reply = StreamlinkSrtReply { size, reject: 0, passphrase: [0; 80], accept: 0 };
    // SAFETY: both live until the call returns, and the host promised a function of this type.
    run::callback(|| unsafe { hook(user.get(), &raw const asked, &raw mut reply) });
    if reply.accept == 0 {
        return SrtAccess::Reject(reply.reject);
    }
    // The cast is of bytes: `char` has a sign on some machines.
    let secret: Vec<u8> = reply.passphrase.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    if secret.is_empty() {
        return SrtAccess::Accept;
    }
    match String::from_utf8(secret).ok().and_then(|secret| Passphrase::new(secret).ok()) {
        Some(passphrase) => SrtAccess::AcceptWith(passphrase),
        None => SrtAccess::Reject(1500),
    }
}
