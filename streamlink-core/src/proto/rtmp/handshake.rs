//! The handshake (RTMP specification, section 5.2), plain and with the digests that Flash's servers and players
//! exchange (in no specification, but implemented by every server): 1 + 1536 + 1536 bytes in each direction.

use super::ProtocolError;
use crate::{proto::foreign::Foreign, random::Random};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Length of the packets C1, S1, C2 and S2, in bytes.
const PACKET: usize = 1536;
const VERSION: u8 = 3;
const DIGEST: usize = 32;

const SECRET: [u8; 32] = [
    0xf0, 0xee, 0xc2, 0x4a, 0x80, 0x68, 0xbe, 0xe8, 0x2e, 0x00, 0xd0, 0xd1, 0x02, 0x9e, 0x7e, 0x57, 0x6e, 0xec, 0x5d,
    0x2d, 0x29, 0x80, 0x6f, 0xab, 0x93, 0xb8, 0xe6, 0x36, 0xcf, 0xeb, 0x31, 0xae,
];
const PLAYER: &[u8] = b"Genuine Adobe Flash Player 001";
const SERVER: &[u8] = b"Genuine Adobe Flash Media Server 001";

/// One side of a handshake. Holds at most three packets.
#[derive(Debug)]
pub(crate) struct Handshake {
    server: bool,
    own: Vec<u8>,
    inbox: Vec<u8>,
    /// The peer's first packet was answered.
    answered: bool,
}

impl Handshake {
    /// Begins the server's side. `random` fills the packets.
    pub(crate) fn server(random: &Random) -> Self {
        Self { server: true, own: packet(SERVER, [3, 5, 1, 1], random), inbox: Vec::new(), answered: false }
    }

    /// Begins the client's side; C0 and C1 are written to `out`.
    pub(crate) fn client(random: &Random, out: &mut Vec<u8>) -> Self {
        let own = packet(PLAYER, [9, 0, 124, 2], random);
        out.push(VERSION);
        out.extend_from_slice(&own);
        Self { server: false, own, inbox: Vec::new(), answered: false }
    }

    /// Takes the handshake's bytes from `input` and appends responses to `out`; returns whether the handshake is
    /// complete.
    ///
    /// # Errors
    /// [`ProtocolError::Handshake`] when the peer does not speak RTMP.
    pub(crate) fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        if !self.answered {
            self.fill(input, 1 + PACKET);
            if self.inbox.first().is_some_and(|version| *version != VERSION) {
                return Err(match Foreign::of(&self.inbox) {
                    Some(Foreign::Tls) => Self::foreign("TLS, where plain RTMP is expected (`rtmps` is RTMP over TLS)"),
                    Some(Foreign::Http) => Self::foreign(
                        "HTTP, where RTMP is expected (tunnels over HTTP, as of `rtmpt`, are not supported)",
                    ),
                    Some(Foreign::Rtmpe) => Self::foreign("the encrypted handshake of `rtmpe` is not supported"),
                    Some(Foreign::Rtsp) => Self::foreign("RTSP, where RTMP is expected"),
                    Some(Foreign::Rtmp) | None => ProtocolError::Handshake,
                });
            }
            let Some(theirs) = self.inbox.get(1..1 + PACKET) else { return Ok(false) };
            let answer = self.answer(theirs);
            if self.server {
                out.push(VERSION);
                out.extend_from_slice(&self.own);
            }
            out.extend_from_slice(&answer);
            self.answered = true;
            self.inbox.clear();
        }
        // The peer's second packet is ignored: clients and servers send various things here.
        self.fill(input, PACKET);
        Ok(self.inbox.len() == PACKET)
    }

    fn foreign(what: &'static str) -> ProtocolError {
        ProtocolError::Malformed(what)
    }

    fn fill(&mut self, input: &mut &[u8], length: usize) {
        let take = length.saturating_sub(self.inbox.len()).min(input.len());
        let (taken, rest) = input.split_at(take);
        self.inbox.extend_from_slice(taken);
        *input = rest;
    }

    /// Makes the second packet: signed, if the peer's first one was; otherwise an echo.
    fn answer(&self, theirs: &[u8]) -> Vec<u8> {
        let (expected, key) = if self.server { (PLAYER, SERVER) } else { (SERVER, PLAYER) };
        let Some(digest) = find_digest(theirs, expected) else { return theirs.to_vec() };
        // Random bytes, and a digest under a key that is derived from the peer's digest.
        let mut answer = self.own.iter().rev().copied().collect::<Vec<u8>>();
        answer.truncate(PACKET - DIGEST);
        let key = hmac(&[key, &SECRET[..]].concat(), &[&digest]);
        let signature = hmac(&key, &[&answer]);
        answer.extend_from_slice(&signature);
        answer
    }
}

/// Makes a first packet: a time of 0, a version, and random bytes with a digest among them.
fn packet(key: &[u8], version: [u8; 4], random: &Random) -> Vec<u8> {
    let mut packet = vec![0; PACKET];
    random.fill(&mut packet[8..]);
    packet[4..8].copy_from_slice(&version);
    let at = digest_at(&packet, 8);
    let digest = hmac(key, &[&packet[..at], &packet[at + DIGEST..]]);
    packet[at..at + DIGEST].copy_from_slice(&digest);
    packet
}

/// Returns the offset of the digest in a packet, which four bytes at `base` encode. Always well within the packet.
fn digest_at(packet: &[u8], base: usize) -> usize {
    let sum: usize = packet[base..base + 4].iter().map(|b| usize::from(*b)).sum();
    base + 4 + sum % 728
}

/// Returns the digest of a peer's first packet, if it is valid in either of the two layouts.
fn find_digest(packet: &[u8], key: &[u8]) -> Option<[u8; DIGEST]> {
    [8, 772].into_iter().find_map(|base| {
        let at = digest_at(packet, base);
        let digest = hmac(key, &[&packet[..at], &packet[at + DIGEST..]]);
        (packet[at..at + DIGEST] == digest).then_some(digest)
    })
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST] {
    // Invariant: HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; DIGEST] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(bytes: &mut [u8]) {
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = (i * 31 % 251) as u8;
        }
    }

    #[test]
    fn rtmp_handshake_completes_at_every_split() {
        for step in [1, 7, 1536, 1537, 4000] {
            let mut to_server = Vec::new();
            let mut to_client = Vec::new();
            let mut client = Handshake::client(&Random::of(random), &mut to_server);
            let mut server = Handshake::server(&Random::of(random));
            let mut client_done = false;
            let mut server_done = false;
            let pass = |from: &mut Vec<u8>, side: &mut Handshake, to: &mut Vec<u8>| {
                let chunk: Vec<u8> = from.drain(..step.min(from.len())).collect();
                let mut input = &chunk[..];
                let done = side.read(&mut input, to).unwrap();
                assert!(input.is_empty());
                done
            };
            while !to_server.is_empty() || !to_client.is_empty() {
                server_done |= pass(&mut to_server, &mut server, &mut to_client);
                client_done |= pass(&mut to_client, &mut client, &mut to_server);
            }
            assert!(client_done && server_done, "{step}");
        }
    }

    #[test]
    fn rtmp_handshake_answers_digest_or_echo() {
        let mut out = Vec::new();
        Handshake::client(&Random::of(random), &mut out);
        assert!(find_digest(&out[1..], PLAYER).is_some());
        let mut server = Handshake::server(&Random::of(random));
        let mut answer = Vec::new();
        assert!(!server.read(&mut &out[..], &mut answer).unwrap());
        assert_eq!(answer.len(), 1 + 2 * PACKET);
        assert!(find_digest(&answer[1..1 + PACKET], SERVER).is_some());
        assert_ne!(answer[1 + PACKET..], out[1..]);

        let mut plain = vec![VERSION];
        plain.extend((0..PACKET).map(|i| if i < 8 { 0 } else { i as u8 }));
        let mut answer = Vec::new();
        Handshake::server(&Random::of(random)).read(&mut &plain[..], &mut answer).unwrap();
        assert_eq!(answer[1 + PACKET..], plain[1..]);
    }

    #[test]
    fn rtmp_handshake_rejects_other_protocols_at_first_byte() {
        let refusal = |bytes: &[u8]| {
            let refused = Handshake::server(&Random::of(random)).read(&mut &bytes[..], &mut Vec::new());
            refused.unwrap_err().to_string()
        };
        for (bytes, named) in [
            (&b"GET / HTTP/1.1\r\n"[..], "HTTP"),
            (b"POST /open/1 HTTP/1.1\r\n", "HTTP"),
            (b"\x16", "TLS"),
            (b"\x06", "the encrypted handshake of `rtmpe`"),
            (b"OPTIONS * RTSP/1.0\r\n", "RTSP"),
            (b"\xff", "invalid RTMP handshake"),
        ] {
            assert!(refusal(bytes).starts_with(named), "{}", refusal(bytes));
        }
    }
}
