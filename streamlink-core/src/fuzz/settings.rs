//! Targets for the texts of a host: URLs, JSON and allowlists.

use crate::{
    flow::{Allowlist, Output, Source},
    test_rng::TestRng,
};

/// Returns an input as text, with invalid UTF-8 replaced.
fn as_text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

pub(super) fn feed_url(input: &[u8], _: &mut TestRng) {
    let text = as_text(input);
    let source = Source::from_url("a", &text);
    let output = Output::from_url("a", &text);
    // A URL that can be parsed can be written, and the result parses to the same URL.
    if source.common.errors.is_empty() {
        assert_eq!(Source::from_url("a", &source.to_url()).to_url(), source.to_url());
    }
    if output.common.errors.is_empty() {
        assert_eq!(Output::from_url("a", &output.to_url()).to_url(), output.to_url());
    }
}

#[cfg(feature = "serde")]
pub(super) fn feed_json(input: &[u8], _: &mut TestRng) {
    if let Ok(flow) = crate::flow::Flow::from_json(&as_text(input)) {
        let again = crate::flow::Flow::from_json(&flow.to_json()).unwrap();
        assert_eq!(again.to_json(), flow.to_json());
    }
}

pub(super) fn feed_allowlist(input: &[u8], _: &mut TestRng) {
    if let Ok(list) = as_text(input).parse::<Allowlist>() {
        let again: Allowlist = list.to_string().parse().unwrap();
        assert_eq!(again, list);
        list.admits("203.3.3.4".parse().unwrap());
    }
}
