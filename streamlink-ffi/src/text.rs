//! Texts that are handed over.

use crate::guard::{c_string, quiet, take};
use std::ffi::{CString, c_char};

/// A text that the caller owns. Freed with streamlink_text_free().
pub struct StreamlinkText {
    text: CString,
}

impl StreamlinkText {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: c_string(text) }
    }
}

/// The text; it ends with NUL and lives as long as the object. NULL: "".
///
/// # Safety
/// `text` is NULL or a text that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_text_data(text: *const StreamlinkText) -> *const c_char {
    // SAFETY: the caller passes NULL, or keeps `text` alive during the call.
    unsafe { text.as_ref() }.map_or(c"".as_ptr(), |t| t.text.as_ptr())
}

/// Its length in bytes, without the NUL.
///
/// # Safety
/// `text` is NULL or a text that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_text_length(text: *const StreamlinkText) -> usize {
    // SAFETY: the caller passes NULL, or keeps `text` alive during the call.
    unsafe { text.as_ref() }.map_or(0, |t| t.text.as_bytes().len())
}

/// Frees a text. NULL is allowed.
///
/// # Safety
/// `text` is NULL or a text that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_text_free(text: *mut StreamlinkText) {
    // SAFETY: the caller hands over `text`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take(text) }));
}
