//! The builder that all sources and outputs share: a name, a description, settings, and the errors so far.
//!
//! Setters never fail and never panic: what is wrong is remembered with its field, and `FlowBuilder::build`
//! returns all of it at once.

use super::{
    address::{Call, Listen, Reconnect},
    allowlist::Allowlist,
    settings::{Settings, check_millis},
};
use crate::error::{ConfigError, Problem};
use std::{marker::PhantomData, time::Duration};

/// The role of an endpoint, as a type.
pub mod role {
    /// Brings media in.
    #[derive(Clone, Copy, Debug)]
    pub enum Source {}
    /// Takes media out.
    #[derive(Clone, Copy, Debug)]
    pub enum Output {}
}

/// A source with the settings `S`, under construction. Made by the constructors of [`Source`](super::Source).
pub type SourceBuilder<S> = EndpointBuilder<role::Source, S>;
/// An output with the settings `S`, under construction. Made by the constructors of [`Output`](super::Output).
pub type OutputBuilder<S> = EndpointBuilder<role::Output, S>;

/// What every endpoint has beside its protocol's settings.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) errors: Vec<ConfigError>,
}

impl Common {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), description: None, region: None, errors: Vec::new() }
    }

    /// Remembers an error and goes on with `None`.
    pub(crate) fn keep<T>(&mut self, field: &str, value: Result<T, Problem>) -> Option<T> {
        value.map_err(|problem| self.errors.push(ConfigError::new(field, problem))).ok()
    }

    /// Sets one setting by name, remembering what is wrong with it.
    pub(crate) fn set(&mut self, settings: &mut impl Settings, key: &str, value: &str) {
        match key {
            "description" => self.description = Some(value.to_owned()),
            "region" => self.region = Some(value.to_owned()),
            _ => {
                let result = settings.set(key, value).unwrap_or(Err(Problem::UnknownField));
                self.keep(key, result);
            }
        }
    }
}

/// A source or an output under construction; see [`SourceBuilder`] and [`OutputBuilder`].
#[derive(Clone, Debug)]
pub struct EndpointBuilder<R, S> {
    pub(crate) common: Common,
    pub(crate) settings: S,
    role: PhantomData<R>,
}

impl<R, S> EndpointBuilder<R, S> {
    pub(crate) fn new(common: Common, settings: S) -> Self {
        Self { common, settings, role: PhantomData }
    }

    /// A description for people; at most 1024 bytes without control characters.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.common.description = Some(text.into());
        self
    }

    /// Applies a typed setter.
    pub(crate) fn with(mut self, set: impl FnOnce(&mut S)) -> Self {
        set(&mut self.settings);
        self
    }

    /// Applies a setter whose value may be wrong.
    pub(crate) fn try_with<T>(mut self, field: &str, value: Result<T, Problem>, set: impl FnOnce(&mut S, T)) -> Self {
        if let Some(value) = self.common.keep(field, value) {
            set(&mut self.settings, value);
        }
        self
    }
}

impl<S> OutputBuilder<S> {
    /// The region that this output leaves from: a name that the engine maps to a local address or interface.
    pub fn region(mut self, name: impl Into<String>) -> Self {
        self.common.region = Some(name.into());
        self
    }
}

/// Settings of a listener. Sealed.
pub trait Listening {
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn listen_mut(&mut self) -> &mut Listen;
}

impl<R, S: Listening> EndpointBuilder<R, S> {
    /// Who may connect; everyone by default. Enforced before any protocol byte is answered.
    pub fn allow(self, list: Allowlist) -> Self {
        self.with(|s| s.listen_mut().allow = list)
    }

    /// How many peers may be connected at the same time (1–1 000 000).
    pub fn max_players(self, peers: u32) -> Self {
        let value = match peers {
            1..=1_000_000 => Ok(peers),
            n => Err(Problem::out_of_range(n, "1 to 1000000 peers")),
        };
        self.try_with("max_players", value, |s, n| s.listen_mut().max_peers = Some(n))
    }
}

/// Settings of a caller. Sealed.
pub trait Calling {
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn call_mut(&mut self) -> &mut Call;
}

impl<R, S: Calling> EndpointBuilder<R, S> {
    /// The first and the longest delay between attempts to connect (500 ms and 30 s; 100 ms–30 s, 1–300 s).
    /// The delay doubles from one to the other, with jitter, and starts again after
    /// [`Reconnect::HEALTHY_AFTER`] of health.
    pub fn reconnect(self, first: Duration, longest: Duration) -> Self {
        let first = check_millis(first, 100..=30_000);
        let longest = check_millis(longest, 1_000..=300_000);
        self.try_with("reconnect_min", first, |s, v| s.call_mut().reconnect.start = v).try_with(
            "reconnect_max",
            longest,
            |s, v| s.call_mut().reconnect.cap = v,
        )
    }

    /// How long a peer may take to answer (3000 ms; 100–60 000).
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        let timeout = check_millis(timeout, Call::CONNECT_TIMEOUT);
        self.try_with("connect_timeout", timeout, |s, v| s.call_mut().connect_timeout = v)
    }

    /// How this caller comes back after a loss.
    pub fn reconnect_policy(&mut self) -> Reconnect {
        self.settings.call_mut().reconnect
    }
}
