//! Tests of sources that come and go while the flow runs, of endpoints that are enabled and disabled, and of the
//! configuration that is read back.

use super::*;
use crate::{
    endpoint::AppSource,
    error::ErrorKind,
    event::Event,
    flow::{Bitrate, Failover, FailoverPolicy, Output, Source, StreamKey},
    media::Packet,
    router::State,
};
use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

/// Timeout of each wait, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn engine() -> Engine {
    Engine::builder().workers(2).build().unwrap()
}

fn rtp(sequence: u16, timestamp: u32, ssrc: u32) -> Packet {
    let mut data = vec![0x80, 96];
    data.extend(sequence.to_be_bytes());
    data.extend(timestamp.to_be_bytes());
    data.extend(ssrc.to_be_bytes());
    data.extend([1; 100]);
    Packet::rtp(data, Instant::now())
}

fn push(source: &AppSource, sequences: std::ops::Range<u16>, base: u32, ssrc: u32) {
    for sequence in sequences {
        source.push(rtp(sequence, base + u32::from(sequence) * 90, ssrc)).unwrap();
    }
}

/// Returns the sequence number and timestamp of each packet that a tap has now.
fn read(tap: &mut crate::endpoint::Tap) -> Vec<(u16, u32)> {
    let packets = std::iter::from_fn(|| tap.try_next());
    let numbers = |packet: Packet| {
        let data = packet.data();
        let sequence = u16::from_be_bytes(data[2..4].try_into().unwrap());
        (sequence, u32::from_be_bytes(data[4..8].try_into().unwrap()))
    };
    packets.map(numbers).collect()
}

fn goes_on(packets: &[(u16, u32)]) -> bool {
    packets.windows(2).all(|pair| pair[1].0 == pair[0].0.wrapping_add(1) && pair[1].1 > pair[0].1)
}

fn switches(running: &FlowHandle) -> Vec<(String, String)> {
    let mut events = running.events();
    let events = std::iter::from_fn(move || events.try_next());
    let switch = |event| match event {
        Event::Switched { from, to, .. } => Some((from, to)),
        _ => None,
    };
    events.filter_map(switch).collect()
}

#[test]
fn sources_are_added_switched_replaced_and_removed_while_media_goes_on() {
    let engine = engine();
    engine.block_on(async {
        let flow = Flow::builder("f", Bitrate::mbps(10)).source(Source::app_rtp("a")).output(Output::tap("tap"));
        let running = engine.start(flow.build().unwrap()).await.unwrap();
        let mut tap = running.tap("tap").unwrap();
        let a = running.app_source("a").unwrap();
        push(&a, 100..110, 0, 1);
        running.add_source(Source::app_rtp("b")).await.unwrap();
        let b = running.app_source("b").unwrap();
        push(&b, 40_000..40_005, 7_000_000, 2);
        assert!(switches(&running).is_empty(), "the first source has media");
        push(&a, 110..115, 0, 1);
        running.switch_to("b").unwrap();
        push(&b, 40_005..40_010, 7_000_000, 2);
        assert_eq!(switches(&running), [("a".to_owned(), "b".to_owned())]);
        push(&a, 115..120, 0, 1);
        assert!(!running.stats().sources[0].active && running.stats().sources[1].active);
        // The active source is replaced: the other one has media and takes over, then the new one by hand.
        assert_eq!(running.replace_source("b", Source::app_rtp("c")).await.unwrap(), Applied::Reconnect);
        assert_eq!(b.push(rtp(1, 1, 2)), Err(crate::endpoint::PushError::Closed));
        push(&a, 120..125, 0, 1);
        let c = running.app_source("c").unwrap();
        running.switch_to("c").unwrap();
        push(&c, 5..10, 1_000, 3);
        running.remove_source("a").await.unwrap();
        push(&c, 10..15, 1_000, 3);
        let seen = switches(&running);
        let name = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(seen, [name("a", "b"), name("b", "a"), name("a", "c")]);
        let packets = read(&mut tap);
        assert_eq!(packets.len(), 10 + 5 + 5 + 5 + 10);
        assert!(goes_on(&packets), "{packets:?}");
        let error = running.remove_source("c").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(running.add_source(Source::srt_listener("d", "127.0.0.1:0")).await.is_err(), "another family");
        assert_eq!(running.stats().sources.len(), 1);
        running.stop().await;
    });
}

#[test]
fn source_that_is_enabled_again_is_no_other_source() {
    let engine = engine();
    engine.block_on(async {
        let flow = Flow::builder("f", Bitrate::mbps(10)).source(Source::app_rtp("a")).output(Output::tap("tap"));
        let running = engine.start(flow.build().unwrap()).await.unwrap();
        let mut tap = running.tap("tap").unwrap();
        push(&running.app_source("a").unwrap(), 1..6, 0, 1);
        running.set_source_enabled("a", false).await.unwrap();
        running.set_source_enabled("a", true).await.unwrap();
        push(&running.app_source("a").unwrap(), 6..11, 0, 1);
        running.replace_source("a", Source::app_rtp("a")).await.unwrap();
        push(&running.app_source("a").unwrap(), 0..5, 0, 2);
        let packets = read(&mut tap);
        assert_eq!(packets.len(), 15);
        assert!(goes_on(&packets), "{packets:?}");
        assert_eq!(switches(&running), []);
        running.stop().await;
    });
}

#[test]
fn source_added_after_the_loss_of_the_only_one_continues_its_numbers() {
    let engine = engine();
    engine.block_on(async {
        let flow = Flow::builder("f", Bitrate::mbps(10)).source(Source::app_rtp("a")).output(Output::tap("tap"));
        let running = engine.start(flow.build().unwrap()).await.unwrap();
        let mut tap = running.tap("tap").unwrap();
        push(&running.app_source("a").unwrap(), 65_530..65_535, 90_000, 1);
        running.set_source_enabled("a", false).await.unwrap();
        assert_eq!(running.stats().sources[0].state, State::Idle);
        assert!(!running.stats().sources[0].enabled);
        running.add_source(Source::app_rtp("b")).await.unwrap();
        push(&running.app_source("b").unwrap(), 7..12, 0, 2);
        let packets = read(&mut tap);
        assert_eq!(packets.len(), 10);
        assert!(goes_on(&packets), "{packets:?}");
        assert_eq!(switches(&running), [("a".to_owned(), "b".to_owned())]);
        assert_eq!(running.set_source_enabled("a", true).await.unwrap(), Applied::Reconnect);
        assert_eq!(running.set_source_enabled("a", true).await.unwrap(), Applied::InPlace);
        push(&running.app_source("a").unwrap(), 0..5, 0, 1);
        assert_eq!(read(&mut tap).len(), 0, "the flow stays with the other source");
        running.stop().await;
    });
}

#[test]
fn source_that_needs_the_same_socket_is_replaced_and_comes_back_if_that_fails() {
    let engine = engine();
    let bind = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    engine.block_on(async {
        let flow = Flow::builder("f", Bitrate::mbps(10)).source(Source::rtp("a", &bind)).output(Output::tap("tap"));
        let running = engine.start(flow.build().unwrap()).await.unwrap();
        let replaced = running.replace_source("a", Source::rtp("b", &bind)).await.unwrap();
        assert_eq!(replaced, Applied::Reconnect);
        assert_eq!(running.input_addresses().len(), 1);
        let mut tap = running.tap("tap").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let first = async {
            for sequence in 1.. {
                sender.send_to(rtp(sequence, 90 * u32::from(sequence), 1).data(), &bind).unwrap();
                if tokio::time::timeout(Duration::from_millis(50), tap.next()).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, first).await.unwrap();
        // Another flow cannot take the address meanwhile, and can when the source is disabled.
        let other = || Flow::builder("g", Bitrate::mbps(1)).source(Source::rtp("x", &bind)).build().unwrap();
        assert!(engine.start(other()).await.is_err());
        running.set_source_enabled("b", false).await.unwrap();
        assert!(running.input_addresses().is_empty());
        let second = engine.start(other()).await.unwrap();
        assert!(running.set_source_enabled("b", true).await.is_err());
        second.stop().await;
        running.set_source_enabled("b", true).await.unwrap();
        assert_eq!(running.input_addresses().len(), 1);
        running.stop().await;
    });
}

#[test]
fn disabled_output_holds_its_name_and_configuration_and_no_socket() {
    let engine = engine();
    let bind = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    engine.block_on(async {
        let key = || StreamKey::new("hunter2").unwrap();
        let output = Output::rtmp_pull("out", &bind, "live").key(key()).enabled(false);
        let flow = Flow::builder("f", Bitrate::mbps(1)).source(Source::app_rtmp("in")).output(output);
        let running = engine.start(flow.build().unwrap()).await.unwrap();
        let is_open = || std::net::TcpStream::connect(&bind).is_ok();
        assert!(!is_open() && running.playback_urls().is_empty());
        assert!(running.add_output(Output::tap("out")).await.is_err(), "the name is taken");
        assert_eq!(running.set_output_enabled("out", true).await.unwrap(), Applied::Reconnect);
        assert!(is_open());
        assert_eq!(running.edit_output("out", OutputEdit::new().max_players(7)).unwrap(), Applied::InPlace);
        running.set_output_enabled("out", false).await.unwrap();
        assert!(!is_open());
        running.edit_output("out", OutputEdit::new().rename("new").description("later")).unwrap();
        let stats = running.stats();
        assert_eq!((stats.outputs[0].enabled, stats.outputs[0].state), (false, State::Idle));
        running.set_output_enabled("new", true).await.unwrap();
        assert!(is_open());
        let shown = running.configuration();
        assert!(!format!("{shown:?}").contains("hunter2"));
        assert_eq!(shown.outputs[0].name, "new");
        assert_eq!(shown.outputs[0].description.as_deref(), Some("later"));
        assert!(shown.outputs[0].settings.contains(&("max_players".to_owned(), "7".to_owned())));
        running.stop().await;
    });
}

#[test]
fn flow_configuration_read_back_starts_the_same_flow() {
    let engine = engine();
    engine.block_on(async {
        let flow = Flow::builder("f", Bitrate::mbps(1))
            .source(Source::rtmp("in", "127.0.0.1:0", "live")) // with a generated key
            .backup(Source::rtmp("spare", "127.0.0.1:0", "live"))
            .output(Output::tap("tap"));
        let running = engine.start(flow.build().unwrap()).await.unwrap();
        running.set_max_bandwidth(Bitrate::mbps(3)).unwrap();
        let terms = Failover::new(FailoverPolicy::Prefer(Duration::from_secs(2)));
        assert_eq!(running.set_failover(terms.loss_threshold(Duration::from_millis(90))).unwrap(), Applied::InPlace);
        running.edit_source("in", SourceEdit::new().allow("10.0.0.0/8".parse().unwrap())).unwrap();
        running.remove_source("spare").await.unwrap();
        running.add_output(Output::rtmp_pull("more", "127.0.0.1:0", "live").enabled(false)).await.unwrap();
        for wrong in [
            Failover::new(FailoverPolicy::Merge(Duration::from_millis(200))),
            Failover::new(FailoverPolicy::Stay).cold(),
            Failover::new(FailoverPolicy::Stay).loss_threshold(Duration::ZERO),
        ] {
            assert_eq!(running.set_failover(wrong).unwrap_err().kind(), ErrorKind::InvalidConfig);
        }
        let whole = running.configuration_with_secrets();
        running.stop().await;
        assert_eq!(whole.failover().loss_threshold, Duration::from_millis(90));
        assert_eq!((whole.sources().len(), whole.outputs().len()), (1, 2));
        assert_eq!(whole.max_bandwidth(), Bitrate::mbps(3));
        let shown = whole.configuration();
        assert!(shown.sources[0].url.starts_with("rtmp://127.0.0.1:0/live/…"), "{}", shown.sources[0].url);
        assert!(shown.sources[0].settings.contains(&("allow".to_owned(), "10.0.0.0/8".to_owned())));
        #[cfg(feature = "serde")]
        assert_eq!(Flow::from_json(&whole.to_json()).unwrap().to_json(), whole.to_json());
        let again = engine.start(whole).await.unwrap();
        assert_eq!(again.configuration(), shown);
        again.stop().await;
    });
}
