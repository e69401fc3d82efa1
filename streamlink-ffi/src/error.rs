//! Errors, as the caller gets them.

use crate::{guard::Failure, status::Status};
use std::ffi::{CString, c_char};

/// What went wrong. Freed with streamlink_error_free().
pub struct StreamlinkError {
    status: Status,
    field: CString,
    message: CString,
}

impl StreamlinkError {
    pub(crate) fn new(failure: Failure) -> Self {
        // A NUL within would end the text early; it is left out.
        let text = |s: String| CString::new(s.replace('\0', "")).unwrap_or_default();
        Self { status: failure.status, field: text(failure.field.unwrap_or_default()), message: text(failure.message) }
    }
}

/// The status of the call that failed. NULL: STREAMLINK_STATUS_OK.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_status(error: *const StreamlinkError) -> Status {
    // SAFETY: as the contract says.
    unsafe { error.as_ref() }.map_or(Status::Ok, |e| e.status)
}

/// The path of the field that is wrong, as in "outputs[1].latency"; of an error of the system the endpoint that it is
/// about, as in "source `venue`"; "" if there is neither. Lives as long as the error. NULL: "".
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_field(error: *const StreamlinkError) -> *const c_char {
    // SAFETY: as the contract says.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |e| e.field.as_ptr())
}

/// What went wrong, for people: all that is wrong, if it is a configuration. Lives as long as the error. NULL: "".
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_message(error: *const StreamlinkError) -> *const c_char {
    // SAFETY: as the contract says.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |e| e.message.as_ptr())
}

/// Frees an error. NULL is allowed.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_free(error: *mut StreamlinkError) {
    if !error.is_null() {
        // SAFETY: made by Box::into_raw, and not freed before, as the contract says.
        drop(unsafe { Box::from_raw(error) });
    }
}
