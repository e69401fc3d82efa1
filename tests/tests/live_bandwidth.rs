//! Raising the bandwidth of a running flow reaches everything that was sized by the old one: each protocol, as a source
//! and as an output, starts at 2 Mb/s, is raised to 40, and carries 20 without a loss.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use streamlink_core::{
    BandwidthPolicy, Bitrate, Engine, Event, Flow, FlowHandle, Latency, Output, Packet, RtmpKind, RtspTransport,
    Source, State, StreamKey, TapCallback,
};
use streamlink_tests::{eventually, rig::free_port};

/// Place of the mark of a run in a packet, counted from its end; packets that only open the way have 0 there.
const MARK: u8 = 0xa5;
const PAYLOAD: usize = 1300;
/// 20 Mb/s.
const PACKETS_PER_SECOND: u64 = 1923;
const RUN: Duration = Duration::from_millis(1500);
const LOW: Bitrate = Bitrate::mbps(2);
/// Too little for a run, with a queue that a busy machine does not fill.
const MIDDLE: Bitrate = Bitrate::mbps(8);
const HIGH: Bitrate = Bitrate::mbps(40);

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\na=control:track\r\n";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Datagrams,
    Rtp,
    Rtmp,
    Rtsp,
}

impl Kind {
    fn source(self) -> Source {
        match self {
            Kind::Datagrams => Source::app_datagrams("in").into(),
            Kind::Rtp => Source::app_rtp("in").into(),
            Kind::Rtmp => Source::app_rtmp("in").into(),
            Kind::Rtsp => Source::app_rtsp("in").into(),
        }
    }

    fn packet(self, number: u64, mark: u8) -> Packet {
        let now = Instant::now();
        let mut body = vec![0; PAYLOAD];
        body[PAYLOAD - 1] = mark;
        if self == Kind::Rtmp {
            // H.264: a key frame every hundred messages.
            body[0] = if number.is_multiple_of(100) { 0x17 } else { 0x27 };
            body[1] = 1;
            return Packet::rtmp(RtmpKind::Video, (number / 2) as u32, body, now);
        }
        body[0] = 0x80;
        body[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        body[4..8].copy_from_slice(&((number * 160) as u32).to_be_bytes());
        match self {
            Kind::Rtsp => Packet::rtsp(0, body, now),
            Kind::Rtp => Packet::rtp(body, now),
            _ => Packet::datagram(body, now),
        }
    }
}

/// Two flows: the host's packets leave by the output of one, and come in by the source of the other.
struct Chain {
    engine: Engine,
    kind: Kind,
    sender: FlowHandle,
    receiver: FlowHandle,
    arrived: Arc<AtomicU64>,
    number: u64,
    _calls: TapCallback,
}

impl Chain {
    /// Starts both, each with its maximum bandwidth, and waits until packets arrive.
    fn start(kind: Kind, output: impl Into<Output>, source: impl Into<Source>, rates: (Bitrate, Bitrate)) -> Self {
        let engine = Engine::builder().workers(2).build().unwrap();
        let start = |flow| engine.block_on(engine.start(flow)).unwrap();
        let sender = Flow::builder("sender", rates.0).source(kind.source()).output(output.into());
        let sender = start(sender.build().unwrap());
        let receiver = Flow::builder("receiver", rates.1).source(source.into()).output(Output::tap("tap"));
        let receiver = start(receiver.build().unwrap());
        let arrived = Arc::new(AtomicU64::new(0));
        let count = arrived.clone();
        let tap = receiver.tap("tap").unwrap();
        let calls = tap.for_each(move |packet| {
            if packet.data().last() == Some(&MARK) {
                count.fetch_add(1, Relaxed);
            }
        });
        let mut chain = Self { engine, kind, sender, receiver, arrived, number: 0, _calls: calls };
        chain.open();
        chain
    }

    fn push(&mut self, mark: u8) {
        let packet = self.kind.packet(self.number, mark);
        self.number += 1;
        self.sender.app_source("in").unwrap().push(packet).unwrap();
    }

    /// Pushes a little until it comes out at the other end.
    fn open(&mut self) {
        let app = self.sender.app_source("in").unwrap();
        if self.kind == Kind::Rtsp {
            app.set_sdp(SDP).unwrap();
        }
        eventually("the way is open", || {
            if self.kind == Kind::Rtmp {
                let avc =
                    [&[0x17, 0, 0, 0, 0, 1, 0x42, 0, 0x1e, 0xff, 0xe1, 0, 4, 0x67, 0x42, 0, 0x1e, 1, 0, 2, 0x68, 0xce]
                        [..]];
                app.push(Packet::rtmp(RtmpKind::Video, 0, avc.concat(), Instant::now())).unwrap();
                self.number = self.number.next_multiple_of(100);
            }
            self.push(0);
            std::thread::sleep(Duration::from_millis(20)); // far below the rate
            let connected = self.sender.stats().outputs[0].state == State::Connected;
            (connected && self.receiver.stats().sources[0].packets > 0).then_some(())
        });
    }

    /// Pushes 20 Mb/s for a while; returns how many packets that were.
    fn run(&mut self, time: Duration) -> u64 {
        let start = Instant::now();
        let mut pushed = 0;
        self.number = self.number.next_multiple_of(100);
        while start.elapsed() < time {
            while pushed < start.elapsed().as_millis() as u64 * PACKETS_PER_SECOND / 1000 {
                self.push(MARK);
                pushed += 1;
            }
            std::thread::sleep(Duration::from_millis(2)); // the pace
        }
        pushed
    }

    #[track_caller]
    fn everything_arrives(&mut self) {
        let pushed = self.run(RUN);
        let receiver = &self.receiver;
        let sender = &self.sender;
        let arrived = &self.arrived;
        let end = Instant::now() + Duration::from_secs(10);
        while arrived.load(Relaxed) < pushed && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let arrived = arrived.load(Relaxed);
        assert_eq!(arrived, pushed, "{:?} {:?}", sender.stats(), receiver.stats());
    }

    fn stop(self) {
        self.engine.block_on(async {
            self.sender.stop().await;
            self.receiver.stop().await;
        });
    }
}

fn raised_flows_carry_the_new_rate(kind: Kind, output: impl Into<Output>, source: impl Into<Source>) {
    let mut chain = Chain::start(kind, output, source, (LOW, LOW));
    chain.sender.set_max_bandwidth(HIGH).unwrap();
    chain.receiver.set_max_bandwidth(HIGH).unwrap();
    std::thread::sleep(Duration::from_millis(300)); // sources take changed settings over within 100 ms
    chain.everything_arrives();
    chain.stop();
}

fn second() -> Latency {
    Latency::from_millis(1000).unwrap()
}

#[test]
fn raised_bandwidth_reaches_srt_listener_output_and_srt_caller_source() {
    let address = format!("127.0.0.1:{}", free_port());
    let source = Source::srt_caller("in", &address).latency(second());
    raised_flows_carry_the_new_rate(Kind::Datagrams, Output::srt_listener("out", &address).latency(second()), source);
}

#[test]
fn raised_bandwidth_reaches_srt_caller_output_and_srt_listener_source() {
    let address = format!("127.0.0.1:{}", free_port());
    let source = Source::srt_listener("in", &address).latency(second());
    raised_flows_carry_the_new_rate(Kind::Datagrams, Output::srt_caller("out", &address).latency(second()), source);
}

#[test]
fn raised_bandwidth_reaches_srt_connections_that_are_set_up_later() {
    let address = format!("127.0.0.1:{}", free_port());
    let caller = |name: &str| Output::srt_caller(name, &address).latency(second());
    let source = Source::srt_listener("in", &address).latency(second());
    let mut chain = Chain::start(Kind::Datagrams, caller("out"), source, (LOW, LOW));
    chain.sender.set_max_bandwidth(HIGH).unwrap();
    chain.receiver.set_max_bandwidth(HIGH).unwrap();
    // The next connection: the listener takes one caller at a time.
    chain.engine.block_on(chain.sender.replace_output("out", caller("out"))).unwrap();
    eventually("the new caller", || (chain.sender.stats().outputs[0].state == State::Connected).then_some(()));
    chain.everything_arrives();
    chain.stop();
}

#[test]
fn raised_bandwidth_reaches_rtp_output_and_source() {
    let address = format!("127.0.0.1:{}", free_port());
    raised_flows_carry_the_new_rate(Kind::Rtp, Output::rtp("out", &address), Source::rtp("in", &address));
}

#[test]
fn raised_bandwidth_reaches_rtmp_push_and_listener() {
    let address = format!("127.0.0.1:{}", free_port());
    let key = StreamKey::new("key").unwrap();
    let output = Output::rtmp_push("out", &format!("rtmp://{address}/live"), key.clone());
    raised_flows_carry_the_new_rate(Kind::Rtmp, output, Source::rtmp("in", &address, "live").key(key));
}

#[test]
fn raised_bandwidth_reaches_rtmp_play_and_pull() {
    let address = format!("127.0.0.1:{}", free_port());
    let key = StreamKey::new("key").unwrap();
    let output = Output::rtmp_pull("out", &address, "live").key(key.clone());
    raised_flows_carry_the_new_rate(
        Kind::Rtmp,
        output,
        Source::rtmp_pull("in", &format!("rtmp://{address}/live"), key),
    );
}

#[test]
fn raised_bandwidth_reaches_rtsp_listener_output_and_caller_source() {
    let address = format!("127.0.0.1:{}", free_port());
    let source = Source::rtsp_caller("in", &format!("rtsp://{address}/live")).transport(RtspTransport::Tcp);
    raised_flows_carry_the_new_rate(Kind::Rtsp, Output::rtsp_listener("out", &address, "live"), source);
}

#[test]
fn raised_bandwidth_reaches_rtsp_caller_output_and_listener_source() {
    let address = format!("127.0.0.1:{}", free_port());
    let output = Output::rtsp_caller("out", &format!("rtsp://{address}/live")).transport(RtspTransport::Tcp);
    raised_flows_carry_the_new_rate(Kind::Rtsp, output, Source::rtsp_listener("in", &address, "live"));
}

/// The policy `Warn` lets everything pass: that an SRT output paces what it sends must not be the limit instead.
fn warn_lets_everything_pass(listens: bool) {
    let address = format!("127.0.0.1:{}", free_port());
    let mut chain = if listens {
        let source = Source::srt_caller("in", &address).latency(second());
        Chain::start(Kind::Datagrams, Output::srt_listener("out", &address).latency(second()), source, (MIDDLE, HIGH))
    } else {
        let source = Source::srt_listener("in", &address).latency(second());
        Chain::start(Kind::Datagrams, Output::srt_caller("out", &address).latency(second()), source, (MIDDLE, HIGH))
    };
    chain.sender.set_bandwidth_policy(BandwidthPolicy::Warn).unwrap();
    std::thread::sleep(Duration::from_millis(300)); // sources take changed settings over within 100 ms
    chain.everything_arrives();
    let mut events = Vec::new();
    chain.engine.block_on(async {
        chain.sender.stop().await;
        while let Some(event) = chain.sender.next_event().await {
            events.push(event);
        }
    });
    assert!(events.iter().any(|e| matches!(e, Event::BandwidthExceeded { .. })), "{events:?}");
    chain.stop();
}

#[test]
fn warn_policy_set_at_run_time_reaches_srt_listener_output() {
    warn_lets_everything_pass(true);
}

#[test]
fn warn_policy_set_at_run_time_reaches_srt_caller_output() {
    warn_lets_everything_pass(false);
}

/// A maximum of its own stays when that of the flow is raised; what does not fit is told.
fn own_maximum_stays_and_drops_are_told(listens: bool) {
    let address = format!("127.0.0.1:{}", free_port());
    let own = Bitrate::mbps(1);
    let mut chain = if listens {
        let output = Output::srt_listener("out", &address).max_bandwidth(own);
        Chain::start(Kind::Datagrams, output, Source::srt_caller("in", &address), (LOW, HIGH))
    } else {
        let output = Output::srt_caller("out", &address).max_bandwidth(own);
        Chain::start(Kind::Datagrams, output, Source::srt_listener("in", &address), (LOW, HIGH))
    };
    chain.sender.set_max_bandwidth(HIGH).unwrap();
    std::thread::sleep(Duration::from_millis(300)); // sources take changed settings over within 100 ms
    let pushed = chain.run(Duration::from_millis(2500));
    let mut told = Vec::new();
    eventually("the event of what was dropped", || {
        let event = chain.engine.block_on(async {
            tokio::time::timeout(Duration::from_millis(50), chain.sender.next_event()).await.ok().flatten()
        });
        if let Some(Event::OutputLagging { output, dropped }) = event {
            assert_eq!(output, "out");
            told.push((Instant::now(), dropped));
        }
        // All that were dropped are told of in the end.
        let dropped = chain.sender.stats().outputs[0].dropped;
        told.last().filter(|(_, told)| dropped > pushed / 2 && *told == dropped).map(drop)
    });
    assert!(chain.arrived.load(Relaxed) < pushed / 2);
    assert!(told.len() <= 10, "once a second at most: {told:?}");
    chain.stop();
}

#[test]
fn srt_listener_output_tells_of_what_it_drops_and_keeps_its_own_maximum() {
    own_maximum_stays_and_drops_are_told(true);
}

#[test]
fn srt_caller_output_tells_of_what_it_drops_and_keeps_its_own_maximum() {
    own_maximum_stays_and_drops_are_told(false);
}

/// Buffer of a socket as the kernel reports it, in bytes: `rb` (receive) or `tb` (send). `None` if there is no such
/// socket.
fn kernel_buffer(table: &str, filter: &str, name: &str) -> Option<u64> {
    let listed = Command::new("ss").args(["-Hanm", table]).args(filter.split(' ')).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let field = listed.split(['(', ',', ')', ' ', '\n']).find_map(|field| field.strip_prefix(name));
    field.and_then(|bytes| bytes.parse().ok())
}

/// Buffer that the kernel has after so many bytes were asked for: at most its limit, doubled for its own overhead.
fn granted(bytes: u64, limit: &str) -> u64 {
    let limit: u64 = fs::read_to_string(limit).unwrap().trim().parse().unwrap();
    2 * bytes.min(limit)
}

/// Waits until the buffer of a socket has a size, while a little media flows.
#[track_caller]
fn buffer_becomes(chain: &mut Chain, table: &str, filter: &str, name: &str, bytes: u64) {
    let limit = if name == "rb" { "/proc/sys/net/core/rmem_max" } else { "/proc/sys/net/core/wmem_max" };
    let wanted = granted(bytes, limit);
    let mut last = None;
    let end = Instant::now() + Duration::from_secs(20);
    while last != Some(wanted) {
        assert!(Instant::now() < end, "{filter}: {name} is {last:?} instead of {wanted}");
        chain.push(0);
        std::thread::sleep(Duration::from_millis(20));
        last = kernel_buffer(table, filter, name);
    }
}

#[test]
fn raised_bandwidth_reaches_socket_buffers_of_rtp() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut chain = Chain::start(Kind::Rtp, Output::rtp("out", &address), Source::rtp("in", &address), (LOW, LOW));
    let source = format!("sport = :{port}");
    let output = format!("dport = :{port}");
    buffer_becomes(&mut chain, "-u", &source, "rb", 1 << 20);
    buffer_becomes(&mut chain, "-u", &output, "tb", 512 << 10);
    chain.sender.set_max_bandwidth(HIGH).unwrap();
    chain.receiver.set_max_bandwidth(HIGH).unwrap();
    buffer_becomes(&mut chain, "-u", &source, "rb", 2_500_000);
    buffer_becomes(&mut chain, "-u", &output, "tb", 1_250_000);
    chain.stop();
}

/// Raises the bandwidth of a flow and looks at the send buffer of its connection.
fn send_buffer_grows(kind: Kind, output: impl Into<Output>, source: impl Into<Source>, filter: &str) {
    let low = Bitrate::mbps(1);
    let mut chain = Chain::start(kind, output, source, (low, LOW));
    buffer_becomes(&mut chain, "-t", filter, "tb", 125_000);
    chain.sender.set_max_bandwidth(HIGH).unwrap();
    buffer_becomes(&mut chain, "-t", filter, "tb", 4 << 20);
    chain.stop();
}

#[test]
fn raised_bandwidth_reaches_send_buffers_of_rtmp() {
    let port = free_port();
    let key = StreamKey::new("key").unwrap();
    let address = format!("127.0.0.1:{port}");
    let url = format!("rtmp://127.0.0.1:{port}/live");
    let output = Output::rtmp_push("out", &url, key.clone());
    let source = Source::rtmp("in", &address, "live").key(key.clone());
    send_buffer_grows(Kind::Rtmp, output, source, &format!("dport = :{port}"));
    let output = Output::rtmp_pull("out", &address, "live").key(key.clone());
    let source = Source::rtmp_pull("in", &url, key);
    send_buffer_grows(Kind::Rtmp, output, source, &format!("state established sport = :{port}"));
}

#[test]
fn raised_bandwidth_reaches_send_buffers_of_rtsp() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let url = format!("rtsp://127.0.0.1:{port}/live");
    let output = Output::rtsp_caller("out", &url).transport(RtspTransport::Tcp);
    let source = Source::rtsp_listener("in", &address, "live");
    send_buffer_grows(Kind::Rtsp, output, source, &format!("dport = :{port}"));
    let output = Output::rtsp_listener("out", &address, "live");
    let source = Source::rtsp_caller("in", &url).transport(RtspTransport::Tcp);
    send_buffer_grows(Kind::Rtsp, output, source, &format!("state established sport = :{port}"));
}

#[test]
fn raised_bandwidth_reaches_the_queue_of_outputs() {
    let engine = Engine::builder().workers(2).build().unwrap();
    let flow = Flow::builder("queue", LOW).source(Source::app_datagrams("in")).output(Output::tap("tap"));
    let flow = engine.block_on(engine.start(flow.build().unwrap())).unwrap();
    let app = flow.app_source("in").unwrap();
    let mut tap = flow.tap("tap").unwrap();
    flow.set_max_bandwidth(HIGH).unwrap();
    std::thread::sleep(Duration::from_millis(300)); // sources take changed settings over within 100 ms
    // Four times what a queue at the old bandwidth holds.
    let packets = (1 << 20) / PAYLOAD as u64;
    let start = Instant::now();
    for number in 0..packets {
        while number > start.elapsed().as_millis() as u64 * PACKETS_PER_SECOND / 1000 {
            std::thread::sleep(Duration::from_millis(2)); // the pace
        }
        app.push(Kind::Datagrams.packet(number, 0)).unwrap();
    }
    let taken = std::iter::from_fn(|| tap.try_next()).count() as u64;
    assert_eq!(taken, packets, "{:?}", flow.stats());
    engine.block_on(flow.stop());
}
