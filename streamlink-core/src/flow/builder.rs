//! Parts that the builders of all sources and outputs share: a name, a description, settings, the errors recorded so
//! far, and the setters of listeners and callers.
//!
//! Setters never fail and never panic. An error is recorded with its field, and `FlowBuilder::build` returns all errors
//! at once.

use super::{
    setting::{SettingScope, find, unknown},
    setting_table::Fields,
    settings,
};
use crate::error::{ConfigError, ConfigErrorKind};
use std::net::{IpAddr, SocketAddr};

/// Types that stand for the role of an endpoint.
pub mod role {
    /// Role of an endpoint that receives media for a flow.
    #[derive(Clone, Copy, Debug)]
    pub enum Source {}
    /// Role of an endpoint that sends the media of a flow.
    #[derive(Clone, Copy, Debug)]
    pub enum Output {}
}

/// Properties of every endpoint, beside the settings of its protocol.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) region: Option<String>,
    /// False for an endpoint that holds its configuration and name only.
    pub(crate) enabled: bool,
    /// The URL did not say whether the endpoint listens or calls.
    pub(crate) mode_is_implied: bool,
    /// The URL said that the endpoint calls. It is written again, as the address may be one of this machine.
    pub(crate) mode_is_caller: bool,
    pub(crate) errors: Vec<ConfigError>,
}

impl Common {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: None,
            region: None,
            enabled: true,
            mode_is_implied: false,
            mode_is_caller: false,
            errors: Vec::new(),
        }
    }

    /// Returns the value, or records the error and returns `None`.
    pub(crate) fn record_error<T>(&mut self, field: &str, value: Result<T, ConfigErrorKind>) -> Option<T> {
        value.map_err(|problem| self.errors.push(ConfigError::new(field, problem))).ok()
    }

    /// Returns the address of a caller whose URL does not say that it calls, if it is one of this machine: whoever wrote
    /// it may have meant to listen there. `is_local` tells whether an address is one of this machine.
    pub(crate) fn called_own_address(
        &self,
        fields: &mut dyn Fields,
        is_local: impl Fn(IpAddr) -> bool,
    ) -> Option<SocketAddr> {
        // Servers of RTSP, and of RTMP behind a push, are often on the same machine, and only callers name nodes.
        let may_be_meant_to_listen =
            fields.srt().is_some_and(|srt| srt.nodes.is_empty()) || fields.scope() == SettingScope::RtmpPullSource;
        let remote = fields.call().filter(|_| self.mode_is_implied && may_be_meant_to_listen)?.remote.clone();
        remote.literal().filter(|address| is_local(address.ip()))
    }

    /// Sets one setting by name, and records an error if there is one.
    pub(crate) fn set(&mut self, fields: &mut dyn Fields, key: &str, value: &str) {
        let scope = fields.scope();
        let result = match key {
            "description" | "region" | "enabled" if find(scope, key).is_none() => Err(unknown(scope, key)),
            "description" => {
                self.description = Some(value.to_owned());
                Ok(())
            }
            "region" => {
                self.region = Some(value.to_owned());
                Ok(())
            }
            "enabled" => settings::boolean(value).map(|enabled| self.enabled = enabled),
            _ => settings::set(fields, key, value),
        };
        self.record_error(key, result);
    }
}

/// An endpoint under construction.
#[derive(Clone, Debug)]
pub(crate) struct Draft<S> {
    pub(crate) common: Common,
    pub(crate) settings: S,
}

impl<S> Draft<S> {
    pub(crate) fn new(common: Common, settings: S) -> Self {
        Self { common, settings }
    }

    /// Applies a setter if its value is valid, and records the error otherwise.
    pub(crate) fn try_set<T>(&mut self, field: &str, value: Result<T, ConfigErrorKind>, set: impl FnOnce(&mut S, T)) {
        if let Some(value) = self.common.record_error(field, value) {
            set(&mut self.settings, value);
        }
    }
}

/// Checks the maximum number of peers of a listener (1–1 000 000).
pub(crate) fn check_peers(peers: u32) -> Result<u32, ConfigErrorKind> {
    if (1..=1_000_000).contains(&peers) {
        Ok(peers)
    } else {
        Err(ConfigErrorKind::out_of_range(peers, "1 to 1000000 peers"))
    }
}

/// Defines the builder of one kind of endpoint, with the setters that all endpoints have.
macro_rules! endpoint_builder {
    ($(#[$doc:meta])* $name:ident$(<$param:ident>)?: $settings:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        #[must_use]
        pub struct $name$(<$param>)? {
            pub(crate) draft: crate::flow::builder::Draft<$settings>,
            $(role: std::marker::PhantomData<$param>,)?
        }

        impl$(<$param>)? $name$(<$param>)? {
            pub(crate) fn new(common: crate::flow::builder::Common, settings: $settings) -> Self {
                Self {
                    draft: crate::flow::builder::Draft::new(common, settings),
                    $(role: std::marker::PhantomData::<$param>,)?
                }
            }

            /// Sets a description for display: at most 1024 bytes without control characters.
            pub fn description(mut self, text: impl Into<String>) -> Self {
                self.draft.common.description = Some(text.into());
                self
            }

            /// Sets whether the endpoint takes part in the flow (true). A disabled endpoint holds its configuration and
            /// name only, without sockets, until it is enabled in the running flow.
            pub fn enabled(mut self, enabled: bool) -> Self {
                self.draft.common.enabled = enabled;
                self
            }
        }
    };
}

/// Defines the setters that all outputs have.
macro_rules! output_setters {
    ($builder:ty) => {
        impl $builder {
            /// Sets the region from which this output sends: a name that the engine maps to a local address or interface,
            /// or to other machines that run it (see [`RegionLink`](crate::RegionLink)).
            pub fn region(mut self, name: impl Into<String>) -> Self {
                self.draft.common.region = Some(name.into());
                self
            }
        }
    };
}

/// Defines the setter that all listeners have. The path leads from the settings to [`super::address::Listen`].
macro_rules! listener_setters {
    (<$param:ident> $builder:ty, $($path:ident).+) => {
        impl<$param> $builder { listener_setters!(@body $($path).+); }
    };
    ($builder:ty, $($path:ident).+) => {
        impl $builder { listener_setters!(@body $($path).+); }
    };
    (@body $($path:ident).+) => {
        /// Sets the allowlist of peers (by default, everyone). It is enforced before any protocol byte is answered.
        pub fn allow(mut self, list: crate::flow::Allowlist) -> Self {
            self.draft.settings.$($path).+.allow = list;
            self
        }
    };
}

/// Defines the setter of outputs that serve players.
macro_rules! player_setters {
    ($builder:ty, $($path:ident).+) => {
        impl $builder {
            /// Sets the maximum number of players at the same time (1–1 000 000).
            pub fn max_players(mut self, players: u32) -> Self {
                let players = crate::flow::builder::check_peers(players);
                self.draft.try_set("max_players", players, |s, n| s.$($path).+.max_peers = Some(n));
                self
            }

            /// Sets the differentiated services code point of the packets to players (RFC 2474; by default 0; 0–63).
            pub fn dscp(mut self, code_point: u8) -> Self {
                let checked = crate::flow::address::check_dscp(code_point);
                self.draft.try_set("dscp", checked, |s, v| s.$($path).+.dscp = Some(v));
                self
            }
        }
    };
}

/// Defines the setter of outputs that serve players over TCP.
macro_rules! player_congestion_setter {
    ($builder:ty, $($path:ident).+) => {
        impl $builder {
            /// Sets the congestion control of the TCP connections to players, as in `bbr` (by default the system's). The
            /// flow does not start if the kernel does not have it.
            pub fn congestion(mut self, name: impl AsRef<str>) -> Self {
                let name = crate::flow::address::check_congestion(name.as_ref());
                self.draft.try_set("congestion", name, |s, v| s.$($path).+.congestion = Some(v));
                self
            }
        }
    };
}

/// Defines the setters of the local end of callers and of RTP outputs. The path leads from the settings to
/// [`super::address::LocalEnd`].
macro_rules! local_end_setters {
    (<$param:ident> $builder:ty, $($path:ident).+) => {
        impl<$param> $builder { crate::flow::builder::local_end_setters!(@body $($path).+); }
    };
    ($builder:ty, $($path:ident).+) => {
        impl $builder { crate::flow::builder::local_end_setters!(@body $($path).+); }
    };
    (@body $($path:ident).+) => {
        /// Sets the local address and port, as in `192.0.2.5:6000`, `192.0.2.5:0` or `:6000` (by default the region's
        /// address, and a port that the system picks). It takes precedence over the region.
        pub fn bind(mut self, local: impl AsRef<str>) -> Self {
            let result = self.draft.settings.$($path).+.set_bind(local.as_ref());
            self.draft.common.record_error("bind", result);
            self
        }

        /// Sets the differentiated services code point of the packets (RFC 2474; by default 0; 0–63).
        pub fn dscp(mut self, code_point: u8) -> Self {
            let checked = crate::flow::address::check_dscp(code_point);
            self.draft.try_set("dscp", checked, |s, v| s.$($path).+.dscp = Some(v));
            self
        }
    };
}

/// Defines the setters of callers over TCP.
macro_rules! congestion_setter {
    (<$param:ident> $builder:ty, $($path:ident).+) => {
        impl<$param> $builder { congestion_setter!(@body $($path).+); }
    };
    ($builder:ty, $($path:ident).+) => {
        impl $builder { congestion_setter!(@body $($path).+); }
    };
    (@body $($path:ident).+) => {
        /// Sets the SHA-256 fingerprints of the certificates that a caller with TLS accepts, as hexadecimal digits with or
        /// without colons, several of them separated by commas (none: the roots of the engine and of the system decide).
        ///
        /// No other certificate is then accepted, and of these neither issuer nor host nor dates are checked. The event
        /// about a refused certificate has its fingerprint.
        pub fn tls_fingerprint(mut self, fingerprints: impl AsRef<str>) -> Self {
            let fingerprints = fingerprints.as_ref().parse();
            self.draft.try_set("tls_fingerprint", fingerprints, |s, v| s.$($path).+.tls_fingerprints = v);
            self
        }

        /// Sets the congestion control of TCP, as in `bbr` (by default the system's). The flow does not start if the
        /// kernel does not have it.
        pub fn congestion(mut self, name: impl AsRef<str>) -> Self {
            let name = crate::flow::address::check_congestion(name.as_ref());
            self.draft.try_set("congestion", name, |s, v| s.$($path).+.local.congestion = Some(v));
            self
        }
    };
}

/// Defines the setters that all callers have. The path leads from the settings to [`super::address::Call`].
macro_rules! caller_setters {
    (<$param:ident> $builder:ty, $($path:ident).+) => {
        impl<$param> $builder { caller_setters!(@body $($path).+); }
        crate::flow::builder::local_end_setters!(<$param> $builder, $($path).+.local);
    };
    ($builder:ty, $($path:ident).+) => {
        impl $builder { caller_setters!(@body $($path).+); }
        crate::flow::builder::local_end_setters!($builder, $($path).+.local);
    };
    (@body $($path:ident).+) => {
        /// Sets the local interface: a name or an address (by default the region's, or the system's choice).
        pub fn interface(mut self, interface: impl AsRef<str>) -> Self {
            self.draft.try_set("iface", interface.as_ref().parse(), |s, v| s.$($path).+.local.interface = Some(v));
            self
        }

        /// Sets the first and the longest delay between attempts to connect (500 ms and 30 s; 100 ms–30 s, 1–300 s).
        /// The delay doubles from the first to the longest, with jitter. It is reset after 10 s with a healthy
        /// connection.
        pub fn reconnect(mut self, first: std::time::Duration, longest: std::time::Duration) -> Self {
            let first = crate::flow::settings::check_millis(first, 100..=30_000);
            let longest = crate::flow::settings::check_millis(longest, 1_000..=300_000);
            self.draft.try_set("reconnect_min", first, |s, v| s.$($path).+.reconnect.start = v);
            self.draft.try_set("reconnect_max", longest, |s, v| s.$($path).+.reconnect.cap = v);
            self
        }

        /// Sets the maximum time that a peer may take to answer (3000 ms; 100–60 000).
        pub fn connect_timeout(mut self, timeout: std::time::Duration) -> Self {
            let timeout = crate::flow::settings::check_millis(timeout, crate::flow::Call::CONNECT_TIMEOUT);
            self.draft.try_set("connect_timeout", timeout, |s, v| s.$($path).+.connect_timeout = v);
            self
        }
    };
}

pub(crate) use {
    caller_setters, congestion_setter, endpoint_builder, listener_setters, local_end_setters, output_setters,
    player_congestion_setter, player_setters,
};
