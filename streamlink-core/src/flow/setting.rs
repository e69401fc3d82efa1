//! Description of a setting: its name, type, range and default, and the endpoints that have it. The table of all
//! settings is in `setting_table`.

use super::{
    setting_table::TABLE,
    settings::{boolean, number},
};
use crate::error::ConfigErrorKind;
use std::{fmt, str::FromStr, time::Duration};

/// A setting of a flow or of an endpoint, as data: for forms, documentation and completion.
///
/// ```
/// use streamlink_core::{SettingScope, settings};
///
/// let latency = settings().find(|s| s.name == "latency").expect("SRT has it");
/// assert_eq!((latency.default, latency.unit), ("120", "ms"));
/// assert_eq!(latency.range(), "0 to 10000");
/// assert!(latency.scopes.contains(&SettingScope::SrtListenerSource));
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Name in URLs, in JSON and in C.
    pub name: &'static str,
    /// Other names that are read as the same setting.
    pub aliases: &'static [&'static str],
    /// Method of the Rust builder; empty if there is none.
    pub method: &'static str,
    /// Type and range of the value.
    pub value: SettingValue,
    /// Unit of a number; empty if it has none.
    pub unit: &'static str,
    /// Default as text; empty if there is none.
    pub default: &'static str,
    /// True if the value is secret, so that it is not shown.
    pub secret: bool,
    /// Flows and endpoints that have this setting.
    pub scopes: &'static [SettingScope],
    /// Meaning, in one sentence.
    pub summary: &'static str,
}

/// Type and range of the value of a [`Setting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingValue {
    /// A whole number in a range.
    Number {
        /// Minimum.
        min: u64,
        /// Maximum.
        max: u64,
    },
    /// `true` or `false`; also `1`, `0`, `yes`, `no`, `on` and `off`.
    Boolean,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Text of so many bytes.
    Text {
        /// Minimum length, in bytes.
        min: u64,
        /// Maximum length, in bytes.
        max: u64,
    },
    /// Text of this form.
    Form(&'static str),
}

impl SettingValue {
    /// Returns the name of the type: `number`, `boolean`, `choice`, `text` or `form`.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Number { .. } => "number",
            Self::Boolean => "boolean",
            Self::Choice(_) => "choice",
            Self::Text { .. } => "text",
            Self::Form(_) => "form",
        }
    }
}

impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { min, max } => write!(f, "{min} to {max}"),
            Self::Boolean => f.write_str("true or false"),
            Self::Choice(words) => f.write_str(&words.join(", ")),
            Self::Text { min, max } => write!(f, "{min} to {max} bytes"),
            Self::Form(form) => f.write_str(form),
        }
    }
}

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Owner of a setting: the flow, its failover, or an endpoint of one protocol, direction and role.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum SettingScope {
            $($(#[$doc])* $name,)*
        }

        impl SettingScope {
            /// All scopes.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Returns the name, as in `SRT listener source`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

scopes! {
    /// The flow itself.
    Flow = "flow";
    /// The object `failover` of a flow in JSON.
    Failover = "failover";
    /// RTMP source, which publishers push to.
    RtmpSource = "RTMP source";
    /// RTMP_PULL source, which plays from a server.
    RtmpPullSource = "RTMP_PULL source";
    /// SRT source that callers send to.
    SrtListenerSource = "SRT listener source";
    /// SRT source that calls a listener.
    SrtCallerSource = "SRT caller source";
    /// RTP source.
    RtpSource = "RTP source";
    /// UDP source.
    UdpSource = "UDP source";
    /// RIST source.
    RistSource = "RIST source";
    /// RTSP source that clients record to.
    RtspListenerSource = "RTSP listener source";
    /// RTSP source that plays from a server.
    RtspCallerSource = "RTSP caller source";
    /// Source that the host pushes packets into.
    AppSource = "app source";
    /// RTMP output, the redundant relay.
    RtmpOutput = "RTMP output";
    /// RTMP_PUSH output, which publishes to a server.
    RtmpPushOutput = "RTMP_PUSH output";
    /// RTMP_PULL output, which serves players.
    RtmpPullOutput = "RTMP_PULL output";
    /// SRT output that serves callers.
    SrtListenerOutput = "SRT listener output";
    /// SRT output that calls a listener.
    SrtCallerOutput = "SRT caller output";
    /// RTP output.
    RtpOutput = "RTP output";
    /// UDP output.
    UdpOutput = "UDP output";
    /// RIST output.
    RistOutput = "RIST output";
    /// RTSP output that serves players.
    RtspListenerOutput = "RTSP listener output";
    /// RTSP output that records to a server.
    RtspCallerOutput = "RTSP caller output";
    /// Tap, which passes packets to the host.
    TapOutput = "tap output";
}

impl SettingScope {
    /// Returns true for a source of any kind.
    pub fn is_source(self) -> bool {
        self.name().ends_with("source")
    }

    /// Returns true for an output of any kind.
    pub fn is_output(self) -> bool {
        self.name().ends_with("output")
    }

    /// Returns the settings of this scope, in the order of the table.
    pub fn settings(self) -> impl Iterator<Item = &'static Setting> {
        settings().filter(move |setting| setting.scopes.contains(&self))
    }
}

impl fmt::Display for SettingScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns every setting of flows, sources and outputs. A name occurs several times where its type, range or default
/// depends on the endpoint.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    TABLE.iter().map(|row| &row.setting)
}

impl Setting {
    /// Returns the range of the value as text: `0 to 10000`, `true or false`, `auto, udp, tcp`.
    pub fn range(&self) -> String {
        self.value.to_string()
    }

    /// Returns true if a name is the name of this setting, or one of its aliases.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    pub(crate) const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    pub(crate) const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
}

/// A value as text, to be read as its setting says.
pub(crate) struct Given<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) text: &'a str,
}

impl Given<'_> {
    /// Reads a number in the range of the setting.
    pub(crate) fn number<T: TryFrom<u64>>(&self) -> Result<T, ConfigErrorKind> {
        let (min, max) = match self.setting.value {
            SettingValue::Number { min, max } => (min, max),
            _ => (0, u64::MAX),
        };
        let unit = match self.setting.unit {
            "ms" => "milliseconds",
            unit => unit,
        };
        let value = number(self.text, min..=max, unit)?;
        T::try_from(value).map_err(|_| ConfigErrorKind::out_of_range(value, format!("{min} to {max} {unit}")))
    }

    /// Reads a number of milliseconds in the range of the setting.
    pub(crate) fn millis(&self) -> Result<Duration, ConfigErrorKind> {
        self.number().map(Duration::from_millis)
    }

    pub(crate) fn boolean(&self) -> Result<bool, ConfigErrorKind> {
        boolean(self.text)
    }

    pub(crate) fn parse<T: FromStr<Err = ConfigErrorKind>>(&self) -> Result<T, ConfigErrorKind> {
        self.text.parse()
    }
}

/// Returns the setting of a scope by its name or an alias.
pub(crate) fn find(scope: SettingScope, name: &str) -> Option<&'static Setting> {
    scope.settings().find(|setting| setting.is_named(name))
}

/// Returns the problem of a name that a scope does not have: with the endpoints that have it, or with the names that are
/// nearest to it.
pub(crate) fn unknown(scope: SettingScope, name: &str) -> ConfigErrorKind {
    let elsewhere: Vec<&str> =
        settings().filter(|s| s.is_named(name)).flat_map(|s| s.scopes).map(|scope| scope.name()).collect();
    if !elsewhere.is_empty() && scope != SettingScope::Flow && scope != SettingScope::Failover {
        return ConfigErrorKind::UnknownSetting {
            hint: format!(" for this {scope}; it belongs to: {}", elsewhere.join(", ")),
        };
    }
    let nearest = nearest(name, scope.settings().map(|setting| setting.name));
    let hint = match nearest.as_slice() {
        [] => String::new(),
        names => format!("; similar: {}", names.join(", ")),
    };
    ConfigErrorKind::UnknownSetting { hint }
}

/// Maximum number of names that an error suggests.
const MAX_NEAREST: usize = 3;

/// Returns the names that differ from a given one in the fewest characters.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    if name.len() > 32 {
        return Vec::new();
    }
    let name = name.to_ascii_lowercase();
    let allowed = 1 + name.chars().count() / 4;
    let mut found: Vec<(usize, &str)> = known.map(|known| (distance(&name, known), known)).collect();
    found.sort_unstable();
    found.dedup();
    let is_near = found.first().is_some_and(|(distance, _)| *distance <= allowed);
    // Where none is near, names that hold it, or that it holds, may be meant.
    found.retain(|(distance, known)| {
        let is_part = name.len() >= 3 && (known.contains(&*name) || name.contains(known));
        if is_near { *distance <= allowed } else { is_part }
    });
    found.into_iter().take(MAX_NEAREST).map(|(_, known)| known).collect()
}

/// Returns the number of characters to insert, remove, replace or swap with their neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut rows = vec![(0..width).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(x != y);
            let mut least = replaced.min(row[j] + 1).min(rows[i][j + 1] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}
