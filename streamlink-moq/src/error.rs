//! Errors of the crate.

use streamlink_core::PeerText;

/// Reason why an operation on a relay, a broadcast or a track failed.
///
/// No text of an error holds a token, a key, or the query of an address. Texts of relays are sanitized.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be used.
    #[error("{0}")]
    Address(#[from] crate::AddressError),
    /// The settings cannot be used: a certificate that cannot be read, or settings that exclude each other.
    #[error("the settings of the relay link cannot be used: {0}")]
    Settings(PeerText),
    /// The media cannot be sent over SRT.
    #[error("the media cannot be sent over SRT: {0}")]
    Srt(PeerText),
    /// The local socket cannot be opened.
    #[error("the socket of the relay link cannot be opened: {0}")]
    Socket(PeerText),
    /// The path, or the name of a track, cannot be used for a broadcast.
    #[error("the path cannot be used: {0}")]
    Path(PeerText),
    /// The relay has no such broadcast or track.
    #[error("not found on the relay: {0}")]
    NotFound(PeerText),
    /// The relay does not permit the path.
    #[error("the relay does not permit the path")]
    Forbidden,
    /// The track, or the group, has ended before all of it was received.
    #[error("the track was interrupted: {0}")]
    Interrupted(PeerText),
    /// The rest of the group is not sent, as newer groups have taken its place.
    #[error("newer groups have taken the place of the group")]
    Superseded,
    /// An object is larger than the receiver accepts.
    #[error("an object of {size} bytes is larger than {limit}")]
    TooLarge {
        /// Size of the object, in bytes.
        size: usize,
        /// Maximum size, in bytes.
        limit: usize,
    },
    /// The broadcast was closed by this side.
    #[error("the broadcast is closed")]
    Closed,
    /// The media of the flow and of the broadcast are of different families.
    #[error("a broadcast of family {broadcast} cannot feed a source of family {source_family}")]
    Family {
        /// Family in the catalog of the broadcast.
        broadcast: streamlink_core::MediaFamily,
        /// Family of the app source.
        source_family: streamlink_core::MediaFamily,
    },
    /// The catalog of the broadcast cannot be read, or is of a version that this library does not know.
    #[error("the catalog cannot be used: {0}")]
    Catalog(PeerText),
}
