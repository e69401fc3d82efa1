//! SRT groups (bonding) on real sockets: several connections of one peer, of which some fail.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use streamlink_core::{AppSource, EndpointStats, Event, GroupType, Latency, Output, Packet, Source, State};
use streamlink_tests::{
    eventually,
    lossy::Lossy,
    rig::{Recording, Rig},
};

/// Size of a datagram in bytes.
const DATAGRAM: usize = 1316;

/// Sends numbered datagrams at equal intervals.
fn feed(source: &AppSource, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let mut datagram = vec![0x11; DATAGRAM]; // no MPEG-TS, of which not every packet is media
        datagram[4..8].copy_from_slice(&number.to_be_bytes());
        source.push(Packet::datagram(datagram, Instant::now())).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Checks that the datagrams have arrived once each and in order, from some number on.
fn check(recorded: &[u8], end: u32) {
    let number = |datagram: &[u8]| u32::from_be_bytes(datagram[4..8].try_into().unwrap());
    let numbers: Vec<u32> = recorded.chunks(DATAGRAM).map(number).collect();
    let first = *numbers.first().expect("something was recorded");
    assert!(first < 100, "the first is {first}");
    assert_eq!(numbers, (first..end).collect::<Vec<_>>());
}

fn latency() -> Latency {
    Latency::from_millis(600).unwrap()
}

fn source(rig: &Rig) -> EndpointStats {
    rig.running.stats().sources[0].clone()
}

fn output(rig: &Rig) -> EndpointStats {
    rig.running.stats().outputs[0].clone()
}

/// Returns the number of members that are connected.
fn members_up(stats: &EndpointStats) -> usize {
    stats.members.iter().filter(|member| member.connected_for.is_some()).count()
}

#[test]
fn srt_group_output_loses_nothing_while_its_paths_fail_in_turn() {
    let receiver =
        Rig::start(Source::srt_listener("in", "127.0.0.1:0").latency(latency()), vec![Output::tap("tap").into()]);
    let tap = Recording::start(&receiver);
    let target = SocketAddr::from(([127, 0, 0, 1], receiver.input_port()));
    let one = Lossy::to(target, 2);
    let two = Lossy::to(target, 20);
    let output_of_group = Output::srt_caller("out", &one.address.to_string())
        .nodes([two.address.to_string()])
        .latency(latency())
        .peer_idle_timeout(Duration::from_millis(1000));
    let sender = Rig::start(Source::app_datagrams("app"), vec![output_of_group.into()]);
    eventually("both members", || (members_up(&output(&sender)) == 2).then_some(()));
    let app = sender.running.app_source("app").unwrap();
    feed(&app, 0..600);
    one.black_out(true);
    feed(&app, 600..1800);
    // The first member is lost by now, and comes back.
    sender.event(|e| matches!(e, Event::OutputLost { peer: Some(peer), .. } if peer == one.address).then_some(()));
    assert_eq!(members_up(&output(&sender)), 1);
    one.black_out(false);
    eventually("the first member again", || (members_up(&output(&sender)) == 2).then_some(()));
    feed(&app, 1800..2000);
    two.black_out(true);
    feed(&app, 2000..3200);
    eventually("everything", || (source(&receiver).packets >= 3199).then_some(()));
    let stats = source(&receiver);
    assert_eq!(stats.lost, 0, "{stats:?}");
    assert_eq!(stats.state, State::Connected);
    check(&tap.finish(&receiver), 3200);
    let stats = output(&sender);
    assert_eq!(stats.packets, 3200, "the same media on two paths is counted once");
    sender.stop();
    receiver.stop();
}

#[test]
fn srt_group_source_takes_every_packet_from_either_path() {
    let sender = Rig::start(
        Source::app_datagrams("app"),
        vec![Output::srt_listener("out", "127.0.0.1:0").latency(latency()).into()],
    );
    let target: SocketAddr = sender.playback().trim_start_matches("srt://").parse().unwrap();
    let one = Lossy::to(target, 15);
    let two = Lossy::to(target, 15);
    let url = format!("srt://*?type=broadcast&nodes={},{}&latency=600", one.address, two.address);
    let receiver = Rig::start(Source::from_url("in", &url), vec![Output::tap("tap").into()]);
    let tap = Recording::start(&receiver);
    eventually("both members", || (members_up(&source(&receiver)) == 2).then_some(()));
    assert_eq!(output(&sender).players.len(), 2);
    let app = sender.running.app_source("app").unwrap();
    feed(&app, 0..700);
    one.black_out(true);
    feed(&app, 700..1500);
    eventually("everything", || (source(&receiver).packets >= 1499).then_some(()));
    let stats = source(&receiver);
    assert_eq!((stats.lost, stats.state), (0, State::Connected), "{stats:?}");
    assert!(stats.members.iter().any(|member| member.redundant > 500), "{stats:?}");
    check(&tap.finish(&receiver), 1500);
    receiver.stop();
    sender.stop();
}

/// Returns whether each member of an output's group carries the media.
fn active(stats: &EndpointStats) -> Vec<bool> {
    stats.members.iter().map(|member| member.is_active).collect()
}

#[test]
fn srt_backup_group_output_sends_over_the_heaviest_path_and_comes_back() {
    let receiver =
        Rig::start(Source::srt_listener("in", "127.0.0.1:0").latency(latency()), vec![Output::tap("tap").into()]);
    let tap = Recording::start(&receiver);
    let target = SocketAddr::from(([127, 0, 0, 1], receiver.input_port()));
    let one = Lossy::to(target, 2);
    let two = Lossy::to(target, 5);
    let url = format!("srt://{}?type=backup&weight=9&nodes={}?weight%3D5&latency=600", one.address, two.address);
    let sender = Rig::start(Source::app_datagrams("app"), vec![Output::from_url("out", &url)]);
    eventually("both members", || (members_up(&output(&sender)) == 2).then_some(()));
    receiver.event(|e| matches!(e, Event::MemberConnected { .. }).then_some(()));
    let app = sender.running.app_source("app").unwrap();
    feed(&app, 0..900);
    eventually("the main path alone", || (active(&output(&sender)) == [true, false]).then_some(()));
    // The main path is dead for less than the idle timeout, and for longer.
    one.black_out(true);
    feed(&app, 900..1600);
    one.black_out(false);
    feed(&app, 1600..2800);
    eventually("the main path again", || (active(&output(&sender)) == [true, false]).then_some(()));
    let stood_by = output(&sender).members[1].packets;
    feed(&app, 2800..3000);
    eventually("statistics", || (output(&sender).members[0].packets > 2500).then_some(()));
    assert_eq!(output(&sender).members[1].packets, stood_by);
    one.black_out(true);
    let mut number = 3000;
    let lost = || receiver.running.stats().sources[0].members.len() == 1;
    while !lost() && number < 8000 {
        feed(&app, number..number + 100);
        number += 100;
    }
    let reason = receiver.event(|e| match e {
        Event::MemberLost { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    assert!(!reason.is_empty());
    feed(&app, number..number + 200);
    number += 200;
    eventually("everything", || (source(&receiver).packets >= u64::from(number) - 1).then_some(()));
    let stats = source(&receiver);
    assert_eq!((stats.lost, stats.state), (0, State::Connected), "{stats:?}");
    check(&tap.finish(&receiver), number);
    sender.stop();
    receiver.stop();
}

#[test]
fn srt_backup_group_of_a_caller_is_served_over_its_heaviest_member() {
    let sender = Rig::start(
        Source::app_datagrams("app"),
        vec![Output::srt_listener("out", "127.0.0.1:0").latency(latency()).into()],
    );
    let target: SocketAddr = sender.playback().trim_start_matches("srt://").parse().unwrap();
    let one = Lossy::to(target, 2);
    let two = Lossy::to(target, 5);
    let pull = Source::srt_caller("in", &one.address.to_string())
        .nodes([format!("{}?weight=20", two.address)])
        .weight(10)
        .group_type(GroupType::Backup)
        .latency(latency());
    let receiver = Rig::start(pull, vec![Output::tap("tap").into()]);
    let tap = Recording::start(&receiver);
    eventually("both members", || (members_up(&source(&receiver)) == 2).then_some(()));
    let app = sender.running.app_source("app").unwrap();
    feed(&app, 0..900);
    let of = |address: SocketAddr| {
        let members = source(&receiver).members;
        members.into_iter().find(|member| member.address == address.to_string()).expect("a member")
    };
    eventually("the heaviest alone", || (of(two.address).is_active && !of(one.address).is_active).then_some(()));
    two.black_out(true);
    feed(&app, 900..1500);
    eventually("everything", || (source(&receiver).packets >= 1499).then_some(()));
    assert!(of(one.address).is_active);
    let stats = source(&receiver);
    assert_eq!((stats.lost, stats.state), (0, State::Connected), "{stats:?}");
    check(&tap.finish(&receiver), 1500);
    receiver.stop();
    sender.stop();
}

#[test]
fn srt_group_is_refused_where_groups_are_off() {
    let listener = Source::srt_listener("in", "127.0.0.1:0").group_connect(false);
    let receiver = Rig::start(listener, vec![]);
    let address = format!("127.0.0.1:{}", receiver.input_port());
    let caller = Output::srt_caller("out", &address).nodes([&address]);
    let sender = Rig::start(Source::app_datagrams("app"), vec![caller.into()]);
    let reason = sender.event(|e| match e {
        Event::OutputLost { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    assert!(reason.contains("(GROUP, code 15)"), "{reason}");
    let detail = receiver.event(|e| match e {
        Event::PeerRefused { detail, .. } => Some(detail.to_string()),
        _ => None,
    });
    assert!(detail.contains("GROUP"), "{detail}");
    sender.stop();
    receiver.stop();
}

#[test]
fn srt_group_takes_no_stream_of_another_publisher() {
    let receiver = Rig::start(Source::srt_listener("in", "127.0.0.1:0"), vec![]);
    let address = format!("127.0.0.1:{}", receiver.input_port());
    let group = || Output::srt_caller("out", &address).nodes([&address]);
    let first = Rig::start(Source::app_datagrams("app"), vec![group().into()]);
    let app = first.running.app_source("app").unwrap();
    first.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    feed(&app, 0..200);
    // Another group, and a caller without a group, are refused as long as the first brings media.
    for other in [group(), Output::srt_caller("out", &address)] {
        let second = Rig::start(Source::app_datagrams("app"), vec![other.into()]);
        feed(&app, 0..200);
        let reason = second.event(|e| match e {
            Event::OutputLost { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        assert!(reason.contains("CONFLICT"), "{reason}");
        second.stop();
    }
    first.stop();
    receiver.stop();
}
