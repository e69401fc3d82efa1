//! Packets: units of media, shared without copying.

use crate::{
    access::User,
    error::StreamlinkError,
    guard::{Failure, bytes, guard, place, quiet},
    run,
    status::Status,
};
use std::{
    cell::RefCell,
    ffi::c_void,
    mem::MaybeUninit,
    time::{Duration, Instant},
};
use streamlink_core::{MediaFamily, Packet, RtmpKind};

/// One unit of media. It never changes; the handle has one owner, and the bytes are shared with all other handles and
/// outputs that hold the same packet.
pub struct StreamlinkPacket {
    pub(crate) packet: Packet,
}

/// Handles that a thread keeps for later use at most.
const SPARE: usize = 256;

thread_local! {
    /// The memory of handles that were freed: most packets are freed on the thread that got them.
    #[allow(clippy::vec_box)] // the boxes are what is kept
    static SPARES: RefCell<Vec<Box<MaybeUninit<StreamlinkPacket>>>> = const { RefCell::new(Vec::new()) };
}

/// A handle for the caller, which ends with [`unwrap`].
pub(crate) fn handle(packet: Packet) -> *mut StreamlinkPacket {
    // A thread that is ending has no memory of that kind any more.
    let spare = SPARES.try_with(|spares| spares.try_borrow_mut().ok()?.pop()).ok().flatten();
    let mut place = spare.unwrap_or_else(Box::new_uninit);
    place.write(StreamlinkPacket { packet });
    Box::into_raw(place).cast()
}

/// Takes a handle back, and what it holds out of it; `None` for NULL.
///
/// # Safety
/// `pointer` is NULL, or was given by [`handle`] and not taken back before.
pub(crate) unsafe fn unwrap(pointer: *mut StreamlinkPacket) -> Option<Packet> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: given by `handle`, and whole, as the contract says; what is left is memory.
    let (StreamlinkPacket { packet }, place) =
        unsafe { (pointer.read(), Box::from_raw(pointer.cast::<MaybeUninit<StreamlinkPacket>>())) };
    let keep = |place| {
        SPARES.try_with(|spares| {
            if let Ok(mut spares) = spares.try_borrow_mut()
                && spares.len() < SPARE
            {
                spares.push(place);
            }
        })
    };
    let _ = keep(place); // otherwise it is freed
    Some(packet)
}

/// Kind of a packet.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkPacketKind {
    /// A datagram with any payload, most often MPEG-TS: what SRT carries.
    Datagram = 1,
    /// An RTP packet, header included (RFC 3550).
    Rtp = 2,
    /// The body of an RTMP audio message (an FLV audio tag).
    RtmpAudio = 3,
    /// The body of an RTMP video message (an FLV video tag).
    RtmpVideo = 4,
    /// The body of an RTMP data message, such as onMetaData.
    RtmpData = 5,
    /// An RTP or RTCP packet of a track of an RTSP presentation.
    Rtsp = 6,
}

/// Called once, when nobody needs the bytes any more, from any thread.
pub type StreamlinkRelease = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// Bytes of the host, and how to give them back.
struct Borrowed {
    data: *const u8,
    length: usize,
    release: unsafe extern "C" fn(*mut c_void),
    user: User,
}

// SAFETY: the host promises that the bytes do not change, and that `release` may be called from any thread.
unsafe impl Send for Borrowed {}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the host promises so many bytes until `release` is called, which is when this is dropped.
        unsafe { std::slice::from_raw_parts(self.data, self.length) }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // SAFETY: once, as promised.
        run::callback(|| unsafe { (self.release)(self.user.get()) });
    }
}

/// `time`: the timestamp in milliseconds of an RTMP message, the track of an RTSP packet.
fn packet(kind: i32, time: u32, data: bytes::Bytes) -> Result<Packet, Failure> {
    let now = Instant::now();
    Ok(match kind {
        1 => Packet::datagram(data, now),
        2 => Packet::rtp(data, now),
        3 => Packet::rtmp(RtmpKind::Audio, time, data, now),
        4 => Packet::rtmp(RtmpKind::Video, time, data, now),
        5 => Packet::rtmp(RtmpKind::Data, time, data, now),
        6 => {
            let track = u8::try_from(time).map_err(|_| Failure::argument(format!("{time} is no track")))?;
            Packet::rtsp(track, data, now)
        }
        other => return Err(Failure::argument(format!("{other} is no kind of packet"))),
    })
}

/// Makes a packet of a streamlink_packet_kind from a copy of some bytes. `time`: of an RTMP message its timestamp in
/// milliseconds, of an RTSP packet the number of its track, as in the SDP, from 0; otherwise 0. On success `*packet` is
/// to be freed with streamlink_packet_free().
///
/// # Safety
/// `data` points to `length` bytes; `packet` points to memory for a pointer; `error` is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_packet_copy(
    kind: i32,
    time: u32,
    data: *const u8,
    length: usize,
    packet: *mut *mut StreamlinkPacket,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        place(packet, "packet")?;
        // SAFETY: so many bytes, as the contract says.
        let data = bytes::Bytes::copy_from_slice(unsafe { bytes(data, length, "data") }?);
        let made = self::packet(kind, time, data)?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { packet.write(handle(made)) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Makes a packet as streamlink_packet_copy(), without copying: the bytes must not change until `release` is called with
/// `user`, which is when nobody needs them any more. On failure it is not called.
///
/// `release` may be called on any thread, until the flows that got the packet are destroyed. It may call the library, with
/// handles that were not destroyed.
///
/// # Safety
/// `data` points to `length` bytes until then; `release` is a function; `packet` points to memory for a pointer; `error`
/// is NULL or does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_packet_borrow(
    kind: i32,
    time: u32,
    data: *const u8,
    length: usize,
    release: StreamlinkRelease,
    user: *mut c_void,
    packet: *mut *mut StreamlinkPacket,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        place(packet, "packet")?;
        let Some(release) = release else { return Err(Failure::null("release")) };
        // SAFETY: so many bytes, as the contract says. Checked before anything is owed to the host.
        unsafe { bytes(data, length, "data") }?;
        self::packet(kind, time, bytes::Bytes::new())?;
        let data = if length == 0 { std::ptr::NonNull::dangling().as_ptr() } else { data };
        let owner = Borrowed { data, length, release, user: User(user) };
        let made = self::packet(kind, time, bytes::Bytes::from_owner(owner))?;
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { packet.write(handle(made)) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Another handle to the same packet; NULL for NULL. To be freed with streamlink_packet_free().
///
/// # Safety
/// `packet` is NULL or a packet that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_packet_clone(packet: *const StreamlinkPacket) -> *mut StreamlinkPacket {
    // SAFETY: the caller passes NULL, or keeps `packet` alive during the call.
    let packet = unsafe { packet.as_ref() };
    quiet(std::ptr::null_mut(), || packet.map_or(std::ptr::null_mut(), |p| handle(p.packet.clone())))
}

/// Frees a handle of a packet. NULL is allowed.
///
/// # Safety
/// `packet` is NULL or a packet that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_packet_free(packet: *mut StreamlinkPacket) {
    // SAFETY: the caller hands over `packet`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { unwrap(packet) }));
}

/// The bytes; they live as long as the handle. NULL: NULL.
///
/// # Safety
/// `packet` is NULL or a packet that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_packet_data(packet: *const StreamlinkPacket) -> *const u8 {
    // SAFETY: the caller passes NULL, or keeps `packet` alive during the call.
    unsafe { packet.as_ref() }.map_or(std::ptr::null(), |p| p.packet.data().as_ptr())
}

/// Number of bytes.
///
/// # Safety
/// `packet` is NULL or a packet that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_packet_length(packet: *const StreamlinkPacket) -> usize {
    // SAFETY: the caller passes NULL, or keeps `packet` alive during the call.
    unsafe { packet.as_ref() }.map_or(0, |p| p.packet.data().len())
}

/// The streamlink_packet_kind; 0 for NULL.
///
/// # Safety
/// `packet` is NULL or a packet that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_packet_kind_of(packet: *const StreamlinkPacket) -> i32 {
    // SAFETY: the caller passes NULL, or keeps `packet` alive during the call.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    let kind = match (packet.packet.family(), packet.packet.rtmp_message()) {
        (MediaFamily::Rtp, _) => StreamlinkPacketKind::Rtp,
        (MediaFamily::Rtsp, _) => StreamlinkPacketKind::Rtsp,
        (MediaFamily::Rtmp, Some((RtmpKind::Audio, _))) => StreamlinkPacketKind::RtmpAudio,
        (MediaFamily::Rtmp, Some((RtmpKind::Video, _))) => StreamlinkPacketKind::RtmpVideo,
        (MediaFamily::Rtmp, _) => StreamlinkPacketKind::RtmpData,
        _ => StreamlinkPacketKind::Datagram,
    };
    kind as i32
}

/// The timestamp in milliseconds of an RTMP message, the track of an RTSP packet; otherwise 0.
///
/// # Safety
/// `packet` is NULL or a packet that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_packet_time(packet: *const StreamlinkPacket) -> u32 {
    // SAFETY: the caller passes NULL, or keeps `packet` alive during the call.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    let track = packet.packet.rtsp_track().map(u32::from);
    packet.packet.rtmp_message().map(|(_, time)| time).or(track).unwrap_or(0)
}

/// For how long the packet has been in this process, in microseconds: for a socket, since the kernel received it.
///
/// # Safety
/// `packet` is NULL or a packet that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_packet_age_us(packet: *const StreamlinkPacket) -> u64 {
    // SAFETY: the caller passes NULL, or keeps `packet` alive during the call.
    let age = unsafe { packet.as_ref() }.map_or(Duration::ZERO, |p| p.packet.arrival().elapsed());
    u64::try_from(age.as_micros()).unwrap_or(u64::MAX)
}
