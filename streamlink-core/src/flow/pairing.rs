//! Which source can feed which output. One table: the compile-time check, the run-time check, the
//! documentation and [`InputProtocol::allowed_outputs`] all come from it.

use super::{
    builder::role,
    output::{Output, TapBuilder},
    rtmp::{RtmpPullOutputBuilder, RtmpPushBuilder, RtmpRelayBuilder},
    rtp::RtpOutputBuilder,
    rtsp::{RtspCallerBuilder, RtspListenerBuilder},
    srt::{SrtCallerBuilder, SrtListenerBuilder},
};
use crate::media::MediaFamily;
use std::fmt;

/// The media families as types, so that the compiler can check a pairing.
pub mod family {
    use crate::media::MediaFamily;

    /// A media family as a type. Implemented by the types of this module only.
    pub trait Family: sealed::Sealed + 'static {
        /// The same family as a value; `None` for [`Unchecked`].
        const FAMILY: Option<MediaFamily>;
    }

    mod sealed {
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
        /// Datagrams with any payload, most often MPEG-TS: what SRT carries.
        Datagrams = Some(MediaFamily::Datagrams);
        /// RTP packets.
        Rtp = Some(MediaFamily::Rtp);
        /// FLV audio, video and data messages.
        Rtmp = Some(MediaFamily::Rtmp);
        /// RTP packets of the tracks of an RTSP presentation.
        Rtsp = Some(MediaFamily::Rtsp);
        /// Known only at run time: checked by `build()` instead of the compiler.
        Unchecked = None;
    }
}
use family::Family;

/// What a source speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputProtocol {
    /// RTMP, pushed to us by a publisher.
    Rtmp,
    /// RTMP, fetched by us from a server.
    RtmpPull,
    /// SRT, listener or caller.
    Srt,
    /// RTP over UDP.
    Rtp,
    /// RTSP, recorded to us or fetched by us.
    Rtsp,
    /// Packets pushed by the host, of one media family.
    App(MediaFamily),
}

impl InputProtocol {
    /// The media family that this protocol carries.
    pub const fn family(self) -> MediaFamily {
        match self {
            InputProtocol::Rtmp | InputProtocol::RtmpPull => MediaFamily::Rtmp,
            InputProtocol::Srt => MediaFamily::Datagrams,
            InputProtocol::Rtp => MediaFamily::Rtp,
            InputProtocol::Rtsp => MediaFamily::Rtsp,
            InputProtocol::App(family) => family,
        }
    }

    /// The outputs that this source can feed, in the order that a drop-down list would show them.
    pub const fn allowed_outputs(self) -> &'static [OutputProtocol] {
        allowed_outputs(self.family())
    }
}

impl InputProtocol {
    /// Its name, as in `RTMP_PULL` or `RTP app`.
    pub const fn name(self) -> &'static str {
        match self {
            InputProtocol::Rtmp => "RTMP",
            InputProtocol::RtmpPull => "RTMP_PULL",
            InputProtocol::Srt => "SRT",
            InputProtocol::Rtp => "RTP",
            InputProtocol::Rtsp => "RTSP",
            InputProtocol::App(MediaFamily::Datagrams) => "Datagrams app",
            InputProtocol::App(MediaFamily::Rtp) => "RTP app",
            InputProtocol::App(MediaFamily::Rtmp) => "RTMP app",
            InputProtocol::App(MediaFamily::Rtsp) => "RTSP app",
        }
    }
}

impl fmt::Display for InputProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an output speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutputProtocol {
    /// The redundant RTMP relay: one or two destinations fed at the same time.
    Rtmp,
    /// RTMP, pushed by us to one destination.
    RtmpPush,
    /// RTMP, served by us to players.
    RtmpPull,
    /// SRT, listener or caller.
    Srt,
    /// RTP over UDP.
    Rtp,
    /// RTSP, served to players or recorded to a server.
    Rtsp,
    /// Packets handed to the host.
    Tap,
}

impl OutputProtocol {
    /// Its name, as in `RTMP_PUSH`.
    pub const fn name(self) -> &'static str {
        match self {
            OutputProtocol::Rtmp => "RTMP",
            OutputProtocol::RtmpPush => "RTMP_PUSH",
            OutputProtocol::RtmpPull => "RTMP_PULL",
            OutputProtocol::Srt => "SRT",
            OutputProtocol::Rtp => "RTP",
            OutputProtocol::Rtsp => "RTSP",
            OutputProtocol::Tap => "tap",
        }
    }
}

impl fmt::Display for OutputProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The outputs that a family can feed, as text: `RTMP, RTMP_PUSH, RTMP_PULL, tap`.
pub(crate) fn allowed_text(family: MediaFamily) -> String {
    let names: Vec<String> = allowed_outputs(family).iter().map(ToString::to_string).collect();
    names.join(", ")
}

macro_rules! pairing_table {
    ($($row:literal: $family:ident => $($output:ident [$($builder:ty),+]),+;)+) => {
        /// Pairing of an output with the family `F` of a source that can feed it. [`Output`](crate::Output) itself, as read
        /// from a URL, pairs with every source: `build()` checks it.
        ///
        /// The table, which is also what [`InputProtocol::allowed_outputs`] answers:
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
    "RTP sources feed RTP, tap":
        Rtp => Rtp [RtpOutputBuilder];
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
        assert_eq!(InputProtocol::Rtp.allowed_outputs(), [O::Rtp, O::Tap]);
        assert_eq!(InputProtocol::Rtsp.allowed_outputs(), [O::Rtsp, O::Tap]);
        assert_eq!(InputProtocol::App(MediaFamily::Rtp).allowed_outputs(), [O::Rtp, O::Tap]);
    }
}
