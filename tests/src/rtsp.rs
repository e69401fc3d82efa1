//! A minimal RTSP client, independent of the library.

use crate::{PATIENCE, rig::Rig, wire::connect_from};
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
        Self::connect_from("127.0.0.1", port)
    }

    /// From a local address to a port of this machine.
    ///
    /// # Panics
    /// When nobody listens there.
    pub fn connect_from(from: &str, port: u16) -> Self {
        let stream = connect_from(from, port).expect("it listens");
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
        // In one piece: a second one would wait until the first is acknowledged.
        let head = format!("{request} RTSP/1.0\r\nCSeq: {}\r\n{headers}{length}\r\n{body}", self.1);
        self.0.write_all(head.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        String::from_utf8(answer).expect("text")
    }

    /// Records the track of [`SDP`] at an address, in the connection.
    ///
    /// # Panics
    /// When it is refused.
    pub fn record(&mut self, url: &str, login: &str) {
        let announced = self.ask(&format!("ANNOUNCE {url}"), &format!("{login}Content-Type: application/sdp\r\n"), SDP);
        assert!(announced.contains("200"), "{announced}");
        let transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n";
        assert!(self.ask(&format!("SETUP {url}/track"), &format!("{login}{transport}"), "").contains("200"));
        assert!(self.ask(&format!("RECORD {url}"), login, "").contains("200"));
    }

    /// Plays the only track at an address, in the connection.
    ///
    /// # Panics
    /// When it is refused.
    pub fn watch(&mut self, url: &str, login: &str) {
        let transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
        let answer = self.ask(&format!("SETUP {url}/trackID=0"), &format!("{login}{transport}"), "");
        assert!(answer.contains("200"), "{answer}");
        assert!(self.ask(&format!("PLAY {url}"), login, "").contains("200"));
    }

    /// Sends a packet of the track.
    ///
    /// # Panics
    /// When the connection is closed.
    pub fn send(&mut self, sequence: u16) {
        let packet = rtp(sequence);
        self.0.write_all(&[&[b'$', 0, 0, packet.len() as u8][..], &packet].concat()).expect("sent");
    }

    /// Receives a packet of the track; returns its sequence number.
    ///
    /// # Panics
    /// When none comes.
    pub fn receive(&mut self) -> u16 {
        let mut frame = [0; 4 + 172];
        self.0.read_exact(&mut frame).expect("a frame");
        assert_eq!(frame[..2], [b'$', 0]);
        u16::from_be_bytes([frame[6], frame[7]])
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
