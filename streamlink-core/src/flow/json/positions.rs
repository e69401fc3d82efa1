//! Lines and columns of the members of a JSON document, for the errors about them.

use std::collections::HashMap;

/// Maximum depth of members whose place is kept: deeper than any setting.
const MAX_DEPTH: usize = 4;
/// Maximum length of a line, in bytes, up to which columns count characters; beyond, they count bytes.
const MAX_LINE: usize = 10_000;

/// Places of the members of a JSON document.
pub(super) struct Positions<'a> {
    text: &'a str,
    /// Offset of each line.
    lines: Vec<usize>,
    /// Offset of each member and list element, by its path.
    offsets: HashMap<String, usize>,
}

/// An object or a list that has begun.
struct Open {
    path: String,
    /// Index of the next element of a list; `None` for an object.
    index: Option<usize>,
    /// Path of the member whose value follows.
    member: Option<String>,
}

impl Open {
    /// Returns the path of the value that follows, and true if its place is not yet known by its key.
    fn next(&self) -> (String, bool) {
        match (&self.member, self.index) {
            (Some(member), _) => (member.clone(), false),
            (None, Some(index)) => (format!("{}[{index}]", self.path), true),
            (None, None) => (self.path.clone(), false),
        }
    }
}

impl<'a> Positions<'a> {
    /// Scans a document that is known to be JSON. Of members that are given twice, the last one counts.
    pub(super) fn new(text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(newlines).collect();
        let mut positions = Self { text, lines, offsets: HashMap::new() };
        positions.scan();
        positions
    }

    fn scan(&mut self) {
        let bytes = self.text.as_bytes();
        let mut open: Vec<Open> = Vec::new();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            let start = at;
            at += 1;
            match byte {
                b'{' | b'[' => {
                    let path = self.begin_value(&open, start);
                    open.push(Open { path, index: (*byte == b'[').then_some(0), member: None });
                }
                b'}' | b']' => {
                    open.pop();
                }
                b',' => {
                    if let Some(open) = open.last_mut() {
                        open.member = None;
                        open.index = open.index.map(|index| index + 1);
                    }
                }
                b'"' => {
                    at = end_of_string(bytes, at);
                    let depth = open.len();
                    match open.last_mut() {
                        Some(open) if open.index.is_none() && open.member.is_none() => {
                            let key = self.text.get(start..at).and_then(|key| serde_json::from_str::<String>(key).ok());
                            let key = key.unwrap_or_default();
                            let path = if open.path.is_empty() { key } else { format!("{}.{key}", open.path) };
                            if depth <= MAX_DEPTH {
                                self.offsets.insert(path.clone(), start);
                            }
                            open.member = Some(path);
                        }
                        _ => {
                            self.begin_value(&open, start);
                        }
                    }
                }
                b' ' | b'\t' | b'\r' | b'\n' | b':' => {}
                _ => {
                    self.begin_value(&open, start);
                    while bytes.get(at).is_some_and(|b| !b",]} \t\r\n".contains(b)) {
                        at += 1;
                    }
                }
            }
        }
    }

    /// Keeps the place of a value that begins, and returns its path.
    fn begin_value(&mut self, open: &[Open], start: usize) -> String {
        if open.len() > MAX_DEPTH {
            return String::new();
        }
        let (path, is_new) = open.last().map(Open::next).unwrap_or_default();
        if is_new {
            self.offsets.insert(path.clone(), start);
        }
        path
    }

    /// Returns the line and the column of a field, from 1. A field that is not in the document has those of the URL that
    /// it may be in, or of the object that it belongs to.
    pub(super) fn of(&self, path: &str) -> (usize, usize) {
        let mut path = path;
        loop {
            let parent = &path[..path.rfind(['.', '[']).unwrap_or(0)];
            let url = format!("{parent}.url");
            if let Some(offset) = self.offsets.get(path).or_else(|| self.offsets.get(&url)) {
                return self.place(*offset);
            }
            if path.is_empty() {
                return (1, 1);
            }
            path = parent;
        }
    }

    fn place(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = match self.text.get(start..offset) {
            Some(before) if before.len() <= MAX_LINE => before.chars().count(),
            _ => offset - start,
        };
        (line, column + 1)
    }
}

/// Returns the offset behind the string that begins before `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_positions_are_those_of_keys_and_elements() {
        let text = "{\n  \"a\": [ {\"b\\\"\\u0063\": 1 , \"url\": \"x,]}\"},\n 7, \"y\" ],\n\t\"é\": 1, \"d\": {\"e\": [true, null]}}";
        let positions = Positions::new(text);
        for (path, place) in [
            ("a", (2, 3)),
            ("a[0]", (2, 10)),
            ("a[0].b\"c", (2, 11)),
            ("a[0].latency", (2, 28)),
            ("a[1]", (3, 2)),
            ("a[2]", (3, 5)),
            ("é", (4, 2)),
            ("d", (4, 10)),
            ("d.e[1]", (4, 28)),
            ("d.f", (4, 10)),
            ("zzz", (1, 1)),
            ("", (1, 1)),
        ] {
            assert_eq!(positions.of(path), place, "{path}");
        }
        for odd in ["", "\"", "{\"", "[[[[[[[[1", "]]]}}}", "{\"a\\", &"[".repeat(100_000)] {
            let _ = Positions::new(odd).of("a[0].b");
        }
    }
}
