//! The floor of runs: the least that a program must do that holds datagrams for a time, and sends what has come meanwhile
//! to each receiver as runs (UDP_SEGMENT). One wait, one `recvmmsg`, and one `sendmsg` a receiver and run, in one thread.
//! It sends runs of the same length as a program that holds datagrams as long.
//!
//! `bench-floor-runs HOLD_US IN OUT…`

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg},
};
use std::{
    io::{IoSlice, IoSliceMut},
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

/// Maximum number of datagrams of a run, which is below 64 KiB.
const MOST: usize = 48;
/// Room for a datagram.
const SIZE: usize = 1500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let hold = Duration::from_micros(arguments.next().ok_or("how long to hold?")?.parse()?);
    let socket = UdpSocket::bind(arguments.next().ok_or("where to receive?")?)?;
    socket.set_nonblocking(true)?;
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &(4 << 20))?;
    let peers = arguments.map(|address| {
        let peer = UdpSocket::bind("127.0.0.1:0")?;
        peer.connect(address)?;
        Ok(peer)
    });
    let peers = peers.collect::<std::io::Result<Vec<_>>>()?;
    println!("ready");
    let mut buffer = vec![0u8; MOST * SIZE];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(MOST, None);
    loop {
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        if !hold.is_zero() {
            std::thread::sleep(hold);
        }
        loop {
            let lengths: Vec<usize> = {
                let mut slices: Vec<_> = buffer.chunks_mut(SIZE).map(|room| [IoSliceMut::new(room)]).collect();
                let got = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_DONTWAIT, None);
                got.map(|all| all.map(|message| message.bytes).collect()).unwrap_or_default()
            };
            let mut datagrams = buffer.chunks(SIZE).zip(&lengths).map(|(room, length)| &room[..*length]).peekable();
            while let Some(first) = datagrams.next() {
                let mut run = vec![IoSlice::new(first)];
                while let Some(next) = datagrams.next_if(|next| next.len() == first.len()) {
                    run.push(IoSlice::new(next));
                }
                let segment = u16::try_from(first.len())?;
                for peer in &peers {
                    // A receiver that is gone is no reason to stop.
                    let notes = [ControlMessage::UdpGsoSegments(&segment)];
                    let _ = sendmsg::<()>(peer.as_raw_fd(), &run, &notes, MsgFlags::empty(), None);
                }
            }
            if lengths.len() < MOST {
                break;
            }
        }
    }
}
