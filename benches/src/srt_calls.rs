//! SRT callers that do nothing but call, so that calling costs the harness little (draft-sharabayko-srt-01, section 3.2.1).

use std::{
    io::{Error, ErrorKind, Result},
    net::UdpSocket,
    time::{Duration, Instant},
};

/// Time after which an unanswered packet is sent again, as libsrt does.
const REPEAT: Duration = Duration::from_millis(250);
/// Maximum time for all calls.
const LIMIT: Duration = Duration::from_secs(20);
/// Length of the header of a packet, and of a handshake behind it.
const HEADER: usize = 16;
const HANDSHAKE: usize = 48;

struct Call {
    socket: UdpSocket,
    id: u32,
    /// The last packet sent, and its time.
    packet: Vec<u8>,
    sent: Instant,
    is_connected: bool,
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// A handshake packet: `kind` is 1 for an induction, `u32::MAX` for a conclusion.
fn handshake(id: u32, version: u32, extension: u32, kind: u32, cookie: u32) -> Vec<u8> {
    let header = [0x8000_0000, 0, 0, 0];
    let address = [0x0100_007f, 0, 0, 0];
    let body = [version, extension, id & 0x7fff_ffff, 1500, 8192, kind, id, cookie];
    words(&[&header[..], &body, &address].concat())
}

impl Call {
    fn send(&mut self, packet: Vec<u8>) {
        // A packet that does not leave is sent again later.
        let _ = self.socket.send(&packet);
        self.packet = packet;
        self.sent = Instant::now();
    }

    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 1500];
        loop {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let word = |at: usize| buffer.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
            if length < HEADER + HANDSHAKE || word(0) != 0x8000_0000 {
                continue; // media, or a keep-alive
            }
            match word(HEADER + 20) {
                1 if self.packet.len() == HEADER + HANDSHAKE => {
                    let mut conclusion = handshake(self.id, 5, 1, u32::MAX, word(HEADER + 28));
                    // HSREQ: version 1.5.0; TSBPD both ways, AES, late packets dropped, periodic reports; 120 ms.
                    conclusion.extend(words(&[1 << 16 | 3, 0x0001_0500, 0x3f, 120 << 16 | 120]));
                    self.send(conclusion);
                }
                u32::MAX => self.is_connected = true,
                1 => {} // the answer to a repeated induction
                other => return Err(Error::other(format!("refused: {other}"))),
            }
        }
    }
}

/// Calls a listener from `count` sockets at once. Returns the time until the last one was connected.
///
/// # Errors
/// When a call is refused, or not all are connected in 20 seconds.
pub fn call(port: u16, count: u32) -> Result<Duration> {
    let mut calls = Vec::new();
    for number in 0..count {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(("127.0.0.1", port))?;
        socket.set_nonblocking(true)?;
        let id = 0x1000_0000 + number;
        calls.push(Call { socket, id, packet: Vec::new(), sent: Instant::now(), is_connected: false });
    }
    let start = Instant::now();
    for call in &mut calls {
        let induction = handshake(call.id, 4, 2, 1, 0);
        call.send(induction);
    }
    while start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(1));
        for call in calls.iter_mut().filter(|call| !call.is_connected) {
            call.read()?;
            if !call.is_connected && call.sent.elapsed() >= REPEAT {
                let packet = std::mem::take(&mut call.packet);
                call.send(packet);
            }
        }
        if calls.iter().all(|call| call.is_connected) {
            return Ok(start.elapsed());
        }
    }
    let missing = calls.iter().filter(|call| !call.is_connected).count();
    Err(Error::other(format!("{missing} of {count} are not connected")))
}
