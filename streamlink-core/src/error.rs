//! What can go wrong, and where: every error names the flow, the endpoint and what was expected.

use crate::text::{quoted, shown};
use std::{fmt, io, net::SocketAddr};

/// The stable class of an [`Error`], for hosts that branch on it (the C ABI maps each to a status code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration is wrong; see [`ConfigErrors`].
    InvalidConfig,
    /// A local address is used by another socket, or by another flow of this engine.
    AddressInUse,
    /// The operating system denies the address or the operation to this process.
    PermissionDenied,
    /// No flow, source or output has that name.
    NotFound,
    /// The name, or the listening address and key, is already taken.
    AlreadyExists,
    /// The flow or the engine has stopped.
    Stopped,
    /// Any other failure of the operating system.
    Io,
}

/// Why an operation of the engine failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong. Nothing was started.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A local address could not be bound. Nothing was started.
    #[error("flow `{flow}`, {endpoint}: cannot use address {address}: {cause}")]
    Bind {
        /// The flow's name.
        flow: String,
        /// The endpoint, as in ``source `venue` ``.
        endpoint: String,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        cause: io::Error,
    },
    /// A host name, an interface or a socket option was refused by the operating system.
    #[error("flow `{flow}`, {endpoint}: {what}: {cause}")]
    Io {
        /// The flow's name.
        flow: String,
        /// The endpoint, as in ``source `venue` ``.
        endpoint: String,
        /// What was tried.
        what: String,
        /// What the operating system said.
        #[source]
        cause: io::Error,
    },
    /// There is no such flow, source or output.
    #[error("there is no {what} named `{name}`")]
    NotFound {
        /// `flow`, `source`, `output`, `tap` or `app source`.
        what: &'static str,
        /// The name that was asked for.
        name: String,
    },
    /// The name is already taken.
    #[error("there is already {what} named `{name}`")]
    AlreadyExists {
        /// `a flow`, `a source` or `an output`.
        what: &'static str,
        /// The name that was asked for.
        name: String,
    },
    /// The flow or the engine has stopped.
    #[error("the {0} has stopped")]
    Stopped(&'static str),
    /// The runtime could not be started.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The operating system gives no randomness, without which there are no keys. Nothing was started.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(#[source] io::Error),
}

impl Error {
    /// The stable class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Config(_) => ErrorKind::InvalidConfig,
            Error::Bind { cause, .. } | Error::Io { cause, .. } => match cause.kind() {
                io::ErrorKind::AddrInUse => ErrorKind::AddressInUse,
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Io,
            },
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Error::Stopped(_) => ErrorKind::Stopped,
            Error::Runtime(_) | Error::Randomness(_) => ErrorKind::Io,
        }
    }
}

/// Everything that is wrong with a configuration. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `None` when there is nothing wrong.
    pub(crate) fn collect(errors: Vec<ConfigError>) -> Option<Self> {
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// The errors, in the order of the fields.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    problem: Problem,
}

/// The longest name of a field that is shown, in bytes: it may be one that a document has made up.
const MAX_PATH: usize = 256;

impl ConfigError {
    pub(crate) fn new(path: impl Into<String>, problem: Problem) -> Self {
        Self { path: shown(&path.into(), MAX_PATH), problem }
    }

    /// The same error seen from one level further out: `bind` in `outputs[1]` is `outputs[1].bind`.
    pub(crate) fn within(mut self, outer: &str) -> Self {
        self.path = match self.path.is_empty() {
            true => outer.to_owned(),
            false => format!("{outer}.{}", self.path),
        };
        self
    }

    /// The path of the field, as in `sources[0].latency`; the JSON form has the same names.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with the field.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => self.problem.fmt(f),
            false => write!(f, "{}: {}", self.path, self.problem),
        }
    }
}

/// What is wrong with one field of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The field must be set.
    #[error("is missing")]
    Missing,
    /// The value cannot be read.
    #[error("`{value}` is not {expected}")]
    Malformed {
        /// The value as given; secrets are not repeated here.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// The value is outside its range.
    #[error("{value} is outside {range}")]
    OutOfRange {
        /// The value as given.
        value: String,
        /// The range, with its unit.
        range: String,
    },
    /// No setting of that endpoint has this name.
    #[error("there is no such setting")]
    UnknownField,
    /// Another endpoint or flow has the same name, or listens on the same address and key.
    #[error("{0}")]
    Duplicate(String),
    /// This output cannot be fed by this source.
    #[error("{input} sources cannot feed {output} outputs; they can feed {allowed}")]
    Pairing {
        /// The protocol of the source.
        input: String,
        /// The protocol of the output.
        output: String,
        /// The protocols that would be right.
        allowed: String,
    },
    /// The sources of one flow carry different media families.
    #[error("carries {found}, but the first source carries {expected}; the sources of a flow are of one family")]
    MixedFamilies {
        /// The family of this source.
        found: String,
        /// The family of the first source.
        expected: String,
    },
    /// The output names a region that the engine does not know.
    #[error("there is no region `{name}`; known: {known}")]
    UnknownRegion {
        /// The region that was named.
        name: String,
        /// The regions of the engine.
        known: String,
    },
    /// Two settings exclude each other.
    #[error("{0}")]
    Conflict(String),
}

impl Problem {
    pub(crate) fn malformed(value: impl fmt::Display, expected: impl Into<String>) -> Self {
        Problem::Malformed { value: quoted(&value.to_string()), expected: expected.into() }
    }

    pub(crate) fn out_of_range(value: impl fmt::Display, range: impl Into<String>) -> Self {
        Problem::OutOfRange { value: value.to_string(), range: range.into() }
    }
}
