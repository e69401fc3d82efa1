//! SRT groups (bonding) on real sockets: several connections of one peer, of which some fail.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use streamlink_core::{
    AppSource, Applied, EndpointStats, Event, GroupType, Latency, LossReason, Output, OutputEdit, Packet, PacketFilter,
    Source, SourceEdit, State,
};
use streamlink_tests::{
    eventually,
    lossy::Lossy,
    rig::{Recording, Rig, free_port},
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
        // Without media, the peer says once a second that it is alive.
        .peer_idle_timeout(Duration::from_millis(3000));
    let sender = Rig::start(Source::app_datagrams("app"), vec![output_of_group.into()]);
    eventually("both members", || (members_up(&output(&sender)) == 2).then_some(()));
    let app = sender.running.app_source("app").unwrap();
    feed(&app, 0..600);
    one.black_out(true);
    feed(&app, 600..1800);
    // The first member is lost by now, and comes back.
    sender.event(|e| matches!(e, Event::OutputLost { peer: Some(peer), .. } if peer == one.address).then_some(()));
    eventually("one member is left", || (members_up(&output(&sender)) == 1).then_some(()));
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

/// Returns the addresses of the members of a group, in order.
fn addresses(stats: &EndpointStats) -> Vec<String> {
    stats.members.iter().map(|member| member.address.clone()).collect()
}

/// Waits until a group has these members, all connected.
fn wait_for_members(rig: &Rig, of: fn(&Rig) -> EndpointStats, wanted: &[SocketAddr]) {
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    eventually("the members", || {
        let stats = of(rig);
        (addresses(&stats) == wanted && members_up(&stats) == wanted.len()).then_some(())
    });
}

/// Feeds datagrams until something has happened, and returns the number after the last one.
fn feed_until(app: &AppSource, mut number: u32, mut happened: impl FnMut() -> bool) -> u32 {
    let end = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < end, "it has not happened");
        feed(app, number..number + 20);
        number += 20;
    }
    number
}

/// Returns how long the member at an address has been connected.
fn connected_for(stats: &EndpointStats, address: SocketAddr) -> Duration {
    let member = stats.members.iter().find(|member| member.address == address.to_string()).expect("a member");
    member.connected_for.expect("it is connected")
}

#[test]
fn srt_group_output_changes_its_members_while_media_flows() {
    for group_type in [GroupType::Broadcast, GroupType::Backup] {
        let receiver =
            Rig::start(Source::srt_listener("in", "127.0.0.1:0").latency(latency()), vec![Output::tap("tap").into()]);
        let tap = Recording::start(&receiver);
        let target = SocketAddr::from(([127, 0, 0, 1], receiver.input_port()));
        let paths: Vec<Lossy> = (0..4).map(|_| Lossy::to(target, 2)).collect();
        let [one, two, three, four] = [0, 1, 2, 3].map(|at: usize| paths[at].address);
        let group = Output::srt_caller("out", &one.to_string())
            .nodes([format!("{two}?weight=5")])
            .weight(9)
            .group_type(group_type)
            .latency(latency());
        let sender = Rig::start(Source::app_datagrams("app"), vec![group.into()]);
        wait_for_members(&sender, output, &[one, two]);
        let app = sender.running.app_source("app").unwrap();
        feed(&app, 0..600);
        // One goes: of the main/backup group, the one that carries the media.
        let since = Instant::now();
        let edit = OutputEdit::new().remove_member(one.to_string());
        assert_eq!(sender.running.edit_output("out", edit).unwrap(), Applied::InPlace);
        let is_gone = |address: SocketAddr| !addresses(&output(&sender)).contains(&address.to_string());
        let number = feed_until(&app, 600, || is_gone(one));
        let removed = |e| match e {
            Event::MemberRemoved { endpoint, address } => Some((endpoint, address)),
            _ => None,
        };
        assert_eq!(sender.event(removed), ("out".into(), one.to_string()));
        // Another one comes.
        sender.running.edit_output("out", OutputEdit::new().add_member(format!("{three}?weight=7"))).unwrap();
        let number = feed_until(&app, number, || members_up(&output(&sender)) == 2);
        let added = |e| match e {
            Event::MemberAdded { endpoint, address } => Some((endpoint, address)),
            _ => None,
        };
        assert_eq!(sender.event(added), ("out".into(), three.to_string()));
        sender.event(|e| matches!(e, Event::OutputConnected { peer, .. } if peer == Some(three)).then_some(()));
        let number = if group_type == GroupType::Backup {
            // The new one is the heaviest.
            feed_until(&app, number, || active(&output(&sender)) == [false, true])
        } else {
            number
        };
        // All are replaced at once; the second one has gone on undisturbed until then.
        assert!(connected_for(&output(&sender), two) >= since.elapsed(), "{:?}", output(&sender));
        sender.running.edit_output("out", OutputEdit::new().members([four.to_string()])).unwrap();
        let number = feed_until(&app, number, || is_gone(two) && is_gone(three));
        feed(&app, number..number + 300);
        let number = number + 300;
        eventually("everything", || (source(&receiver).packets >= u64::from(number) - 1).then_some(()));
        let stats = source(&receiver);
        assert_eq!((stats.lost, stats.state, stats.reconnections), (0, State::Connected, 0), "{stats:?}");
        wait_for_members(&sender, output, &[four]);
        let stats = output(&sender);
        assert_eq!((stats.packets, stats.reconnections), (number.into(), 0), "{stats:?}");
        assert_eq!(stats.state, State::Connected);
        check(&tap.finish(&receiver), number);
        sender.stop();
        receiver.stop();
    }
}

#[test]
fn srt_group_listener_sees_members_of_its_peer_come_and_go() {
    let receiver =
        Rig::start(Source::srt_listener("in", "127.0.0.1:0").latency(latency()), vec![Output::tap("tap").into()]);
    let tap = Recording::start(&receiver);
    let target = SocketAddr::from(([127, 0, 0, 1], receiver.input_port()));
    let paths: Vec<Lossy> = (0..3).map(|_| Lossy::to(target, 2)).collect();
    let [one, two, three] = [0, 1, 2].map(|at: usize| paths[at].address.to_string());
    let group = Output::srt_caller("out", &one).nodes([&two]).latency(latency());
    let sender = Rig::start(Source::app_datagrams("app"), vec![group.into()]);
    let app = sender.running.app_source("app").unwrap();
    eventually("both members", || (members_up(&output(&sender)) == 2).then_some(()));
    feed(&app, 0..200);
    receiver.event(|e| matches!(e, Event::MemberConnected { .. }).then_some(()));
    let edit = OutputEdit::new().add_member(&three).remove_member(&one);
    sender.running.edit_output("out", edit).unwrap();
    let of_listener = || source(&receiver).members.len();
    let number = feed_until(&app, 200, || of_listener() == 3);
    receiver.event(|e| matches!(e, Event::MemberConnected { .. }).then_some(()));
    let number = feed_until(&app, number, || of_listener() == 2);
    // The peer has said that it goes: no timeout was waited for.
    let reason = receiver.event(|e| match e {
        Event::MemberLost { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, LossReason::Closed);
    feed(&app, number..number + 200);
    let number = number + 200;
    eventually("everything", || (source(&receiver).packets >= u64::from(number) - 1).then_some(()));
    let stats = source(&receiver);
    assert_eq!((stats.lost, stats.state, stats.reconnections), (0, State::Connected, 0), "{stats:?}");
    check(&tap.finish(&receiver), number);
    sender.stop();
    receiver.stop();
}

#[test]
fn srt_group_source_changes_its_members_while_media_flows() {
    for group_type in [GroupType::Broadcast, GroupType::Backup] {
        let sender = Rig::start(
            Source::app_datagrams("app"),
            vec![Output::srt_listener("out", "127.0.0.1:0").latency(latency()).into()],
        );
        let target: SocketAddr = sender.playback().trim_start_matches("srt://").parse().unwrap();
        let paths: Vec<Lossy> = (0..3).map(|_| Lossy::to(target, 2)).collect();
        let [one, two, three] = [0, 1, 2].map(|at: usize| paths[at].address);
        let pull = Source::srt_caller("in", &one.to_string())
            .nodes([format!("{two}?weight=5")])
            .weight(9)
            .group_type(group_type)
            .latency(latency());
        let receiver = Rig::start(pull, vec![Output::tap("tap").into()]);
        let tap = Recording::start(&receiver);
        wait_for_members(&receiver, source, &[one, two]);
        let app = sender.running.app_source("app").unwrap();
        feed(&app, 0..600);
        let since = Instant::now();
        let edit = SourceEdit::new().remove_member(one.to_string());
        assert_eq!(receiver.running.edit_source("in", edit).unwrap(), Applied::InPlace);
        let number = feed_until(&app, 600, || addresses(&source(&receiver)) == [two.to_string()]);
        receiver.running.edit_source("in", SourceEdit::new().add_member(format!("{three}?weight=7"))).unwrap();
        let number = feed_until(&app, number, || members_up(&source(&receiver)) == 2);
        for wanted in [one, three] {
            let told = receiver.event(|e| match e {
                Event::MemberAdded { address, .. } | Event::MemberRemoved { address, .. } => Some(address),
                _ => None,
            });
            assert_eq!(told, wanted.to_string());
        }
        let number = feed_until(&app, number, || output(&sender).players.len() == 2);
        assert!(connected_for(&source(&receiver), two) >= since.elapsed(), "{:?}", source(&receiver));
        // Only the new one stays.
        receiver.running.edit_source("in", SourceEdit::new().remove_member(two.to_string())).unwrap();
        let number = feed_until(&app, number, || addresses(&source(&receiver)) == [three.to_string()]);
        feed(&app, number..number + 300);
        let number = number + 300;
        eventually("everything", || (source(&receiver).packets >= u64::from(number) - 1).then_some(()));
        let stats = source(&receiver);
        assert_eq!((stats.lost, stats.state, stats.reconnections), (0, State::Connected, 0), "{stats:?}");
        check(&tap.finish(&receiver), number);
        receiver.stop();
        sender.stop();
    }
}

#[test]
fn srt_group_keeps_its_last_member_and_what_is_no_group_has_none() {
    let group = Output::srt_caller("group", "127.0.0.1:9").nodes(["127.0.0.1:10"]);
    let single = Output::srt_caller("single", "127.0.0.1:9");
    let source = Source::srt_listener("in", "127.0.0.1:0");
    let rig = Rig::start(source, vec![group.into(), single.into()]);
    let flow = &rig.running;
    let problem = |edit: OutputEdit, name: &str| flow.edit_output(name, edit).unwrap_err().to_string();
    let edit = OutputEdit::new().remove_member("127.0.0.1:9").remove_member("127.0.0.1:10");
    assert!(problem(edit, "group").contains("at least one member"));
    assert!(problem(OutputEdit::new().members(Vec::<String>::new()), "group").contains("at least one member"));
    assert!(problem(OutputEdit::new().remove_member("127.0.0.1:11"), "group").contains("is no member"));
    assert!(problem(OutputEdit::new().add_member("127.0.0.1:11"), "single").contains("no group"));
    let error = flow.edit_source("in", SourceEdit::new().add_member("127.0.0.1:11")).unwrap_err().to_string();
    assert!(error.contains("no group") && error.contains("members"), "{error}");
    // What is edited is the configuration, too, and comes back with the output.
    let edit = OutputEdit::new().remove_member("127.0.0.1:9").add_member("127.0.0.1:12?weight=3");
    flow.edit_output("group", edit).unwrap();
    let url = flow.configuration_with_secrets().outputs()[0].to_url();
    assert_eq!(url, "srt://127.0.0.1:10?nodes=127.0.0.1:12?weight=3");
    rig.stop();
}

#[test]
fn srt_group_that_waits_to_retry_calls_an_added_member_at_once() {
    let receiver = Rig::start(Source::srt_listener("in", "127.0.0.1:0"), vec![]);
    let nobody = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let group = Output::srt_caller("out", &nobody[0])
        .nodes([&nobody[1]])
        .connect_timeout(Duration::from_millis(1000))
        .reconnect(Duration::from_secs(30), Duration::from_secs(300));
    let sender = Rig::start(Source::app_datagrams("app"), vec![group.into()]);
    sender.event(|e| matches!(e, Event::OutputRetrying { .. }).then_some(()));
    let since = Instant::now();
    let address = format!("127.0.0.1:{}", receiver.input_port());
    sender.running.edit_output("out", OutputEdit::new().add_member(&address)).unwrap();
    let added = sender.event(|e| match e {
        Event::MemberAdded { address, .. } => Some(address),
        _ => None,
    });
    assert_eq!(added, address);
    sender.event(|e| matches!(e, Event::OutputConnected { .. }).then_some(()));
    assert!(since.elapsed() < Duration::from_secs(12), "it has not waited for the delay");
    sender.stop();
    receiver.stop();
}

/// Counts the repair packets of a packet filter that pass a network to its target, or from it.
fn counting_repairs(target: SocketAddr, forward: bool) -> (Lossy, Arc<AtomicU64>) {
    let repairs = Arc::new(AtomicU64::new(0));
    let counter = repairs.clone();
    let path = Lossy::watched(target, 0, move |is_forward, _, packet| {
        let is_data = packet.len() > 16 && packet[0] & 0x80 == 0;
        let message = packet[4..8].iter().fold(0, |word, byte| word << 8 | u32::from(*byte)) & 0x03ff_ffff;
        counter.fetch_add(u64::from(is_data && is_forward == forward && message == 0), Ordering::Relaxed);
    });
    (path, repairs)
}

#[test]
fn srt_group_member_that_joins_late_sends_no_repair_packets() {
    let filter: PacketFilter = "fec,cols:5,rows:5".parse().unwrap();
    // A group that calls, and one that is called.
    let listener = Source::srt_listener("in", "127.0.0.1:0").latency(latency());
    let receiver = Rig::start(listener, vec![Output::srt_listener("pull", "127.0.0.1:0").latency(latency()).into()]);
    let target = SocketAddr::from(([127, 0, 0, 1], receiver.input_port()));
    let (one, first_repairs) = counting_repairs(target, true);
    let (two, late_repairs) = counting_repairs(target, true);
    let group = Output::srt_caller("out", &one.address.to_string())
        .nodes([one.address.to_string()])
        .packet_filter(filter)
        .latency(latency());
    let sender = Rig::start(Source::app_datagrams("app"), vec![group.into()]);
    eventually("the first member", || (members_up(&output(&sender)) >= 1).then_some(()));
    let app = sender.running.app_source("app").unwrap();
    feed(&app, 0..200);
    sender.running.edit_output("out", OutputEdit::new().add_member(two.address.to_string())).unwrap();
    let number = feed_until(&app, 200, || members_up(&output(&sender)) >= 2);
    let pull: SocketAddr = receiver.playback().trim_start_matches("srt://").parse().unwrap();
    let (three, first_pulled) = counting_repairs(pull, false);
    let (four, late_pulled) = counting_repairs(pull, false);
    let source_of_group = Source::srt_caller("in", &three.address.to_string())
        .nodes([four.address.to_string()])
        .packet_filter(filter)
        .latency(latency());
    let player = Rig::start(source_of_group, vec![]);
    let number = feed_until(&app, number, || members_up(&source(&player)) == 2);
    feed(&app, number..number + 300);
    eventually("everything", || (source(&receiver).packets >= u64::from(number) + 299).then_some(()));
    assert_eq!((source(&receiver).lost, source(&player).lost), (0, 0));
    let count = |repairs: &AtomicU64| repairs.load(Ordering::Relaxed);
    assert!(count(&first_repairs) > 100, "{}", count(&first_repairs));
    assert_eq!(count(&late_repairs), 0);
    let pulled = [count(&first_pulled), count(&late_pulled)];
    assert!(pulled.iter().any(|repairs| *repairs > 50) && pulled.contains(&0), "{pulled:?}");
    player.stop();
    sender.stop();
    receiver.stop();
}
