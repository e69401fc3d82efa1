//! Addresses of flows on relays: `moq://relay-a,relay-b:4443/path`.

use std::{fmt, str::FromStr};

/// Port of a relay whose address names none.
pub const DEFAULT_PORT: u16 = 443;
/// Maximum number of relays in one address.
pub const MAX_RELAYS: usize = 8;
/// Maximum length of a path, in bytes.
pub const MAX_PATH: usize = 512;
/// Maximum number of segments of a path. A broadcast of an ingest node adds one, and MoQ permits 32 in all.
const MAX_SEGMENTS: usize = 24;

/// Reason why a `moq://` address cannot be used. Quotes neither the path nor the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The address does not begin with `moq://`.
    #[error("the address does not begin with moq://")]
    Scheme,
    /// The address names no relay, an empty host, or a host that is neither a name nor an IP address.
    #[error("relay {0} of the address has no valid host")]
    Host(usize),
    /// A port is not a number from 1 to 65535.
    #[error("relay {0} of the address has no valid port")]
    Port(usize),
    /// The address names more than [`MAX_RELAYS`] relays.
    #[error("the address names more than 8 relays")]
    TooManyRelays,
    /// The address names the same relay twice.
    #[error("relay {0} of the address is named twice")]
    Duplicate(usize),
    /// The address holds a user name or a password, which MoQ does not have.
    #[error("the address holds a user name; a token is given as `token=`")]
    UserInfo,
    /// The path is empty, too long or too deep, or has an empty segment, `*`, or characters that are not permitted.
    #[error("the path of the address is not valid")]
    Path,
    /// The query holds a name that is not known, or one without a value.
    #[error("the query of the address is not valid; it takes `token=`")]
    Query,
}

/// Host and port of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayAddress {
    host: url::Host<String>,
    port: u16,
}

impl RelayAddress {
    /// Returns the host: a name, an IPv4 address, or an IPv6 address without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            url::Host::Domain(name) => name.clone(),
            url::Host::Ipv4(address) => address.to_string(),
            url::Host::Ipv6(address) => address.to_string(),
        }
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; `number` is that of the relay, for errors.
    fn parse(text: &str, number: usize) -> Result<Self, AddressError> {
        let end_of_host = if text.starts_with('[') {
            text.find(']').map(|at| at + 1).ok_or(AddressError::Host(number))?
        } else {
            text.find(':').unwrap_or(text.len())
        };
        let (host, rest) = text.split_at(end_of_host);
        let port = match rest.strip_prefix(':') {
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or(AddressError::Port(number))?,
            None if rest.is_empty() => DEFAULT_PORT,
            None => return Err(AddressError::Port(number)),
        };
        if host.is_empty() || host.contains(['*', '%']) {
            return Err(AddressError::Host(number));
        }
        let host = url::Host::parse(host).map_err(|_| AddressError::Host(number))?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for RelayAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, 1)
    }
}

/// Token that a relay asks for, as its `jwt` parameter has it. No text shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Makes a token of its text.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// Returns the text of the token.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Address of a flow on one or more relays: `moq://relay-a[:port],relay-b[:port]/path[?token=…]`.
///
/// The relays are those of one cluster, or relays that know nothing of each other; each leg of the flow runs over one of
/// them. The path names the broadcast: 1 to 512 bytes in at most 24 segments. `Display` leaves the token out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoqAddress {
    relays: Vec<RelayAddress>,
    path: String,
    token: Option<Token>,
}

impl MoqAddress {
    /// Makes an address of its parts.
    ///
    /// # Errors
    /// [`AddressError`] if there is no relay, or more than [`MAX_RELAYS`], or the path is not valid.
    pub fn new(relays: Vec<RelayAddress>, path: &str) -> Result<Self, AddressError> {
        if relays.is_empty() {
            return Err(AddressError::Host(1));
        }
        if relays.len() > MAX_RELAYS {
            return Err(AddressError::TooManyRelays);
        }
        for (index, relay) in relays.iter().enumerate() {
            if relays.iter().take(index).any(|earlier| earlier == relay) {
                return Err(AddressError::Duplicate(index + 1));
            }
        }
        Ok(Self { relays, path: checked_path(path)?, token: None })
    }

    /// Returns the relays, at least one.
    pub fn relays(&self) -> &[RelayAddress] {
        &self.relays
    }

    /// Returns the path of the broadcast, without a leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the token for the relays.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Sets the token for the relays.
    #[must_use]
    pub fn with_token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }
}

/// Returns a path without the slashes around it, if it can name a broadcast.
pub(crate) fn checked_path(path: &str) -> Result<String, AddressError> {
    let path = path.trim_matches('/');
    let segments = path.split('/');
    let is_valid = |segment: &str| {
        let permitted = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@".contains(c);
        !segment.is_empty() && !segment.starts_with('.') && segment.chars().all(permitted)
    };
    if path.len() > MAX_PATH || segments.clone().count() > MAX_SEGMENTS || !segments.clone().all(is_valid) {
        return Err(AddressError::Path);
    }
    Ok(path.to_owned())
}

impl FromStr for MoqAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let has_scheme = text.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("moq://"));
        let rest = text.get(6..).filter(|_| has_scheme).ok_or(AddressError::Scheme)?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (hosts, path) = rest.split_once('/').ok_or(AddressError::Path)?;
        if hosts.contains('@') {
            return Err(AddressError::UserInfo);
        }
        if hosts.split(',').count() > MAX_RELAYS {
            return Err(AddressError::TooManyRelays);
        }
        let relays = hosts
            .split(',')
            .enumerate()
            .map(|(index, relay)| RelayAddress::parse(relay, index + 1))
            .collect::<Result<Vec<_>, _>>()?;
        let mut address = Self::new(relays, path)?;
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if name != "token" || value.is_empty() || address.token.is_some() {
                return Err(AddressError::Query);
            }
            address.token = Some(Token::new(value));
        }
        Ok(address)
    }
}

impl fmt::Display for MoqAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("moq://")?;
        for (index, relay) in self.relays.iter().enumerate() {
            if index != 0 {
                f.write_str(",")?;
            }
            write!(f, "{relay}")?;
        }
        write!(f, "/{}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MoqAddress, AddressError> {
        text.parse()
    }

    #[test]
    fn moq_address_is_read_and_printed() {
        let address = parse("moq://relay-a,relay-b:4443,[2001:db8::1]:7/live/cam1").unwrap();
        let relays: Vec<String> = address.relays().iter().map(ToString::to_string).collect();
        assert_eq!(relays, ["relay-a:443", "relay-b:4443", "[2001:db8::1]:7"]);
        assert_eq!(address.relays()[2].host(), "2001:db8::1");
        assert_eq!(address.path(), "live/cam1");
        assert_eq!(address.to_string(), "moq://relay-a:443,relay-b:4443,[2001:db8::1]:7/live/cam1");
        assert_eq!(parse(&address.to_string()).unwrap(), address);
    }

    #[test]
    fn moq_address_never_shows_its_token() {
        let address = parse("MOQ://10.0.0.1/x?token=s3cret%2Fx").unwrap();
        assert_eq!(address.token().unwrap().reveal(), "s3cret/x");
        assert!(!format!("{address} {address:?}").contains("s3cret"));
    }

    #[test]
    fn moq_address_refuses_what_names_no_flow() {
        for (text, error) in [
            ("srt://a/x", AddressError::Scheme),
            ("moq:/", AddressError::Scheme),
            ("moq://a", AddressError::Path),
            ("moq://a/", AddressError::Path),
            ("moq:///x", AddressError::Host(1)),
            ("moq://a,/x", AddressError::Host(2)),
            ("moq://a,b,a:443/x", AddressError::Duplicate(3)),
            ("moq://a:0/x", AddressError::Port(1)),
            ("moq://a:65536/x", AddressError::Port(1)),
            ("moq://[::1/x", AddressError::Host(1)),
            ("moq://[::1]4443/x", AddressError::Port(1)),
            ("moq://a b/x", AddressError::Host(1)),
            ("moq://user:pw@a/x", AddressError::UserInfo),
            ("moq://a,b,c,d,e,f,g,h,i/x", AddressError::TooManyRelays),
            ("moq://a/x//y", AddressError::Path),
            ("moq://a/x/../y", AddressError::Path),
            ("moq://a/x*", AddressError::Path),
            ("moq://a/x y", AddressError::Path),
            ("moq://a/.stats", AddressError::Path),
            ("moq://a/x?key=1", AddressError::Query),
            ("moq://a/x?token=", AddressError::Query),
            ("moq://a/x?token=1&token=2", AddressError::Query),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text}");
        }
        let deep = format!("moq://a/{}", vec!["x"; 25].join("/"));
        assert_eq!(parse(&deep).unwrap_err(), AddressError::Path);
        assert_eq!(parse(&format!("moq://a/{}", "x".repeat(513))).unwrap_err(), AddressError::Path);
    }
}
