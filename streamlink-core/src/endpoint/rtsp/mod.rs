//! RTSP endpoints. Clients that record or play connect to a port, which sources and outputs share. Callers play from a
//! server or record to one. Packets are passed on unchanged; only the transport differs, an interleaved channel of the
//! connection or a pair of UDP ports.

mod caller;
mod client_connection;
mod directory;
mod driver;
mod inbound;
mod key_frame_gate;
mod multicast;
mod play;
mod receive;
mod redirect;
mod reserved_place;
mod send_session;
mod service;
mod udp;
mod wire;

use super::{LossReason, tcp::End};
use crate::{
    flow::shown_url,
    proto::rtsp::{ClientEvent, ProtocolError},
    text::PeerText,
};

/// Returns the reason for a refusal by a server, whose text begins with the status.
fn refused(what: String) -> LossReason {
    if what.starts_with("401") || what.starts_with("403") {
        LossReason::Unauthorized(what.into())
    } else {
        LossReason::Rejected(what.into())
    }
}

/// Maximum number of start lines that are shown of one read or write.
const MAX_LINES: usize = 8;

/// Returns the start lines of requests and responses as they may be logged, without the secrets of their URLs.
fn start_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split("\r\n").filter_map(|line| {
        if line.starts_with("RTSP/1.0 ") {
            return Some(PeerText::new(line).to_string());
        }
        let (method, rest) = line.strip_suffix(" RTSP/1.0")?.split_once(' ')?;
        Some(format!("{} {}", PeerText::new(method), shown_url(rest)))
    });
    let lines: Vec<String> = lines.take(MAX_LINES).collect();
    if lines.is_empty() { format!("{} bytes", bytes.len()) } else { lines.join(", ") }
}

/// Returns the reason for which an event of a running session ends it, if it does.
fn end_of(event: &ClientEvent) -> Option<LossReason> {
    match event {
        ClientEvent::Rejected(what) => Some(refused(what.clone())),
        ClientEvent::Redirect(url) => {
            Some(LossReason::Rejected(format!("moved to {}", shown_url(url.reveal())).into()))
        }
        _ => None,
    }
}

impl From<ProtocolError> for End {
    fn from(fault: ProtocolError) -> Self {
        match fault {
            // Each refusal was counted already, with its reason.
            ProtocolError::TooManyAttempts => Self::Stopped,
            _ => Self::Lost(LossReason::Protocol(fault.to_string().into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtsp_start_lines_hide_passwords() {
        let bytes = b"DESCRIBE rtsp://me:hunter2@h/cam RTSP/1.0\r\nCSeq: 1\r\nAuthorization: Basic x\r\n\r\n";
        let shown = start_lines(bytes);
        assert!(shown.starts_with("DESCRIBE rtsp://") && !shown.contains("hunter2"), "{shown}");
        assert!(!shown.contains("Basic"), "{shown}");
        assert_eq!(start_lines(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"), "RTSP/1.0 200 OK");
        assert_eq!(start_lines(&[0x24, 0, 0, 1, 7]), "5 bytes");
        assert_eq!(start_lines(&b"OPTIONS * RTSP/1.0\r\n\r\n".repeat(100)).matches("OPTIONS").count(), MAX_LINES);
    }
}
