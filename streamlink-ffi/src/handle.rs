//! Handles of the host: engines, flows, app sources and taps.
//!
//! A handle that was destroyed by mistake, or that a release function of a late packet still uses, is told apart from one
//! that is alive: its memory is kept for a while ([`KEPT`] handles), and a call with it fails with a status. It is a net,
//! not a promise: what is destroyed must not be used.

use crate::guard::Failure;
use std::{
    alloc::{Layout, dealloc},
    collections::VecDeque,
    mem::{ManuallyDrop, offset_of},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Number of destroyed handles whose memory is kept.
const KEPT: usize = 1024;

/// Memory of a handle. The host's pointer points to `value`.
#[repr(C)]
struct Slot<T> {
    alive: AtomicBool,
    value: ManuallyDrop<T>,
}

/// Memory of a destroyed handle. Its value is gone.
struct Remains {
    memory: *mut u8,
    layout: Layout,
}

// SAFETY: the memory is only freed, by whoever takes it out of the queue.
unsafe impl Send for Remains {}

static DESTROYED: Mutex<VecDeque<Remains>> = Mutex::new(VecDeque::new());

/// Returns the memory of the handle whose value is at `pointer`.
///
/// # Safety
/// `pointer` was given by [`give_handle`].
unsafe fn slot<T>(pointer: *const T) -> *mut Slot<T> {
    // SAFETY: the value lies that far behind the start of its slot.
    unsafe { pointer.cast::<u8>().sub(offset_of!(Slot<T>, value)).cast_mut().cast() }
}

/// Hands a handle over to the host.
///
/// # Safety
/// `to` points to memory for a pointer that the caller owns.
pub(crate) unsafe fn give_handle<T>(to: *mut *mut T, value: T) {
    let slot = Box::into_raw(Box::new(Slot { alive: AtomicBool::new(true), value: ManuallyDrop::new(value) }));
    // SAFETY: the slot was just made; `to` is as the contract says.
    unsafe { to.write((&raw mut (*slot).value).cast::<T>()) };
}

/// Returns the value of a handle.
///
/// # Safety
/// `pointer` is NULL or was given by [`give_handle`], and is not destroyed while the result is used.
pub(crate) unsafe fn live<'a, T>(pointer: *const T, argument: &str) -> Result<&'a T, Failure> {
    if pointer.is_null() {
        return Err(Failure::null(argument));
    }
    // SAFETY: as the contract says.
    let slot = unsafe { slot(pointer) };
    // SAFETY: the memory of destroyed handles is kept, so that this can be asked.
    if unsafe { (*slot).alive.load(Ordering::Acquire) } {
        // SAFETY: alive, so that the value is there.
        Ok(unsafe { &*pointer })
    } else {
        Err(Failure::argument(format!("{argument} was destroyed")))
    }
}

/// Takes the value of a handle back, which ends it; `None` for NULL, and for one that was destroyed before.
///
/// # Safety
/// As [`live`].
pub(crate) unsafe fn take_handle<T>(pointer: *mut T) -> Option<T> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as the contract says.
    let slot = unsafe { slot(pointer) };
    // SAFETY: the memory of destroyed handles is kept, so that this can be asked.
    if !unsafe { (*slot).alive.swap(false, Ordering::AcqRel) } {
        return None;
    }
    // SAFETY: it was alive until now, so that the value is there, and nobody else takes it.
    let value = unsafe { ManuallyDrop::take(&mut (*slot).value) };
    let remains = Remains { memory: slot.cast(), layout: Layout::new::<Slot<T>>() };
    let mut destroyed = DESTROYED.lock().unwrap_or_else(PoisonError::into_inner);
    destroyed.push_back(remains);
    if destroyed.len() > KEPT
        && let Some(Remains { memory, layout }) = destroyed.pop_front()
    {
        // SAFETY: allocated by Box with this layout, and its value is gone.
        unsafe { dealloc(memory, layout) };
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    #[test]
    fn handle_that_was_destroyed_is_told_apart() {
        let mut pointer = ptr::null_mut();
        // SAFETY: the pointer is ours; it is destroyed once, and what was destroyed is kept.
        unsafe {
            give_handle(&raw mut pointer, "value".to_owned());
            assert_eq!(live(pointer, "it").ok().map(String::as_str), Some("value"));
            assert_eq!(take_handle(pointer).as_deref(), Some("value"));
            assert!(live(pointer, "it").is_err() && take_handle(pointer).is_none());
            assert!(live(ptr::null::<String>(), "it").is_err() && take_handle(ptr::null_mut::<String>()).is_none());
        }
        // Their memory is bounded.
        for number in 0..2 * KEPT {
            let mut pointer = ptr::null_mut();
            // SAFETY: as above.
            unsafe {
                give_handle(&raw mut pointer, number);
                assert_eq!(take_handle(pointer), Some(number));
            }
        }
        assert!(DESTROYED.lock().unwrap_or_else(PoisonError::into_inner).len() <= KEPT);
    }
}
