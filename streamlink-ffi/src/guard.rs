//! Guard of every entry point: no panic leaves, arguments are checked, and an error is filled in if the caller wants one.

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

/// Locks a mutex, also after a panic: the value is still whole then.
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
        .unwrap_or_else(|_| Err(Failure::new(Status::Internal, "internal error (panic); see the log")));
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

    /// Memory whose last byte is followed by a page that cannot be touched.
    struct Guarded {
        pages: *mut u8,
        size: usize,
    }

    /// Size of the memory before the page that cannot be touched.
    const ROOM: usize = 4 * MAX_STRUCT;

    impl Guarded {
        fn new() -> Self {
            // SAFETY: no memory is involved.
            let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
            let room = ROOM.next_multiple_of(page);
            let (size, protection) = (room + page, libc::PROT_READ | libc::PROT_WRITE);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: new memory, of no file.
            let pages = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
            assert_ne!(pages, libc::MAP_FAILED);
            // SAFETY: the last page of that memory.
            assert_eq!(unsafe { libc::mprotect(pages.byte_add(room), page, libc::PROT_NONE) }, 0);
            Self { pages: pages.cast(), size: room }
        }

        /// Writes words at the very end, and returns where they begin.
        fn put(&self, words: &[usize]) -> *mut usize {
            let length = size_of_val(words);
            assert!(length <= self.size);
            // SAFETY: so many bytes are there; pages are aligned, and so are multiples of a word before their end.
            let start = unsafe { self.pages.add(self.size - length) }.cast::<usize>();
            // SAFETY: as above.
            unsafe { ptr::copy_nonoverlapping(words.as_ptr(), start, words.len()) };
            start
        }

        /// Returns the words at the very end.
        fn last(&self, count: usize) -> Vec<usize> {
            // SAFETY: so many bytes are there, and zero or written.
            unsafe {
                let start = self.pages.add(self.size - count * size_of::<usize>()).cast::<usize>();
                std::slice::from_raw_parts(start, count).to_vec()
            }
        }
    }

    /// Sizes that no struct has: too small, too large, garbage.
    const WRONG: [usize; 8] = [0, 1, 7, MAX_STRUCT + 1, MAX_STRUCT + 8, 1 << 40, isize::MAX as usize, usize::MAX];

    #[test]
    fn structs_may_be_older_or_newer() {
        let guarded = Guarded::new();
        // SAFETY: the memory holds what the size says, unless the size is refused.
        let read = |words: &[usize]| unsafe { read_sized(guarded.put(words).cast::<Pair>(), "pair") };
        let read_pair = |words: &[usize]| read(words).ok().map(|pair| (pair.a, pair.b));
        assert_eq!(read_pair(&[24, 1, 2]), Some((1, 2)));
        // Of an older program: what it does not know is zero, and what lies behind it is not read.
        assert_eq!(read_pair(&[16, 1]), Some((1, 0)));
        assert_eq!(read_pair(&[8]), Some((0, 0)));
        // Of a newer one: what we do not know must be zero.
        assert_eq!(read_pair(&[40, 1, 2, 0, 0]), Some((1, 2)));
        assert!(read(&[40, 1, 2, 0, 7]).is_err() && read(&[32, 1, 2, 1]).is_err());
        let mut largest = vec![0usize; MAX_STRUCT / size_of::<usize>()];
        largest[0] = MAX_STRUCT;
        largest[1] = 5;
        assert_eq!(read_pair(&largest), Some((5, 0)));
        // A size that is none: nothing behind it is touched, or this test ends here.
        for size in WRONG {
            assert!(read(&[size]).is_err() && read(&[size, 1, 2]).is_err(), "{size}");
        }
    }

    #[test]
    fn structs_are_filled_as_far_as_the_caller_knows_them() {
        let guarded = Guarded::new();
        let ours = Guarded::new();
        // What we have ends at a page that cannot be touched, too: no more of it is read than there is.
        let value = ours.put(&[24, 1, 2]).cast::<Pair>();
        let write = |words: &[usize]| {
            // SAFETY: the memory is as large as its first word says, unless the size is refused.
            let result = unsafe { write_sized(guarded.put(words).cast::<Pair>(), &*value, "pair") };
            result.map(|()| guarded.last(words.len()))
        };
        assert_eq!(write(&[24, 9, 9]).ok(), Some(vec![24, 1, 2]));
        assert_eq!(write(&[16, 9]).ok(), Some(vec![16, 1]));
        assert_eq!(write(&[8]).ok(), Some(vec![8]));
        assert_eq!(write(&[40, 9, 9, 9, 9]).ok(), Some(vec![40, 1, 2, 9, 9]));
        let mut largest = vec![9; MAX_STRUCT / size_of::<usize>()];
        largest[0] = MAX_STRUCT;
        assert_eq!(write(&largest).map(|words| words[..4].to_vec()).ok(), Some(vec![MAX_STRUCT, 1, 2, 9]));
        for size in WRONG {
            assert!(write(&[size]).is_err() && write(&[size, 9, 9]).is_err(), "{size}");
            assert_eq!(guarded.last(3), [size, 9, 9]);
        }
    }
}
