//! The floor: the least that a program must do that sends each packet to each receiver by itself. One `recvfrom`
//! and one `sendto` a receiver, for every packet, in one thread.
//!
//! `bench-floor IN OUT…`

use std::net::{SocketAddr, UdpSocket};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let socket = UdpSocket::bind(arguments.next().ok_or("where to receive?")?)?;
    let peers = arguments.map(|text| text.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    println!("ready");
    let mut buffer = [0; 65_536];
    loop {
        let (length, _) = socket.recv_from(&mut buffer)?;
        for peer in &peers {
            // A receiver that is gone is no reason to stop.
            let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), peer);
        }
    }
}
