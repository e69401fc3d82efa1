//! RTP as plain sockets: packets made and read by hand, independently of the library.

use crate::PATIENCE;
use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// Builds an RTP packet.
pub fn packet(payload_type: u8, sequence: u16, timestamp: u32, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, payload_type];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The sequence number of a packet.
pub fn sequence(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[2], packet[3]])
}

/// The SSRC of a packet.
pub fn ssrc(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[8..12].try_into().expect("four bytes"))
}

/// A receiver on a free port of an address.
#[derive(Debug)]
pub struct Sink(pub UdpSocket);

impl Sink {
    /// Opens a receiver on the IPv4 loopback.
    pub fn new() -> Self {
        Self::on("127.0.0.1:0")
    }

    /// Opens a receiver on an address.
    pub fn on(address: &str) -> Self {
        let socket = UdpSocket::bind(address).expect("a free port");
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).expect("a large buffer");
        Self(socket)
    }

    /// Returns the address in the form that outputs take.
    pub fn address(&self) -> String {
        self.0.local_addr().expect("bound").to_string()
    }

    /// Returns the next datagram.
    pub fn next(&self) -> Vec<u8> {
        self.within(PATIENCE).expect("a datagram in time")
    }

    /// Returns the next datagram, if one arrives in time.
    pub fn within(&self, time: Duration) -> Option<Vec<u8>> {
        self.0.set_read_timeout(Some(time)).expect("a timeout");
        let mut buffer = vec![0; 65_536];
        let length = self.0.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }

    /// Returns the next `count` datagrams.
    pub fn take(&self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.next()).collect()
    }

    /// Returns all datagrams, until none has arrived for `silence`.
    pub fn drain(&self, silence: Duration) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.within(silence)).collect()
    }
}

impl Default for Sink {
    fn default() -> Self {
        Self::new()
    }
}

/// A sender to an input address in the library's form (`rtp://…`, `udp://…`).
#[derive(Debug)]
pub struct Sender {
    /// The sending socket.
    pub socket: UdpSocket,
    target: SocketAddr,
}

impl Sender {
    /// Opens a sender on a free port.
    pub fn to(input_address: &str) -> Self {
        let target: SocketAddr =
            input_address.split_once("://").map_or(input_address, |(_, rest)| rest).parse().expect("an address");
        let any = if target.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        Self { socket: UdpSocket::bind(any).expect("a free port"), target }
    }

    /// Sends one datagram.
    pub fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.target).expect("sent");
    }

    /// Sends packets of payload type 96 with these sequence numbers, not faster than a receiver can read.
    pub fn stream(&self, sequences: impl IntoIterator<Item = u16>) {
        for (i, sequence) in sequences.into_iter().enumerate() {
            self.send(&packet(96, sequence, u32::from(sequence) * 90, 7, &payload(sequence)));
            if i % 32 == 31 {
                pause();
            }
        }
    }
}

/// A payload that differs from packet to packet.
pub fn payload(sequence: u16) -> Vec<u8> {
    (0..1000u16).map(|i| (i ^ sequence) as u8).collect()
}

/// Yields to others: pacing, not waiting for anything.
pub fn pause() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1) {
        std::thread::yield_now();
    }
}
