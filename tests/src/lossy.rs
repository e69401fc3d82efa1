//! A network that is not what it should be.

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

/// A UDP network in this process that loses some of what it carries in each direction, and takes 20 ms, with a seed.
#[derive(Debug)]
pub struct Lossy {
    /// Where to send to.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    dark: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(u64, u64)>>,
}

impl Lossy {
    /// To an address, with a loss in percent.
    ///
    /// # Panics
    /// When there is no port.
    pub fn to(target: SocketAddr, percent: u64) -> Self {
        Self::watched(target, percent, |_, _, _| {})
    }

    /// The same, and everything that comes is looked at: whether it goes to the target, whether it will get there, and
    /// its bytes.
    ///
    /// # Panics
    /// When there is no port.
    pub fn watched(target: SocketAddr, percent: u64, mut look: impl FnMut(bool, bool, &[u8]) + Send + 'static) -> Self {
        let (front, back) =
            (UdpSocket::bind("127.0.0.1:0").expect("a port"), UdpSocket::bind("127.0.0.1:0").expect("a port"));
        for socket in [&front, &back] {
            socket.set_nonblocking(true).expect("so");
            socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20).expect("a large buffer");
        }
        let address = front.local_addr().expect("bound");
        let (stop, dark) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (stop, dark) = (stop.clone(), dark.clone());
            move || {
                let (mut dice, mut client) = (TestRng(0x5eed), None);
                let (mut passed, mut lost) = (0, 0);
                let mut queue = std::collections::VecDeque::new();
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    for (socket, forward) in [(&front, true), (&back, false)] {
                        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                            if forward {
                                client = Some(from);
                            }
                            let is_lost = dice.next_u64() % 100 < percent || dark.load(Ordering::Relaxed);
                            look(forward, !is_lost, &buffer[..length]);
                            if is_lost {
                                lost += 1;
                                continue;
                            }
                            passed += 1;
                            queue.push_back((
                                Instant::now() + Duration::from_millis(20),
                                forward,
                                buffer[..length].to_vec(),
                            ));
                        }
                    }
                    while queue.front().is_some_and(|(at, _, _)| *at <= Instant::now()) {
                        let Some((_, forward, bytes)) = queue.pop_front() else { break };
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

    /// Nothing gets through, or what did before.
    pub fn black_out(&self, dark: bool) {
        self.dark.store(dark, Ordering::Relaxed);
    }

    /// Ends it; returns how many datagrams have passed, and how many were lost.
    ///
    /// # Panics
    /// When it did.
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

/// What was on its way in one direction of an SRT connection, by the headers of its packets (draft-sharabayko-srt-01
/// section 3.1).
#[derive(Debug, Default)]
pub struct SrtTraffic {
    /// The length of each data packet that got through, and whether it was one that was sent again.
    pub arrived: HashMap<u32, (usize, bool)>,
    /// The length of each data packet that was sent, in order of their numbers.
    pub sent: BTreeMap<u32, usize>,
    /// Data packets that were sent again.
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

    /// The numbers of those that did not get through, repeats included.
    pub fn missing(&self) -> Vec<u32> {
        self.sent.keys().copied().filter(|number| !self.arrived.contains_key(number)).collect()
    }
}

/// A [`Lossy`] network, and what SRT sends over it in one direction (`forward`: to the target).
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
