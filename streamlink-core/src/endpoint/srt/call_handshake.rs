//! Handshake of a caller on its own socket: with a listener, or with a peer that calls, too.

use super::{
    super::sleep_until,
    caller::{ConnectedClient, Failed},
    connection_io::ConnectionIo,
};
use crate::{
    net::{Datagram, Receiver, Sender, UdpSocket},
    proto::srt::{self, Control, Packet, Progress, destination},
};
use std::{
    io,
    time::{Duration, Instant},
};

/// Minimum interval between two repetitions of the last packet of a rendezvous.
const REPEAT_INTERVAL: Duration = Duration::from_millis(100);

/// Handshake of one of both kinds.
pub(super) enum CallHandshake {
    Caller(Box<srt::Caller>),
    Rendezvous(Box<srt::Rendezvous>),
}

impl CallHandshake {
    fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        match self {
            Self::Caller(caller) => caller.poll_transmit(now),
            Self::Rendezvous(rendezvous) => rendezvous.poll_transmit(now),
        }
    }

    fn next_timeout(&self) -> Instant {
        match self {
            Self::Caller(caller) => caller.next_timeout(),
            Self::Rendezvous(rendezvous) => rendezvous.next_timeout(),
        }
    }

    fn handle_timeout(&self, now: Instant) -> Progress {
        match self {
            Self::Caller(caller) => caller.handle_timeout(now),
            Self::Rendezvous(rendezvous) => rendezvous.handle_timeout(now),
        }
    }

    /// Returns the packet that ends a rendezvous, or refuses it.
    fn take_parting(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Caller(_) => None,
            Self::Rendezvous(rendezvous) => rendezvous.take_parting(),
        }
    }

    /// Handles a datagram for the socket `id`.
    fn datagram(&mut self, data: &[u8], id: u32, now: Instant) -> Progress {
        let to = destination(data);
        // The first packets of a rendezvous have no destination yet.
        let is_ours = to == Some(id) || (to == Some(0) && matches!(self, Self::Rendezvous(_)));
        let packet = Packet::parse(data).filter(|_| is_ours);
        match (self, packet) {
            (_, None) => Progress::Calling,
            (Self::Caller(caller), Some(Packet::Control { control: Control::Handshake(body), timestamp, .. })) => {
                caller.handle(body, timestamp, now)
            }
            (
                Self::Rendezvous(rendezvous),
                Some(Packet::Control { control: Control::Handshake(body), timestamp, .. }),
            ) => rendezvous.handle(body, timestamp, now),
            // The peer is connected, and its last packet was lost.
            (Self::Rendezvous(rendezvous), Some(_)) if to == Some(id) => rendezvous.handle_other(now),
            _ => Progress::Calling,
        }
    }
}

/// Last packet of a rendezvous.
#[derive(Debug)]
pub(super) struct Parting {
    packet: Vec<u8>,
    next: Instant,
}

impl Parting {
    /// Sends the packet again, if that was not just done.
    pub(super) fn repeat(&mut self, socket: &UdpSocket, now: Instant) {
        if now >= self.next {
            self.next = now + REPEAT_INTERVAL;
            Sender::new(socket).send(socket, &[Datagram { head: &[], body: &self.packet }]);
        }
    }
}

/// Runs the handshake until the peer has accepted or rejected the call, or the time is up. `has_others`: there are other
/// addresses to try, so that one where nobody listens is given up at once.
pub(super) async fn shake_hands(
    mut handshake: CallHandshake,
    socket: UdpSocket,
    id: u32,
    rate: u64,
    has_others: bool,
) -> Result<ConnectedClient, Failed> {
    let mut memory = Receiver::new(rate);
    let mut sender = Sender::new(&socket);
    let mut inbox = Vec::new();
    let mut last_error = None;
    // A peer of a rendezvous begins when it likes, so a port that is closed yet says nothing.
    let gives_up = has_others && matches!(handshake, CallHandshake::Caller(_));
    loop {
        let now = Instant::now();
        if let Some(packet) = handshake.poll_transmit(now) {
            sender.send(&socket, &[Datagram { head: &[], body: &packet }]);
        }
        let deadline = handshake.next_timeout();
        tokio::select! {
            result = socket.drain(&mut memory, 1, |datagram| inbox.push(datagram)) => {
                if let Err(error) = result {
                    log::debug!("SRT caller: {error}"); // e.g. nobody listens yet: the handshake is repeated
                    if gives_up {
                        return Err(error.into());
                    }
                    last_error = Some(error);
                }
            }
            () = sleep_until(Some(deadline)) => {}
        }
        let now = Instant::now();
        let mut progress = handshake.handle_timeout(now);
        for datagram in inbox.drain(..) {
            if matches!(progress, Progress::Calling | Progress::TimedOut) {
                progress = handshake.datagram(&datagram.data, id, now);
            }
        }
        match progress {
            Progress::Calling => {}
            Progress::Connected(connection) => {
                let peer = socket.local_addr(); // placeholder, replaced by `SrtClient::call_address`
                let mut parting = handshake.take_parting().map(|packet| Parting { packet, next: now });
                if let Some(parting) = &mut parting {
                    parting.repeat(&socket, now);
                }
                let io = ConnectionIo::new(*connection, &socket, None);
                return Ok(ConnectedClient { io, socket, memory, peer, parting });
            }
            Progress::Rejected(rejection) => {
                if let Some(packet) = handshake.take_parting() {
                    sender.send(&socket, &[Datagram { head: &[], body: &packet }]);
                }
                return Err(Failed::Rejected(rejection));
            }
            Progress::TimedOut => {
                let unanswered = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                return Err(last_error.unwrap_or_else(unanswered).into());
            }
        }
    }
}
