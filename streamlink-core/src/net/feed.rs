//! Handing on what is read of a connection, where it is read.

/// Takes what is read of a connection.
pub(crate) trait Take: Send {
    /// So much was read.
    fn take(&mut self, bytes: &[u8]) -> Next;
}

/// What is to be done when something was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Read on.
    GoOn,
    /// It ends within something: ask for the rest, and read on.
    Ask,
    /// There is something for whoever waits for the connection.
    Tell,
}

/// Why reading has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// Whoever takes it may have something to tell; there may be more to read.
    Told,
    /// The peer has closed.
    Closed,
}
