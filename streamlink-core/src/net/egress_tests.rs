//! The local end of sockets, read back from the sockets and from what their peers see.

use super::{Egress, Stream, UdpOptions, UdpSocket, check_congestion};
use socket2::SockRef;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::BorrowedFd,
};
use tokio::net::TcpListener;

/// Returns a port that is free for now.
fn free_port(ip: IpAddr) -> u16 {
    std::net::UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap().port()
}

#[allow(unsafe_code)]
fn borrowed(socket: &UdpSocket) -> BorrowedFd<'_> {
    // SAFETY: the socket lives as long as the borrow.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

#[tokio::test]
async fn tcp_egress_sets_port_dscp_and_congestion() {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let peer = listener.local_addr().unwrap();
        let port = free_port(ip);
        let egress = Egress {
            address: Some(ip),
            port: Some(port),
            dscp: Some(34),
            congestion: Some("reno".into()),
            ..Egress::default()
        };
        // The second connection follows while the first one's port lingers.
        for _ in 0..2 {
            let (stream, accepted) = tokio::join!(Stream::connect(peer, &egress), listener.accept());
            let (stream, (accepted, from)) = (stream.unwrap(), accepted.unwrap());
            assert_eq!(from, SocketAddr::new(ip, port));
            let socket = stream.socket();
            let field = if ip.is_ipv4() { socket.tos_v4() } else { socket.tclass_v6() };
            assert_eq!(field.unwrap(), 34 << 2);
            let congestion = socket.tcp_congestion().unwrap();
            assert_eq!(congestion.split(|b| *b == 0).next().unwrap(), b"reno");
            drop(stream);
            drop(accepted);
        }
        let without = Egress { port: Some(port), ..Egress::default() };
        let (stream, accepted) = tokio::join!(Stream::connect(peer, &without), listener.accept());
        assert_eq!(accepted.unwrap().1.port(), port);
        drop(stream.unwrap());
    }
}

#[tokio::test]
async fn udp_egress_sets_port_and_dscp() {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let port = free_port(ip);
        let egress = Egress { port: Some(port), dscp: Some(46), ..Egress::default() };
        let options = UdpOptions { egress, send_only: true, ..UdpOptions::default() };
        let first = UdpSocket::sending(SocketAddr::new(ip, 9), &options).unwrap();
        let second = UdpSocket::sending(SocketAddr::new(ip, 10), &options).unwrap();
        for socket in [&first, &second] {
            let fd = borrowed(socket);
            let socket = SockRef::from(&fd);
            assert_eq!(socket.local_addr().unwrap().as_socket().unwrap().port(), port);
            let field = if ip.is_ipv4() { socket.tos_v4() } else { socket.tclass_v6() };
            assert_eq!(field.unwrap(), 46 << 2);
        }
    }
}

#[test]
fn unknown_congestion_control_is_refused() {
    assert!(check_congestion("reno").is_ok());
    assert!(check_congestion("no-such-one").is_err());
}
