//! Handling of the bytes of a connection in the place where they are read.

/// Takes the bytes that are read from a connection.
pub(crate) trait ReadSink: Send {
    /// Takes bytes, and returns what the reader is to do next.
    fn on_read(&mut self, bytes: &[u8]) -> ReadAction;
}

/// The reader's next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadAction {
    /// Read on.
    Continue,
    /// The bytes end within a message: request the rest, and read on.
    RequestMore,
    /// Notify the owner of the connection.
    Notify,
}

/// The reason why reading has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// The sink has asked to notify the owner; there may be more to read.
    Notified,
    /// The peer has closed.
    Closed,
}
