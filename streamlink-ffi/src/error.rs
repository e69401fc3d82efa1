//! Errors, as the caller gets them.

use crate::{
    guard::{Failure, Versioned, c_string, quiet, take, write_sized},
    status::Status,
};
use std::{
    ffi::{CString, c_char},
    fmt,
};
use streamlink_core::{ConfigError, ConfigErrorKind};

/// Error of a call. Freed with streamlink_error_free().
pub struct StreamlinkError {
    status: Status,
    field: CString,
    message: CString,
    errors: Vec<FieldTexts>,
}

/// The kind of an error of a configuration. A number is given once; a program must expect numbers that it does not know.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamlinkConfigErrorKind {
    /// A kind that is newer than this header.
    Other = 0,
    /// The field must be set.
    Missing = 1,
    /// The value cannot be parsed.
    Malformed = 2,
    /// The value is outside its range.
    OutOfRange = 3,
    /// The flow or the endpoint has no setting of this name.
    UnknownSetting = 4,
    /// Another endpoint or flow has the same name, or listens on the same address with the same key.
    Duplicate = 5,
    /// The source cannot feed the output.
    Pairing = 6,
    /// The sources of the flow carry different media families.
    MixedFamilies = 7,
    /// The output names a region that the engine does not know.
    UnknownRegion = 8,
    /// Two settings exclude each other.
    Conflict = 9,
}

/// One error of a configuration. Texts end with NUL and live as long as the error that holds them. Fields are only ever
/// added, at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StreamlinkConfigError {
    /// The size of this struct, in bytes; set by the caller.
    pub size: usize,
    /// The path of the field, as in "sources[0].latency"; "" if the whole text is wrong.
    pub field: *const c_char,
    /// Description of the fault, for people, without the path.
    pub message: *const c_char,
    /// A streamlink_config_error_kind.
    pub kind: i32,
    /// The line of the field in the JSON text, from 1; 0: there is no such text.
    pub line: u32,
    /// The column of the field in its line, from 1, in bytes; 0: there is no such text.
    pub column: u32,
    /// Zero.
    pub reserved: i32,
}

// SAFETY: `size` is first, and all other fields may be zero.
unsafe impl Versioned for StreamlinkConfigError {}

/// One error of a configuration, on its way to the caller.
#[derive(Debug)]
pub(crate) struct FieldError {
    path: String,
    kind: StreamlinkConfigErrorKind,
    message: String,
    position: Option<(usize, usize)>,
}

impl FieldError {
    pub(crate) fn new(path: &str, problem: &ConfigErrorKind) -> Self {
        use StreamlinkConfigErrorKind as K;
        let kind = match problem {
            ConfigErrorKind::Missing => K::Missing,
            ConfigErrorKind::Malformed { .. } => K::Malformed,
            ConfigErrorKind::OutOfRange { .. } => K::OutOfRange,
            ConfigErrorKind::UnknownField | ConfigErrorKind::UnknownSetting { .. } => K::UnknownSetting,
            ConfigErrorKind::Duplicate(_) => K::Duplicate,
            ConfigErrorKind::Pairing { .. } => K::Pairing,
            ConfigErrorKind::MixedFamilies { .. } => K::MixedFamilies,
            ConfigErrorKind::UnknownRegion { .. } => K::UnknownRegion,
            ConfigErrorKind::Conflict(_) => K::Conflict,
            _ => K::Other,
        };
        Self { path: path.to_owned(), kind, message: problem.to_string(), position: None }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl From<&ConfigError> for FieldError {
    fn from(error: &ConfigError) -> Self {
        Self { position: error.position(), ..Self::new(error.path(), error.kind()) }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// One error of a configuration, with texts for the caller.
struct FieldTexts {
    field: CString,
    message: CString,
    kind: StreamlinkConfigErrorKind,
    position: Option<(usize, usize)>,
}

impl From<FieldError> for FieldTexts {
    fn from(error: FieldError) -> Self {
        let FieldError { path, kind, message, position } = error;
        Self { field: c_string(path), message: c_string(message), kind, position }
    }
}

impl StreamlinkError {
    pub(crate) fn new(failure: Failure) -> Self {
        Self {
            status: failure.status,
            field: c_string(failure.field.unwrap_or_default()),
            message: c_string(failure.message),
            errors: failure.errors.into_iter().map(FieldTexts::from).collect(),
        }
    }
}

/// The status of the call that failed. NULL: STREAMLINK_STATUS_OK.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_status(error: *const StreamlinkError) -> Status {
    // SAFETY: the caller passes NULL, or keeps `error` alive during the call.
    unsafe { error.as_ref() }.map_or(Status::Ok, |e| e.status)
}

/// The path of the field that is wrong, as in "outputs[1].latency"; of several the first; of an error of the system the
/// endpoint that it is about, as in "source `venue`"; "" if there is neither. Lives as long as the error. NULL: "".
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_field(error: *const StreamlinkError) -> *const c_char {
    // SAFETY: the caller passes NULL, or keeps `error` alive during the call.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |e| e.field.as_ptr())
}

/// Description of the error, for people: all that is wrong, one error a line, if it is a configuration. Lives as long as the error.
/// NULL: "".
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_message(error: *const StreamlinkError) -> *const c_char {
    // SAFETY: the caller passes NULL, or keeps `error` alive during the call.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |e| e.message.as_ptr())
}

/// The number of errors of the configuration; see streamlink_error_get(). 0: it is not about a configuration, or NULL.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_count(error: *const StreamlinkError) -> usize {
    // SAFETY: the caller passes NULL, or keeps `error` alive during the call.
    unsafe { error.as_ref() }.map_or(0, |e| e.errors.len())
}

/// Fills in one error of a configuration, counted from 0, in the order of the fields; `detail->size` must be set. See
/// STREAMLINK_INIT(). STREAMLINK_STATUS_NOT_FOUND: there are not so many.
///
/// # Safety
/// `error` is NULL or an error that was not freed; `detail` is NULL or points to a struct of the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_get(
    error: *const StreamlinkError,
    index: usize,
    detail: *mut StreamlinkConfigError,
) -> Status {
    let body = || {
        // SAFETY: the caller passes NULL, or keeps `error` alive during the call.
        let Some(error) = (unsafe { error.as_ref() }) else { return Status::InvalidArgument };
        let Some(found) = error.errors.get(index) else { return Status::NotFound };
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let (line, column) = found.position.unwrap_or_default();
        let filled = StreamlinkConfigError {
            size: 0,
            field: found.field.as_ptr(),
            message: found.message.as_ptr(),
            kind: found.kind as i32,
            line: number(line),
            column: number(column),
            reserved: 0,
        };
        // SAFETY: the caller has set the size of `detail`, which it has so much memory for.
        unsafe { write_sized(detail, &filled, "detail") }.map_or_else(|failure| failure.status, |()| Status::Ok)
    };
    quiet(Status::Internal, body)
}

/// Frees an error. NULL is allowed.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn streamlink_error_free(error: *mut StreamlinkError) {
    // SAFETY: the caller hands over `error`, which is NULL or was not freed before.
    quiet((), || drop(unsafe { take(error) }));
}
