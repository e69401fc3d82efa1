//! A minimal RTSP client, independent of the library.

use crate::{PATIENCE, rig::Rig};
use std::{
    io::{Read, Write},
    net::TcpStream,
};

/// A connection, and the number of its last request.
#[derive(Debug)]
pub struct Bare(pub TcpStream, u32);

impl Bare {
    /// Connects to the source of a flow.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn connect(rig: &Rig) -> Self {
        Self::to(rig.input_port())
    }

    /// Connects to the first output of a flow that listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn play(rig: &Rig) -> Self {
        let url = rig.playback();
        let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
        Self::to(port.expect("a port"))
    }

    fn to(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(stream, 0)
    }

    /// Sends a request; returns the answer, without its body.
    ///
    /// # Panics
    /// When none comes.
    pub fn ask(&mut self, request: &str, headers: &str, body: &str) -> String {
        self.1 += 1;
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        write!(self.0, "{request} RTSP/1.0\r\nCSeq: {}\r\n{headers}{length}\r\n{body}", self.1).expect("sent");
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        String::from_utf8(answer).expect("text")
    }
}

/// The SDP that it announces: a track of G.711.
pub const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\na=control:track\r\n";

/// Makes an RTP packet of this track.
pub fn rtp(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend([0, 0, 0, 7]);
    packet.extend([sequence as u8; 160]);
    packet
}
