//! Settings of sources for the time without media: when a source is lost, and when another publisher takes its place.

use crate::error::ConfigErrorKind;
use std::{fmt, str::FromStr, time::Duration};

/// Admission of another publisher to a listener that has one already. As text: `never`, `idle` or `always`.
///
/// The publisher before is closed first, with [`LossReason::TakenOver`](crate::LossReason::TakenOver); media of both
/// never mixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Takeover {
    /// Refuses it until the publisher before has gone or its idle timeout is over.
    Never,
    /// Admits it once the publisher before has brought no media for the loss threshold of the flow. An encoder that
    /// comes back after its network has dropped is not locked out by its own dead connection.
    #[default]
    Idle,
    /// Admits it at once. The newest publisher wins.
    Always,
}

impl Takeover {
    /// All policies.
    pub const ALL: &'static [Self] = &[Self::Never, Self::Idle, Self::Always];

    /// Returns the name, as in `idle`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Idle => "idle",
            Self::Always => "always",
        }
    }
}

impl FromStr for Takeover {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let found = Self::ALL.iter().find(|policy| policy.name() == s);
        found.copied().ok_or_else(|| ConfigErrorKind::malformed(s, "never, idle or always"))
    }
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Range of the idle timeout of all sources, in milliseconds.
pub(crate) const IDLE_TIMEOUT: std::ops::RangeInclusive<u64> = 1_000..=60_000;

/// Settings for the time without media. `None`: the default of the protocol.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Silence {
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) takeover: Option<Takeover>,
}

/// Defines the setter of the idle timeout. The path leads from the settings to [`Silence`].
macro_rules! idle_setters {
    ($builder:ty, $default:literal, $($path:ident).+) => {
        impl $builder {
            #[doc = concat!("Sets the time without media after which the source is lost (", $default, "; 1000–60 000).")]
            ///
            /// Only accepted media counts: no keep-alives, no protocol messages, no refused datagrams, and of MPEG-TS no
            /// PAT, PMT or null packets. A caller then tries what is left to try: another transport, another address, a
            /// new connection.
            pub fn idle_timeout(mut self, timeout: std::time::Duration) -> Self {
                let timeout = crate::flow::settings::check_millis(timeout, crate::flow::silence::IDLE_TIMEOUT);
                self.draft.try_set("idle_timeout", timeout, |s, v| s.$($path).+.idle_timeout = Some(v));
                self
            }
        }
    };
}

/// Defines the setter of the takeover policy. The path leads from the settings to [`Silence`].
macro_rules! takeover_setters {
    ($builder:ty, $($path:ident).+) => {
        impl $builder {
            /// Sets when another publisher takes the place of the one that is connected (`Idle`).
            pub fn takeover(mut self, takeover: crate::flow::Takeover) -> Self {
                self.draft.settings.$($path).+.takeover = Some(takeover);
                self
            }
        }
    };
}

pub(crate) use {idle_setters, takeover_setters};
