//! Stream ids of SRT, in the forms that peers send, compared in one normal form.
//!
//! - plain: `cam1`;
//! - libsrt's access control (`docs/features/access-control.md`): `#!::r=cam1,m=publish,u=me`, the fields in any order.
//!   Blackmagic's devices send the name in `u` and no `r`;
//! - MediaMTX's: `publish:cam1:user:password`, `read:cam1`.
//!
//! Any of them may be percent-encoded, and have white space or slashes around the name.

use crate::text::shown;
use percent_encoding::percent_decode_str;
use std::{borrow::Cow, fmt};

/// Beginnings of MediaMTX's form.
const PUBLISH: &str = "publish:";
const READ: &str = "read:";
/// Maximum length of a name for display, in bytes.
const MAX_SHOWN: usize = 64;

/// Stream id of a caller or a listener.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamId {
    resource: Option<String>,
    /// `true` to publish, `false` to play, `None` if not given.
    publish: Option<bool>,
    /// User, host, session and type, where given.
    others: [Option<String>; 4],
    /// The field `u` names the stream, as there is no `r`.
    user_is_resource: bool,
}

/// Reason why a stream id cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamIdError {
    #[error("a nested stream id (`#!:{{…}}`) is not supported")]
    Nested,
    #[error("a stream id begins with `#!::`, or without `#!`")]
    UnknownForm,
    #[error("the mode `m` is neither `publish` nor `request`")]
    Mode,
    #[error("the stream id names no stream")]
    Nameless,
}

impl StreamId {
    pub(crate) fn parse(text: &str) -> Result<Self, StreamIdError> {
        let text = text.trim();
        // Programs that do not decode their URLs send all of it encoded. In a known form, its parts may be.
        let is_form = ["#!::", PUBLISH, READ].iter().any(|start| text.starts_with(start));
        let decoded = if is_form { None } else { decoded(text) };
        let text = decoded.as_deref().unwrap_or(text).trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        if let Some(rest) = text.strip_prefix("#!") {
            let Some(rest) = rest.strip_prefix(':') else { return Err(StreamIdError::UnknownForm) };
            return match rest.as_bytes().first() {
                Some(b':') => Self::fields(&rest[1..]),
                Some(b'{') => Err(StreamIdError::Nested),
                _ => Err(StreamIdError::UnknownForm),
            };
        }
        for (prefix, publish) in [(PUBLISH, true), (READ, false)] {
            if let Some(rest) = text.strip_prefix(prefix) {
                let mut parts = rest.split(':');
                let resource = normal(parts.next().unwrap_or_default()).ok_or(StreamIdError::Nameless)?;
                let user = parts.next().and_then(normal);
                let others = [user, None, None, None];
                return Ok(Self { resource: Some(resource), publish: Some(publish), others, user_is_resource: false });
            }
        }
        Ok(Self::plain(text))
    }

    /// Returns a stream id that is nothing but a name.
    pub(crate) fn plain(text: &str) -> Self {
        Self { resource: normal(text), ..Self::default() }
    }

    fn fields(fields: &str) -> Result<Self, StreamIdError> {
        let mut id = Self::default();
        for (name, value) in fields.split(',').filter_map(|field| field.split_once('=')) {
            let value = normal(unquoted(value.trim()));
            match name.trim() {
                "r" => id.resource = value,
                "u" => id.others[0] = value,
                "h" => id.others[1] = value,
                "s" => id.others[2] = value,
                "t" => id.others[3] = value,
                "m" => {
                    id.publish = match value.as_deref() {
                        None => None,
                        Some("publish") => Some(true),
                        Some("request" | "read" | "play") => Some(false),
                        Some(_) => return Err(StreamIdError::Mode),
                    }
                }
                _ => {} // fields of one vendor
            }
        }
        if id.resource.is_none() {
            id.resource = id.others[0].take();
            id.user_is_resource = true;
        }
        Ok(id)
    }

    /// Returns whether the caller publishes (`true`) or plays (`false`), if it says so.
    pub(crate) fn publish(&self) -> Option<bool> {
        self.publish
    }

    /// Returns the user name that a caller claims.
    pub(crate) fn user(&self) -> Option<&str> {
        if self.user_is_resource { self.resource.as_deref() } else { self.others[0].as_deref() }
    }

    /// Returns whether a caller with this id asks for the stream `ours`. Fields that ours has beside the name and the mode
    /// have to be the same.
    pub(crate) fn is_for(&self, ours: &Self) -> bool {
        let same_others = ours.others.iter().zip(&self.others).all(|(ours, theirs)| ours.is_none() || ours == theirs);
        self.is_of_name(ours) && same_others
    }

    /// Returns whether a caller with this id names the stream `ours`.
    pub(crate) fn is_of_name(&self, ours: &Self) -> bool {
        self.resource.is_some() && self.resource == ours.resource
    }

    /// Returns a text that is the same for ids that ask for the same stream.
    pub(crate) fn claim(&self) -> String {
        let mode = match self.publish {
            None => "",
            Some(true) => "publish",
            Some(false) => "request",
        };
        format!("{:?} {mode} {:?}", self.resource.as_deref().unwrap_or_default(), self.others)
    }
}

impl fmt::Display for StreamId {
    /// Writes the name of the stream, without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.resource {
            Some(name) => write!(f, "stream id `{}`", shown(name, MAX_SHOWN)),
            None => f.write_str("no stream id"),
        }
    }
}

// Hosts let callers in by their stream ids.
impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamId(hidden)")
    }
}

/// Returns a value without the quotes around it, in which some programs and their scripts put it.
fn unquoted(value: &str) -> &str {
    let within = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

/// Returns a text without percent-encoding; `None` if that gives no text.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok().filter(|text| !text.chars().any(char::is_control))
}

/// Maximum number of times that a name is percent-encoded: by what has written an address, and by the peer that sends it.
const MAX_ENCODINGS: usize = 4;

/// Returns a name in its normal form; `None` if it is empty. A program such as srt-live-transmit sends the name as it is
/// encoded in its address, so that one with a `%` of its own is encoded once more than it was configured.
fn normal(text: &str) -> Option<String> {
    let mut text = text.to_owned();
    for _ in 0..MAX_ENCODINGS {
        match decoded(&text).map(Cow::into_owned).filter(|decoded| *decoded != text) {
            Some(decoded) => text = decoded,
            None => break,
        }
    }
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '/');
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> StreamId {
        StreamId::parse(text).unwrap()
    }

    #[test]
    fn srt_stream_ids_of_all_forms_name_one_stream() {
        let ours = id("cam 1");
        for (text, publish) in [
            ("cam 1", None),
            (" cam 1 ", None),
            ("/cam 1", None),
            ("cam%201", None),
            ("#!::r=cam 1", None),
            ("#!::r=cam%201,m=publish", Some(true)),
            ("#!::m=publish,u=me,r=cam 1", Some(true)),
            ("#!::u=me,s=x,t=stream,h=host,m=request,r=/cam 1/", Some(false)),
            ("#!::bmd_uuid=1,bmd_name=deck,u=cam 1", None),
            ("#!::, r=cam 1,,=,x", None),
            ("#!::r=\"cam 1\",m=\"publish\"", Some(true)),
            ("#!::r='/cam%201',m=request", Some(false)),
            ("%23!::r=cam%201,m=request", Some(false)),
            ("%23%21%3A%3Ar%3Dcam%201%2Cm%3Dpublish", Some(true)),
            ("#!%3A%3Ar%3Dcam%201", None),
            ("publish:cam 1", Some(true)),
            ("publish:cam 1:me:secret", Some(true)),
            ("publish%3Acam%201%3Ame%3Asecret", Some(true)),
            ("read%3acam%201", Some(false)),
            ("read:cam 1", Some(false)),
            ("read:cam%201:me", Some(false)),
        ] {
            let theirs = id(text);
            assert!(theirs.is_for(&ours), "{text}");
            assert_eq!(theirs.publish(), publish, "{text}");
            assert!(ours.is_for(&StreamId { others: Default::default(), ..theirs }), "{text}");
        }
        for text in ["cam", "cam 11", "CAM 1", "", "#!::m=publish", "publish:cam", "published:cam 1", "100%"] {
            assert!(!id(text).is_for(&ours), "{text}");
        }
        assert!(id("100%").is_for(&id("#!::r=100%")));
    }

    #[test]
    fn srt_stream_ids_match_as_programs_encode_them_in_addresses() {
        for ours in ["cam1", "100%", "cam%201", "a b&c=d%e+f", "#!::r=cam1,m=publish,u=me", "#!::r=live/x"] {
            let address = crate::flow::srt_url("127.0.0.1:9000", Some(ours));
            let (_, sent) = address.split_once("streamid=").unwrap();
            assert!(id(sent).is_for(&id(ours)) && id(ours).is_for(&id(ours)), "{sent}");
        }
        assert!(!id("%ff").is_for(&id("\u{fffd}")) && !id("").is_for(&id("")));
    }

    #[test]
    fn srt_stream_id_tells_the_claimed_user() {
        for text in ["#!::r=cam1,m=publish,u=me", "#!::u=me,m=request", "%23!::r=cam1,u=me", "publish:cam1:me:secret"] {
            assert_eq!(id(text).user(), Some("me"), "{text}");
        }
        for text in ["u=me", "cam1", ""] {
            assert_eq!(id(text).user(), None, "{text}");
        }
    }

    #[test]
    fn srt_stream_id_fields_of_a_listener_are_required() {
        let ours = id("#!::r=cam1,u=me");
        assert!(id("#!::u=me,r=cam1,m=publish,x=y").is_for(&ours));
        assert!(id("publish:cam1:me:secret").is_for(&ours));
        for text in ["cam1", "#!::r=cam1,u=you", "#!::r=cam1"] {
            assert!(!id(text).is_for(&ours) && id(text).is_of_name(&ours), "{text}");
        }
        assert_eq!(id("cam1").claim(), id("#!::r=cam1").claim());
        assert_ne!(id("publish:cam1").claim(), id("read:cam1").claim());
    }

    #[test]
    fn srt_stream_ids_that_cannot_be_read_are_refused() {
        for (text, error) in [
            ("#!:{r=cam1,m=publish}", StreamIdError::Nested),
            ("%23!:{r=cam1}", StreamIdError::Nested),
            ("#!:r=cam1", StreamIdError::UnknownForm),
            ("#!", StreamIdError::UnknownForm),
            ("#!r=cam1", StreamIdError::UnknownForm),
            ("#!::r=cam1,m=bidirectional", StreamIdError::Mode),
            ("publish:", StreamIdError::Nameless),
            ("read::me:secret", StreamIdError::Nameless),
        ] {
            assert_eq!(StreamId::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn srt_stream_id_is_shown_without_secrets() {
        for text in ["publish:cam1:me:hunter2", "publish%3Acam1%3Ame%3Ahunter2"] {
            assert_eq!(id(text).to_string(), "stream id `cam1`");
        }
        assert!(id(&"x".repeat(512)).to_string().len() < 90);
        assert!(!format!("{:?}", id("hunter2")).contains("hunter2"));
    }
}
