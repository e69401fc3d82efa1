//! A network that is slow, narrow, loses packets, or is cut, before a relay: a UDP proxy in this process.

#![allow(dead_code)] // each test binary uses a part

use super::address;
use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use streamlink_moq::RelayAddress;
use tokio::{net::UdpSocket, sync::mpsc, task::JoinHandle, time::Instant};

/// Impairments of each direction.
#[derive(Debug, Default)]
struct Terms {
    delay_us: AtomicU64,
    /// Bits a second that pass in each direction; 0 for any number.
    rate: AtomicU64,
    /// Packets lost of 10000.
    loss: AtomicU64,
    random: AtomicU64,
}

impl Terms {
    fn drops(&self) -> bool {
        // xorshift, seeded by the first packet
        let mut x = self.random.load(Ordering::Relaxed) | 0x9e37_79b9;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.store(x, Ordering::Relaxed);
        (x >> 20) % 10_000 < self.loss.load(Ordering::Relaxed)
    }
}

/// Longest time for which packets queue before a narrow link.
const QUEUE: Duration = Duration::from_millis(300);

/// A proxy before a relay.
pub(crate) struct Impaired {
    port: u16,
    terms: Arc<Terms>,
    task: JoinHandle<()>,
}

impl Impaired {
    /// Starts a proxy that passes all packets at once.
    pub(crate) async fn start(relay: &RelayAddress) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("socket"));
        let port = socket.local_addr().expect("address").port();
        let terms = Arc::<Terms>::default();
        let relay = SocketAddr::from(([127, 0, 0, 1], relay.port()));
        let task = tokio::spawn(proxy(socket, relay, terms.clone()));
        Self { port, terms, task }
    }

    /// Address at which the relay is reached through the proxy.
    pub(crate) fn address(&self) -> RelayAddress {
        address(self.port)
    }

    /// Delays each packet by half of a round trip time.
    pub(crate) fn round_trip(&self, time: Duration) {
        self.terms.delay_us.store(u64::try_from(time.as_micros() / 2).expect("time"), Ordering::Relaxed);
    }

    /// Passes at most so many bits a second; 0 for any number.
    pub(crate) fn narrow(&self, bits_per_second: u64) {
        self.terms.rate.store(bits_per_second, Ordering::Relaxed);
    }

    /// Loses so many of 10000 packets.
    pub(crate) fn lose(&self, of_10_000: u64) {
        self.terms.loss.store(of_10_000, Ordering::Relaxed);
    }
}

impl Drop for Impaired {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends packets to a peer after the delay.
fn delayed(socket: Arc<UdpSocket>, to: SocketAddr, terms: Arc<Terms>) -> mpsc::UnboundedSender<Vec<u8>> {
    let (sender, mut packets) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let (raw, mut incoming) = mpsc::unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        let mut free = Instant::now(); // the time at which the narrow link has sent all that queues before it
        while let Some(packet) = incoming.recv().await {
            let now = Instant::now();
            free = free.max(now);
            if terms.drops() || free - now > QUEUE {
                continue;
            }
            let bits = u64::try_from(packet.len()).expect("length") * 8;
            if let Some(micros) = (bits * 1_000_000).checked_div(terms.rate.load(Ordering::Relaxed)) {
                free += Duration::from_micros(micros);
            }
            let delay = Duration::from_micros(terms.delay_us.load(Ordering::Relaxed));
            let _ = sender.send((free + delay, packet)); // the test is over
        }
    });
    tokio::spawn(async move {
        while let Some((at, packet)) = packets.recv().await {
            if at > Instant::now() {
                tokio::time::sleep_until(at).await;
            }
            let _ = socket.send_to(&packet, to).await; // as a network loses it
        }
    });
    raw
}

async fn proxy(socket: Arc<UdpSocket>, relay: SocketAddr, terms: Arc<Terms>) {
    let mut clients: HashMap<SocketAddr, mpsc::UnboundedSender<Vec<u8>>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let packet = buffer[..length].to_vec();
        let to_relay = match clients.entry(client) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(pass(socket.clone(), client, relay, terms.clone()).await),
        };
        let _ = to_relay.send(packet); // the test is over
    }
}

/// Passes what the relay answers on to a client. Returns where packets to the relay go.
async fn pass(
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    relay: SocketAddr,
    terms: Arc<Terms>,
) -> mpsc::UnboundedSender<Vec<u8>> {
    let upstream = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("socket"));
    let back = delayed(socket, client, terms.clone());
    let receiver = upstream.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while !back.is_closed() {
            if let Ok((length, _)) = receiver.recv_from(&mut buffer).await {
                let _ = back.send(buffer[..length].to_vec()); // the test is over
            }
        }
    });
    delayed(upstream, relay, terms)
}
