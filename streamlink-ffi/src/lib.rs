//! The C ABI of StreamLink. What a caller reads is `include/streamlink.h`, which is generated from this crate.
//!
//! | module | what it is |
//! |---|---|
//! | `status`, `error`, `version`, `text` | what every call returns or hands over |
//! | `guard` | the way in and out: no panic leaves, arguments are checked |
//! | `run` | waiting for the engine, from any thread and from within callbacks |
//! | `engine`, `access`, `logging` | engines, the hook that admits SRT callers, the log |
//! | `setting` | the table of all settings |
//! | `config`, `configs`, `flow`, `live` | flows before and while they run, and their changes |
//! | `event`, `event_reader`, `stats`, `endpoint_stats`, `region` | events and statistics; regions on other machines |
//! | `packet`, `app`, `tap` | media in and out of the host's process |
//! | `handle`, `event_fd` | handles of the host, descriptors for its event loops |

// The header follows this order.
pub mod version;

pub mod status;

pub mod error;

pub mod text;

pub mod logging;

pub mod access;

pub mod engine;

pub mod setting;

pub mod config;

pub mod flow;

pub mod configs;

pub mod live;

pub mod event;

pub mod event_reader;

pub mod stats;

pub mod endpoint_stats;

pub mod region;

pub mod packet;

pub mod app;

pub mod tap;

mod event_fd;
mod guard;
mod handle;
mod run;
