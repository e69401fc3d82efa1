//! URLs for display in events, errors and logs, with their secrets hidden.

use super::setting::settings;
use crate::{secret::Secret, text::shown};
use std::{fmt, ops::Deref};

/// Maximum length of a displayed URL, in bytes.
const MAX_SHOWN: usize = 512;

/// URL at which peers reach an endpoint. The URL of an RTMP listener holds the stream key: `Display` and
/// [`PeerUrl::as_str`] give the whole URL, and `Debug` hides the key as [`shown_url`] does.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerUrl(Secret);

impl PeerUrl {
    /// Returns the whole URL, with the stream key.
    pub fn as_str(&self) -> &str {
        self.0.reveal()
    }

    /// Returns the address of an RTMP server and the stream key apart, as OBS and many encoders want them; `None` for
    /// other protocols.
    ///
    /// ```
    /// use streamlink_core::PeerUrl;
    /// let url = PeerUrl::from("rtmp://192.0.2.1:1935/live/KEY".to_owned());
    /// assert_eq!(url.server_and_key(), Some(("rtmp://192.0.2.1:1935/live", "KEY")));
    /// ```
    pub fn server_and_key(&self) -> Option<(&str, &str)> {
        let url = self.as_str();
        if !url.starts_with("rtmp://") && !url.starts_with("rtmps://") {
            return None;
        }
        // A key may have parameters, which may hold slashes.
        let end = url.find('?').unwrap_or(url.len());
        let at = url.get(..end)?.rfind('/')?;
        Some((url.get(..at)?, url.get(at + 1..)?))
    }
}

impl From<String> for PeerUrl {
    fn from(url: String) -> Self {
        Self(url.into())
    }
}

impl Deref for PeerUrl {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerUrl({})", shown_url(self.as_str()))
    }
}

/// Serializes the URL with its secrets hidden, as [`shown_url`] does.
#[cfg(feature = "serde")]
impl serde::Serialize for PeerUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&shown_url(self.as_str()))
    }
}

/// Reads a URL back, with deceptive characters escaped. It has no secrets if it was serialized.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for PeerUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let url = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Ok(Self::from(shown(&url, MAX_SHOWN)))
    }
}

/// Returns true if a setting is known to hold no secret, whatever endpoint has it. Free text for people may hold one.
pub(crate) fn is_public(name: &str) -> bool {
    let mut rows = settings().filter(|setting| setting.is_named(name)).peekable();
    name != "description" && rows.peek().is_some() && rows.all(|setting| !setting.secret)
}

/// Returns true if the values of a setting are secret, or contain a secret. Stream ids do, because hosts may authorize
/// callers by stream id.
pub(crate) fn is_secret(name: &str) -> bool {
    settings().any(|setting| setting.is_named(name) && setting.secret)
}

/// Returns a URL for display, with its secrets hidden. An ellipsis stands for the user name and password, for the
/// stream key in the path of RTMP, and for every query value that is not known to be harmless. A text that is not a URL
/// is replaced by an ellipsis. Deceptive characters are escaped, and the length is bounded.
///
/// ```
/// use streamlink_core::shown_url;
/// assert_eq!(shown_url("rtsp://me:secret@cam.example.com:554/door"), "rtsp://…@cam.example.com:554/door");
/// assert_eq!(shown_url("rtmp://example.com/live/KEY"), "rtmp://example.com/live/…");
/// assert_eq!(shown_url("srt://:9000?latency=120&passphrase=secret"), "srt://:9000?latency=120&passphrase=…");
/// ```
pub fn shown_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return "…".into();
    };
    // A password may hold any of the characters that would end it. Everything before the last `@` is hidden, wherever
    // that is.
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (front, tail) = rest.split_at(end);
    let mut out = format!("{scheme}://");
    if tail.contains('@') {
        out.push('…');
        return shown(&out, MAX_SHOWN);
    }
    let place = match front.rsplit_once('@') {
        Some((_, place)) => {
            out.push_str("…@");
            place
        }
        None => front,
    };
    let (authority, path) = place.split_once('/').map_or((place, None), |(authority, path)| (authority, Some(path)));
    out.push_str(if is_authority(authority) { authority } else { "…" });
    if let Some(path) = path {
        out.push('/');
        out.push_str(&shown_path(scheme, path));
    }
    if let Some(query) = tail.strip_prefix('?') {
        out.push('?');
        out.push_str(&shown_query(query));
    } else if !tail.is_empty() {
        out.push_str("#…");
    }
    shown(&out, MAX_SHOWN)
}

fn is_scheme(text: &str) -> bool {
    (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// Returns true if a text is a host and a port, and not the beginning of `user:password`.
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    let host_is_good = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:*".contains(&b));
    host_is_good && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
}

/// Returns a path without its stream key, and without segments that assign a value, as some cameras use them.
fn shown_path(scheme: &str, path: &str) -> String {
    let is_shown = |(at, part): (usize, &str)| match scheme.to_ascii_lowercase().as_str() {
        "rtmp" | "rtmps" => at == 0 && !part.contains(['=', ';']),
        "rtsp" | "rtsps" => !part.contains(['=', ';', '&']) && part.len() < 64,
        _ => part.is_empty(),
    };
    let parts = path.split('/').enumerate();
    let parts = parts.map(|(at, part)| if part.is_empty() || is_shown((at, part)) { part } else { "…" });
    parts.collect::<Vec<_>>().join("/")
}

fn shown_query(query: &str) -> String {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if is_public(name) && !value.contains('=') => format!("{name}={value}"),
        Some((name, _)) if is_public(name) || is_secret(name) => format!("{name}=…"),
        // An `&` within a secret makes the rest of the secret look like a name.
        _ => "…".to_owned(),
    };
    let pairs = query.split('&').map(pair);
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shown_urls_hide_what_is_secret() {
        for (url, seen) in [
            ("srt://:9000?mode=listener&passphrase=hunter2hunter2", "srt://:9000?mode=listener&passphrase=…"),
            ("srt://h:1?passphrase=hunter2&hunter2=x", "srt://h:1?passphrase=…&…"),
            ("srt://h:1?passphrase=hunter2@hunter2", "srt://…"),
            ("srt://h:1?streamid=%23!::u=me,t=hunter2", "srt://h:1?streamid=…"),
            ("rtmp://h/live/hunter2", "rtmp://h/live/…"),
            ("rtmps://h:443/live/deep/hunter2?token=hunter2", "rtmps://h:443/live/…/…?…"),
            ("rtmp://h/live?key=hunter2", "rtmp://h/live?key=…"),
            ("rtsp://me:hunter2@[2001:db8::1]:554/cam/1", "rtsp://…@[2001:db8::1]:554/cam/1"),
            ("rtsp://me:hunt/er2@h/cam", "rtsp://…@h/cam"),
            ("rtsp://me:hunt?er2@h/cam", "rtsp://…"),
            ("rtsp://me:hunt#er2@h/cam", "rtsp://…"),
            ("rtsp://me:hunter2", "rtsp://…"),
            ("rtsp://h/user=me_password=hunter2_channel=1", "rtsp://h/…"),
            ("rtsp://h/cam#hunter2", "rtsp://h/cam#…"),
            ("http://h/hunter2", "http://h/…"),
            ("me:hunter2", "…"),
            ("rtmp//h/live/hunter2", "…"),
            ("hunter2", "…"),
            ("rtsp://h/\u{202e}\r\n", "rtsp://h/\\u{202e}\\u{d}\\u{a}"),
        ] {
            assert_eq!(shown_url(url), seen, "{url}");
        }
        assert!(shown_url(&format!("rtsp://h/{}", "a/".repeat(9000))).len() < MAX_SHOWN + 4);
    }

    proptest! {
        #[test]
        fn shown_urls_never_hold_a_password_or_a_key(
            secret in "HUNTER[!-~]{2,12}",
            scheme in "(srt|rtmp|rtmps|rtsp|rtsps|http)",
            host in "[a-z.]{0,8}(:[0-9]{1,4})?",
            path in "(/[a-z0-9]{1,6}){0,2}",
        ) {
            let mut urls = vec![
                format!("{scheme}://user:{secret}@{host}{path}"),
                format!("{scheme}://{host}{path}?passphrase={secret}"),
                format!("{scheme}://{host}{path}?latency=1&key={secret}&ttl=1"),
                format!("{scheme}://{host}{path}?token={secret}"),
                format!("{scheme}://{host}{path}#{secret}"),
            ];
            if scheme.starts_with("rtmp") {
                urls.push(format!("{scheme}://{host}/live/{secret}"));
            }
            for url in urls {
                prop_assert!(!shown_url(&url).contains("HUNTER"), "{} of {}", shown_url(&url), url);
            }
        }

        #[test]
        fn shown_urls_of_any_text_are_bounded(url in any::<String>()) {
            prop_assert!(shown_url(&url).len() < MAX_SHOWN + 4);
        }
    }
}
