//! Session descriptions (RFC 8866), read as widely used players read them. What cameras leave out is filled in, what no
//! player understands is left out, and the order is put right, so that the description can be passed on.

/// Maximum number of media sections.
const MAX_MEDIA: usize = 16;
/// Order of the lines of the session (RFC 8866 section 9); `r` follows its `t`.
const SESSION_ORDER: &str = "vosiuepcbtzka";
/// Order of the lines of a media section.
const MEDIA_ORDER: &str = "micbka";

/// A line: its type, and its value without white space around it.
type Line = (char, String);

/// A description with at least one media section.
#[derive(Debug)]
pub(super) struct Sdp {
    session: Vec<Line>,
    pub(super) media: Vec<Media>,
}

/// A media section.
#[derive(Debug, Default)]
pub(super) struct Media {
    /// `video`, `audio`, `application`, …
    pub(super) kind: String,
    port: String,
    /// `RTP/AVP`, …
    pub(super) proto: String,
    /// Payload types, as they came.
    pub(super) formats: Vec<String>,
    lines: Vec<Line>,
}

impl Sdp {
    /// Parses a description.
    ///
    /// # Errors
    /// The reason, with the number of the line.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut session = Vec::new();
        let mut media = Vec::<Media>::new();
        let mut count = 0;
        for (number, line) in bytes.split(|byte| matches!(byte, b'\n' | 0)).enumerate() {
            let Some((kind, value)) = parse_line(line) else { continue };
            count += 1;
            if kind == 'm' {
                if media.len() == MAX_MEDIA {
                    return Err(format!("line {}: more than {MAX_MEDIA} media sections", number + 1));
                }
                media.push(Media::parse(&value));
            } else {
                media.last_mut().map_or(&mut session, |section| &mut section.lines).push((kind, value));
            }
        }
        media.retain(|section| !section.kind.is_empty());
        if media.is_empty() {
            return Err(format!("no media section (`m=`) in {count} lines"));
        }
        complete(&mut session, SESSION_ORDER);
        for (kind, value) in [('v', "0"), ('o', "- 0 0 IN IP4 127.0.0.1"), ('s', "-"), ('t', "0 0")] {
            if !session.iter().any(|(other, _)| *other == kind) {
                session.push((kind, value.to_owned()));
            }
        }
        session.sort_by_key(|(kind, _)| place(*kind, SESSION_ORDER));
        for section in &mut media {
            complete(&mut section.lines, MEDIA_ORDER);
            section.lines.sort_by_key(|(kind, _)| place(*kind, MEDIA_ORDER));
        }
        Ok(Self { session, media })
    }

    /// Returns an attribute of the session.
    pub(super) fn attribute(&self, name: &'static str) -> Option<&str> {
        attributes(&self.session, name).next()
    }

    /// Returns the description as text.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        let mut write = |kind: char, value: &str| {
            text.push(kind);
            text.push('=');
            text.push_str(value);
            text.push_str("\r\n");
        };
        for (kind, value) in &self.session {
            write(*kind, value);
        }
        for media in &self.media {
            let formats = media.formats.join(" ");
            write('m', format!("{} {} {} {formats}", media.kind, media.port, media.proto).trim_end());
            for (kind, value) in &media.lines {
                write(*kind, value);
            }
        }
        text
    }
}

impl Media {
    /// Parses the value of a line such as `m=video 0 RTP/AVP 96`.
    fn parse(value: &str) -> Self {
        let mut words = value.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default().to_ascii_lowercase();
        let port = words.next().unwrap_or_default();
        let is_port = port.split('/').all(|number| number.parse::<u16>().is_ok());
        let port = if is_port { port } else { "0" }.to_owned();
        let proto = words.next().unwrap_or("RTP/AVP").to_owned();
        let formats = words.map(str::to_owned).collect();
        Self { kind, port, proto, formats, lines: Vec::new() }
    }

    /// Returns the values of an attribute, in their order. The case of the name does not matter.
    pub(super) fn attributes<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a str> {
        attributes(&self.lines, name)
    }

    pub(super) fn attribute(&self, name: &'static str) -> Option<&str> {
        attributes(&self.lines, name).next()
    }
}

fn attributes<'a>(lines: &'a [Line], name: &'static str) -> impl Iterator<Item = &'a str> {
    lines.iter().filter(|(kind, _)| *kind == 'a').filter_map(move |(_, value)| {
        let (own, value) = value.split_once(':').unwrap_or((value, ""));
        own.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Returns the type and the value of a line. Bytes that are not UTF-8 are read as Latin-1.
fn parse_line(line: &[u8]) -> Option<Line> {
    let text = match std::str::from_utf8(line) {
        Ok(text) => text.to_owned(),
        Err(_) => line.iter().copied().map(char::from).collect(),
    };
    let (kind, value) = text.trim().split_once('=')?;
    let mut kind = kind.trim().chars();
    let (Some(first), None) = (kind.next().filter(char::is_ascii_alphabetic), kind.next()) else { return None };
    // Characters that end or hide a line are no part of any value.
    let value: String = value.chars().filter(|c| !c.is_control() || *c == '\t').collect();
    Some((first.to_ascii_lowercase(), value.trim().to_owned()))
}

fn place(kind: char, order: &str) -> usize {
    let kind = if kind == 'r' { 't' } else { kind };
    order.find(kind).unwrap_or(order.len())
}

/// Puts lines into the form that the grammar asks for. Lines without a value, or of an unknown type, are left out.
fn complete(lines: &mut Vec<Line>, order: &str) {
    let mut seen = Vec::new();
    lines.retain_mut(|(kind, value)| {
        let words = value.split_ascii_whitespace().count();
        match *kind {
            'v' => *value = "0".to_owned(),
            'o' if words != 6 => *value = "- 0 0 IN IP4 127.0.0.1".to_owned(),
            's' if value.is_empty() => *value = "-".to_owned(),
            'c' if words != 3 => *value = "IN IP4 0.0.0.0".to_owned(),
            't' if words != 2 => *value = "0 0".to_owned(),
            'b' if !value.contains(':') => *value = value.split_ascii_whitespace().collect::<Vec<_>>().join(":"),
            'a' => *value = attribute_form(value),
            _ => {}
        }
        let is_single = "voskium".contains(*kind);
        let is_known = order.contains(*kind) || (*kind == 'r' && order.contains('t'));
        let is_complete = !value.is_empty() && (*kind != 'b' || value.contains(':'));
        let is_kept = is_known && is_complete && !(is_single && seen.contains(kind));
        seen.push(*kind);
        is_kept
    });
}

/// Returns an attribute without the white space that players trip over.
fn attribute_form(value: &str) -> String {
    let Some((name, rest)) = value.split_once(':') else { return value.to_owned() };
    let name = name.trim();
    let rest = rest.trim();
    let known = ["rtpmap", "fmtp", "control"].into_iter().find(|known| name.eq_ignore_ascii_case(known));
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    match (known, words.split_first()) {
        // `96 H264/90000`, where the second part may have spaces in it.
        (Some("rtpmap"), Some((payload_type, map))) => format!("rtpmap:{payload_type} {}", map.concat()),
        (Some("fmtp"), Some((payload_type, parameters))) => format!("fmtp:{payload_type} {}", parameters.join(" ")),
        (Some(known), _) => format!("{known}:{rest}"),
        (None, _) => format!("{name}:{rest}"),
    }
}
