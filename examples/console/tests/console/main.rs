//! Tests of the console as people run it: its API beside its own document, its page in a browser, and its store under
//! sudden ends.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod api;
mod browser;
mod durability;
mod hostile;
mod newcomer;
mod page;
mod places;
mod support;
