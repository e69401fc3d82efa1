//! What every entry point goes through: no panic leaves, and an error is filled in if the caller wants one.

use crate::{error::StreamlinkError, status::Status};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A failure on its way to the caller.
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) field: Option<String>,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn null(argument: &str) -> Self {
        Self { status: Status::InvalidArgument, field: None, message: format!("{argument} is NULL") }
    }
}

impl From<streamlink_core::Error> for Failure {
    fn from(error: streamlink_core::Error) -> Self {
        let field = match &error {
            streamlink_core::Error::Config(errors) => errors.iter().next().map(|e| e.path().to_owned()),
            _ => None,
        };
        Self { status: error.kind().into(), field, message: error.to_string() }
    }
}

/// Runs the body of an entry point.
///
/// # Safety
/// `error` is NULL, or points to memory for a pointer that the caller owns.
pub(crate) unsafe fn guard(error: *mut *mut StreamlinkError, body: impl FnOnce() -> Result<(), Failure>) -> Status {
    // What a panic has left behind is not looked at again: the handle stays valid, the call has failed.
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        let message = "the library failed within".to_owned();
        Err(Failure { status: Status::Internal, field: None, message })
    });
    let Err(failure) = result else { return Status::Ok };
    let status = failure.status;
    if !error.is_null() {
        let boxed = Box::into_raw(Box::new(StreamlinkError::new(failure)));
        // SAFETY: not NULL, and the caller's, as the contract says.
        unsafe { error.write(boxed) };
    }
    status
}
