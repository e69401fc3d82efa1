//! Many short texts in one block of memory, for structs whose texts live as long as an object: a snapshot of a hundred
//! endpoints has two thousand texts, most of them empty, and each by itself would be allocated and freed.

use std::{
    ffi::CStr,
    fmt::{self, Display, Write},
};

/// Texts, each with a NUL behind it.
#[derive(Debug)]
pub(crate) struct TextBlock(Vec<u8>);

/// Position of a text in its block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TextOffset(usize);

impl TextBlock {
    /// Creates a block with room for so many bytes of text. The default position is that of the empty text.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut block = Vec::with_capacity(bytes + 1);
        block.push(0);
        Self(block)
    }

    /// Adds a text. A NUL within would end it early; it is left out.
    pub(crate) fn add(&mut self, text: impl Display) -> TextOffset {
        let start = self.0.len();
        // Never fails: `write_str` does not.
        let _ = write!(self, "{text}");
        if self.0.len() == start {
            return TextOffset::default();
        }
        self.0.push(0);
        TextOffset(start)
    }

    /// Adds a text, if there is one.
    pub(crate) fn add_some(&mut self, text: Option<impl Display>) -> TextOffset {
        text.map(|text| self.add(text)).unwrap_or_default()
    }

    /// Returns the text at a position of this block.
    pub(crate) fn at(&self, offset: TextOffset) -> &CStr {
        let rest = self.0.get(offset.0..).unwrap_or_default();
        CStr::from_bytes_until_nul(rest).unwrap_or_default()
    }
}

impl Write for TextBlock {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split('\0') {
            self.0.extend_from_slice(part.as_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_block_keeps_each_text_apart() {
        let mut block = TextBlock::with_capacity(0);
        let texts = ["venue", "", "\0", "192.0.2.1:9000", "a\0b\0", "é"];
        let offsets: Vec<TextOffset> = texts.iter().map(|text| block.add(text)).collect();
        let none = block.add_some(None::<&str>);
        let shown = |offset: &TextOffset| block.at(*offset).to_str().unwrap();
        assert_eq!(offsets.iter().map(shown).collect::<Vec<_>>(), ["venue", "", "", "192.0.2.1:9000", "ab", "é"]);
        assert_eq!((shown(&none), shown(&TextOffset::default()), shown(&TextOffset(usize::MAX))), ("", "", ""));
    }
}
