//! Tests with a host that calls the library from every callback of the library: releases of bytes, wakers, log lines.
//! None of these callbacks runs under a lock, and all calls return.

use super::{Engine, FlowHandle, SourceEdit};
use crate::{
    endpoint::AppSource,
    flow::{Bitrate, Failover, FailoverPolicy, Flow, Output, Source, StreamKey},
    lock,
    media::{MediaFamily, Packet, RtmpKind},
};
use bytes::Bytes;
use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

/// Time after which a test counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Host {
    engine: Engine,
    flow: FlowHandle,
    sources: Vec<AppSource>,
    calls: AtomicUsize,
    under_lock: AtomicBool,
    wakes: AtomicUsize,
}

impl Host {
    /// Calls every function that may be called from anywhere.
    fn act(&self) {
        if lock::is_held() {
            self.under_lock.store(true, Relaxed);
            return; // the calls below could hang, which would hide the cause
        }
        if IS_INSIDE.replace(true) {
            return;
        }
        self.calls.fetch_add(1, Relaxed);
        for source in &self.sources {
            let _ = source.push(packet(source.family(), 0, Bytes::from_static(&[0x27, 1])));
        }
        let _ = (self.flow.stats(), self.flow.events().try_next(), self.engine.metrics());
        let _ = self.flow.set_max_bandwidth(Bitrate::mbps(900));
        let _ = self.flow.edit_source("in", SourceEdit::new().description("edited"));
        IS_INSIDE.set(false);
    }
}

struct Lent(Weak<Host>, Vec<u8>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(host) = self.0.upgrade() {
            host.act();
        }
    }
}

impl Wake for Lent {
    fn wake(self: Arc<Self>) {
        if let Some(host) = self.0.upgrade() {
            host.wakes.fetch_add(1, Relaxed);
            host.act();
        }
    }
}

/// Host whose logger is called.
static LOGGED: Mutex<Weak<Host>> = Mutex::new(Weak::new());

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains("flow `hostile`") {
            let host = LOGGED.lock().unwrap().upgrade();
            if let Some(host) = host {
                host.act();
            }
        }
    }

    fn flush(&self) {}
}

/// Returns a packet of a family; RTP and RTSP packets have a header before the bytes.
fn packet(family: MediaFamily, time: u32, data: Bytes) -> Packet {
    let now = Instant::now();
    match family {
        MediaFamily::Datagrams => Packet::datagram(data, now),
        MediaFamily::Rtp => Packet::rtp(data, now),
        MediaFamily::Rtmp => Packet::rtmp(RtmpKind::Video, time, data, now),
        MediaFamily::Rtsp => Packet::rtsp(0, data, now),
    }
}

/// Returns a packet whose bytes belong to the host.
fn lent(host: &Arc<Host>, family: MediaFamily, number: u32) -> Packet {
    let data = match family {
        MediaFamily::Datagrams => vec![0x47; 188],
        MediaFamily::Rtmp if number.is_multiple_of(5) => vec![0x17, 1, 0, 0, 0],
        MediaFamily::Rtmp => vec![0x27, 1, 0, 0, 0],
        MediaFamily::Rtp | MediaFamily::Rtsp => {
            let mut data = vec![0x80, 96];
            data.extend((number as u16).to_be_bytes());
            data.extend((number * 3000).to_be_bytes());
            data.extend([0, 0, 0, 7, 0x65, 1, 2, 3]);
            data
        }
    };
    packet(family, number * 40, Bytes::from_owner(Lent(Arc::downgrade(host), data)))
}

/// Runs a flow through every situation: alternating packets of two sources, invalid packets, a source that is silent
/// for a while, a tap that lags and is dropped, waiting readers, and a stop.
fn abuse(flow: Flow, names: &[&str]) {
    let engine = Engine::builder().workers(2).build().unwrap();
    let handle = engine.block_on(engine.start(flow)).unwrap();
    let sources = names.iter().map(|name| handle.app_source(name).unwrap()).collect();
    let host = Arc::new(Host {
        engine,
        flow: handle,
        sources,
        calls: AtomicUsize::new(0),
        under_lock: AtomicBool::new(false),
        wakes: AtomicUsize::new(0),
    });
    *LOGGED.lock().unwrap() = Arc::downgrade(&host);
    let waker = || Waker::from(Arc::new(Lent(Arc::downgrade(&host), Vec::new())));
    let (mut tap, mut events) = (host.flow.tap("tap").unwrap(), host.flow.events());
    let family = host.sources[0].family();
    if family == MediaFamily::Rtsp {
        let sdp =
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
        host.sources.iter().for_each(|source| source.set_sdp(sdp).unwrap());
    }
    let other = if family == MediaFamily::Rtp { MediaFamily::Datagrams } else { MediaFamily::Rtp };
    for number in 0..400 {
        for (at, source) in host.sources.iter().enumerate() {
            // The first source is silent for longer than the loss threshold.
            if number == 200 && at == 0 {
                std::thread::sleep(Duration::from_millis(60));
            }
            if at == 0 && (200..300).contains(&number) && host.sources.len() > 1 {
                continue;
            }
            let _ = source.push(lent(&host, family, number));
            let _ = source.push(lent(&host, family, number)); // a duplicate
            let _ = source.push(lent(&host, other, number));
            let _ = source.push_all((0..3).map(|_| {
                host.act(); // the iterator is host code, too
                lent(&host, family, number)
            }));
        }
        // Readers wait with a different waker each time, and one of them lags in between.
        let waker = waker();
        let mut cx = Context::from_waker(&waker);
        if !(100..=300).contains(&number) {
            while std::pin::pin!(tap.next()).poll(&mut cx).is_ready() {}
        }
        while std::pin::pin!(events.next()).poll(&mut cx).is_ready() {}
    }
    drop(tap);
    let late = Output::rtmp_push("late", "rtmp://127.0.0.1:9/app", StreamKey::new("key").unwrap());
    let _ = host.engine.block_on(host.flow.add_output(late)); // refused for some families
    let _ = host.engine.block_on(host.flow.remove_output("tap"));
    host.engine.block_on(host.flow.stop());
    assert!(!host.under_lock.load(Relaxed), "the host's code has run under a lock");
    assert!(host.calls.load(Relaxed) > 400 && host.wakes.load(Relaxed) > 0);
}

fn watched(flow: Flow, names: &'static [&'static str]) {
    let (done, wait) = mpsc::channel();
    let run = std::thread::spawn(move || {
        abuse(flow, names);
        let _ = done.send(());
    });
    if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the host's code waits for ever");
    }
    run.join().unwrap();
}

#[test]
fn host_code_may_call_the_library_from_everywhere() {
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let key = || StreamKey::new("key").unwrap();
    let rate = Bitrate::mbps(900);
    let stay = Failover::new(FailoverPolicy::Stay).loss_threshold(Duration::from_millis(50));
    let merge = Failover::new(FailoverPolicy::Merge(Duration::from_millis(100)));
    let tap = || Output::tap("tap");
    let alone = &["in"][..];
    let both = &["in", "spare"][..];
    let flow = Flow::builder("hostile", rate).source(Source::app_datagrams("in")).output(tap());
    let remux = Output::rtmp_push("remux", "rtmp://127.0.0.1:9/app", key());
    watched(flow.output(remux).output(Output::srt_listener("players", "127.0.0.1:0")).build().unwrap(), alone);
    let flow =
        Flow::builder("hostile", rate).source(Source::app_datagrams("in")).backup(Source::app_datagrams("spare"));
    watched(flow.failover(stay).output(tap()).build().unwrap(), both);
    let flow = Flow::builder("hostile", rate).source(Source::app_rtp("in")).backup(Source::app_rtp("spare"));
    watched(flow.failover(merge).output(tap()).output(Output::rtp("out", "127.0.0.1:9")).build().unwrap(), both);
    let flow = Flow::builder("hostile", rate).source(Source::app_rtmp("in")).backup(Source::app_rtmp("spare"));
    let play = Output::rtmp_pull("players", "127.0.0.1:0", "live");
    watched(flow.failover(stay).output(tap()).output(play).build().unwrap(), both);
    let flow = Flow::builder("hostile", rate).source(Source::app_rtsp("in")).backup(Source::app_rtsp("spare"));
    watched(flow.failover(stay).output(tap()).build().unwrap(), both);
}
