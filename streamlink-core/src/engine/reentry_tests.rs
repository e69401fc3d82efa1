//! Tests with a host that calls the library from every callback of the library: releases of bytes, wakers, log lines.
//! None of these callbacks runs under a lock, and all calls return.

use super::{Engine, FlowHandle, SourceEdit};
use crate::{
    endpoint::{Access, AppSource},
    flow::{BandwidthPolicy, Bitrate, Failover, FailoverPolicy, Flow, Output, Source, StreamKey},
    lock,
    media::{MediaFamily, Packet, RtmpKind},
};
use bytes::Bytes;
use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, OnceLock, Weak,
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
    let mut tap = host.flow.tap("tap").unwrap();
    let mut events = host.flow.events();
    let family = host.sources[0].family();
    if family == MediaFamily::Rtsp {
        let sdp =
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
        for source in &host.sources {
            source.set_sdp(sdp).unwrap();
        }
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

/// Host that makes one call from within a task of the library, which must not wait for that task.
struct Within {
    engine: Engine,
    flow: FlowHandle,
    has_called: AtomicBool,
    call: Call,
    returned: mpsc::Sender<()>,
}

/// Calls that wait for tasks when any other thread makes them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Remove,
    Replace,
    Add,
    Kick,
    Stop,
    Shutdown,
    Start,
}

impl Within {
    /// Makes the call on this thread, as a host does that has no executor.
    fn act(&self) {
        if !self.has_called.swap(true, Relaxed) {
            self.engine.block_on(self.call());
            let _ = self.returned.send(());
        }
    }

    async fn call(&self) {
        match self.call {
            Call::Remove => self.flow.remove_output("out").await.unwrap(),
            Call::Replace => self.flow.replace_output("out", Output::tap("new")).await.unwrap(),
            Call::Add => self.flow.add_output(Output::tap("new")).await.unwrap(),
            Call::Kick => {
                for player in self.flow.stats().outputs.iter().flat_map(|output| &output.players) {
                    let _ = self.flow.kick_player("out", player.peer).await;
                }
                let _ = self.flow.kick_player("out", ([127, 0, 0, 1], 9).into()).await;
            }
            Call::Stop => self.flow.stop().await,
            Call::Shutdown => self.engine.shutdown().await,
            Call::Start => {
                let flow = Flow::builder("another", Bitrate::mbps(1)).source(Source::app_datagrams("in"));
                let flow = self.engine.start(flow.output(Output::srt_listener("x", "127.0.0.1:0")).build().unwrap());
                flow.await.unwrap().stop().await;
            }
        }
    }
}

impl Wake for Within {
    fn wake(self: Arc<Self>) {
        // Threads of the engine run tasks and nothing else.
        if std::thread::current().name() == Some("streamlink") {
            self.act();
        }
    }
}

/// Runs a flow with one output `out`, whose task emits an event when it connects or fails to. The host makes its call
/// when it is woken for that event, on that task.
fn call_on_the_task_of(source: Source, output: Output, call: Call) {
    // One worker: a call that blocks it must let other tasks go on.
    let engine = Engine::builder().workers(1).build().unwrap();
    let flow = Flow::builder("own", Bitrate::mbps(1)).source(source).build().unwrap();
    let flow = engine.block_on(engine.start(flow)).unwrap();
    let mut events = flow.events();
    while events.try_next().is_some() {} // those of the start, which a new reader gets, too
    let (returned, wait) = mpsc::channel();
    let host = Arc::new(Within { engine, flow, has_called: AtomicBool::new(false), call, returned });
    let waker = Waker::from(host.clone());
    assert!(std::pin::pin!(events.next()).poll(&mut Context::from_waker(&waker)).is_pending());
    host.engine.block_on(host.flow.add_output(output)).unwrap();
    // A player of another engine, for an output that listens.
    let others = Engine::builder().workers(1).build().unwrap();
    let _player = host.flow.playback_urls().first().map(|(_, url)| {
        let address = url.split("//").nth(1).unwrap().split('/').next().unwrap();
        let address = format!("127.0.0.1:{}", address.rsplit_once(':').unwrap().1.split('?').next().unwrap());
        let source: Source = if url.starts_with("srt") {
            Source::srt_caller("in", &address).into()
        } else {
            Source::rtmp_pull("in", &format!("rtmp://{address}/live"), StreamKey::new("key").unwrap()).into()
        };
        others
            .block_on(others.start(Flow::builder("player", Bitrate::mbps(1)).source(source).build().unwrap()))
            .unwrap()
    });
    wait.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{call:?} waits for the task that makes it"));
    let names = || host.flow.stats().outputs.iter().map(|output| output.name.clone()).collect::<Vec<_>>();
    match call {
        Call::Remove => assert_eq!(names(), [""; 0]),
        Call::Replace => assert_eq!(names(), ["new"]),
        Call::Add => assert_eq!(names(), ["out", "new"]),
        _ => assert_eq!(names(), ["out"]),
    }
    // Whatever goes on in the background comes to its end, for which others wait.
    host.engine.block_on(host.flow.stop());
    host.engine.block_on(host.engine.shutdown());
}

/// Runs a test that hangs if it fails.
fn bounded(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let run = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if wait.recv_timeout(2 * PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("a call waits for ever");
    }
    run.join().unwrap();
}

const ALL_CALLS: [Call; 7] =
    [Call::Remove, Call::Replace, Call::Add, Call::Kick, Call::Stop, Call::Shutdown, Call::Start];

#[test]
fn call_within_an_outputs_task_does_not_wait_for_it() {
    let key = || StreamKey::new("key").unwrap();
    for call in ALL_CALLS {
        let rtmp = || Source::app_rtmp("in").into();
        let datagrams = || Source::app_datagrams("in").into();
        let push = Output::rtmp_push("out", "rtmp://127.0.0.1:9/app", key()).into();
        bounded(move || call_on_the_task_of(rtmp(), push, call));
        let pull = Output::rtmp_pull("out", "127.0.0.1:0", "live").key(key()).into();
        bounded(move || call_on_the_task_of(rtmp(), pull, call));
        let listener = Output::srt_listener("out", "127.0.0.1:0").into();
        bounded(move || call_on_the_task_of(datagrams(), listener, call));
    }
}

/// Bytes whose release makes the call.
struct Releasing(Arc<Within>);

impl AsRef<[u8]> for Releasing {
    fn as_ref(&self) -> &[u8] {
        &[1; 100]
    }
}

impl Drop for Releasing {
    fn drop(&mut self) {
        self.0.act();
    }
}

#[test]
fn call_of_a_release_function_does_not_wait_for_the_task_that_runs_it() {
    for call in ALL_CALLS {
        bounded(move || {
            let engine = Engine::builder().workers(1).build().unwrap();
            let flow = Flow::builder("own", Bitrate::mbps(1)).bandwidth_policy(BandwidthPolicy::Warn);
            let flow = flow.source(Source::app_datagrams("in")).output(Output::tap("out")).build().unwrap();
            let flow = engine.block_on(engine.start(flow)).unwrap();
            let source = flow.app_source("in").unwrap();
            let tap = flow.tap("out").unwrap();
            let (returned, wait) = mpsc::channel();
            let host = Arc::new(Within { engine, flow, has_called: AtomicBool::new(false), call, returned });
            let more = source.clone();
            let mut is_first = true;
            let calls = tap.for_each(move |_| {
                // The ring drops its oldest packet meanwhile, of which the tap then has the last handle.
                if std::mem::take(&mut is_first) {
                    for _ in 0..4000 {
                        more.push(packet(MediaFamily::Datagrams, 0, Bytes::from_static(&[7; 1000]))).unwrap();
                    }
                }
            });
            source.push(packet(MediaFamily::Datagrams, 0, Bytes::from_owner(Releasing(host.clone())))).unwrap();
            wait.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{call:?} waits for the task that makes it"));
            host.engine.block_on(calls.stop());
            host.engine.block_on(host.flow.stop());
        });
    }
}

#[test]
fn tap_callback_may_stop_itself() {
    bounded(|| {
        let engine = Arc::new(Engine::builder().workers(1).build().unwrap());
        let flow = Flow::builder("own", Bitrate::mbps(1)).source(Source::app_datagrams("in"));
        let flow = engine.block_on(engine.start(flow.output(Output::tap("out")).build().unwrap())).unwrap();
        let (give, take) = mpsc::channel();
        let (own_engine, (returned, wait)) = (engine.clone(), mpsc::channel());
        let calls = flow.tap("out").unwrap().for_each(move |_| {
            let calls: crate::endpoint::TapCallback = take.recv().unwrap();
            own_engine.block_on(calls.stop());
            returned.send(()).unwrap();
        });
        give.send(calls).unwrap();
        let source = flow.app_source("in").unwrap();
        source.push(packet(MediaFamily::Datagrams, 0, Bytes::from_static(&[7; 100]))).unwrap();
        wait.recv_timeout(PATIENCE).expect("the callback waits for itself");
        engine.block_on(flow.stop());
    });
}

#[test]
fn access_hook_may_stop_the_flow_it_is_asked_about() {
    for call in [Call::Remove, Call::Replace, Call::Stop, Call::Shutdown] {
        bounded(move || {
            let host: Arc<OnceLock<Arc<Within>>> = Arc::default();
            let asked = host.clone();
            let engine = Engine::builder().workers(1).access(move |_| {
                asked.wait().act();
                Access::Accept
            });
            let engine = engine.build().unwrap();
            let flow = Flow::builder("own", Bitrate::mbps(1)).source(Source::app_datagrams("in"));
            let flow = flow.output(Output::srt_listener("out", "127.0.0.1:0")).build().unwrap();
            let flow = engine.block_on(engine.start(flow)).unwrap();
            let address = flow.playback_urls()[0].1.replace("srt://", "");
            let (returned, wait) = mpsc::channel();
            let within = Arc::new(Within { engine, flow, has_called: AtomicBool::new(false), call, returned });
            assert!(host.set(within.clone()).is_ok());
            let others = Engine::builder().workers(1).build().unwrap();
            let source = Source::srt_caller("in", address.split('?').next().unwrap());
            let player = Flow::builder("player", Bitrate::mbps(1)).source(source).build().unwrap();
            let _player = others.block_on(others.start(player)).unwrap();
            wait.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{call:?} waits for the hook that makes it"));
            within.engine.block_on(within.flow.stop());
        });
    }
}
