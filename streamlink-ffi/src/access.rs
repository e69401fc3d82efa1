//! The host's decision about the peers of listeners.

use crate::{guard::Versioned, guard::c_string, run};
use std::ffi::{CString, c_char, c_void};
use streamlink_core::{Access, AccessRequest, Passphrase};

/// Request of a peer to publish to a source or to play an output that listens. Its address is on the allowlist, and has
/// been proved. Texts are as the peer has sent them, and live until the callback returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkAccessRequest {
    /// The size of this struct, in bytes.
    pub size: usize,
    /// The name of the flow.
    pub flow: *const c_char,
    /// The name of the requested source or output.
    pub endpoint: *const c_char,
    /// The name of the protocol: "SRT", "RTMP" or "RTSP".
    pub protocol: *const c_char,
    /// The address of the peer, as in "192.0.2.1:9000" or "[2001:db8::1]:9000".
    pub peer: *const c_char,
    /// The stream id of an SRT caller; NULL if there is none.
    pub stream_id: *const c_char,
    /// The application of an RTMP peer; NULL otherwise.
    pub app: *const c_char,
    /// The stream key of an RTMP peer in clear text, possibly with parameters that the peer has appended, as in
    /// "KEY?token=abc"; NULL otherwise.
    pub key: *const c_char,
    /// The path of an RTSP peer, without the leading slash; NULL otherwise.
    pub path: *const c_char,
    /// The user name; NULL if there is none. That of an RTSP peer has been proved with its password. An SRT caller only
    /// claims it, by "u=" in its stream id.
    pub user: *const c_char,
    /// Not 0: the peer sends, to a source. 0: it receives, from an output.
    pub publishes: i32,
}

/// The host's decision about a peer. It is all zero when the callback is called: a callback that writes nothing refuses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkAccessReply {
    /// The size of this struct, in bytes.
    pub size: usize,
    /// The code with which it is refused: 1000 to 1999 stand for HTTP statuses plus 1000 (1401: unauthorized), 2000 and
    /// above are the host's own; others, also 0, stand for 1403. SRT sends the code, which libsrt shows to its user.
    /// RTSP answers with the HTTP status if that is an error of RTSP too, and with 403 otherwise. RTMP has no codes.
    pub reject: u32,
    /// Not empty: an accepted SRT caller needs this passphrase of 10 to 79 bytes, which ends with NUL. Another length
    /// refuses the peer. Empty: a caller needs the passphrase of the source or output, if that has one.
    pub passphrase: [c_char; 80],
    /// Not 0: the peer is accepted. 0: it is refused.
    pub accept: i32,
}

// SAFETY: `size` is first, and all other fields may be zero.
unsafe impl Versioned for StreamlinkAccessRequest {}
// SAFETY: as above.
unsafe impl Versioned for StreamlinkAccessReply {}

/// Callback that decides about every publisher and player of a listener whom the allowlist admits, before it is served.
/// It is called on threads of its own, several at the same time (16 for each port at most), which no media waits for. A
/// peer is refused with code 1500 when there is no answer within 2 seconds. Stopping a flow waits until questions about
/// its peers have returned.
pub type StreamlinkAccess = Option<
    unsafe extern "C" fn(user: *mut c_void, request: *const StreamlinkAccessRequest, reply: *mut StreamlinkAccessReply),
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
    hook: unsafe extern "C" fn(*mut c_void, *const StreamlinkAccessRequest, *mut StreamlinkAccessReply),
    user: User,
    request: &AccessRequest,
) -> Access {
    let flow = c_string(&request.flow);
    let endpoint = c_string(&request.endpoint);
    let protocol = c_string(request.protocol);
    let peer = c_string(request.peer.to_string());
    let optional = |text: Option<&str>| text.map(c_string);
    let stream_id = optional(request.stream_id.as_deref());
    let app = optional(request.app.as_deref());
    let key = optional(request.key());
    let path = optional(request.path.as_deref());
    let user_name = optional(request.user.as_deref());
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    let asked = StreamlinkAccessRequest {
        size: size_of::<StreamlinkAccessRequest>(),
        flow: flow.as_ptr(),
        endpoint: endpoint.as_ptr(),
        protocol: protocol.as_ptr(),
        peer: peer.as_ptr(),
        stream_id: pointer(&stream_id),
        app: pointer(&app),
        key: pointer(&key),
        path: pointer(&path),
        user: pointer(&user_name),
        publishes: request.publishes.into(),
    };
    let size = size_of::<StreamlinkAccessReply>();
    let mut reply = StreamlinkAccessReply { size, reject: 0, passphrase: [0; 80], accept: 0 };
    // SAFETY: both live until the call returns, and the host promised a function of this type.
    run::callback(|| unsafe { hook(user.get(), &raw const asked, &raw mut reply) });
    if reply.accept == 0 {
        return Access::Reject(reply.reject);
    }
    // The cast is of bytes: `char` has a sign on some machines.
    let secret: Vec<u8> = reply.passphrase.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    if secret.is_empty() {
        return Access::Accept;
    }
    match String::from_utf8(secret).ok().and_then(|secret| Passphrase::new(secret).ok()) {
        Some(passphrase) => Access::AcceptWith(passphrase),
        None => Access::Reject(1500),
    }
}
