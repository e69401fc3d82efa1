//! Regions whose media goes over SRT.

use crate::{
    common::{address, free_port, impair::Impaired, soon, until},
    failover::lose_an_ingest_engine,
    rig::{Rig, runner_of},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use streamlink_core::{
    AppSource, Bitrate, CryptoMode, Engine, Event, Events, Flow, FlowHandle, KeyLength, Latency, MemberStats, Output,
    Packet, Passphrase, Source, Tap,
};
use streamlink_moq::{
    NodeEvent, Relays, SrtLink, SrtTarget, SubscribeOptions, TrackOptions,
    outputs::{DescribedOutput, FlowOutputs},
    seal::RegionKeys,
};
use tokio::{runtime::Handle, task::JoinHandle};

/// Round trip of the networks between the ingest engine and the nodes.
const ROUND_TRIP: Duration = Duration::from_millis(150);

fn latency(millis: u16) -> Latency {
    Latency::from_millis(millis).unwrap()
}

/// Networks before the port of an ingest engine, and the settings of media over them.
async fn networks(loss_of_10_000: u64) -> ([Impaired; 2], SrtLink) {
    let port = free_port();
    let networks = [Impaired::start(&address(port)).await, Impaired::start(&address(port)).await];
    for network in &networks {
        network.round_trip(ROUND_TRIP);
        network.lose(loss_of_10_000);
    }
    let addresses = networks.iter().map(|network| network.address().to_string());
    let link = SrtLink::new(([127, 0, 0, 1], port).into(), addresses).unwrap();
    (networks, link)
}

/// Settings of media over SRT without an impaired network.
fn direct() -> SrtLink {
    let port = free_port();
    SrtLink::new(([127, 0, 0, 1], port).into(), [format!("127.0.0.1:{port}")]).unwrap()
}

/// Destination of an output: another engine that listens.
struct Studio {
    _engine: Engine,
    flow: FlowHandle,
    /// Numbers of the datagrams that came, which are read all the time, as a tap that is not read loses the oldest.
    numbers: Arc<Mutex<Vec<u64>>>,
}

/// Takes the datagrams of a tap.
async fn collect(mut tap: Tap, numbers: Arc<Mutex<Vec<u64>>>) {
    while let Some(packet) = tap.next().await {
        assert_eq!(packet.data().len(), 1316);
        for transport in packet.data().chunks(188) {
            assert_eq!(transport[4..12], packet.data()[4..12]);
        }
        numbers.lock().unwrap().push(u64::from_be_bytes(packet.data()[4..12].try_into().unwrap()));
    }
}

impl Studio {
    async fn start() -> Self {
        let engine = Engine::on(Handle::current()).unwrap();
        let flow = Flow::builder("studio", Bitrate::mbps(50))
            .source(Source::srt_listener("in", "127.0.0.1:0").latency(latency(1500)))
            .output(Output::tap("out"));
        let flow = engine.start(flow.build().unwrap()).await.unwrap();
        let numbers = Arc::<Mutex<Vec<u64>>>::default();
        tokio::spawn(collect(flow.tap("out").unwrap(), numbers.clone()));
        Self { _engine: engine, flow, numbers }
    }

    /// Output of a flow that sends here, from a node of the region.
    fn output(&self) -> Output {
        let address = self.flow.input_addresses()[0].clone();
        let port = address.rsplit(':').next().unwrap().split('?').next().unwrap().to_owned();
        Output::from(Output::srt_caller("studio", &format!("127.0.0.1:{port}")).latency(latency(1500))).region("eu")
    }

    fn count(&self) -> usize {
        self.numbers.lock().unwrap().len()
    }

    /// Waits for media that comes from now on.
    async fn media(&self) {
        let before = self.count();
        until("media at the destination", || self.count() > before + 10).await;
    }

    /// Checks that each datagram has come once and in order, from the first one that came up to the last. Returns how many.
    async fn assert_whole(&self, last: u64) -> usize {
        until("the last datagram", || self.numbers.lock().unwrap().last() == Some(&last)).await;
        let numbers = self.numbers.lock().unwrap();
        let gaps: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
        assert!(gaps.is_empty(), "{gaps:?} of {} {:?}", numbers.len(), self.flow.stats().sources[0]);
        numbers.len()
    }
}

/// Returns a datagram of seven transport packets with a number.
fn numbered(number: u64) -> Packet {
    let mut transport = vec![0x47, 0x01, 0x00, 0x10];
    transport.extend(number.to_be_bytes());
    transport.resize(188, 0xaa);
    Packet::datagram(transport.repeat(7), Instant::now())
}

/// Pushes numbered datagrams (3.5 Mb/s) until it is to end. Returns the last number.
struct Pusher {
    end: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Pusher {
    fn start(source: AppSource) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let is_over = end.clone();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(3));
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                ticks.tick().await;
                number += 1;
                let _ = source.push(numbered(number)); // the flow may have ended
            }
            number
        });
        Self { end, task }
    }

    async fn finish(self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn start(engine: &Engine, output: Output) -> (FlowHandle, Pusher) {
    let flow = Flow::builder("match-day", Bitrate::mbps(20)).source(Source::app_datagrams("in")).output(output);
    let flow = engine.start(flow.build().unwrap()).await.unwrap();
    let pusher = Pusher::start(flow.app_source("in").unwrap());
    (flow, pusher)
}

/// Legs over SRT, as the flow's handle shows them.
fn srt_legs(flow: &FlowHandle) -> Vec<MemberStats> {
    let legs = flow.stats().regions.into_iter().flat_map(|region| region.legs);
    legs.filter(|leg| leg.address.starts_with("srt://") && leg.connected_for.is_some()).collect()
}

/// Waits for an event of a flow.
async fn event<T>(events: &mut Events, name: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    soon(name, async {
        loop {
            let event = events.next().await.expect("the flow runs");
            println!("{event}");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_over_srt_loses_nothing_at_ten_percent_loss_and_150_ms() {
    let (_networks, link) = networks(1000).await;
    let rig = Rig::start().await;
    let ingest = rig.ingest_over(rig.relay_addresses(), Some(link));
    let _nodes = rig.nodes(["n1"]).await;
    let studio = Studio::start().await;
    let (flow, pusher) = start(&ingest, studio.output()).await;
    until("both legs", || srt_legs(&flow).len() == 2).await;
    studio.media().await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let legs = srt_legs(&flow);
    let last = pusher.finish().await;
    println!("{} datagrams over {legs:?}", studio.assert_whole(last).await);
    for leg in legs {
        assert!(leg.packets > 1000 && leg.retransmitted > leg.packets / 20, "{leg:?}");
        assert!((140..400).contains(&leg.round_trip.as_millis()), "{leg:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_over_srt_loses_nothing_when_a_leg_is_killed() {
    let (networks, link) = networks(1000).await;
    let rig = Rig::start().await;
    // One leg alone has to make up for its loss meanwhile, on a machine that is busy with other tests, too.
    let ingest = rig.ingest_over(rig.relay_addresses(), Some(link.latency(latency(3000))));
    let _nodes = rig.nodes(["n1"]).await;
    let studio = Studio::start().await;
    let (flow, pusher) = start(&ingest, studio.output()).await;
    until("both legs", || srt_legs(&flow).len() == 2).await;
    let mut events = flow.events();
    let mut remarks = flow.events();
    studio.media().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    networks[0].lose(10_000);
    let lost = event(&mut events, "loss of the leg", |event| match event {
        Event::RegionLegLost { leg, .. } if leg.starts_with("srt://") => Some(leg.clone()),
        _ => None,
    });
    lost.await;
    until("one leg", || srt_legs(&flow).len() == 1).await;
    // The node tells it, too, as the path may be cut in one direction only.
    let told = event(&mut remarks, "the node's remark", |event| match event {
        Event::RegionNotice { text, .. } if text.starts_with("node n1: media over SRT") => Some(()),
        _ => None,
    });
    told.await;
    networks[0].lose(1000);
    until("the leg again", || srt_legs(&flow).len() == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last = pusher.finish().await;
    println!("{} datagrams", studio.assert_whole(last).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_over_srt_refuses_a_wrong_passphrase_and_says_so() {
    let link = direct();
    let rig = Rig::start().await;
    let ingest = rig.ingest_over(rig.relay_addresses(), Some(link));
    let mut nodes = rig.nodes(["n1"]).await;
    let studio = Studio::start().await;
    let (flow, _pusher) = start(&ingest, studio.output()).await;
    let mut events = flow.events();
    studio.media().await;

    // What nodes of the region know, with another passphrase.
    let relays = Relays::connect(&rig.relay_addresses(), &rig.certificate.settings(), None).unwrap();
    let mut found = relays.links()[0].announcements("live/outputs/eu").unwrap();
    let path = soon("the description", found.next()).await.unwrap().path;
    let options = SubscribeOptions::default();
    let mut reader = soon("a subscription", relays.links()[0].subscribe(&path, "outputs", options)).await.unwrap();
    let sealed = soon("the outputs", reader.next_object()).await.unwrap().unwrap();
    let outputs = FlowOutputs::open(&sealed, &RegionKeys::new(rig.key.clone()), "eu", "match-day").unwrap();
    let target = outputs.srt.clone().expect("media over SRT");
    let wrong = Passphrase::new("another-passphrase").unwrap();

    let thief = Engine::on(Handle::current()).unwrap();
    let source = Source::srt_caller("in", &target.addresses[0].to_string())
        .stream_id(&target.stream_id)
        .encryption(wrong.clone(), KeyLength::Aes256)
        .crypto_mode(CryptoMode::AesGcm);
    let stolen = Flow::builder("stolen", Bitrate::mbps(20)).source(source).output(Output::tap("out"));
    let stolen = thief.start(stolen.build().unwrap()).await.unwrap();
    let mut told = stolen.events();
    let refused = event(&mut told, "the refusal", |event| match event {
        Event::SourceRetrying { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    let refused = refused.await;
    assert!(refused.contains("passphrase"), "{refused}");
    assert_eq!(stolen.stats().sources[0].packets, 0);
    let notice = event(&mut events, "the refusal at the flow's handle", |event| match event {
        Event::RegionNotice { text, .. } if text.contains("refused") => Some(text.to_string()),
        _ => None,
    });
    let notice = notice.await;
    assert!(notice.contains("passphrase") && notice.starts_with("media over SRT: 127.0.0.1"), "{notice}");

    // A node that is told a wrong one says so.
    let forged = FlowOutputs {
        flow: "forged".into(),
        publisher: 1,
        outputs: vec![DescribedOutput { id: 1, output: Output::from_url("p", "srt://127.0.0.1:9") }],
        srt: Some(SrtTarget { passphrase: wrong, ..target }),
        ..outputs
    };
    let broadcast = relays.publish("live/outputs/eu/forged/0000000000000001").unwrap();
    let track = broadcast.track("outputs", TrackOptions::default()).unwrap();
    track.write_object(forged.seal(&rig.key.public_key()).unwrap()).unwrap();
    broadcast.announce().unwrap();
    let reason = soon("the node's remark", async {
        loop {
            match nodes[0].next_event().await.unwrap() {
                NodeEvent::Failed { flow, reason } if flow == "forged" => return reason,
                _ => {}
            }
        }
    });
    let reason = reason.await;
    assert!(reason.contains("passphrase") && reason.contains("media over SRT from srt://127.0.0.1"), "{reason}");
    assert!(!reason.contains("another-passphrase"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_over_srt_goes_on_at_another_node() {
    let rig = Rig::start().await;
    let ingest = rig.ingest_over(rig.relay_addresses(), Some(direct()));
    let mut nodes = rig.nodes(["n1", "n2"]).await;
    let studio = Studio::start().await;
    let (flow, _pusher) = start(&ingest, studio.output()).await;
    studio.media().await;
    // The standby receives as well.
    until("both nodes", || srt_legs(&flow).len() == 2).await;
    let runner = runner_of(&nodes, "match-day/studio").await;
    let gone = nodes.remove(runner).key().id.clone();
    let next = runner_of(&nodes, "match-day/studio").await;
    assert_ne!(nodes[next].key().id, gone);
    studio.media().await;
    until("the leg of the other node alone", || srt_legs(&flow).len() == 1).await;
    // A flow that leaves the region ends its connections, and another may use the port.
    flow.stop().await;
    until("no flow", || nodes[0].state().flows == 0).await;
    let (again, _pusher) = start(&ingest, studio.output()).await;
    until("a leg", || srt_legs(&again).len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_over_srt_loses_nothing_when_one_of_two_ingest_engines_dies() {
    let rig = Rig::start().await;
    let engines = [direct(), direct()].map(|link| rig.ingest_over(rig.relay_addresses(), Some(link)));
    lose_an_ingest_engine(&rig, [&engines[0], &engines[1]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_over_srt_waits_for_a_port_that_is_taken() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let rig = Rig::start().await;
    let link = SrtLink::new(address, [address.to_string()]).unwrap();
    let ingest = rig.ingest_over(rig.relay_addresses(), Some(link));
    let _nodes = rig.nodes(["n1"]).await;
    let studio = Studio::start().await;
    let (flow, _pusher) = start(&ingest, studio.output()).await;
    let mut events = flow.events();
    let reason = event(&mut events, "the reason", |event| match event {
        Event::RegionRetrying { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    let reason = reason.await;
    assert!(reason.contains("cannot be sent over SRT") && reason.contains(&address.port().to_string()), "{reason}");
    drop(taken);
    studio.media().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_leg_that_loses_too_much_for_quic_is_told_at_the_flows_handle() {
    let rig = Rig::start().await;
    let networks = [Impaired::start(&rig.relays[0].address()).await, Impaired::start(&rig.relays[1].address()).await];
    networks[1].round_trip(Duration::from_millis(60));
    let relays = networks.iter().map(Impaired::address).collect();
    let ingest = rig.ingest_over(relays, None);
    let _nodes = rig.nodes(["n1"]).await;
    let studio = Studio::start().await;
    let (flow, _pusher) = start(&ingest, studio.output()).await;
    let mut events = flow.events();
    studio.media().await;
    networks[1].lose(500);
    let lossy = event(&mut events, "the loss", |event| match event {
        Event::RegionLegLossy { leg, basis_points, round_trip, .. } => Some((leg.clone(), *basis_points, *round_trip)),
        _ => None,
    });
    let (leg, basis_points, round_trip) = lossy.await;
    assert_eq!(*leg, *networks[1].address().to_string());
    assert!((100..2000).contains(&basis_points), "{basis_points}");
    assert!(round_trip >= Duration::from_millis(50), "{round_trip:?}");
    let legs = flow.stats().regions[0].legs.clone();
    assert!(legs[0].recent_loss < 100 && legs[1].recent_loss >= 100, "{legs:?}");
    assert!(ingest.metrics().contains("streamlink_region_leg_loss_ratio"));
}

/// Carries packets of a family over SRT, to a server of its protocol. Returns what came out there.
async fn carry(
    source: impl streamlink_core::IntoSource,
    listen: &str,
    sdp: Option<&str>,
    mut make: impl FnMut(u32) -> Vec<Packet>,
) -> Vec<Packet> {
    let rig = Rig::start().await;
    let ingest = rig.ingest_over(rig.relay_addresses(), Some(direct()));
    let _nodes = rig.nodes(["n1"]).await;
    let server = Engine::on(Handle::current()).unwrap();
    let flow = Flow::builder("server", Bitrate::mbps(50)).source(Source::from_url("in", listen));
    let served = server.start(flow.output(Output::tap("out")).build().unwrap()).await.unwrap();
    let mut tap = served.tap("out").unwrap();
    let output = Output::from_url("server", &served.input_addresses()[0]).region("eu");
    let flow = Flow::builder("match-day", Bitrate::mbps(20)).source(source).output(output);
    let flow = ingest.start(flow.build().unwrap()).await.unwrap();
    let source = flow.app_source("in").unwrap();
    if let Some(sdp) = sdp {
        source.set_sdp(sdp).unwrap();
    }
    let mut received = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut frame = 0;
    let all = async {
        while received.len() < 120 {
            ticks.tick().await;
            source.push_all(make(frame)).unwrap();
            frame += 1;
            while let Some(packet) = tap.try_next() {
                received.push(packet);
            }
        }
    };
    soon("packets at the server", all).await;
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_over_srt_carries_rtmp_with_its_headers() {
    let video = |frame: u32| {
        let kind = if frame.is_multiple_of(25) { 0x17 } else { 0x27 };
        let mut body = vec![kind, 1, 0, 0, 0];
        body.extend(frame.to_be_bytes());
        body.resize(4000, 7); // more than a packet of the link holds
        Packet::rtmp(streamlink_core::RtmpKind::Video, frame * 20, body, Instant::now())
    };
    // The decoder configuration comes once, long before the node receives.
    let config = vec![0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff, 0xe0, 0];
    let first = config.clone();
    let make = |frame| {
        let header = Packet::rtmp(streamlink_core::RtmpKind::Video, 0, first.clone(), Instant::now());
        if frame == 0 { vec![header, video(frame)] } else { vec![video(frame)] }
    };
    let received = carry(Source::app_rtmp("in"), "rtmp://127.0.0.1:0/live?mode=listener", None, make).await;
    let bodies: Vec<_> = received.iter().map(|packet| packet.data().to_vec()).collect();
    assert!(bodies.contains(&config), "no decoder configuration");
    let frames: Vec<u32> = bodies
        .iter()
        .filter(|body| body.len() == 4000)
        .map(|body| u32::from_be_bytes(body[5..9].try_into().unwrap()))
        .collect();
    assert!(frames.len() > 100 && frames[0].is_multiple_of(25), "{frames:?}");
    assert!(frames.windows(2).all(|pair| pair[1] == pair[0] + 1), "{frames:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_over_srt_carries_rtsp_with_its_sdp() {
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\n\
               m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\na=control:trackID=0\r\n";
    let make = |frame: u32| {
        let mut rtp = vec![0x80, 97];
        rtp.extend(u16::try_from(frame % 65_536).unwrap().to_be_bytes());
        rtp.extend((frame * 960).to_be_bytes());
        rtp.extend([1, 2, 3, 4]);
        rtp.resize(12 + 160, 9);
        vec![Packet::rtsp(0, rtp, Instant::now())]
    };
    let received = carry(Source::app_rtsp("in"), "rtsp://127.0.0.1:0/cam?mode=listener", Some(sdp), make).await;
    let numbers: Vec<u16> =
        received.iter().map(|packet| u16::from_be_bytes([packet.data()[2], packet.data()[3]])).collect();
    assert!(received.iter().all(|packet| packet.data().len() == 172 && packet.rtsp_track() == Some(0)));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{numbers:?}");
}
