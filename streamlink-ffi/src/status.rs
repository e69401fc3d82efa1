//! Status codes. A number is given once, and never again to something else. (3 was given before the first release.)

use streamlink_core::{ErrorKind, PushError};

/// Outcome of a call.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It succeeded.
    Ok = 0,
    /// An argument is NULL that must not be, or not valid UTF-8.
    InvalidArgument = 1,
    /// The configuration is wrong; the error names the field.
    InvalidConfig = 2,
    /// A local address is used by another socket or flow.
    AddressInUse = 4,
    /// The operating system denies the address or the operation.
    PermissionDenied = 5,
    /// There is no flow, source or output of that name.
    NotFound = 6,
    /// The name is already taken.
    AlreadyExists = 7,
    /// The flow or the engine has stopped.
    Stopped = 8,
    /// Another failure of the operating system.
    Io = 9,
    /// An error within the library; please report it.
    Internal = 10,
    /// Nothing came in the time that was given.
    TimedOut = 11,
    /// The flow is at its maximum bandwidth: the packet was dropped, and later ones may pass.
    Full = 12,
    /// The packet is malformed, or of another family than the source.
    BadPacket = 13,
    /// This build of the library lacks what the call needs.
    Unsupported = 14,
}

impl From<PushError> for Status {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Full => Status::Full,
            PushError::Closed => Status::Stopped,
            PushError::Family { .. } | PushError::Malformed => Status::BadPacket,
            // An error that is newer than this crate.
            _ => Status::Internal,
        }
    }
}

impl From<ErrorKind> for Status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidConfig => Status::InvalidConfig,
            ErrorKind::AddressInUse => Status::AddressInUse,
            ErrorKind::PermissionDenied => Status::PermissionDenied,
            ErrorKind::NotFound => Status::NotFound,
            ErrorKind::AlreadyExists => Status::AlreadyExists,
            ErrorKind::Stopped => Status::Stopped,
            ErrorKind::Io => Status::Io,
            // A kind that is newer than this crate.
            _ => Status::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_kinds_have_a_status_each() {
        let kinds = [
            (ErrorKind::InvalidConfig, 2),
            (ErrorKind::AddressInUse, 4),
            (ErrorKind::PermissionDenied, 5),
            (ErrorKind::NotFound, 6),
            (ErrorKind::AlreadyExists, 7),
            (ErrorKind::Stopped, 8),
            (ErrorKind::Io, 9),
        ];
        for (kind, number) in kinds {
            assert_eq!(Status::from(kind) as i32, number, "{kind:?}");
        }
    }
}
