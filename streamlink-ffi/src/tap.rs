//! Media for the host's own process.

use crate::{
    access::User,
    error::StreamlinkError,
    event_fd::EventFd,
    flow::StreamlinkFlow,
    guard::{Failure, guard, lock, place, quiet, text},
    handle::{give_handle, live, take_handle},
    packet::{StreamlinkPacket, handle},
    run,
    status::Status,
};
use std::{
    ffi::{c_char, c_void},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError},
    task::{Context, Poll, Waker},
};
use streamlink_core::{Engine, Packet, PacketBatch, Tap, TapCallback};

/// Handle by which the host takes packets out of a flow: an output `tap:` of that flow. A host that is slower than the source
/// loses the oldest packets, and the output's `dropped` counts them.
pub struct StreamlinkTap {
    engine: Arc<Engine>,
    reading: Mutex<Reading>,
    /// Readable while there are packets to take, or no more will come. Made when it is first asked for.
    descriptor: OnceLock<Option<Arc<EventFd>>>,
}

/// Way in which the host reads.
enum Reading {
    /// It asks. The batch from which packets are taken, and how many were.
    Pull(Box<Tap>, Option<(PacketBatch, usize)>),
    /// It is called.
    Calls(TapCallback),
    /// It was called, and wants no more.
    Ended,
}

impl StreamlinkTap {
    /// Locks the reading end. In a callback it does not wait for another call, which may wait for this callback.
    fn reading(&self, busy: Status) -> Result<MutexGuard<'_, Reading>, Failure> {
        if !run::is_in_callback() {
            return Ok(lock(&self.reading));
        }
        match self.reading.try_lock() {
            Ok(reading) => Ok(reading),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Failure::new(busy, "another call uses this tap")),
        }
    }
}

/// Sets the descriptor to whether there is something to take. What has come is taken out of the flow for that, as it would
/// be by the next call.
fn arm(descriptor: &Arc<EventFd>, pull: &mut Tap, current: &mut Option<(PacketBatch, usize)>) {
    if current.is_some() {
        return descriptor.raise();
    }
    // First, so that a packet that comes meanwhile raises it again.
    descriptor.clear();
    let waker = Waker::from(descriptor.clone());
    let mut next = pin!(pull.next_batch());
    match next.as_mut().poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(batch) => {
            *current = batch.map(|batch| (batch, 0));
            descriptor.raise();
        }
        Poll::Pending => {}
    }
}

/// Gets the packets of a tap, one at a time. The packet lives until it returns; streamlink_packet_clone() keeps it. It
/// should return soon: it runs on a thread that others need too. It may call this library, and destroy its tap.
pub type StreamlinkTapCallback = Option<unsafe extern "C" fn(user: *mut c_void, packet: *const StreamlinkPacket)>;

/// Takes the end of an output `tap:`, which can be done once. On success `*tap` is to be destroyed with
/// streamlink_tap_destroy(), before or after the flow.
///
/// # Safety
/// `flow` is a flow that was not destroyed; `name` is a text; `tap` points to memory for a pointer; `error` is NULL or
/// does so too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_flow_tap(
    flow: *const StreamlinkFlow,
    name: *const c_char,
    tap: *mut *mut StreamlinkTap,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `flow` alive during the call; `name` is a text that ends with NUL.
        let (flow, name) = unsafe { (live(flow, "flow")?, text(name, "name")?) };
        place(tap, "tap")?;
        let reading = Mutex::new(Reading::Pull(Box::new(flow.handle.tap(name)?), None));
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe {
            give_handle(tap, StreamlinkTap { engine: flow.engine.clone(), reading, descriptor: OnceLock::new() })
        };
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Takes packets, as many as there are, up to `capacity`; waits for the first one up to `timeout_ms` milliseconds (0: does
/// not wait; negative: as long as it takes). On success `*count` packets are in `packets`, at least one, each to be freed
/// with streamlink_packet_free(). STREAMLINK_STATUS_TIMED_OUT: none came; STREAMLINK_STATUS_STOPPED: the flow has
/// stopped, or the output was removed, and all that came before was handed over. Within a callback it does not wait for
/// another call that takes packets from the same tap: STREAMLINK_STATUS_TIMED_OUT.
///
/// # Safety
/// `tap` is an object that was not destroyed; `packets` points to memory for `capacity` pointers, and `count` for a
/// number; `error` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_tap_next(
    tap: *mut StreamlinkTap,
    timeout_ms: i64,
    packets: *mut *mut StreamlinkPacket,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `tap` alive during the call.
        let tap = unsafe { live(tap, "tap") }?;
        place(packets, "packets")?;
        place(count, "count")?;
        if capacity == 0 {
            return Err(Failure::argument("capacity is 0"));
        }
        // Outlives the lock: dropping the batch may run the host's release functions, which may use this tap.
        let _finished: PacketBatch;
        let mut reading = tap.reading(Status::TimedOut)?;
        let Reading::Pull(pull, current) = &mut *reading else {
            return Err(Failure::argument("this tap calls back"));
        };
        let next = match current.take() {
            Some(rest) => Ok(rest),
            None => next_batch(&tap.engine, pull, timeout_ms).map(|batch| (batch, 0)),
        };
        let descriptor = || tap.descriptor.get().and_then(Option::as_ref);
        let (batch, done) = match next {
            Ok(next) => next,
            Err(failure) => {
                if let Some(descriptor) = descriptor() {
                    arm(descriptor, pull, current);
                }
                return Err(failure);
            }
        };
        let given = batch.iter().skip(done).take(capacity);
        let mut number = 0;
        for packet in given {
            // SAFETY: `number` is below the capacity.
            unsafe { packets.add(number).write(handle(packet.clone())) };
            number += 1;
        }
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { count.write(number) };
        if done + number < batch.len() {
            *current = Some((batch, done + number));
        } else {
            _finished = batch;
        }
        if let Some(descriptor) = descriptor() {
            arm(descriptor, pull, current);
        }
        Ok(())
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// A file descriptor that is readable while streamlink_tap_next() has packets to return at once, or the tap has ended, for
/// poll() and its kin. Now and then it is readable and no packet is there: streamlink_tap_next() then says so. It belongs
/// to the tap: not to be read or closed. A tap that has one calls no function back. -1: the system gives none, or the tap
/// calls back.
///
/// # Safety
/// `tap` is NULL or an object that was not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_tap_fd(tap: *const StreamlinkTap) -> i32 {
    // SAFETY: the caller keeps `tap` alive during the call.
    let Ok(tap) = (unsafe { live(tap, "tap") }) else { return -1 };
    let body = || {
        let Some(descriptor) = tap.descriptor.get_or_init(|| EventFd::new().map(Arc::new)) else { return -1 };
        let mut reading = match tap.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // Another call is at it, and may have looked for a descriptor before there was one.
                descriptor.raise();
                return descriptor.number();
            }
        };
        let Reading::Pull(pull, current) = &mut *reading else { return -1 };
        arm(descriptor, pull, current);
        descriptor.number()
    };
    quiet(-1, body)
}

/// The next batch; never an empty one.
fn next_batch(engine: &Arc<Engine>, tap: &mut Tap, timeout_ms: i64) -> Result<PacketBatch, Failure> {
    loop {
        let closed = tap.is_closed();
        let batch = match tap.try_next_batch() {
            Some(batch) => Some(batch),
            None if closed => None,
            None if timeout_ms == 0 => return Err(Failure::new(Status::TimedOut, "no packet has come")),
            None => run::wait_up_to(engine, timeout_ms, tap.next_batch())
                .ok_or_else(|| Failure::new(Status::TimedOut, "no packet has come"))?,
        };
        match batch {
            Some(batch) if batch.is_empty() => {} // never: nothing empty is published
            Some(batch) => return Ok(batch),
            None => return Err(Failure::new(Status::Stopped, "the tap has ended")),
        }
    }
}

/// From now on the host is called for every packet, on a thread of the engine, until the flow stops, the output is
/// removed or the tap is destroyed. Can be done once.
///
/// # Safety
/// `tap` is an object that was not destroyed; `callback` may be called with `user` from any thread until then; `error` is
/// NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_tap_set_callback(
    tap: *mut StreamlinkTap,
    callback: StreamlinkTapCallback,
    user: *mut c_void,
    error: *mut *mut StreamlinkError,
) -> Status {
    let body = || {
        // SAFETY: the caller keeps `tap` alive during the call.
        let tap = unsafe { live(tap, "tap") }?;
        let Some(callback) = callback else { return Err(Failure::null("callback")) };
        let mut reading = tap.reading(Status::InvalidArgument)?;
        match std::mem::replace(&mut *reading, Reading::Ended) {
            Reading::Pull(pull, None) if tap.descriptor.get().is_none_or(Option::is_none) => {
                let user = User(user);
                let call = move |packet: Packet| {
                    let packet = StreamlinkPacket { packet };
                    // SAFETY: the packet lives until the call returns, and the host promised a function of this type.
                    run::callback(|| unsafe { callback(user.get(), &raw const packet) });
                };
                *reading = Reading::Calls(pull.for_each(call));
                Ok(())
            }
            before => {
                *reading = before;
                Err(Failure::argument(
                    "packets are being taken from this tap, it has a descriptor, or it calls back already",
                ))
            }
        }
    };
    // SAFETY: the caller passes NULL or memory for a pointer as `error`.
    unsafe { guard(error, body) }
}

/// Destroys a tap, and waits until its callback has returned; from within a callback it does not wait. The output stays,
/// and hands packets to nobody. NULL is allowed.
///
/// # Safety
/// `tap` is NULL or an object that was not destroyed, and is not used by another call at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_tap_destroy(tap: *mut StreamlinkTap) {
    let body = || {
        // SAFETY: the caller hands over `tap`, which is NULL or was not freed before.
        let Some(tap) = (unsafe { take_handle(tap) }) else { return };
        let StreamlinkTap { engine, reading, .. } = tap;
        if let Reading::Calls(calls) = reading.into_inner().unwrap_or_else(PoisonError::into_inner) {
            run::finish(move || run::wait(&engine, calls.stop()));
        }
    };
    quiet((), body);
}
