//! Admission of SRT callers that are made by hand: stream ids in every form on a shared port, rejections with exact
//! codes, and callers that restart or move to another port.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};
use streamlink_core::{
    Bitrate, Engine, Event, Flow, FlowHandle, KeyLength, Output, Packet, Passphrase, RefusalReason, Source,
};
use streamlink_tests::{PATIENCE, eventually, rig::free_port};

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

const CONCLUSION: u32 = 0xffff_ffff;

/// An SRT caller that is made by hand.
struct Caller {
    socket: UdpSocket,
    listener: SocketAddr,
    own: u32,
    sequence: u32,
    version: u32,
    mtu: u32,
    /// Extensions behind HSREQ.
    more: Vec<u8>,
    /// Socket id of the listener.
    peer: u32,
}

/// An extension with a text.
fn text_extension(kind: u32, text: &[u8]) -> Vec<u8> {
    let mut name = text.to_vec();
    name.resize(name.len().next_multiple_of(4), 0);
    name.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    [words(&[(kind << 16) | (name.len() as u32 / 4)]), name].concat()
}

impl Caller {
    fn new(port: u16) -> Self {
        Self::from(UdpSocket::bind("127.0.0.1:0").unwrap(), port)
    }

    fn from(socket: UdpSocket, port: u16) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let listener = ([127, 0, 0, 1], port).into();
        Self { socket, listener, own: 777, sequence: 1000, version: 5, mtu: 1500, more: Vec::new(), peer: 0 }
    }

    fn named(port: u16, stream_id: &str) -> Self {
        Self { more: text_extension(5, stream_id.as_bytes()), ..Self::new(port) }
    }

    fn ask(&self, version: u32, kind: u32, cookie: u32, extensions: &[u8]) -> Vec<u8> {
        let field = if version == 5 { 5 } else { 2 };
        let own = self.own;
        let fixed = [1 << 31, 0, 0, 0, version, field, self.sequence, self.mtu, 8192, kind, own, cookie, 0, 0, 0, 0];
        let request = [&words(&fixed), extensions].concat();
        eventually("an answer of the listener", || {
            self.socket.send_to(&request, self.listener).unwrap();
            let mut answer = vec![0; 2048];
            let length = self.socket.recv(&mut answer).ok()?;
            answer.truncate(length);
            // Others are for a request before, which was repeated meanwhile.
            let is_handshake = length >= 64 && word(&answer, 0) == 1 << 31;
            let is_for_this = || word(&answer, 24) == self.sequence && (word(&answer, 36) == 1) == (kind == 1);
            (is_handshake && is_for_this()).then_some(answer)
        })
    }

    /// Asks to be let in. Returns the answer, or the code of the rejection.
    fn call(&mut self) -> Result<Vec<u8>, u32> {
        let cookie = word(&self.ask(4, 1, 0, &[]), 44);
        let mut extensions = Vec::new();
        if self.version == 5 {
            extensions = words(&[(1 << 16) | 3, 0x01_05_01, 0xbf, 120 << 16 | 120]);
            extensions.extend(&self.more);
        }
        let answer = self.ask(self.version, CONCLUSION, cookie, &extensions);
        match word(&answer, 36) {
            CONCLUSION => {
                self.peer = word(&answer, 40);
                Ok(answer)
            }
            code => Err(code - 1000),
        }
    }

    fn send(&mut self, since: Instant, payload: &[u8]) {
        let header = words(&[self.sequence, 0xe000_0001, since.elapsed().as_micros() as u32, self.peer]);
        self.socket.send_to(&[&header, payload].concat(), self.listener).unwrap();
        self.sequence += 1;
    }
}

struct Port {
    engine: Engine,
    port: u16,
    flows: Vec<FlowHandle>,
}

impl Port {
    fn new() -> Self {
        Self { engine: Engine::builder().workers(2).build().unwrap(), port: free_port(), flows: Vec::new() }
    }

    /// Adds a source to the port, with a stream id unless that is empty.
    fn source(&mut self, name: &str, stream_id: &str) -> &mut Self {
        let mut source = Source::srt_listener(name, &format!("127.0.0.1:{}", self.port));
        if !stream_id.is_empty() {
            source = source.stream_id(stream_id);
        }
        self.start(name, source.into())
    }

    fn start(&mut self, name: &str, source: Source) -> &mut Self {
        let output = Output::srt_listener("out", "127.0.0.1:0");
        let flow = Flow::builder(name, Bitrate::mbps(20)).source(source).output(output).build().unwrap();
        self.flows.push(self.engine.block_on(self.engine.start(flow)).unwrap());
        self
    }

    /// Waits for the refusal of a flow.
    fn refusal(&self, flow: usize) -> (RefusalReason, String) {
        self.engine.block_on(async {
            tokio::time::timeout(PATIENCE, async {
                loop {
                    let event = self.flows[flow].next_event().await.expect("an event");
                    if let Event::PeerRefused { reason, detail, .. } = event {
                        return (reason, detail.to_string());
                    }
                }
            })
            .await
            .expect("a refusal in time")
        })
    }

    fn refused(&self, flow: usize) -> u64 {
        self.flows[flow].stats().sources[0].refused
    }

    fn packets(&self, flow: usize) -> u64 {
        self.flows[flow].stats().sources[0].packets
    }
}

#[test]
fn srt_port_finds_streams_by_ids_of_every_form() {
    let mut port = Port::new();
    port.source("any", "").source("first", "cam1").source("second", "#!::r=cam 2,m=publish");
    for (id, flow) in [
        ("cam1", 1),
        ("#!::m=publish,u=me,r=cam1", 1),
        ("publish:cam1:me:secret", 1),
        ("#!::bmd_name=deck,u=cam1", 1),
        ("cam 2", 2),
        ("%23!::r=cam%202,m=publish", 2),
        ("cam3", 0),
        ("#!::r=cam3,m=publish", 0),
        ("", 0),
    ] {
        let before: Vec<u64> = (0..3).map(|at| port.packets(at)).collect();
        let mut caller = Caller::named(port.port, id);
        if id.is_empty() {
            caller.more.clear();
        }
        // The source is free once the caller before has said goodbye.
        eventually("admission", || caller.call().ok());
        let start = Instant::now();
        eventually("media of the right flow", || {
            caller.send(start, &[0x47; 188]);
            (port.packets(flow) > before[flow]).then_some(())
        });
        for other in (0..3).filter(|other| *other != flow) {
            assert_eq!(port.packets(other), before[other], "{id} reached flow {other}");
        }
        let goodbye = words(&[(1 << 31) | (5 << 16), 0, 0, caller.peer, 0]);
        caller.socket.send_to(&goodbye, caller.listener).unwrap();
        // What was sent is delivered after the latency.
        eventually("the end of the media", || {
            let count = port.packets(flow);
            std::thread::sleep(Duration::from_millis(300));
            (port.packets(flow) == count).then_some(())
        });
    }
}

#[test]
fn srt_port_rejects_with_exact_codes_and_reasons() {
    let mut port = Port::new();
    port.source("first", "cam1").source("second", "cam2");
    // What nobody can have meant is counted by all; what names a stream by that one.
    for (id, code, counted) in [
        ("cam9", 1404, [1, 1]),
        ("#!:{r=cam1,m=publish}", 1400, [1, 1]),
        ("#!::r=cam1,m=bidirectional", 1405, [1, 1]),
        ("#!::r=cam1,m=request", 1404, [1, 0]),
    ] {
        let before = [port.refused(0), port.refused(1)];
        assert_eq!(Caller::named(port.port, id).call().unwrap_err(), code, "{id}");
        eventually("the count", || {
            let now = [port.refused(0) - before[0], port.refused(1) - before[1]];
            (now == counted).then_some(())
        });
    }
    let (reason, detail) = port.refusal(1);
    assert_eq!(reason, RefusalReason::NoSuchStream);
    assert!(detail.contains("stream id `cam9`"), "{detail}");

    let mut old = Caller { version: 4, ..Caller::new(port.port) };
    assert_eq!(old.call().unwrap_err(), 8);
    eventually("an event about the version", || {
        let (reason, detail) = port.refusal(0);
        (reason == RefusalReason::Incompatible && detail.contains("VERSION, code 8") && detail.contains("version 4"))
            .then_some(())
    });
    let mut binary = Caller { more: text_extension(5, &[0xff, 0xfe, 1]), ..Caller::new(port.port) };
    assert_eq!(binary.call().unwrap_err(), 1400);
    let mut filtered = Caller::named(port.port, "cam1");
    filtered.more.extend(text_extension(7, b"reed,cols:10"));
    assert_eq!(filtered.call().unwrap_err(), 14, "a filter that nobody knows");
    let mut file = Caller::named(port.port, "cam1");
    file.more.extend(text_extension(6, b"file"));
    assert_eq!(file.call().unwrap_err(), 13);
    let mut grouped = Caller::named(port.port, "cam1");
    grouped.more.extend(words(&[(8 << 16) | 2, 0x4000_0001, 0x0900_0000])); // a type of group that nobody knows
    assert_eq!(grouped.call().unwrap_err(), 15);
}

#[test]
fn srt_listener_rejects_gcm_and_takes_smaller_packets() {
    let mut port = Port::new();
    let secret = Passphrase::new("correct horse battery").unwrap();
    let source = Source::srt_listener("secret", &format!("127.0.0.1:{}", port.port));
    port.start("secret", source.encryption(secret, KeyLength::Aes128).into());
    let mut caller = Caller::new(port.port);
    // Key material with the cipher AES-GCM.
    let mut material = words(&[0x1220_2901, 0, 0x0401_0000, 0x0000_0404]);
    material.extend([7; 16 + 24]);
    caller.more = [words(&[(3 << 16) | (material.len() as u32 / 4)]), material].concat();
    assert_eq!(caller.call().unwrap_err(), 17);
    let (reason, detail) = port.refusal(0);
    assert_eq!(reason, RefusalReason::Incompatible);
    assert!(detail.contains("CRYPTO, code 17"), "{detail}");

    let mut port = Port::new();
    port.source("any", "");
    let mut caller = Caller { mtu: 1360, ..Caller::new(port.port) };
    let answer = caller.call().unwrap();
    assert_eq!(word(&answer, 28), 1360);
}

#[test]
fn srt_caller_that_restarts_is_a_new_connection() {
    let mut port = Port::new();
    port.source("any", "");
    let mut caller = Caller::new(port.port);
    caller.call().unwrap();
    let start = Instant::now();
    eventually("media", || {
        caller.send(start, &[0x47; 188]);
        (port.packets(0) > 0).then_some(())
    });
    // The same port and socket id with another sequence, then the same port with another socket id.
    for own in [777, 778] {
        let before = port.packets(0);
        let mut again = Caller::from(caller.socket.try_clone().unwrap(), port.port);
        again.own = own;
        again.sequence = caller.sequence + 5_000_000;
        again.call().expect("admission at once");
        assert_ne!(again.peer, caller.peer);
        let start = Instant::now();
        eventually("media again", || {
            again.send(start, &[0x47; 188]);
            (port.packets(0) > before + 2).then_some(())
        });
        caller = again;
    }
}

#[test]
fn srt_caller_behind_nat_may_get_another_port() {
    let mut port = Port::new();
    port.source("any", "");
    let mut caller = Caller::new(port.port);
    caller.call().unwrap();
    let start = Instant::now();
    eventually("media", || {
        caller.send(start, &[0x47; 188]);
        (port.packets(0) > 0).then_some(())
    });
    caller.socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    caller.socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut answer = [0; 2048];
    eventually("an acknowledgement at the new port", || {
        caller.send(start, &[0x47; 188]);
        let length = caller.socket.recv(&mut answer).ok()?;
        (length >= 16 && word(&answer, 0) == (1 << 31) | (2 << 16) && word(&answer, 12) == caller.own).then_some(())
    });
    let before = port.packets(0);
    eventually("media from the new port", || {
        caller.send(start, &[0x47; 188]);
        (port.packets(0) > before + 20).then_some(())
    });
}

/// Datagrams that are larger than the payload size of an output are left out, by callers and listeners alike, and an
/// event says so.
#[test]
fn srt_output_tells_of_datagrams_above_its_payload_size() {
    let engine = Engine::builder().workers(2).build().unwrap();
    let start = |flow: Flow| engine.block_on(engine.start(flow)).unwrap();
    let far = start(
        Flow::builder("far", Bitrate::mbps(10))
            .source(Source::srt_listener("in", "127.0.0.1:0"))
            .output(Output::srt_listener("players", "127.0.0.1:0").payload_size(1000))
            .build()
            .unwrap(),
    );
    let input = far.input_addresses()[0].trim_start_matches("srt://").to_owned();
    let near = start(
        Flow::builder("near", Bitrate::mbps(10))
            .source(Source::app_datagrams("camera"))
            .output(Output::srt_caller("out", &input).payload_size(1316))
            .build()
            .unwrap(),
    );
    let playback = far.playback_urls()[0].1.trim_start_matches("srt://").to_owned();
    let last = start(
        Flow::builder("last", Bitrate::mbps(10))
            .source(Source::srt_caller("in", &playback))
            .output(Output::tap("tap"))
            .build()
            .unwrap(),
    );
    let mut tap = last.tap("tap").unwrap();
    let camera = near.app_source("camera").unwrap();
    let mut near_events = near.events();
    let mut far_events = far.events();
    let mut near_limit = None;
    let mut far_limit = None;
    let mut arrived = 0;
    eventually("both outputs tell of it, and what fits arrives", || {
        for size in [188, 1316, 1456] {
            camera.push(Packet::datagram(vec![7u8; size], Instant::now())).unwrap();
        }
        while let Some(packet) = tap.try_next() {
            assert_eq!(packet.data().len(), 188);
            arrived += 1;
        }
        while let Some(event) = near_events.try_next() {
            if let Event::OutputOversized { limit, packets, .. } = event {
                assert!(packets > 0);
                near_limit = Some(limit);
            }
        }
        while let Some(event) = far_events.try_next() {
            if let Event::OutputOversized { limit, .. } = event {
                far_limit = Some(limit);
            }
        }
        (arrived > 10 && near_limit == Some(1316) && far_limit == Some(1000)).then_some(())
    });
    engine.block_on(engine.shutdown());
}
