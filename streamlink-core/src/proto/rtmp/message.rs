//! Message types (RTMP specification, sections 5.4, 6 and 7), and the chunk streams that carry them.

pub(crate) const SET_CHUNK_SIZE: u8 = 1;
pub(crate) const ABORT: u8 = 2;
pub(crate) const ACKNOWLEDGEMENT: u8 = 3;
pub(crate) const USER_CONTROL: u8 = 4;
pub(crate) const WINDOW_ACKNOWLEDGEMENT_SIZE: u8 = 5;
pub(crate) const SET_PEER_BANDWIDTH: u8 = 6;
pub(crate) const AUDIO: u8 = 8;
pub(crate) const VIDEO: u8 = 9;
pub(crate) const DATA_AMF3: u8 = 15;
pub(crate) const COMMAND_AMF3: u8 = 17;
pub(crate) const DATA: u8 = 18;
pub(crate) const COMMAND: u8 = 20;
pub(crate) const AGGREGATE: u8 = 22;

/// User control events (section 6.2).
pub(crate) mod event {
    pub(crate) const STREAM_BEGIN: u16 = 0;
    pub(crate) const STREAM_EOF: u16 = 1;
    pub(crate) const SET_BUFFER_LENGTH: u16 = 3;
    pub(crate) const PING_REQUEST: u16 = 6;
    pub(crate) const PING_RESPONSE: u16 = 7;
}

/// Returns whether messages of a type may be long.
pub(crate) fn is_media(kind: u8) -> bool {
    matches!(kind, AUDIO | VIDEO | AGGREGATE)
}

/// Returns the chunk stream for our messages of a type. All are below 64, so that their header is one byte.
pub(crate) fn chunk_stream(kind: u8) -> u8 {
    match kind {
        AUDIO => 4,
        VIDEO => 6,
        DATA => 5,
        COMMAND | COMMAND_AMF3 => 3,
        _ => 2,
    }
}
