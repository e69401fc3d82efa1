use super::*;
use crate::flow::{InputProtocol, OutputProtocol};

const SOURCES: &[(&str, InputProtocol)] = &[
    ("srt://:9000?mode=listener&latency=120&passphrase=correct%20horse&pbkeylen=32&streamid=cam1", InputProtocol::Srt),
    ("srt://example.com:9000?latency=Intercontinental&tlpktdrop=no", InputProtocol::Srt),
    ("srt://127.0.0.1:9000?mode=listener", InputProtocol::Srt),
    ("rtmp://0.0.0.0:1935/live/KEY", InputProtocol::Rtmp),
    ("rtmps://0.0.0.0:443/live/KEY", InputProtocol::Rtmp),
    ("rtmp://example.com/live?key=KEY", InputProtocol::RtmpPull),
    ("rtmps://example.com/live/deep?key=KEY&reconnect_min=100", InputProtocol::RtmpPull),
    ("rtp://239.1.1.1:5004?iface=eth1", InputProtocol::Rtp),
    ("rtp://:5004?pt=33,96&reorder=0&idle_timeout=1000&allow=10.0.0.0/8;192.0.2.1", InputProtocol::Rtp),
    ("rtp://[ff3e::1]:5004?source=2001:db8::1", InputProtocol::Rtp),
    ("udp://:1234?idle_timeout=1000&allow=10.0.0.0/8", InputProtocol::Udp),
    ("udp://@239.1.1.1:1234?iface=eth1", InputProtocol::Udp),
    ("udp://239.1.1.1:1234?localaddr=192.0.2.9&sources=192.0.2.1", InputProtocol::Udp),
    ("udp://192.0.2.1@232.1.1.1:1234", InputProtocol::Udp),
    ("udp://[ff3e::1]:1234?source=2001:db8::1&mode=listener", InputProtocol::Udp),
    ("rtp://@239.1.1.1:5004?fec=true", InputProtocol::Rtp),
    ("rist://@:5000?buffer=500&allow=10.0.0.0/8", InputProtocol::Rist),
    ("rist://0.0.0.0:5000", InputProtocol::Rist),
    ("rtsp://user:p%40w@host/path?transport=tcp", InputProtocol::Rtsp),
    ("rtsp://:8554/cam/1", InputProtocol::Rtsp),
    ("app://rtp", InputProtocol::App(MediaFamily::Rtp)),
];

const OUTPUTS: &[(&str, OutputProtocol)] = &[
    ("srt://:9001?mode=listener&max_players=4&allow=10.0.0.0/8", OutputProtocol::Srt),
    ("srt://[2001:db8::1]:7000?rcvlatency=20&peerlatency=400", OutputProtocol::Srt),
    ("rtmp://0.0.0.0:1935/live/KEY?gop_cache=0", OutputProtocol::RtmpPull),
    ("rtmp://example.com/live?key=KEY&chunk_size=40960", OutputProtocol::RtmpPush),
    ("rtmp://a.example/live?key=K&second=rtmp://b.example/live%20K2", OutputProtocol::Rtmp),
    ("rtmp://a.example/live?key=K&relay=true", OutputProtocol::Rtmp),
    ("rtp://192.0.2.1:5004?second=198.51.100.1:5004&ttl=8&ssrc=7", OutputProtocol::Rtp),
    ("udp://192.0.2.1:1234?second=198.51.100.1:1234&ttl=8&pace=pcr&dscp=34", OutputProtocol::Udp),
    ("udp://@239.1.1.1:1234?iface=eth1&bind=:6000", OutputProtocol::Udp),
    ("rtp://239.1.1.1:5004?pace=pcr&fec=8,4", OutputProtocol::Rtp),
    ("rtp://h:5004?fec=l=8:d=4", OutputProtocol::Rtp),
    ("rist://h:5000?latency=2000&ttl=8&iface=eth1", OutputProtocol::Rist),
    ("rtsp://:8554/cam/1?gop_cache=off", OutputProtocol::Rtsp),
    ("rtsps://u:p@host:1/x", OutputProtocol::Rtsp),
    ("tap:", OutputProtocol::Tap),
];

#[test]
fn url_round_trips_sources_and_outputs() {
    for (url, protocol) in SOURCES {
        let source = Source::from_url("a", url);
        assert_eq!(source.common.errors, [], "{url}");
        assert_eq!(source.protocol(), *protocol, "{url}");
        let again = Source::from_url("a", &source.to_url());
        assert_eq!(format!("{source:?}"), format!("{again:?}"), "{url}");
        assert_eq!(source.to_url(), again.to_url());
    }
    for (url, protocol) in OUTPUTS {
        let output = Output::from_url("a", url);
        assert_eq!(output.common.errors, [], "{url}");
        assert_eq!(output.protocol(), *protocol, "{url}");
        let again = Output::from_url("a", &output.to_url());
        assert_eq!(format!("{output:?}"), format!("{again:?}"), "{url}");
        assert_eq!(output.to_url(), again.to_url());
    }
}

#[test]
fn url_errors_name_fields_without_secrets() {
    let errors = |url: &str| {
        let errors = Source::from_url("a", url).common.errors;
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let found = errors("srt://:9000?latency=10001&passphrase=short&pbkeylen=20&nonsense=1");
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0].starts_with("latency: 10001 is outside 0 to 10000"), "{found:?}");
    assert!(found[3].starts_with("nonsense: there is no such setting"), "{found:?}");
    assert!(!found.concat().contains("short"));
    for bad in ["", "x", "http://a", "srt://", "srt://:x", "rtp://:5004/path", "rtmp://:1935", "app://x", "rtp://%ff"] {
        assert_eq!(errors(bad).len(), 1, "{bad}");
    }
    assert_eq!(errors(&format!("srt://:9000?streamid={}", "x".repeat(9000))).len(), 1);
}

/// Returns the URL that the RTSP caller of a URL requests, and the text of its errors.
fn requested(url: &str) -> (String, String) {
    let source = Source::from_url("a", url);
    let errors = source.common.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let SourceKind::RtspCaller(caller) = source.kind else { return (String::new(), errors) };
    (caller.request_url(), errors)
}

#[test]
fn rtsp_caller_sends_the_query_of_its_address() {
    for (url, request) in [
        ("rtsp://admin:pw@127.0.0.1:5554/cam/realmonitor?channel=1&subtype=0", "/cam/realmonitor?channel=1&subtype=0"),
        ("rtsp://127.0.0.1:5554/axis-media/media.amp?videocodec=h264", "/axis-media/media.amp?videocodec=h264"),
        ("rtsp://127.0.0.1:5554/cam?channel=1&transport=tcp&subtype=0&connect_timeout=500", "/cam?channel=1&subtype=0"),
        ("rtsp://127.0.0.1:5554/cam?transport=tcp", "/cam"),
        ("rtsp://127.0.0.1:5554/cam%3Fchannel=1%26subtype=0", "/cam%3Fchannel=1%26subtype=0"),
        ("rtsp://127.0.0.1:5554/live.sdp?", "/live.sdp?"),
        ("rtsp://127.0.0.1:5554/live.sdp?&transport=tcp", "/live.sdp?"),
        (
            "rtsp://127.0.0.1:5554/user=admin&password=x&channel=1&stream=0.sdp?",
            "/user=admin&password=x&channel=1&stream=0.sdp?",
        ),
        ("rtsp://127.0.0.1:5554/live#main", "/live#main"),
        ("RTSP://127.0.0.1:5554/live?token=a%2Fb%20c+d&n=%E9&flag", "/live?token=a%2Fb%20c+d&n=%E9&flag"),
        ("  rtsp://127.0.0.1:5554/a b?c=d e\u{e9} ", "/a%20b?c=d%20e%C3%A9"),
        ("rtsp://127.0.0.1:5554/cam?a=1&query=transport%3Dmpegts%26b%3D%2541", "/cam?a=1&transport=mpegts&b=%41"),
        ("rtsp://127.0.0.1:5554?a=1", "/?a=1"),
        ("rtsp://127.0.0.1:5554/cam?name=a&url=b&mode=caller", "/cam?name=a&url=b"),
    ] {
        let (requests, errors) = requested(url);
        assert_eq!((requests, errors), (format!("rtsp://127.0.0.1:5554{request}"), String::new()), "{url}");
        let again = Source::from_url("a", &Source::from_url("a", url).to_url());
        assert_eq!(format!("{:?}", again.kind), format!("{:?}", Source::from_url("a", url).kind), "{url}");
        assert_eq!(requested(&again.to_url()).0, format!("rtsp://127.0.0.1:5554{request}"), "{url}");
    }
    let typed: Source = crate::IntoSource::into_source(
        Source::rtsp_caller("a", "rtsp://127.0.0.1:5554/cam?channel=1").query("transport=ts"),
    );
    assert_eq!(requested(&typed.to_url()).0, "rtsp://127.0.0.1:5554/cam?channel=1&transport=ts");
    assert!(requested("rtsp://127.0.0.1/cam?transport=pigeon").1.starts_with("transport:"));
    assert!(requested(&format!("rtsp://h/cam?x={}", "y".repeat(4096))).1.contains("at most 4096 bytes"));
    // A listener has no server to send it to.
    let listener = Output::from_url("a", "rtsp://:8554/cam?channel=1");
    assert!(listener.common.errors[0].to_string().starts_with("channel: there is no such setting"));
}

#[test]
fn rtmp_caller_takes_the_key_from_its_address() {
    let parts = |url: &str| {
        let output = Output::from_url("a", url);
        let errors = output.common.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let push = match output.kind.clone() {
            OutputKind::RtmpPush(push) => push,
            OutputKind::RtmpRelay(relay) => relay.first,
            other => panic!("{other:?}"),
        };
        let again = Output::from_url("a", &output.to_url());
        assert_eq!(format!("{:?}", again.kind), format!("{:?}", output.kind), "{url}");
        assert_eq!(again.to_url(), output.to_url());
        let key = push.key.map(|key| key.reveal().to_owned()).unwrap_or_default();
        (push.address.app, key, push.chunk_size, errors)
    };
    for (url, app, key) in [
        ("rtmp://example.com/live/KEY", "live", "KEY"),
        ("rtmp://example.com/live/instance/KEY/", "live/instance", "KEY"),
        ("rtmp://example.com/live?key=KEY", "live", "KEY"),
        ("rtmp://example.com/live/deep?key=KEY", "live/deep", "KEY"),
        ("rtmp://example.com/app/KEY?token=a%2Fb=&e=1", "app", "KEY?token=a%2Fb=&e=1"),
        ("rtmp://example.com/app/KEY?token=a/b&chunk_size=8192", "app", "KEY?token=a/b"),
        ("rtmp://example.com/app?key=KEY&token=a", "app", "KEY?token=a"),
        ("rtmp://example.com/app/KEY?query=key%3D1%26chunk_size%3D2", "app", "KEY?key=1&chunk_size=2"),
        ("rtmp://example.com/live?vhost=studio/KEY", "live?vhost=studio", "KEY"),
        ("rtmps://example.com/app/live_1?bandwidthtest=true&relay=true", "app", "live_1?bandwidthtest=true"),
    ] {
        let (found_app, found_key, chunk_size, errors) = parts(url);
        assert_eq!((found_app.as_str(), found_key.as_str(), errors.as_str()), (app, key, ""), "{url}");
        assert_eq!(chunk_size == 8192, url.contains("&chunk_size=8192"), "{url}");
    }
    let source = Source::from_url("a", "rtmp://example.com/live/KEY?token=1");
    let SourceKind::RtmpPull(pull) = source.kind else { panic!("{:?}", source.kind) };
    assert_eq!(pull.key.unwrap().reveal(), "KEY?token=1");
    let (.., errors) = parts("rtmp://example.com/live/KEY?chunk_size=1");
    assert!(errors.starts_with("chunk_size: 1 is outside 4096 to 40960"), "{errors}");
}

#[test]
fn rtmp_urls_keep_user_and_password_of_callers() {
    let user_of = |address: &RtmpAddress| {
        let credentials = address.credentials.as_ref().unwrap();
        (credentials.user().to_owned(), credentials.reveal_password().to_owned())
    };
    let me = ("me".to_owned(), "p@s/s:%w?#".to_owned());
    let url = "rtmp://me:p%40s%2Fs%3A%25w%3F%23@h:1935/live?key=KEY";
    let push = Output::from_url("a", url);
    let OutputKind::RtmpPush(settings) = &push.kind else { panic!("{:?}", push.common.errors) };
    assert_eq!(user_of(&settings.address), me);
    assert_eq!(push.to_url(), url);
    assert_eq!(Source::from_url("a", url).to_url(), url);
    let second = "rtmp://me:p%40s%2Fs%3A%25w%3F%23@[fe80::1%25eth0]:1935/live/b K2";
    let second = percent_encoding::utf8_percent_encode(second, percent_encoding::NON_ALPHANUMERIC);
    let relay = Output::from_url("a", &format!("{url}&second={second}"));
    for relay in [Output::from_url("a", &relay.to_url()), relay] {
        let OutputKind::RtmpRelay(settings) = &relay.kind else { panic!("{:?}", relay.common.errors) };
        let (address, key) = settings.second.as_ref().unwrap();
        assert_eq!((user_of(&settings.first.address), user_of(address)), (me.clone(), me.clone()));
        assert_eq!((address.app.as_str(), address.remote.host(), key.reveal()), ("live/b", "fe80::1%eth0", "K2"));
        assert!(!format!("{relay:?}").contains("p@s"), "{relay:?}");
    }
    let errors = Source::from_url("a", "rtmp://me:hunter2@:1935/live/KEY").common.errors;
    assert!(errors[0].to_string().contains("absent") && !errors[0].to_string().contains("hunter2"), "{errors:?}");
}

#[test]
fn callers_of_this_machine_are_found() {
    let called = |url: &str| Source::from_url("in", url).called_own_address(|ip| ip.is_loopback());
    assert_eq!(called("srt://127.0.0.1:9000"), Some("127.0.0.1:9000".parse().unwrap()));
    assert_eq!(called("rtmp://[::1]/live/KEY?token=hunter2"), Some("[::1]:1935".parse().unwrap()));
    for url in [
        "srt://127.0.0.1:9000?mode=caller",
        "srt://127.0.0.1:9000?mode=listener",
        "srt://127.0.0.1:9000?mode=rendezvous",
        "srt://127.0.0.1:9000?nodes=127.0.0.1:9001",
        "srt://*?type=broadcast&nodes=127.0.0.1:9000,127.0.0.1:9001",
        "srt://:9000",
        "srt://0.0.0.0:9000",
        "srt://[::]:9000",
        "srt://192.0.2.1:9000",
        "srt://localhost.example:9000",
        "rtp://127.0.0.1:5004",
        "rtsp://127.0.0.1/cam",
    ] {
        assert_eq!(called(url), None, "{url}");
    }
    assert!(Output::from_url("out", "srt://127.0.0.1:9000").called_own_address(|_| true).is_some());
    let typed: Source = crate::IntoSource::into_source(Source::srt_caller("in", "127.0.0.1:9000"));
    assert_eq!(typed.called_own_address(|_| true), None);
}

#[test]
fn explicit_caller_mode_survives_to_url() {
    for (url, written) in [
        ("srt://127.0.0.1:9000?mode=caller", "srt://127.0.0.1:9000?mode=caller"),
        ("srt://127.0.0.1:9000?latency=200&mode=caller", "srt://127.0.0.1:9000?mode=caller&latency=200"),
        ("rtmp://127.0.0.1/live/KEY?mode=caller", "rtmp://127.0.0.1:1935/live?mode=caller&key=KEY"),
        ("rtsp://127.0.0.1/cam?mode=caller&channel=1", "rtsp://127.0.0.1:554/cam?channel=1&mode=caller"),
        ("srt://192.0.2.1:9000", "srt://192.0.2.1:9000"),
    ] {
        let source = Source::from_url("in", url);
        assert_eq!(source.to_url(), written);
        let again = Source::from_url("in", &source.to_url());
        assert_eq!(again.to_url(), written);
        assert_eq!(again.called_own_address(|_| true), source.called_own_address(|_| true), "{url}");
        let output = Output::from_url("out", url);
        assert_eq!(output.to_url(), written);
        assert_eq!(Output::from_url("out", written).to_url(), written);
    }
}

#[test]
fn srt_group_urls_name_the_nodes_of_a_caller() {
    let nodes = |url: &str, more: &[(&str, &str)]| {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), Secret::from(*value))).collect();
        let source = source(Common::new("a".to_owned()), url, more);
        let errors: Vec<String> = source.common.errors.iter().map(ToString::to_string).collect();
        let SourceKind::SrtCaller(caller) = &source.kind else { return Err(errors) };
        let nodes: Vec<String> = caller.srt.nodes.iter().map(ToString::to_string).collect();
        if errors.is_empty() { Ok((caller.call.remote.to_string(), nodes)) } else { Err(errors) }
    };
    let two = || vec!["a.example:1".to_owned(), "[::1]:2".to_owned()];
    let group = Ok(("a.example:1".to_owned(), two()));
    assert_eq!(nodes("srt://*?type=broadcast&nodes=a.example:1,[::1]:2", &[]), group);
    assert_eq!(nodes("srt://*?mode=caller&nodes=a.example:1,[::1]:2", &[]), group);
    assert_eq!(nodes("srt://*", &[("nodes", "a.example:1,[::1]:2")]), group);
    assert_eq!(nodes("srt://c:3?nodes=a.example:1,[::1]:2", &[]), Ok(("c:3".to_owned(), two())));
    assert_eq!(nodes("srt://c:3", &[]), Ok(("c:3".to_owned(), vec![])));
    for bad in [
        "srt://*?nodes=",
        "srt://*?nodes=a",
        "srt://*?nodes=a:1,,b:2",
        "srt://*?nodes=a:1?weight=70000",
        "srt://*?nodes=a:1?token=5",
        "srt://*?nodes=a:1?weight=",
        "srt://c:3?nodes=a:1&weight=-1",
        "srt://*?nodes=a:1&type=other",
        "srt://*?mode=listener&nodes=a:1",
        "srt://:9000?mode=listener&nodes=a:1",
        "srt://c:3?nodes=a:1,a:2,a:3,a:4,a:5,a:6,a:7,a:8,a:9",
        "srt://c:3?groupconnect=1",
    ] {
        assert!(nodes(bad, &[]).is_err(), "{bad}");
    }
}

#[test]
fn srt_main_backup_urls_carry_type_and_weights() {
    let url = "srt://a.example:1?type=backup&weight=7&nodes=b:2?weight%3D50,c:3";
    let output = Output::from_url("out", url);
    let OutputKind::SrtCaller(caller) = &output.kind else { panic!("{url}") };
    let members: Vec<(String, u16)> = caller.group().iter().map(|node| (node.host.to_string(), node.weight)).collect();
    assert_eq!(members, [("a.example:1".into(), 7), ("b:2".into(), 50), ("c:3".into(), 0)]);
    assert_eq!(caller.srt.group_type, Some(crate::GroupType::Backup));
    let written = output.to_url();
    assert_eq!(Output::from_url("out", &written).to_url(), written);
    assert!(written.contains("type=backup") && written.contains("weight=7"), "{written}");
    // As libsrt's programs write it, with the other name of the setting.
    let output = Output::from_url("out", "srt://*?grouptype=backup&nodes=a:1?weight=9,b:2?weight=5");
    let OutputKind::SrtCaller(caller) = &output.kind else { panic!("no caller") };
    let weights: Vec<u16> = caller.group().iter().map(|node| node.weight).collect();
    assert_eq!((weights, output.common.errors.len()), (vec![9, 5], 0));
}

#[test]
fn srt_rendezvous_urls_are_read_and_written() {
    for url in ["srt://h:9000?mode=rendezvous", "srt://h:9000?mode=rendezvous&local_port=9001&latency=300"] {
        let source = Source::from_url("in", url);
        let SourceKind::SrtCaller(caller) = &source.kind else { panic!("{url}") };
        assert!(caller.srt.rendezvous && source.common.errors.is_empty(), "{:?}", source.common.errors);
        let written = source.to_url();
        assert!(written.starts_with("srt://h:9000?mode=rendezvous") && !written.contains("caller"), "{written}");
        assert_eq!(Source::from_url("in", &written).to_url(), written);
        assert_eq!(Output::from_url("out", &written).to_url(), written);
    }
    let typed = crate::IntoSource::into_source(Source::srt_caller("in", "h:9000").rendezvous());
    assert_eq!(typed.to_url(), "srt://h:9000?mode=rendezvous");
    for (bad, field) in [
        ("srt://h:9000?mode=rendezvous&streamid=cam", "streamid"),
        ("srt://h:9000?mode=rendezvous&nodes=b:9000", "nodes"),
    ] {
        let flow = crate::Flow::builder("f", crate::Bitrate::mbps(5)).source(Source::from_url("in", bad)).build();
        let errors = flow.unwrap_err().to_string();
        assert!(errors.contains(field), "{bad}: {errors}");
    }
}
