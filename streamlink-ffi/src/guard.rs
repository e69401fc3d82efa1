//! What every entry point goes through: no panic leaves, arguments are checked, and an error is filled in if the caller
//! wants one.

use crate::{
    error::{FieldError, StreamlinkError},
    status::Status,
    text::StreamlinkText,
};
use std::{
    ffi::{CStr, CString, c_char},
    mem::MaybeUninit,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What a panic has interrupted is still whole, and is gone on with.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A failure on its way to the caller.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) field: Option<String>,
    pub(crate) message: String,
    /// Errors of a configuration, one by one.
    pub(crate) errors: Vec<FieldError>,
}

impl Failure {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, field: None, message: message.into(), errors: Vec::new() }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidArgument, message)
    }

    pub(crate) fn null(argument: &str) -> Self {
        Self::argument(format!("{argument} is NULL"))
    }

    /// A wrong field of a configuration.
    pub(crate) fn field(path: &str, problem: &streamlink_core::ConfigErrorKind) -> Self {
        Self::fields(Status::InvalidConfig, vec![FieldError::new(path, problem)])
    }

    /// Wrong fields of a configuration.
    pub(crate) fn fields(status: Status, errors: Vec<FieldError>) -> Self {
        let field = errors.first().map(|error| error.path().to_owned());
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Self { status, field, message: lines.join("\n"), errors }
    }
}

impl From<streamlink_core::Error> for Failure {
    fn from(error: streamlink_core::Error) -> Self {
        let field = match &error {
            streamlink_core::Error::Config(errors) | streamlink_core::Error::Claimed(errors) => {
                return Self::fields(error.kind().into(), errors.iter().map(FieldError::from).collect());
            }
            streamlink_core::Error::Bind { endpoint, .. } | streamlink_core::Error::Io { endpoint, .. } => {
                Some(endpoint.clone())
            }
            _ => None,
        };
        Self { field, ..Self::new(error.kind().into(), error.to_string()) }
    }
}

impl From<streamlink_core::ConfigErrors> for Failure {
    fn from(errors: streamlink_core::ConfigErrors) -> Self {
        streamlink_core::Error::from(errors).into()
    }
}

impl From<streamlink_core::PushError> for Failure {
    fn from(error: streamlink_core::PushError) -> Self {
        Self::new(error.into(), error.to_string())
    }
}

/// Runs the body of an entry point.
///
/// # Safety
/// `error` is NULL, or points to memory for a pointer that the caller owns.
pub(crate) unsafe fn guard(error: *mut *mut StreamlinkError, body: impl FnOnce() -> Result<(), Failure>) -> Status {
    // What a panic has left behind is not looked at again: the handle stays valid, the call has failed.
    let result = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(Failure::new(Status::Internal, "the library failed within")));
    let Err(failure) = result else { return Status::Ok };
    let status = failure.status;
    if !error.is_null() {
        let boxed = Box::into_raw(Box::new(StreamlinkError::new(failure)));
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { error.write(boxed) };
    }
    status
}

/// Runs the body of an entry point that cannot fail; a panic gives the fallback.
pub(crate) fn quiet<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(fallback)
}

/// A handle, or another object that the caller passes.
///
/// # Safety
/// `pointer` is NULL, or points to a `T` that lives as long as the result is used.
pub(crate) unsafe fn object<'a, T>(pointer: *const T, argument: &str) -> Result<&'a T, Failure> {
    // SAFETY: as the contract says.
    unsafe { pointer.as_ref() }.ok_or_else(|| Failure::null(argument))
}

/// A text that the caller passes.
///
/// # Safety
/// `pointer` is NULL, or points to a text that ends with NUL and lives as long as the result is used.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, argument: &str) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return Err(Failure::null(argument));
    }
    // SAFETY: not NULL, and a text, as the contract says.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::argument(format!("{argument} is not UTF-8")))
}

/// A text that may be missing.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn optional_text<'a>(pointer: *const c_char, argument: &str) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the contract says.
    unsafe { text(pointer, argument) }.map(Some)
}

/// Bytes that the caller passes; NULL is allowed when there are none.
///
/// # Safety
/// `pointer` is NULL, or points to `length` bytes that live as long as the result is used.
pub(crate) unsafe fn bytes<'a>(pointer: *const u8, length: usize, argument: &str) -> Result<&'a [u8], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() || length > isize::MAX as usize {
        return Err(Failure::null(argument));
    }
    // SAFETY: not NULL, and so many bytes, as the contract says.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// Checks a place for a result before anything is done.
pub(crate) fn place<T>(pointer: *mut T, argument: &str) -> Result<(), Failure> {
    if pointer.is_null() { Err(Failure::null(argument)) } else { Ok(()) }
}

/// Hands an object over to the caller.
///
/// # Safety
/// `to` points to memory for a pointer that the caller owns.
pub(crate) unsafe fn give<T>(to: *mut *mut T, object: T) {
    // SAFETY: as the contract says.
    unsafe { to.write(Box::into_raw(Box::new(object))) };
}

/// Takes an object back; `None` for NULL.
///
/// # Safety
/// `pointer` is NULL, or was given by [`give`] and not taken back before.
pub(crate) unsafe fn take<T>(pointer: *mut T) -> Option<Box<T>> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: made by Box::into_raw, and not taken back before, as the contract says.
    Some(unsafe { Box::from_raw(pointer) })
}

/// A struct that begins with its size, and of which zeroes are a value.
///
/// # Safety
/// `#[repr(C)]`, the first field is `size: usize`, and all bytes zero are a value.
pub(crate) unsafe trait Versioned: Copy {}

/// Size of a versioned struct at most, in bytes. Ours are far smaller; a size above it is garbage, and nothing is read or
/// written because of it.
pub(crate) const MAX_STRUCT: usize = 4096;

/// The size that a versioned struct says it has.
///
/// # Safety
/// `pointer` points to a struct that begins with its size in bytes.
unsafe fn size_of_struct<T: Versioned>(pointer: *const T, argument: &str) -> Result<usize, Failure> {
    // SAFETY: it begins with its size, as the contract says.
    let size = unsafe { pointer.cast::<usize>().read() };
    if (size_of::<usize>()..=MAX_STRUCT).contains(&size) {
        Ok(size)
    } else {
        Err(Failure::argument(format!("{argument}: size is not that of the struct; STREAMLINK_INIT() sets it")))
    }
}

/// Reads a struct whose caller may know fewer fields than we, or more, up to [`MAX_STRUCT`]; those must then be zero.
///
/// # Safety
/// `pointer` is NULL, or points to a struct that begins with its size in bytes.
pub(crate) unsafe fn read_sized<T: Versioned>(pointer: *const T, argument: &str) -> Result<T, Failure> {
    let mut value = MaybeUninit::<T>::zeroed();
    if pointer.is_null() {
        // SAFETY: all bytes zero are a value, as the trait says.
        return Ok(unsafe { value.assume_init() });
    }
    // SAFETY: as the contract says.
    let size = unsafe { size_of_struct(pointer, argument) }?;
    let known = size.min(size_of::<T>());
    // SAFETY: so many bytes are there on both sides.
    unsafe { ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known) };
    // SAFETY: the caller says that the struct has so many bytes.
    let more = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
    if more.iter().any(|byte| *byte != 0) {
        return Err(Failure::argument(format!("{argument}: it has fields that this version does not know")));
    }
    // SAFETY: zeroes, or what the caller has written into a struct of this type.
    Ok(unsafe { value.assume_init() })
}

/// Fills a struct whose caller may know fewer fields than we, or more; its size stays.
///
/// # Safety
/// `pointer` points to a struct that begins with its size in bytes.
pub(crate) unsafe fn write_sized<T: Versioned>(pointer: *mut T, value: &T, argument: &str) -> Result<(), Failure> {
    place(pointer, argument)?;
    // SAFETY: as the contract says.
    let size = unsafe { size_of_struct(pointer, argument) }?;
    let known = size.min(size_of::<T>());
    // SAFETY: so many bytes are there on both sides.
    unsafe { ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), pointer.cast::<u8>(), known) };
    // SAFETY: the size is the caller's, not ours.
    unsafe { pointer.cast::<usize>().write(size) };
    Ok(())
}

/// Text for the caller. A NUL within would end it early; it is left out.
pub(crate) fn c_string(text: impl Into<String>) -> CString {
    CString::new(text.into().replace('\0', "")).unwrap_or_default()
}

/// The name of an enum's variant, as in JSON.
pub(crate) fn plain_name(value: &impl serde::Serialize) -> String {
    let name = serde_json::to_value(value).ok();
    name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// JSON for the caller.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<StreamlinkText, Failure> {
    let written = serde_json::to_string(value);
    written.map(StreamlinkText::new).map_err(|error| Failure::new(Status::Internal, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Pair {
        size: usize,
        a: u64,
        b: u64,
    }
    // SAFETY: as the trait asks.
    unsafe impl Versioned for Pair {}

    #[test]
    fn structs_may_be_older_or_newer() {
        let whole = [24usize, 1, 2, 0, 0];
        // SAFETY: the array is at least as large as its first number says.
        let read = |words: &[usize]| unsafe { read_sized(words.as_ptr().cast::<Pair>(), "pair") };
        let pair = read(&whole).unwrap_or(Pair { size: 0, a: 0, b: 0 });
        assert_eq!((pair.a, pair.b), (1, 2));
        assert_eq!(read(&[16, 1, 2]).map(|p| (p.a, p.b)).ok(), Some((1, 0)));
        assert_eq!(read(&[40, 1, 2, 0, 0]).map(|p| (p.a, p.b)).ok(), Some((1, 2)));
        assert!(read(&[40, 1, 2, 0, 7]).is_err() && read(&[0]).is_err() && read(&[usize::MAX]).is_err());
        let mut largest = vec![0usize; 2 * MAX_STRUCT / size_of::<usize>()];
        largest[0] = MAX_STRUCT;
        assert!(read(&largest).is_ok());
        largest[0] = MAX_STRUCT + 1;
        assert!(read(&largest).is_err(), "garbage in place of a size is not believed");
        // SAFETY: as above.
        let write = |words: &mut [usize]| unsafe {
            write_sized(words.as_mut_ptr().cast::<Pair>(), &Pair { size: 24, a: 1, b: 2 }, "pair")
        };
        let (mut old, mut new) = ([16usize, 9, 9], [40usize, 9, 9, 9, 9]);
        assert!(write(&mut old).is_ok() && write(&mut new).is_ok());
        assert_eq!((old, new), ([16, 1, 9], [40, 1, 2, 9, 9]));
        largest[1] = 9;
        assert!(write(&mut largest).is_err() && largest[1] == 9);
    }
}
