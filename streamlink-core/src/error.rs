//! Error types. Every error names the flow, the endpoint and the expected value.

use crate::text::{quoted, shown};
use std::{fmt, io, net::SocketAddr};

/// Stable class of an [`Error`], for hosts that branch on it. The C ABI maps each class to a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration is wrong; see [`ConfigErrors`].
    InvalidConfig,
    /// A local address is used by another socket, or by another flow of this engine with TLS where this one has none, or
    /// the other way round.
    AddressInUse,
    /// The operating system denies the address or the operation to this process.
    PermissionDenied,
    /// No flow, source or output has the given name.
    NotFound,
    /// The name, or the listening address and key, is already taken.
    AlreadyExists,
    /// The flow or the engine has stopped.
    Stopped,
    /// Any other failure of the operating system.
    Io,
}

/// Error of an engine operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong. Nothing was started.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Another flow of this engine listens on the same address with the same key, stream id or path. Nothing was
    /// started.
    #[error(transparent)]
    Claimed(ConfigErrors),
    /// A local address could not be bound. Nothing was started.
    #[error("flow `{flow}`, {endpoint}: cannot use address {address}: {cause}")]
    Bind {
        /// Name of the flow.
        flow: String,
        /// Kind and name of the endpoint, as in ``source `venue` ``.
        endpoint: String,
        /// Requested address.
        address: SocketAddr,
        /// Error of the operating system.
        #[source]
        cause: io::Error,
    },
    /// The operating system refused a host name, an interface or a socket option.
    #[error("flow `{flow}`, {endpoint}: {what}: {cause}")]
    Io {
        /// Name of the flow.
        flow: String,
        /// Kind and name of the endpoint, as in ``source `venue` ``.
        endpoint: String,
        /// Operation that was attempted.
        what: String,
        /// Error of the operating system.
        #[source]
        cause: io::Error,
    },
    /// No flow, source or output has the given name.
    #[error("there is no {what} named `{name}`")]
    NotFound {
        /// `flow`, `source`, `output`, `tap`, `app source` or `player`.
        what: &'static str,
        /// Requested name.
        name: String,
    },
    /// The name is already taken.
    #[error("there is already {what} named `{name}`")]
    AlreadyExists {
        /// `a flow` or `an endpoint`.
        what: &'static str,
        /// Requested name.
        name: String,
    },
    /// The flow or the engine has stopped.
    #[error("the {0} has stopped")]
    Stopped(&'static str),
    /// The runtime could not be started.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The operating system gives no randomness, so keys cannot be generated. Nothing was started.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(#[source] io::Error),
}

impl Error {
    /// Returns the stable class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) => ErrorKind::InvalidConfig,
            Self::Bind { cause, .. } | Self::Io { cause, .. } => match cause.kind() {
                io::ErrorKind::AddrInUse => ErrorKind::AddressInUse,
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Io,
            },
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } | Self::Claimed(_) => ErrorKind::AlreadyExists,
            Self::Stopped(_) => ErrorKind::Stopped,
            Self::Runtime(_) | Self::Randomness(_) => ErrorKind::Io,
        }
    }
}

/// All errors of a configuration. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Returns `None` if there are no errors.
    pub(crate) fn collect(errors: Vec<ConfigError>) -> Option<Self> {
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// Returns an iterator over the errors, in the order of the fields.
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

impl ConfigErrors {
    /// Sets the place of each error in the document that it comes from, by the path of its field.
    #[cfg(feature = "serde")]
    pub(crate) fn at(mut self, place: impl Fn(&str) -> (usize, usize)) -> Self {
        for error in &mut self.0 {
            error.position = Some(place(&error.path));
        }
        self.0.sort_by_key(|error| error.position);
        self
    }
}

impl fmt::Display for ConfigErrors {
    /// Writes one error a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One error of a configuration, with the path of its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    kind: ConfigErrorKind,
    /// Line and column in the document.
    position: Option<(usize, usize)>,
}

/// Maximum length of a displayed field path, in bytes. The name of a field may come from an untrusted document.
const MAX_PATH: usize = 256;

impl ConfigError {
    pub(crate) fn new(path: impl Into<String>, kind: ConfigErrorKind) -> Self {
        Self { path: shown(&path.into(), MAX_PATH), kind, position: None }
    }

    /// Prefixes the path with an outer one: `bind` within `outputs[1]` becomes `outputs[1].bind`.
    pub(crate) fn within(mut self, outer: &str) -> Self {
        self.path = if self.path.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.path) };
        self
    }

    /// Returns the path of the field, as in `sources[0].latency`. The JSON form uses the same names.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the line and the column of the field in the JSON document, both from 1; `None` if there is no document. A
    /// field that is missing has the place of its object.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.position
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> &ConfigErrorKind {
        &self.kind
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.kind.fmt(f)
    }
}

/// ConfigErrorKind of one field of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// The field must be set.
    #[error("is missing")]
    Missing,
    /// The value cannot be parsed.
    #[error("`{value}` is not {expected}")]
    Malformed {
        /// Value as given. Secrets are not repeated here.
        value: String,
        /// Expected form of the value.
        expected: String,
    },
    /// The value is outside its range.
    #[error("{value} is outside {range}")]
    OutOfRange {
        /// Value as given.
        value: String,
        /// Allowed range, with its unit.
        range: String,
    },
    /// The endpoint has no setting of this name.
    #[error("there is no such setting")]
    UnknownField,
    /// There is no setting of this name.
    #[error("there is no such setting{hint}")]
    UnknownSetting {
        /// Known names that are similar, or the endpoints that have this setting; may be empty.
        hint: String,
    },
    /// Another endpoint or flow has the same name, or listens on the same address and key.
    #[error("{0}")]
    Duplicate(String),
    /// The source cannot feed the output.
    #[error("{input} sources cannot feed {output} outputs; they can feed {allowed}")]
    Pairing {
        /// Protocol of the source.
        input: String,
        /// Protocol of the output.
        output: String,
        /// Output protocols that the source can feed.
        allowed: String,
    },
    /// The sources of one flow carry different media families.
    #[error("carries {found}, but the first source carries {expected}; the sources of a flow are of one family")]
    MixedFamilies {
        /// Media family of this source.
        found: String,
        /// Media family of the first source.
        expected: String,
    },
    /// The output names a region that the engine does not know.
    #[error("there is no region `{name}`; known: {known}")]
    UnknownRegion {
        /// Name of the region.
        name: String,
        /// Names of the engine's regions.
        known: String,
    },
    /// Two settings exclude each other.
    #[error("{0}")]
    Conflict(String),
}

impl ConfigErrorKind {
    pub(crate) fn malformed(value: impl fmt::Display, expected: impl Into<String>) -> Self {
        Self::Malformed { value: quoted(&value.to_string()), expected: expected.into() }
    }

    pub(crate) fn out_of_range(value: impl fmt::Display, range: impl Into<String>) -> Self {
        Self::OutOfRange { value: value.to_string(), range: range.into() }
    }
}
