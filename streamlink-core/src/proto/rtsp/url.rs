//! Addresses in requests, headers and SDP: joined as players join them, and compared as publishers and players vary
//! them.

use percent_encoding::percent_decode_str;

/// Splits `scheme://rest`. Returns `None` for a relative reference.
pub(crate) fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    is_scheme.then_some((scheme, rest))
}

/// Returns the address that a reference stands for in an answer to a request for `base` (RFC 3986 section 5.2).
pub(super) fn resolve(base: &str, reference: &str) -> String {
    let reference = reference.trim();
    if split_scheme(reference).is_some() {
        return reference.to_owned();
    }
    let Some((scheme, rest)) = split_scheme(base) else { return reference.to_owned() };
    if reference.starts_with("//") {
        return format!("{scheme}:{reference}");
    }
    let without_query = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = without_query.split_once('/').unwrap_or((without_query, ""));
    if reference.starts_with('/') {
        return format!("{scheme}://{authority}{reference}");
    }
    if reference.is_empty() || reference.starts_with('?') {
        return format!("{scheme}://{authority}/{path}{reference}");
    }
    // No relative reference has a colon in its first segment (RFC 3986 section 4.2). It may be `user:password@host`.
    if reference.split(['/', '?', '#']).next().is_some_and(|segment| segment.contains(':')) {
        return reference.to_owned();
    }
    let mut folder: Vec<&str> = path.split('/').collect();
    folder.pop();
    let mut rest = reference;
    while let Some((first @ ("." | ".."), after)) = rest.split_once('/') {
        if first == ".." {
            folder.pop();
        }
        rest = after;
    }
    folder.push(rest);
    format!("{scheme}://{authority}/{}", folder.join("/"))
}

/// Returns the address of a control attribute (RFC 2326 section C.1.1). A relative one is appended to the base, behind
/// its query, as FFmpeg and live555 do: cameras count on it.
pub(super) fn control(base: &str, control: &str) -> String {
    let control = control.trim();
    if control.is_empty() || control == "*" {
        return base.to_owned();
    }
    if split_scheme(control).is_some() {
        return control.to_owned();
    }
    let whole = base.trim_end_matches('/');
    if control.starts_with('?') {
        return format!("{whole}{control}");
    }
    // A path that begins with the path of the base is the whole path.
    if let Some((scheme, rest)) = split_scheme(base)
        && let Some((authority, path)) = rest.split_once('/')
        && let path = path.split('?').next().unwrap_or_default().trim_end_matches('/')
        && !path.is_empty()
        && let Some(after) = control.strip_prefix('/').and_then(|control| control.strip_prefix(path))
        && after.starts_with('/')
    {
        return format!("{scheme}://{authority}{control}");
    }
    format!("{whole}/{}", control.trim_start_matches('/'))
}

/// Returns the path and the query of an address, without the slash before the path.
fn path_and_query(uri: &str) -> (&str, &str) {
    let local = match split_scheme(uri) {
        Some((_, rest)) => rest.find(['/', '?']).and_then(|at| rest.get(at..)).unwrap_or_default(),
        None => uri,
    };
    let local = local.split('#').next().unwrap_or_default();
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    (path.trim_start_matches('/'), query)
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Returns the path of an address, percent-decoded and without leading and trailing slashes.
pub(super) fn path(uri: &str) -> String {
    decoded(path_and_query(uri).0).trim_matches('/').to_owned()
}

/// Returns whether an address names a track with this control attribute. Publishers and players put the name behind the
/// query (FFmpeg, live555, VLC) or before it (GStreamer).
pub(super) fn names_track(uri: &str, control: &str) -> bool {
    let (own_path, own_query) = path_and_query(control);
    let own = decoded(&with_query(own_path, own_query));
    let own = own.trim_matches('/');
    if own.is_empty() || own == "*" {
        return false;
    }
    let (path, query) = path_and_query(uri);
    let behind = decoded(&with_query(path, query));
    [decoded(path), behind].iter().any(|text| {
        let before = text.trim_end_matches('/').strip_suffix(own);
        before.is_some_and(|before| before.is_empty() || before.ends_with(['/', '?', '&']))
    })
}

fn with_query(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// Splits the name of one of our tracks, such as `trackID=1`, off an address: returns the path before it, and the
/// number. `None`: no track is named. `Some(Err)`: the number is none.
pub(super) fn split_track(uri: &str, prefix: &str) -> (String, Option<Result<usize, ()>>) {
    let (path, query) = path_and_query(uri);
    let path = decoded(path);
    let query = decoded(query);
    let name = |text: &str| {
        let (before, name) = text.trim_end_matches('/').rsplit_once('/')?;
        Some((before.trim_matches('/').to_owned(), name.strip_prefix(prefix)?.parse().map_err(|_| ())))
    };
    if let Some((before, number)) = name(&path) {
        return (before, Some(number));
    }
    let number = name(&format!("/{query}")).map(|(_, number)| number);
    (path.trim_matches('/').to_owned(), number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtsp_locations_are_resolved() {
        let base = "rtsp://h:8554/a/b?x=1";
        for (reference, seen) in [
            ("RTSP://other/c", "RTSP://other/c"),
            ("/c?y=rtsp://z", "rtsp://h:8554/c?y=rtsp://z"),
            ("//other:1/c", "rtsp://other:1/c"),
            ("c", "rtsp://h:8554/a/c"),
            ("./c", "rtsp://h:8554/a/c"),
            ("../c/d", "rtsp://h:8554/c/d"),
            ("../../../c", "rtsp://h:8554/c"),
            ("?y=2", "rtsp://h:8554/a/b?y=2"),
            ("me:password@other/c", "me:password@other/c"),
        ] {
            assert_eq!(resolve(base, reference), seen, "{reference}");
        }
        assert_eq!(resolve("rtsp://h", "c"), "rtsp://h/c");
    }

    #[test]
    fn rtsp_control_attributes_are_joined_to_the_base() {
        for (base, name, seen) in [
            ("rtsp://h/a", "track1", "rtsp://h/a/track1"),
            ("rtsp://h/a/", " track1 ", "rtsp://h/a/track1"),
            ("rtsp://h/a", "/track1", "rtsp://h/a/track1"),
            ("rtsp://h/a/", "/a/track1", "rtsp://h/a/track1"),
            ("rtsp://h/a", "/a/b?x=1", "rtsp://h/a/b?x=1"),
            ("rtsp://h/a?x=1&y=2", "trackID=0", "rtsp://h/a?x=1&y=2/trackID=0"),
            ("rtsp://h/a?x=1/", "trackID=0?z", "rtsp://h/a?x=1/trackID=0?z"),
            ("rtsp://h/a", "?ctype=video", "rtsp://h/a?ctype=video"),
            ("rtsp://h/a", "*", "rtsp://h/a"),
            ("rtsp://h/a", "RTSP://i/b", "RTSP://i/b"),
            ("rtsp://h/a", "t?u=rtsp://i", "rtsp://h/a/t?u=rtsp://i"),
            ("rtsp://h", "track1", "rtsp://h/track1"),
        ] {
            assert_eq!(control(base, name), seen, "{base} {name}");
        }
    }

    #[test]
    fn rtsp_track_names_are_found_before_and_behind_queries() {
        for (uri, name) in [
            ("rtsp://h/cam/streamid=0", "streamid=0"),
            ("rtsp://h/cam/streamid=0/", "streamid=0"),
            ("rtsp://h/cam?x=y/streamid=0", "streamid=0"),
            ("rtsp://h/cam/?x=y/streamid=0", "streamid=0"),
            ("rtsp://h/cam/stream=0?x=a/b", "stream=0"),
            ("rtsp://h/cam/track%201", "track 1"),
            ("rtsp://h:554/cam/1", "rtsp://192.0.2.1/cam/1"),
            ("rtsp://h/cam/t?u=1", "t?u=1"),
        ] {
            assert!(names_track(uri, name), "{uri} {name}");
        }
        for (uri, name) in [
            ("rtsp://h/cam/11", "1"),
            ("rtsp://h/cam/streamid=10", "streamid=0"),
            ("rtsp://h/cam", ""),
            ("rtsp://h/cam", "*"),
            ("rtsp://h/cam?x=y", "streamid=0"),
        ] {
            assert!(!names_track(uri, name), "{uri} {name}");
        }
    }

    #[test]
    fn rtsp_our_track_names_are_split_off() {
        for (uri, path, number) in [
            ("rtsp://h/cam/1/trackID=2", "cam/1", Some(Ok(2))),
            ("rtsp://h/cam/trackID=2?x=a/b", "cam", Some(Ok(2))),
            ("rtsp://h/cam?x=a/b/trackID=2", "cam", Some(Ok(2))),
            ("rtsp://h/cam/?x=1/trackID=2/", "cam", Some(Ok(2))),
            ("rtsp://h/cam?trackID=2", "cam", Some(Ok(2))),
            ("rtsp://h/cam/trackID=x", "cam", Some(Err(()))),
            ("rtsp://h/cam", "cam", None),
            ("/cam/trackID=0", "cam", Some(Ok(0))),
            ("*", "*", None),
        ] {
            assert_eq!(split_track(uri, "trackID="), (path.to_owned(), number), "{uri}");
        }
        assert_eq!(
            (path("rtsp://h/c%20am/?x=/y"), path("rtsp://h"), path("rtsp://h?x")),
            ("c am".into(), "".into(), "".into())
        );
    }
}
