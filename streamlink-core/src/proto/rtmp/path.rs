//! Names of streams. A peer names an application in `connect` and a stream in `publish` or `play`, and encoders disagree
//! about where the first ends: both are joined with `/` before they are compared.

use crate::{secret::Secret, text::shown};
use std::fmt;
use subtle::ConstantTimeEq;

/// Prefixes of stream names that state a file format. Flash's servers remove them.
const FORMATS: &[&str] = &["mp4:", "flv:", "f4v:", "mp3:", "id3:"];
/// Name that Flash's clients give the instance of an application that has only one.
const DEFAULT_INSTANCE: &str = "_definst_";
/// Maximum length of the displayed name of an application, in bytes.
const MAX_SHOWN: usize = 128;

/// Name of the stream that a peer has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamPath {
    /// The application of `connect`, as received. It may hold parameters.
    app: Secret,
    /// The name of `publish` or `play`, as received.
    name: Secret,
}

impl StreamPath {
    pub(crate) fn new(app: &str, name: &str) -> Self {
        Self { app: app.into(), name: name.into() }
    }

    /// Returns whether the stream is `ours`, a path as in `live/KEY`. Parameters of the peer are no part of the name,
    /// unless `ours` has the same ones. Takes a time that does not depend on the position of a difference.
    pub(crate) fn is(&self, ours: &str) -> bool {
        let ours = joined([ours]);
        let app = self.app.reveal();
        let name = self.name.reveal();
        let bare_app = without_parameters(app);
        // A `/` within parameters may have moved the end of the application into them: `live/KEY?token=a` and `b`.
        let split_parameters = bare_app.len() < app.len();
        let theirs = [
            Some(joined([bare_app, name])),
            Some(joined([bare_app, without_parameters(name)])),
            split_parameters.then(|| joined([bare_app])),
        ];
        // ffmpeg removes the ending `.flv` of a name.
        let shortened = ours.strip_suffix(".flv");
        let equals = |theirs: &String| is_same(&ours, theirs) | shortened.is_some_and(|ours| is_same(ours, theirs));
        theirs.iter().flatten().fold(false, |found, theirs| found | equals(theirs))
    }

    /// Returns whether the stream is one of an application.
    pub(crate) fn is_of_app(&self, app: &str) -> bool {
        let theirs = joined([without_parameters(self.app.reveal()), without_parameters(self.name.reveal())]);
        theirs.strip_prefix(&joined([app])).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Returns the application and the key of the stream, which [`StreamPath::is`] that of the peer, each with the
    /// parameters that the peer has appended to it.
    pub(crate) fn with_parameters(&self, app: &str, key: &str) -> (String, Secret) {
        let parameters = |text: &str| text.find('?').map(|at| text[at..].to_owned()).unwrap_or_default();
        let theirs = self.app.reveal();
        let name = self.name.reveal();
        let mut app = app.to_owned();
        let mut key = key.to_owned();
        if joined([without_parameters(theirs)]) == joined([&*app, &*key]) {
            // The application ends with the key. A `/` within parameters may have moved their rest into the name.
            key.push_str(&parameters(theirs));
            if !name.is_empty() {
                key = key + "/" + name;
            }
        } else {
            app.push_str(&parameters(theirs));
            if !key.contains('?') {
                key.push_str(&parameters(name));
            }
        }
        (app, key.into())
    }

    /// Returns the name for display: the application, and an ellipsis for the stream key.
    pub(crate) fn shown(&self) -> String {
        let app = shown(&joined([without_parameters(self.app.reveal())]), MAX_SHOWN);
        if self.name.reveal().is_empty() {
            // A whole address was taken for the application, and the key with it.
            let app = app.split_once('/').map_or(&*app, |(app, _)| app);
            return format!("{app}/…");
        }
        // What is behind the first part may be a key as well.
        match app.split_once('/') {
            Some((app, _)) => format!("{app}/…/…"),
            None => format!("{app}/…"),
        }
    }
}

impl fmt::Display for StreamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

fn without_parameters(name: &str) -> &str {
    name.split_once('?').map_or(name, |(name, _)| name)
}

/// Joins paths to one form: no empty parts, no default instance, no file format before the last part or the whole.
fn joined<'a>(paths: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for path in paths {
        // Parameters stay as they are: a `/` in them separates nothing.
        let (path, parameters) = path.split_at(path.find('?').unwrap_or(path.len()));
        let path = FORMATS.iter().find_map(|format| path.strip_prefix(format)).unwrap_or(path);
        for part in path.split('/').filter(|part| !part.is_empty() && *part != DEFAULT_INSTANCE) {
            if !out.is_empty() {
                out.push('/');
            }
            let part = FORMATS.iter().find_map(|format| part.strip_prefix(format)).unwrap_or(part);
            out.push_str(part);
        }
        out.push_str(parameters);
    }
    out
}

/// Compares names in a time that does not depend on the position of a difference.
fn is_same(ours: &str, theirs: &str) -> bool {
    ours.as_bytes().ct_eq(theirs.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtmp_stream_path_matches_however_peers_split_it() {
        for (app, name) in [
            ("live", "room/KEY"),
            ("live/room", "KEY"),
            ("live/room/", "KEY"),
            ("live/room/KEY", ""),
            ("/live//room", "/KEY/"),
            ("live", "room/KEY?token=1"),
            ("live/room?token=1", "KEY"),
            ("live/room/?token=1", "KEY?x=2"),
            ("live/room/KEY?token=a", "b"),
            ("live/room/KEY?token=1", ""),
            ("live/room?authmod=adobe&user=me", "KEY"),
            ("live/_definst_", "room/KEY"),
            ("live/_definst_/room", "KEY"),
            ("live", "mp4:room/KEY"),
            ("live/room", "mp4:KEY"),
            ("live/room", "flv:KEY?x"),
        ] {
            assert!(StreamPath::new(app, name).is("live/room/KEY"), "{app} {name}");
        }
        for (app, name) in [
            ("live", "KEY"),
            ("live", "room"),
            ("live/room", "KEYS"),
            ("live/room", "KE"),
            ("live/room", ""),
            ("", ""),
            ("room/live", "KEY"),
            ("live/room", "key"),
            ("live?/room", "KEY"),
        ] {
            assert!(!StreamPath::new(app, name).is("live/room/KEY"), "{app} {name}");
        }
    }

    #[test]
    fn rtmp_stream_path_keeps_parameters_for_the_host() {
        for (app, name, expected) in [
            ("live", "KEY", ("live", "KEY")),
            ("live", "mp4:KEY?token=a", ("live", "KEY?token=a")),
            ("live/?vhost=b", "KEY?token=a", ("live?vhost=b", "KEY?token=a")),
            ("live/KEY?token=a", "", ("live", "KEY?token=a")),
            ("live/KEY?token=a", "b", ("live", "KEY?token=a/b")),
        ] {
            let (app, key) = StreamPath::new(app, name).with_parameters("live", "KEY");
            assert_eq!((&*app, key.reveal()), expected);
        }
        let (app, key) = StreamPath::new("live", "KEY?token=1").with_parameters("live", "KEY?token=1");
        assert_eq!((&*app, key.reveal()), ("live", "KEY?token=1"));
    }

    #[test]
    fn rtmp_stream_path_matches_parameters_only_if_configured() {
        assert!(StreamPath::new("live", "KEY?token=1").is("live/KEY?token=1"));
        for name in ["KEY", "KEY?token=2", "KEY?token=11"] {
            assert!(!StreamPath::new("live", name).is("live/KEY?token=1"), "{name}");
        }
        assert!(StreamPath::new("live", "mp4:cam.mp4").is("live/cam.mp4"));
        assert!(StreamPath::new("live", "cam").is("live/cam.flv"));
    }

    #[test]
    fn rtmp_stream_path_is_shown_without_key() {
        let path = StreamPath::new("live/room?x", "KEY");
        assert!(path.is_of_app("live") && path.is_of_app("live/room"));
        assert!(!path.is_of_app("liv") && !path.is_of_app("live/other") && !path.is_of_app("live/room/KEY"));
        for (app, name) in [("live", "SECRET"), ("live/SECRET", ""), ("live/room", "SECRET"), ("live?t=SECRET", "x")] {
            let path = StreamPath::new(app, name);
            assert!(path.to_string().starts_with("live/…"), "{path}");
            assert!(!format!("{path} {path:?}").contains("SECRET"), "{path}");
        }
        assert!(StreamPath::new(&"é".repeat(200), "x").shown().len() < 150);
    }
}
