//! The local end of sockets, read back from the sockets and from what their peers see.

use super::{Datagram, Egress, Peer, Sender, Stream, UdpOptions, UdpSocket, check_congestion};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use socket2::SockRef;
use std::{
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
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

/// Receives a datagram and returns its length and traffic class.
fn class_of_next(socket: &std::net::UdpSocket) -> (usize, i32) {
    let mut bytes = [0; 2000];
    let mut vectors = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!([i32; 8]);
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut vectors, Some(&mut control), MsgFlags::empty()).unwrap();
    let class = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::Ipv4Tos(class) => Some(i32::from(class)),
        ControlMessageOwned::Ipv6TClass(class) => Some(class),
        _ => None,
    });
    (message.bytes, class.unwrap())
}

#[tokio::test]
async fn udp_senders_of_one_socket_have_code_points_of_their_own() {
    let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
    // An IPv6 socket also sends to IPv4 peers.
    for (local, ip) in [
        (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
        (v6, v6),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
    ] {
        let receiver = std::net::UdpSocket::bind((ip, 0)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let reference = SockRef::from(&receiver);
        if ip.is_ipv4() {
            reference.set_recv_tos_v4(true).unwrap();
        } else {
            reference.set_recv_tclass_v6(true).unwrap();
        }
        let socket = UdpSocket::receiving(SocketAddr::new(local, 0), &UdpOptions::default()).unwrap();
        let to = Peer::new(receiver.local_addr().unwrap(), SocketAddr::new(local, 0));
        for dscp in [Some(46), None, Some(63)] {
            let mut sender = Sender::new(&socket);
            sender.mark(dscp, ip);
            // One alone, and a run.
            for count in [1, 3] {
                let datagrams = [Datagram { head: &[1; 16], body: &[2; 1316] }; 3];
                let sent = sender.send_to(&socket, Some(&to), &datagrams[..count]);
                assert_eq!((sent.done, sent.refused), (count, 0));
                for _ in 0..count {
                    assert_eq!(class_of_next(&receiver), (1332, i32::from(dscp.unwrap_or(0)) << 2), "{local} to {ip}");
                }
            }
        }
    }
}

#[test]
fn unknown_congestion_control_is_refused() {
    assert!(check_congestion("reno").is_ok());
    assert!(check_congestion("no-such-one").is_err());
}
