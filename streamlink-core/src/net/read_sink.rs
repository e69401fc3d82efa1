//! Handing on what is read of a connection, where it is read.

/// Takes what is read of a connection.
pub(crate) trait ReadSink: Send {
    /// So much was read.
    fn on_read(&mut self, bytes: &[u8]) -> ReadAction;
}

/// What is to be done when something was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadAction {
    /// Read on.
    Continue,
    /// It ends within something: ask for the rest, and read on.
    RequestMore,
    /// There is something for whoever waits for the connection.
    Notify,
}

/// Why reading has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// Whoever takes it may have something to tell; there may be more to read.
    Notified,
    /// The peer has closed.
    Closed,
}
