//! A lossy network.

use crate::test_rng::TestRng;
use std::{
    collections::{BTreeMap, HashMap},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// A UDP network in this process that loses packets in each direction, with a seed, and delays them by 20 ms.
#[derive(Debug)]
pub struct Lossy {
    /// Address to send to.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    dark: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(u64, u64)>>,
}

impl Lossy {
    /// Starts a network to an address, with a loss in percent.
    ///
    /// # Panics
    /// When there is no port.
    pub fn to(target: SocketAddr, percent: u64) -> Self {
        Self::watched(target, percent, |_, _, _| {})
    }

    /// Starts a network that reports each datagram to `look`: whether it goes to the target, whether it will arrive,
    /// and its bytes.
    ///
    /// # Panics
    /// When there is no port.
    pub fn watched(target: SocketAddr, percent: u64, mut look: impl FnMut(bool, bool, &[u8]) + Send + 'static) -> Self {
        let mut dice = TestRng(0x5eed);
        Self::deciding(target, Duration::from_millis(20), move |forward, datagram| {
            let passes = dice.next_u64() % 100 >= percent;
            look(forward, passes, datagram);
            passes
        })
    }

    /// Starts a network that asks `decide` about each datagram: whether one that goes to the target, or comes from it,
    /// passes. It arrives after `delay`.
    ///
    /// # Panics
    /// When there is no port.
    pub fn deciding(
        target: SocketAddr,
        delay: Duration,
        mut decide: impl FnMut(bool, &[u8]) -> bool + Send + 'static,
    ) -> Self {
        Self::delaying(target, move |forward, datagram| decide(forward, datagram).then_some(delay))
    }

    /// Starts a network that asks `decide` about each datagram: after which delay one that goes to the target, or comes
    /// from it, arrives; `None` if it is lost.
    ///
    /// # Panics
    /// When there is no port.
    pub fn delaying(
        target: SocketAddr,
        mut decide: impl FnMut(bool, &[u8]) -> Option<Duration> + Send + 'static,
    ) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let back = UdpSocket::bind("127.0.0.1:0").expect("a port");
        for socket in [&front, &back] {
            socket.set_nonblocking(true).expect("so");
            socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20).expect("a large buffer");
        }
        let address = front.local_addr().expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        let dark = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            let dark = dark.clone();
            move || {
                let mut client = None;
                let mut passed = 0;
                let mut lost = 0;
                let mut queue = BTreeMap::new();
                let mut count = 0u64;
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    for (socket, forward) in [(&front, true), (&back, false)] {
                        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                            if forward {
                                client = Some(from);
                            }
                            let delay = decide(forward, &buffer[..length]);
                            let Some(delay) = delay.filter(|_| !dark.load(Ordering::Relaxed)) else {
                                lost += 1;
                                continue;
                            };
                            passed += 1;
                            count += 1;
                            queue.insert((Instant::now() + delay, count), (forward, buffer[..length].to_vec()));
                        }
                    }
                    while queue.first_key_value().is_some_and(|((at, _), _)| *at <= Instant::now()) {
                        let Some((_, (forward, bytes))) = queue.pop_first() else { break };
                        let _ = match (forward, client) {
                            (true, _) => back.send_to(&bytes, target),
                            (false, Some(client)) => front.send_to(&bytes, client),
                            _ => Ok(0),
                        };
                    }
                    std::thread::sleep(Duration::from_micros(500)); // a turn of the network, not a wait
                }
                (passed, lost)
            }
        });
        Self { address, stop, dark, thread: Some(thread) }
    }

    /// Blocks all datagrams, or lets them pass again.
    pub fn black_out(&self, dark: bool) {
        self.dark.store(dark, Ordering::Relaxed);
    }

    /// Ends it; returns the numbers of datagrams passed and lost.
    ///
    /// # Panics
    /// When its thread has panicked.
    pub fn finish(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("it has not failed")
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The packets of one direction of an SRT connection, by their headers (draft-sharabayko-srt-01 section 3.1).
#[derive(Debug, Default)]
pub struct SrtTraffic {
    /// Length of each data packet that arrived, and whether it was a retransmission.
    pub arrived: HashMap<u32, (usize, bool)>,
    /// Length of each data packet that was sent, in order of their numbers.
    pub sent: BTreeMap<u32, usize>,
    /// Number of retransmissions.
    pub repeats: u64,
}

impl SrtTraffic {
    fn look(&mut self, passed: bool, packet: &[u8]) {
        if packet.len() < 16 || packet[0] & 0x80 != 0 {
            return;
        }
        let number = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]);
        let repeated = packet[4] & 0x04 != 0;
        self.repeats += u64::from(repeated);
        self.sent.insert(number, packet.len() - 16);
        if passed {
            self.arrived.entry(number).or_insert((packet.len() - 16, repeated));
        }
    }

    /// Numbers of the packets that did not arrive, retransmissions included.
    pub fn missing(&self) -> Vec<u32> {
        self.sent.keys().copied().filter(|number| !self.arrived.contains_key(number)).collect()
    }
}

/// Starts a [`Lossy`] network, and records the SRT packets of one direction (`forward`: to the target).
///
/// # Panics
/// When there is no port.
pub fn watched_srt(target: SocketAddr, percent: u64, forward: bool) -> (Lossy, Arc<Mutex<SrtTraffic>>) {
    let traffic = Arc::new(Mutex::new(SrtTraffic::default()));
    let seen = traffic.clone();
    let network = Lossy::watched(target, percent, move |way, passed, packet| {
        if way == forward {
            seen.lock().expect("whole").look(passed, packet);
        }
    });
    (network, traffic)
}

/// Mixes the bits of a number (SplitMix64), so that consecutive ones have nothing in common.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// Loss of SRT data packets that depends on their place in the stream and on how often they were sent before, so that
/// every sender meets the same. In the other direction the loss is that of the datagrams' order.
#[derive(Debug)]
pub struct SeededLoss {
    percent: u64,
    /// Length of the bursts in which packets are lost that are sent for the first time.
    burst: u32,
    first: Option<u32>,
    sent: HashMap<u32, u64>,
    lost: u64,
    dice: TestRng,
}

impl SeededLoss {
    /// Creates a loss in percent.
    pub fn new(percent: u64) -> Self {
        Self::in_bursts(percent, 1)
    }

    /// Creates a loss in percent, in bursts of `burst` packets.
    pub fn in_bursts(percent: u64, burst: u32) -> Self {
        Self { percent, burst: burst.max(1), first: None, sent: HashMap::new(), lost: 0, dice: TestRng(0x5eed) }
    }

    /// Returns whether a datagram passes.
    pub fn passes(&mut self, datagram: &[u8]) -> bool {
        let Some([a, b, c, d]) = datagram.first_chunk::<4>().copied().filter(|head| head[0] & 0x80 == 0) else {
            return self.dice.next_u64() % 100 >= self.percent;
        };
        let number = u32::from_be_bytes([a, b, c, d]);
        let place = number.wrapping_sub(*self.first.get_or_insert(number)) & 0x7fff_ffff;
        let before = self.sent.entry(number).or_default();
        let place = if *before == 0 { place / self.burst } else { place };
        let mixed = mix(u64::from(place) << 16 | *before);
        *before += 1;
        let passes = mixed % 100 >= self.percent;
        self.lost += u64::from(!passes);
        passes
    }

    /// Returns the number of different data packets that were sent, how many were sent again, and how many of both were
    /// lost.
    pub fn counts(&self) -> (u64, u64, u64) {
        let all: u64 = self.sent.values().sum();
        (self.sent.len() as u64, all - self.sent.len() as u64, self.lost)
    }
}
