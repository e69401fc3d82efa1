//! The pairing of sources and outputs. One table makes the compile-time check, the run-time check, the documentation and
//! [`InputProtocol::allowed_outputs`].

use super::{
    builder::role,
    output::{Output, TapBuilder},
    rist::RistOutputBuilder,
    rtmp::{RtmpPullOutputBuilder, RtmpPushBuilder, RtmpRelayBuilder},
    rtp::RtpOutputBuilder,
    rtsp::{RtspCallerBuilder, RtspListenerBuilder},
    srt::{SrtCallerBuilder, SrtListenerBuilder},
    udp::UdpOutputBuilder,
};
use crate::{error::ConfigErrorKind, media::MediaFamily};
use std::{fmt, str::FromStr};

/// Media families as types, so that the compiler can check a pairing.
pub mod family {
    use crate::media::MediaFamily;

    /// A media family as a type. Implemented by the types of this module only.
    pub trait Family: sealed::Sealed + 'static {
        /// The same family as a value; `None` for [`Unchecked`].
        const FAMILY: Option<MediaFamily>;
    }

    mod sealed {
        #[expect(unnameable_types, reason = "nobody else is to implement it")]
        pub trait Sealed {}
    }

    macro_rules! families {
        ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {$(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}
            impl sealed::Sealed for $name {}
            impl Family for $name {
                const FAMILY: Option<MediaFamily> = $value;
            }
        )*};
    }

    families! {
        /// Datagrams with any payload, most often MPEG-TS: the family of SRT.
        Datagrams = Some(MediaFamily::Datagrams);
        /// RTP packets.
        Rtp = Some(MediaFamily::Rtp);
        /// FLV audio, video and data messages.
        Rtmp = Some(MediaFamily::Rtmp);
        /// RTP packets of the tracks of an RTSP presentation.
        Rtsp = Some(MediaFamily::Rtsp);
        /// A family known only at run time: `build()` checks the pairing instead of the compiler.
        Unchecked = None;
    }
}
use family::Family;

/// Protocol of a source. As text: its [`name`](InputProtocol::name), in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputProtocol {
    /// RTMP, received from publishers.
    Rtmp,
    /// RTMP, played from a server.
    RtmpPull,
    /// SRT, listener or caller.
    Srt,
    /// RTP over UDP.
    Rtp,
    /// MPEG-TS over UDP, without RTP.
    Udp,
    /// RIST, simple profile.
    Rist,
    /// RTSP, received from clients that record, or played from a server.
    Rtsp,
    /// Packets pushed by the host, of one media family.
    App(MediaFamily),
}

impl InputProtocol {
    /// All protocols.
    pub const ALL: &'static [Self] = &[
        Self::Rtmp,
        Self::RtmpPull,
        Self::Srt,
        Self::Rtp,
        Self::Udp,
        Self::Rist,
        Self::Rtsp,
        Self::App(MediaFamily::Datagrams),
        Self::App(MediaFamily::Rtp),
        Self::App(MediaFamily::Rtmp),
        Self::App(MediaFamily::Rtsp),
    ];

    /// Returns the name, as in `RTMP_PULL` or `RTP app`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rtmp => "RTMP",
            Self::RtmpPull => "RTMP_PULL",
            Self::Srt => "SRT",
            Self::Rtp => "RTP",
            Self::Udp => "UDP",
            Self::Rist => "RIST",
            Self::Rtsp => "RTSP",
            Self::App(MediaFamily::Datagrams) => "Datagrams app",
            Self::App(MediaFamily::Rtp) => "RTP app",
            Self::App(MediaFamily::Rtmp) => "RTMP app",
            Self::App(MediaFamily::Rtsp) => "RTSP app",
        }
    }

    /// Returns the media family that this protocol carries.
    pub const fn family(self) -> MediaFamily {
        match self {
            Self::Rtmp | Self::RtmpPull => MediaFamily::Rtmp,
            Self::Srt => MediaFamily::Datagrams,
            Self::Rtp | Self::Udp | Self::Rist => MediaFamily::Rtp,
            Self::Rtsp => MediaFamily::Rtsp,
            Self::App(family) => family,
        }
    }

    /// Returns the outputs that this source can feed, in the order for a selection list.
    pub const fn allowed_outputs(self) -> &'static [OutputProtocol] {
        allowed_outputs(self.family())
    }
}

impl fmt::Display for InputProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Protocol of an output. As text: its [`name`](OutputProtocol::name), in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutputProtocol {
    /// The redundant RTMP relay to one or two destinations at the same time.
    Rtmp,
    /// RTMP, published to one server.
    RtmpPush,
    /// RTMP, served to players.
    RtmpPull,
    /// SRT, listener or caller.
    Srt,
    /// RTP over UDP.
    Rtp,
    /// MPEG-TS over UDP, without RTP.
    Udp,
    /// RIST, simple profile.
    Rist,
    /// RTSP, served to players or recorded to a server.
    Rtsp,
    /// Packets passed to the host.
    Tap,
}

impl OutputProtocol {
    /// All protocols.
    pub const ALL: &'static [Self] = &[
        Self::Rtmp,
        Self::RtmpPush,
        Self::RtmpPull,
        Self::Srt,
        Self::Rtp,
        Self::Udp,
        Self::Rist,
        Self::Rtsp,
        Self::Tap,
    ];

    /// Returns the name, as in `RTMP_PUSH`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rtmp => "RTMP",
            Self::RtmpPush => "RTMP_PUSH",
            Self::RtmpPull => "RTMP_PULL",
            Self::Srt => "SRT",
            Self::Rtp => "RTP",
            Self::Udp => "UDP",
            Self::Rist => "RIST",
            Self::Rtsp => "RTSP",
            Self::Tap => "tap",
        }
    }
}

impl fmt::Display for OutputProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MediaFamily {
    type Err = ConfigErrorKind;
    /// Reads `datagrams`, `rtp`, `rtmp` or `rtsp`, in any case.
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let found = Self::ALL.iter().find(|family| family.to_string().eq_ignore_ascii_case(s));
        found.copied().ok_or_else(|| ConfigErrorKind::malformed(s, "one of the families datagrams, rtp, rtmp, rtsp"))
    }
}

impl FromStr for InputProtocol {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let found = Self::ALL.iter().find(|protocol| protocol.name().eq_ignore_ascii_case(s));
        found.copied().ok_or_else(|| ConfigErrorKind::malformed(s, names(Self::ALL)))
    }
}

impl FromStr for OutputProtocol {
    type Err = ConfigErrorKind;
    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let found = Self::ALL.iter().find(|protocol| protocol.name().eq_ignore_ascii_case(s));
        found.copied().ok_or_else(|| ConfigErrorKind::malformed(s, names(Self::ALL)))
    }
}

fn names<T: ToString>(values: &[T]) -> String {
    let names: Vec<String> = values.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Returns the outputs that a family can feed as text: `RTMP, RTMP_PUSH, RTMP_PULL, tap`.
pub(crate) fn allowed_text(family: MediaFamily) -> String {
    names(allowed_outputs(family))
}

macro_rules! pairing_table {
    ($($row:literal: $family:ident => $($output:ident [$($builder:ty),+]),+;)+) => {
        /// Pairing of an output with the family `F` of a source that can feed it. [`Output`](crate::Output) itself, as read
        /// from a URL, pairs with every source: `build()` checks it.
        ///
        /// The table, which [`InputProtocol::allowed_outputs`] returns too:
        ///
        $(#[doc = concat!("- ", $row)])+
        $(#[doc = concat!("\n<!-- ", stringify!($family), " -->")])+
        #[diagnostic::on_unimplemented(
            message = "this output (`{Self}`) cannot be fed by a source of family `{F}`",
            label = "wrong output for the source of this flow",
            $(note = $row,)+
        )]
        pub trait FedBy<F: Family> {}

        $($($(impl FedBy<family::$family> for $builder {})+)+)+
        $(impl FedBy<family::$family> for TapBuilder {})+

        const fn allowed_outputs(family: MediaFamily) -> &'static [OutputProtocol] {
            match family {
                $(MediaFamily::$family => &[$(OutputProtocol::$output,)+ OutputProtocol::Tap],)+
            }
        }

        #[cfg(test)]
        const ROWS: &[(MediaFamily, &str)] = &[$((MediaFamily::$family, $row)),+];
    };
}

pairing_table! {
    "RTMP and RTMP_PULL sources feed RTMP, RTMP_PUSH, RTMP_PULL, tap":
        Rtmp => Rtmp [RtmpRelayBuilder], RtmpPush [RtmpPushBuilder], RtmpPull [RtmpPullOutputBuilder];
    "SRT sources feed SRT, RTMP_PUSH, tap":
        Datagrams => Srt [SrtListenerBuilder<role::Output>, SrtCallerBuilder<role::Output>], RtmpPush [RtmpPushBuilder];
    "RTP, UDP and RIST sources feed RTP, UDP, RIST, tap":
        Rtp => Rtp [RtpOutputBuilder], Udp [UdpOutputBuilder], Rist [RistOutputBuilder];
    "RTSP sources feed RTSP, tap":
        Rtsp => Rtsp [RtspListenerBuilder<role::Output>, RtspCallerBuilder<role::Output>];
}

impl<F: Family> FedBy<F> for Output {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairing_sentences_match_the_table() {
        for (family, row) in ROWS {
            assert_eq!(row.split_once(" feed ").unwrap().1, allowed_text(*family));
        }
    }

    #[test]
    fn pairing_allowed_outputs_depend_on_input() {
        use OutputProtocol as O;
        assert_eq!(InputProtocol::RtmpPull.allowed_outputs(), [O::Rtmp, O::RtmpPush, O::RtmpPull, O::Tap]);
        assert_eq!(InputProtocol::Srt.allowed_outputs(), [O::Srt, O::RtmpPush, O::Tap]);
        assert_eq!(InputProtocol::Rtp.allowed_outputs(), [O::Rtp, O::Udp, O::Rist, O::Tap]);
        assert_eq!(InputProtocol::Udp.allowed_outputs(), InputProtocol::Rtp.allowed_outputs());
        assert_eq!(InputProtocol::Rist.allowed_outputs(), InputProtocol::Rtp.allowed_outputs());
        assert_eq!(InputProtocol::Rtsp.allowed_outputs(), [O::Rtsp, O::Tap]);
        assert_eq!(InputProtocol::App(MediaFamily::Rtp).allowed_outputs(), [O::Rtp, O::Udp, O::Rist, O::Tap]);
    }

    #[test]
    fn protocol_names_round_trip() {
        for protocol in InputProtocol::ALL {
            assert_eq!(protocol.to_string().parse(), Ok(*protocol));
            assert_eq!(protocol.name().to_ascii_lowercase().parse(), Ok(*protocol));
        }
        for protocol in OutputProtocol::ALL {
            assert_eq!(protocol.to_string().to_ascii_uppercase().parse(), Ok(*protocol));
        }
        for family in MediaFamily::ALL {
            assert_eq!(family.to_string().to_ascii_lowercase().parse(), Ok(*family));
            let outputs = InputProtocol::App(*family).allowed_outputs();
            assert!(outputs.iter().all(|output| OutputProtocol::ALL.contains(output)));
        }
        let error = "WHIP".parse::<OutputProtocol>().unwrap_err().to_string();
        assert!(error.contains("RTMP_PUSH"), "{error}");
        assert!("tap".parse::<InputProtocol>().is_err());
    }
}
