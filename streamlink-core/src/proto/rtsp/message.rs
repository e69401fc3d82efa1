//! Requests and responses (RFC 2326 sections 4 to 7), read as widely used players read them: line ends may lack the CR,
//! the reason phrase may be missing, header names may be in any case, and lines that are no headers are passed over.

use std::fmt;

/// Header fields of a message, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// Returns the first value of a header. The case of the name does not matter.
    pub(crate) fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns all values of a header, in their order.
    pub(crate) fn all<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the length of the body. Without a number, there is no body.
    pub(super) fn content_length(&self) -> usize {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let numbers = self.all("Content-Length").filter_map(|text| {
            let number = text.get(..digits(text)).filter(|number| !number.is_empty())?;
            // A number that does not fit is above every limit.
            Some(number.parse().unwrap_or(usize::MAX))
        });
        numbers.max().unwrap_or(0)
    }
}

/// A request of a client or a server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// In capitals.
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

/// A response to a request.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

/// Head of a message, without its body.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Head {
    Request(Request),
    Response(Response),
}

impl Head {
    /// Parses the start line and the headers. Returns `None` if the first line is no start line of RTSP.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let first_line = decoded(lines.next()?);
        let start = printable(&first_line);
        let headers = parse_headers(lines.map(text_of));
        let body = Vec::new();
        let mut words = start.split_ascii_whitespace();
        let first = words.next()?;
        if is_version(first) {
            let status = words.next()?.parse().ok().filter(|status| (100..=999).contains(status))?;
            // The phrase is only shown, where its control characters are escaped.
            let reason = first_line.split_ascii_whitespace().skip(2).collect::<Vec<_>>().join(" ");
            return Some(Self::Response(Response { status, reason, headers, body }));
        }
        let rest = start.trim_start().strip_prefix(first)?;
        let (uri, version) = rest.trim().rsplit_once(|c: char| c.is_ascii_whitespace())?;
        if !is_version(version) || !first.bytes().all(is_method_byte) {
            return None;
        }
        // A space within the address is kept: it was to be escaped.
        let method = first.to_ascii_uppercase();
        let uri = uri.trim().to_owned();
        Some(Self::Request(Request { method, uri, headers, body }))
    }

    pub(super) fn headers(&self) -> &Headers {
        match self {
            Self::Request(request) => &request.headers,
            Self::Response(response) => &response.headers,
        }
    }
}

// Headers and bodies are left out because they may contain a password.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({})", self.method)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({})", self.status)
    }
}

/// Returns whether a word is a version, such as `RTSP/1.0`.
fn is_version(word: &str) -> bool {
    word.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("RTSP/"))
}

/// Returns whether a byte may be part of a method.
pub(super) fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Returns a line as text. Bytes that are not UTF-8 are read as Latin-1, which cameras use in their names.
fn decoded(line: &[u8]) -> String {
    match std::str::from_utf8(line) {
        Ok(text) => text.to_owned(),
        Err(_) => line.iter().copied().map(char::from).collect(),
    }
}

/// Returns a text without control characters, so that nothing that is passed on can hold a line of its own.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

fn text_of(line: &[u8]) -> String {
    printable(&decoded(line))
}

fn parse_headers(lines: impl Iterator<Item = String>) -> Headers {
    let mut headers = Headers::default();
    for line in lines {
        let is_continued = line.starts_with([' ', '\t']);
        let line = line.trim();
        match (headers.0.last_mut(), line.split_once(':')) {
            // Folded over several lines (RFC 2616 section 2.2).
            (Some((_, value)), _) if is_continued && !line.is_empty() => {
                value.push(' ');
                value.push_str(line);
            }
            (_, Some((name, value))) if !name.trim().is_empty() => {
                headers.0.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            _ => {} // no header
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(text: &[u8]) -> Response {
        match Head::parse(text) {
            Some(Head::Response(response)) => response,
            _ => panic!("{}", text_of(text)),
        }
    }

    #[test]
    fn rtsp_responses_in_odd_forms_are_read() {
        for start in ["RTSP/1.0 200", "RTSP/1.0 200 ", "rtsp/1.0  200 OK", "RTSP/2.0 200 Quite OK", "RTSP/1.0 200\r"] {
            assert_eq!(response(start.as_bytes()).status, 200, "{start}");
        }
        assert_eq!(response(b"RTSP/1.0 302 Moved  Temporarily").reason, "Moved Temporarily");
        assert_eq!(response(b"RTSP/1.0 404 gone\x1b[2J").reason, "gone\u{1b}[2J");
        let odd = response(
            b"RTSP/1.0 200 OK\r\ncseq:7\r\nDate: \r\nServer : Cam\xe9ra/1\r\nbroken\r\n: no name\r\n\
            Public: DESCRIBE,\r\n SETUP,\r\n\tPLAY\r\nX: 1\nX: 2\r\n",
        );
        let get = |name| odd.headers.get(name);
        assert_eq!((get("CSeq"), get("date"), get("SERVER")), (Some("7"), Some(""), Some("Cam\u{e9}ra/1")));
        assert_eq!((get("broken"), get(""), get("Public")), (None, None, Some("DESCRIBE, SETUP, PLAY")));
        assert_eq!(odd.headers.all("x").collect::<Vec<_>>(), ["1", "2"]);
        for bad in ["", "RTSP/1.0", "RTSP/1.0 OK", "RTSP/1.0 20", "GET / HTTP/1.1", "RTSP 200 OK"] {
            assert!(Head::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn rtsp_requests_in_odd_forms_are_read() {
        for (start, method, uri) in [
            ("DESCRIBE rtsp://h/p RTSP/1.0", "DESCRIBE", "rtsp://h/p"),
            ("describe  rtsp://h/p  rtsp/1.0 ", "DESCRIBE", "rtsp://h/p"),
            ("SETUP rtsp://h/my cam RTSP/1.0", "SETUP", "rtsp://h/my cam"),
            ("OPTIONS * RTSP/2.0", "OPTIONS", "*"),
        ] {
            let Some(Head::Request(request)) = Head::parse(start.as_bytes()) else { panic!("{start}") };
            assert_eq!((request.method.as_str(), request.uri.as_str()), (method, uri));
        }
        for bad in ["OPTIONS RTSP/1.0", "OPTIONS *", "OPT{IONS * RTSP/1.0"] {
            assert!(Head::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn rtsp_content_length_in_odd_forms_is_read() {
        for (text, length) in [
            ("Content-Length: 12", 12),
            ("content-length:12 bytes", 12),
            ("Content-length: 0\r\nContent-Length: 12", 12),
            ("Content-Length: -1", 0),
            ("Content-Length: many", 0),
            ("Content-Length: 99999999999999999999999", usize::MAX),
            ("Date: now", 0),
        ] {
            assert_eq!(response(format!("RTSP/1.0 200 OK\r\n{text}").as_bytes()).headers.content_length(), length);
        }
    }
}
