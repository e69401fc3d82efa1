//! A URL, split into its parts. Every URL that is configured, printed or received goes through this type.
//!
//! The rules are those of RFC 3986 as encoders, players and cameras use them: the host may be missing (`srt://:9000`),
//! an IPv6 address may have a zone (`[fe80::1%eth0]`), a fragment is not split off, because stream ids begin with `#` and
//! cameras are sent it, and percent-encoding is kept until a part is read. Hosts are checked by the `url` crate, which
//! knows international names.

use super::{
    address::{HostPort, Listen, parse_bind},
    secret::Credentials,
};
use crate::{error::ConfigErrorKind, secret::Secret};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::{borrow::Cow, net::IpAddr};

/// Maximum length of a URL, in bytes.
pub(crate) const MAX_URL: usize = 8192;

/// Characters that no URL contains, wherever it is sent. Everything else that is there stays as it is.
const FORBIDDEN: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>');

/// A URL, split but not decoded.
pub(crate) struct ParsedUrl {
    /// In lower case.
    pub(crate) scheme: String,
    user: Option<(Secret, Secret)>,
    /// `host:port`.
    authority: String,
    /// Without the leading slash.
    path: String,
    /// `None` without a question mark.
    query: Option<Vec<Pair>>,
}

/// One `name=value` of a query, as it was written. Any part of it may be a secret.
#[derive(Clone)]
pub(crate) struct Pair(Secret);

impl Pair {
    /// Returns the name, decoded.
    pub(crate) fn name(&self) -> Cow<'_, str> {
        let raw = self.0.reveal();
        let name = raw.split_once('=').map_or(raw, |(name, _)| name);
        percent_decode_str(name).decode_utf8_lossy()
    }

    /// Returns the value, decoded; empty if there is none.
    pub(crate) fn value(&self) -> Result<Secret, ConfigErrorKind> {
        let value = self.0.reveal().split_once('=').map_or("", |(_, value)| value);
        decode(value, "the query of the URL").map(Secret::from)
    }

    /// Returns the name and the value as they were written.
    pub(crate) fn raw(&self) -> &str {
        self.0.reveal()
    }
}

/// Decodes the percent-encoding of a part of a URL.
fn decode(text: &str, part: &str) -> Result<String, ConfigErrorKind> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| ConfigErrorKind::malformed(part, "UTF-8 after percent-decoding"))
}

/// Returns a part of a URL with the characters encoded that no URL contains.
pub(crate) fn sendable(text: &str) -> String {
    utf8_percent_encode(text, FORBIDDEN).to_string()
}

impl ParsedUrl {
    /// Splits a URL. White space around it is ignored.
    ///
    /// # Errors
    /// When the text is too long, holds control characters, or has no scheme. No error repeats the text.
    pub(crate) fn parse(url: &str) -> Result<Self, ConfigErrorKind> {
        let url = url.trim();
        if url.len() > MAX_URL {
            return Err(ConfigErrorKind::out_of_range("the length of the URL", format!("1 to {MAX_URL} bytes")));
        }
        if url.chars().any(char::is_control) {
            return Err(ConfigErrorKind::malformed("the URL", "text without control characters"));
        }
        let bad = || ConfigErrorKind::malformed("the URL", "of the form `scheme://[host]:port[/path][?key=value&…]`");
        let (scheme, rest) = url.split_once(':').ok_or_else(bad)?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if !is_scheme {
            return Err(bad());
        }
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let (user, authority) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((user, host)) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                let part = "the user name or password of the URL";
                (Some((decode(user, part)?.into(), decode(password, part)?.into())), host)
            }
        };
        // The rest of a password with a question mark looks like a query.
        let start = query.and_then(|query| query.split(['=', '&']).next()).unwrap_or_default();
        if authority.contains('#') || (user.is_none() && start.contains('@')) {
            let expected =
                "of that form: in a user name or password, `#` is written as `%23`, `/` as `%2F`, `?` as `%3F`";
            return Err(ConfigErrorKind::malformed("the URL", expected));
        }
        let pairs = |query: &str| query.split('&').map(|pair| Pair(pair.to_owned().into())).collect();
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user,
            authority: authority.to_owned(),
            path: path.to_owned(),
            query: query.map(pairs),
        })
    }

    /// Returns the host and the port, not decoded.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns true if the host is missing or stands for every local address.
    pub(crate) fn host_is_wildcard(&self) -> bool {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.authority,
        };
        matches!(host, "" | "*" | "0.0.0.0" | "[::]")
    }

    /// Returns the local address to listen on.
    pub(crate) fn bind(&self, default_port: Option<u16>) -> Result<Listen, ConfigErrorKind> {
        parse_bind(&self.authority, default_port).map(Listen::new)
    }

    /// Returns the host and the port to connect to.
    pub(crate) fn remote(&self, default_port: Option<u16>) -> Result<HostPort, ConfigErrorKind> {
        HostPort::parse(&self.authority, default_port)
    }

    /// Returns the user name and the password, decoded.
    pub(crate) fn credentials(&self) -> Result<Option<Credentials>, ConfigErrorKind> {
        let user = self.user.as_ref();
        user.map(|(user, password)| Credentials::new(user.reveal(), password.reveal())).transpose()
    }

    /// Removes an empty user name, as in `udp://@239.1.1.1:1234`.
    pub(crate) fn take_empty_user(&mut self) {
        self.user =
            self.user.take().filter(|(user, password)| !(user.reveal().is_empty() && password.reveal().is_empty()));
    }

    /// Removes a user name that is an IPv4 address, or empty, and returns the address.
    pub(crate) fn take_user_address(&mut self) -> Option<IpAddr> {
        self.take_empty_user();
        let (user, _) = self.user.as_ref().filter(|(_, password)| password.reveal().is_empty())?;
        let address = user.reveal().parse().ok()?;
        self.user = None;
        Some(address)
    }

    /// Checks that there is no user name, for protocols without one.
    pub(crate) fn no_user(&self) -> Result<(), ConfigErrorKind> {
        if self.user.is_some() {
            let expected = format!("allowed: an address of {} has neither", self.scheme);
            return Err(ConfigErrorKind::malformed("a user name or password", expected));
        }
        Ok(())
    }

    /// Checks that there is no path, for protocols without one.
    pub(crate) fn no_path(&self) -> Result<(), ConfigErrorKind> {
        if !self.path.is_empty() {
            return Err(ConfigErrorKind::malformed("the path", format!("allowed: {} has no path", self.scheme)));
        }
        Ok(())
    }

    /// Returns the path without its leading slash, decoded.
    pub(crate) fn path(&self) -> Result<String, ConfigErrorKind> {
        decode(&self.path, "the path of the URL")
    }

    /// Returns the path without its leading slash as it is sent to a peer: encoded as it was written.
    pub(crate) fn raw_path(&self) -> String {
        sendable(&self.path)
    }

    /// Returns the query as it is sent to a peer: encoded as it was written.
    pub(crate) fn raw_query(&self) -> Option<String> {
        self.query.as_deref().map(join)
    }

    /// Returns the pairs of the query.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.query.iter().flatten()
    }

    /// Returns true if the query has this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.pairs().any(|pair| pair.name() == name)
    }

    /// Removes a name from the query and returns its value; the last of several counts.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<Secret>, ConfigErrorKind> {
        let mut found = None;
        for pair in self.take_if(|pair| pair.name() == name) {
            found = Some(pair.value()?);
        }
        Ok(found)
    }

    /// Removes the pairs of the query that match, and returns them in their order. Empty ones, as between `&&`, never
    /// match.
    pub(crate) fn take_if(&mut self, matches: impl Fn(&Pair) -> bool) -> Vec<Pair> {
        let Some(query) = self.query.take() else { return Vec::new() };
        let (taken, kept): (Vec<_>, Vec<_>) =
            query.into_iter().partition(|pair| !pair.raw().is_empty() && matches(pair));
        // Of `?` alone, the empty pair stays: some cameras want the question mark.
        self.query = (!kept.is_empty()).then_some(kept);
        taken
    }
}

/// Returns pairs as a query that can be sent to a peer.
fn join(pairs: &[Pair]) -> String {
    let raw: Vec<String> = pairs.iter().map(|pair| sendable(pair.raw())).collect();
    raw.join("&")
}

#[cfg(test)]
mod tests {
    use crate::flow::{Output, Source};
    use proptest::prelude::*;

    fn error(url: &str) -> String {
        let errors = Source::from_url("a", url).common.errors;
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn url_reads_odd_forms() {
        for (url, read) in [
            ("  SRT://Example.COM:9000\n", "srt://example.com:9000"),
            ("RTSP://[2001:DB8::1]/cam", "rtsp://[2001:db8::1]:554/cam"),
            ("rtsp://[fe80::1%25eth0]:8554/cam", "rtsp://[fe80::1%25eth0]:8554/cam"),
            ("rtsp://[fe80::1%eth0]/cam", "rtsp://[fe80::1%25eth0]:554/cam"),
            ("srt://[fe80::1%252]:9000?mode=listener", "srt://[fe80::1%2]:9000?mode=listener"),
            ("rtsp://user:p%40%2F%3A%23w@h/cam", "rtsp://user:p%40%2F%3A%23w@h:554/cam"),
            ("rtsp://user:p@ss:word@h/cam", "rtsp://user:p%40ss%3Aword@h:554/cam"),
            ("rtsp://user:p#w@h/cam", "rtsp://user:p%23w@h:554/cam"),
            ("rtsp://user@h", "rtsp://user:@h:554/"),
            ("rtsp://m\u{fc}nchen.example/cam", "rtsp://xn--mnchen-3ya.example:554/cam"),
            ("rtsp://cam_1.local:/x", "rtsp://cam_1.local:554/x"),
            ("srt://127.1:9000", "srt://127.0.0.1:9000"),
            ("srt://h:9000/", "srt://h:9000"),
            ("srt://h:9000?&latency=200&&", "srt://h:9000?latency=200"),
            ("srt://h:9000?streamid=#!::r=live/x,m=publish", "srt://h:9000?streamid=%23!::r=live/x,m=publish"),
            ("srt://h:9000?streamid=a=b?c", "srt://h:9000?streamid=a=b?c"),
        ] {
            assert_eq!(error(url), "", "{url}");
            assert_eq!(Source::from_url("a", url).to_url(), read, "{url}");
            assert_eq!(Source::from_url("a", read).to_url(), read, "{url}");
        }
    }

    #[test]
    fn url_errors_name_the_part() {
        for (url, part) in [
            ("", "of the form"),
            ("host:9000", "scheme"),
            ("srt://", "local address"),
            ("srt://h", "a host and port"),
            ("srt://h:0", "port 0"),
            ("srt://h:99999", "the port"),
            ("srt://h:+1", "the port"),
            ("srt://h:9000/path", "the path"),
            ("srt://me:hunter2@h:9000", "a user name or password"),
            ("srt://::1:9000", "in brackets"),
            ("srt://[::g]:9000", "a host name or address"),
            ("rtsp://[ff02::%%%%1]/cam", "a host name or address"),
            ("srt://a b:9000", "a host name or address"),
            ("srt://h:9000?mode=meet", "listener, caller or rendezvous"),
            ("srt://:9000?mode=rendezvous", "needs the host"),
            ("rtsp://h/cam?mode=rendezvous", "listener or caller"),
            ("srt://:9000?mode=caller", "needs a host"),
            ("srt://example.com:9000?mode=listener", "a local address"),
            ("srt://[fe80::1%eth0]:9000?mode=listener", "the zone"),
            ("rtp://:5004?mode=caller", "`mode` can only be `listener`"),
            ("rtsp://me:hunter2", "the port"),
            ("rtsp://me:123?hunter2@h/cam", "`%3F`"),
            ("rtsp://me:hunter2/x@h/cam", "the port"),
            ("rtmp://h", "application name"),
            ("srt://h:1?passphrase=%ff", "UTF-8"),
            ("srt://h:1?latency=1\u{7}", "control characters"),
            ("srt://h:1?latency=1&latency=2", "latency: is set twice"),
            ("ftp://h/x", "the scheme"),
            ("app://films", "one of the families"),
        ] {
            let error = error(url);
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains("hunter"), "{url}: {error}");
        }
        assert!(error(&format!("srt://h:1?streamid={}", "x".repeat(9000))).contains("the length of the URL"));
        let output = Output::from_url("a", "rtp://h:1?mode=listener").common.errors;
        assert!(output[0].to_string().contains("can only be `caller`"));
    }

    proptest! {
        #[test]
        fn url_of_any_text_is_read_or_refused(text in any::<String>(), scheme in "(srt|rtmp|rtsp|rtp|app|tap)://") {
            for url in [text.clone(), format!("{scheme}{text}"), format!("{scheme}HUNTER:{text}@h:1/x?{text}")] {
                let source = Source::from_url("a", &url);
                let output = Output::from_url("a", &url);
                if source.common.errors.is_empty() {
                    let again = Source::from_url("a", &source.to_url());
                    prop_assert_eq!(again.to_url(), source.to_url());
                    prop_assert_eq!(format!("{:?}", again.kind), format!("{:?}", source.kind));
                }
                if output.common.errors.is_empty() {
                    let again = Output::from_url("a", &output.to_url());
                    prop_assert_eq!(format!("{:?}", again.kind), format!("{:?}", output.kind));
                }
            }
        }
    }
}
