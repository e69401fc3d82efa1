use super::*;
use crate::flow::{InputProtocol, KeyLength, Latency, OutputProtocol, Passphrase, Rewrite};

fn paths(result: Result<Flow, ConfigErrors>) -> Vec<String> {
    result.unwrap_err().iter().map(|e| e.path().to_owned()).collect()
}

#[test]
fn flow_builds_with_every_protocol() {
    let key = || StreamKey::new("KEY").unwrap();
    Flow::builder("srt", Bitrate::mbps(20))
        .source(
            Source::srt_listener("venue", "0.0.0.0:9000")
                .latency(Latency::SAME_CONTINENT)
                .encryption(Passphrase::new("correct horse").unwrap(), KeyLength::Aes256)
                .allow("203.3.3.3/28;198.51.100.7".parse().unwrap()),
        )
        .backup(Source::srt_caller("spare", "example.com:9000"))
        .failover(Failover::new(FailoverPolicy::Prefer(Duration::from_secs(5))).cold())
        .output(Output::srt_listener("partner", "0.0.0.0:9001").max_players(4))
        .output(Output::rtmp_push("platform", "rtmp://live.example.com/app", key()))
        .output(Output::tap("tap"))
        .build()
        .unwrap();
    let flow = Flow::builder("rtmp", Bitrate::mbps(20))
        .source(Source::rtmp("a", ":1935", "live"))
        .backup(Source::rtmp_pull("b", "rtmp://x/live", key()))
        .output(Output::rtmp("c", "rtmp://x/live", key()).second("rtmps://y/live", key()).chunk_size(40960))
        .output(Output::rtmp_pull("d", ":1935", "play").gop_cache(0))
        .build()
        .unwrap();
    assert!(flow.sources[0].to_url().len() > "rtmp://0.0.0.0:1935/live/".len() + 32, "a key was generated");
    let twice = Flow::builder("two addresses", Bitrate::mbps(20))
        .source(Source::rtmp("first", ":1935", "live"))
        .backup(Source::rtmp("second", ":1935", "live"))
        .build()
        .unwrap();
    assert_ne!(twice.sources[0].to_url(), twice.sources[1].to_url(), "each has a key of its own");
    Flow::builder("rtsp", Bitrate::mbps(20))
        .source(Source::rtsp_listener("a", ":8554", "cam/1"))
        .backup(Source::rtsp_caller("b", "rtsp://u:p@host/path"))
        .output(Output::rtsp_listener("c", ":8554", "out"))
        .output(Output::rtsp_caller("d", "rtsp://host/path"))
        .build()
        .unwrap();
    Flow::builder("rtp", Bitrate::mbps(20))
        .source(Source::rtp("a", "239.1.1.1:5004").interface("eth1"))
        .backup(Source::rtp("b", "239.1.1.2:5004"))
        .failover(Failover::new(FailoverPolicy::Merge(Duration::from_millis(200))))
        .output(Output::rtp("c", "192.0.2.1:5004").second("192.0.2.2:5004").rewrite(Rewrite::Random))
        .build()
        .unwrap();
}

#[test]
fn flow_build_reports_all_errors_with_paths() {
    let result = Flow::builder("", Bitrate::bps(0))
        .source(Source::rtp("x\n", "nowhere").idle_timeout(Duration::from_secs(61)))
        .coalesce(Duration::from_secs(1))
        .output(Output::rtp("out", "host:0").ttl(0))
        .output(Output::rtp("out", "host:5004").interface("this name is too long"))
        .build();
    assert_eq!(
        paths(result),
        [
            "name",
            "max_bandwidth",
            "coalesce",
            "sources[0].name",
            "sources[0].bind",
            "sources[0].idle_timeout",
            "outputs[0].destination",
            "outputs[0].ttl",
            "outputs[1].name",
            "outputs[1].iface"
        ]
    );
}

#[test]
fn flow_build_refuses_silence_settings_where_they_mean_nothing() {
    let result = Flow::builder("f", Bitrate::mbps(1))
        .source(Source::from_url("a", "srt://example.com:9000?takeover=always"))
        .output(Output::from_url("b", "srt://:9001?mode=listener&idle_timeout=2000"))
        .output(Output::from_url("c", "srt://example.com:9002?takeover=idle"))
        .build();
    assert_eq!(paths(result), ["sources[0].takeover", "outputs[0].idle_timeout", "outputs[1].takeover"]);
    // In addresses of RTMP and RTSP callers, names that are no settings of theirs are for the server.
    let result = Flow::builder("f", Bitrate::mbps(1)).source(Source::from_url("a", "rtsp://host/cam?takeover=idle"));
    assert!(result.build().is_ok());
    for (url, field) in
        [("rtsp://:8554/cam?takeover=sometimes", "takeover"), ("srt://:9000?idle_timeout=999", "idle_timeout")]
    {
        let result = Flow::builder("f", Bitrate::mbps(1)).source(Source::from_url("a", url)).build();
        assert_eq!(paths(result), [format!("sources[0].{field}")], "{url}");
    }
}

#[test]
fn flow_build_checks_pairing_of_urls() {
    let result = Flow::builder("f", Bitrate::mbps(1))
        .source(Source::from_url("s", "srt://:9000"))
        .backup(Source::from_url("b", "rtp://:5004"))
        .output(Output::from_url("o", "rtp://h:5004"))
        .output(Output::from_url("p", "srt://:9000"))
        .output(Output::from_url("q", "srt://:9000/path"))
        .build();
    let errors = result.unwrap_err();
    let text = errors.to_string();
    assert_eq!(errors.iter().count(), 4, "{text}");
    assert!(
        text.contains("outputs[0]: SRT sources cannot feed RTP outputs; they can feed SRT, RTMP_PUSH, tap"),
        "{text}"
    );
    assert!(text.contains("outputs[1].bind: sources[0] already listens"), "{text}");
    assert!(text.contains("sources[1]: carries RTP"), "{text}");
}

#[test]
fn flow_build_checks_settings_of_the_rtp_family() {
    let build = |source: &str, output: &str, failover| {
        let flow = Flow::builder("f", Bitrate::mbps(1)).source(Source::from_url("s", source));
        let flow = flow.output(Output::from_url("o", output)).failover(failover);
        flow.build().map_or_else(|errors| errors.to_string(), |_| String::new())
    };
    let stay = Failover::default();
    let merge = Failover::new(FailoverPolicy::Merge(Duration::from_millis(200)));
    for (source, output, failover, problem) in [
        ("udp://:1234", "udp://h:1234", stay, ""),
        ("rist://:5000", "rist://h:5000", merge, ""),
        ("udp://:1234", "udp://h:1234", merge, "failover.policy: `s` cannot be merged"),
        ("udp://:1234?source=192.0.2.1", "tap:", stay, "sources[0].source: a multicast sender"),
        ("rist://:5001", "tap:", stay, "sources[0].bind: port 5001 is odd"),
        ("rist://239.1.1.1:5000", "tap:", stay, "sources[0].bind: RIST is received at an address"),
        ("rtp://:5000", "rist://h:5001", stay, "outputs[0].destination: port 5001 is odd"),
        ("rtp://:65533?fec=true", "tap:", stay, "sources[0].fec: needs the ports 65533 plus 2 and plus 4"),
        ("rtp://:5000", "rtp://h:65532?fec=5,5", stay, "outputs[0].fec: needs the ports 65532"),
        ("rtp://:5000", "rtp://h:5000?fec=21,4", stay, "outputs[0].fec: 21,4 is outside columns (1 to 20)"),
        ("rtp://:5000", "rtp://h:5000?fec=20,6", stay, "outputs[0].fec: 20,6 is outside"),
        ("rtp://:5000", "rtp://h:5000?fec=5,3,row", stay, "outputs[0].fec: 5,3 is outside"),
        ("rtp://:5000", "rtp://h:5000?fec=5", stay, "outputs[0].fec: `5` is not columns"),
        ("rtp://:5000", "rtp://h:5000?pace=fast", stay, "outputs[0].pace: `fast` is not none or pcr"),
    ] {
        let found = build(source, output, failover);
        assert!(
            if problem.is_empty() { found.is_empty() } else { found.contains(problem) },
            "{source} {output}: {found}"
        );
    }
    let claimed = Flow::builder("f", Bitrate::mbps(1))
        .source(Source::from_url("a", "udp://:1234"))
        .backup(Source::from_url("b", "rtp://:1234"))
        .build();
    assert!(claimed.unwrap_err().to_string().contains("sources[1].bind: sources[0] already listens on udp://"));
}

#[test]
fn flow_build_agrees_with_the_pairing_table() {
    let inputs = [
        "rtmp://:1/a/k",
        "rtmp://h/a?key=k",
        "srt://:1",
        "srt://h:1",
        "rtp://:1",
        "udp://:1",
        "rist://:2",
        "rtsp://:1/p",
        "rtsp://h/p",
    ];
    let outputs = [
        "rtmp://h/a?key=k&relay=1",
        "rtmp://h/a?key=k",
        "rtmp://:2/a/k",
        "srt://:2",
        "srt://h:2",
        "rtp://h:2",
        "udp://h:2",
        "rist://h:2",
        "rtsp://:2/p",
        "rtsp://h/p",
        "tap:",
    ];
    for input in inputs {
        for output in outputs {
            let source = Source::from_url("s", input);
            let sink = Output::from_url("o", output);
            let allowed = source.protocol().allowed_outputs().contains(&sink.protocol());
            let built = Flow::builder("f", Bitrate::mbps(1)).source(source).output(sink).build();
            assert_eq!(built.is_ok(), allowed, "{input} -> {output}: {built:?}");
        }
    }
    assert_eq!(InputProtocol::Rtp.allowed_outputs().first(), Some(&OutputProtocol::Rtp));
}

#[test]
fn flow_build_checks_failover() {
    let base = || Flow::builder("f", Bitrate::mbps(1)).source(Source::rtmp("a", ":1935", "live"));
    let merge = Failover::new(FailoverPolicy::Merge(Duration::from_millis(99)));
    assert_eq!(paths(base().failover(merge).build()), ["failover.window", "failover.policy"]);
    let cold = Failover::default().cold().loss_threshold(Duration::ZERO);
    let result = base().backup(Source::rtmp("b", ":1935", "live")).failover(cold).build();
    assert_eq!(paths(result), ["failover.loss_threshold", "failover.cold"]);
}

#[test]
fn flow_policies_round_trip_as_text() {
    for policy in BandwidthPolicy::ALL {
        assert_eq!(policy.to_string().parse(), Ok(*policy));
    }
    assert!("Drop".parse::<BandwidthPolicy>().is_err());
    for (text, policy) in [
        ("stay", FailoverPolicy::Stay),
        ("prefer:5000", FailoverPolicy::Prefer(Duration::from_secs(5))),
        ("prefer:0", FailoverPolicy::Prefer(Duration::ZERO)),
        ("merge:200", FailoverPolicy::Merge(Duration::from_millis(200))),
    ] {
        assert_eq!(text.parse(), Ok(policy));
        assert_eq!(policy.to_string(), text);
    }
    assert_eq!("prefer".parse(), Ok(FailoverPolicy::Prefer(Duration::from_secs(5))));
    assert_eq!("merge".parse(), Ok(FailoverPolicy::Merge(Duration::from_millis(200))));
    for bad in ["", "stay:1", "prefer:", "prefer:3600001", "merge:99", "merge:501", "merge:1s"] {
        assert!(bad.parse::<FailoverPolicy>().is_err(), "{bad}");
    }
}

#[test]
fn rtmp_failover_adds_a_second_address_with_a_key_of_its_own() {
    let source = Source::rtmp("venue", ":1935", "live").key(StreamKey::new("KEY").unwrap()).failover(true);
    let flow = Flow::builder("f", Bitrate::mbps(20))
        .source(source.allow("10.0.0.0/8".parse().unwrap()).description("both"))
        .backup(Source::rtmp("venue-backup", ":1935", "other"))
        .build()
        .unwrap();
    let names: Vec<&str> = flow.sources().iter().map(Source::name).collect();
    assert_eq!(names, ["venue", "venue-backup", "venue-backup-2"]);
    let urls: Vec<String> = flow.sources().iter().map(Source::to_url).collect();
    assert_eq!(urls[0], "rtmp://0.0.0.0:1935/live/KEY?allow=10.0.0.0/8");
    assert!(urls[2].starts_with("rtmp://0.0.0.0:1935/live/") && urls[2].ends_with("?allow=10.0.0.0/8"), "{}", urls[2]);
    assert!(!urls[2].contains("/KEY?") && urls[2].len() > urls[0].len() + 25, "{}", urls[2]);
    assert_eq!(flow.sources()[2].common.description.as_deref(), Some("both"));
    // A built flow has both sources, and does not divide them again.
    let again = flow.sources().iter().cloned().fold(None, |builder: Option<FlowBuilder<_>>, source| match builder {
        None => Some(Flow::builder("f", Bitrate::mbps(20)).source(source)),
        Some(builder) => Some(builder.backup(source)),
    });
    assert_eq!(again.unwrap().build().unwrap().sources().len(), 3);

    let long = "\u{e9}".repeat(64);
    let flow = Flow::builder("f", Bitrate::mbps(1)).source(Source::rtmp(&long, ":1935", "live").failover(true)).build();
    let name = flow.unwrap().sources()[1].name().to_owned();
    assert!(name.len() <= Name::MAX_LEN && name.ends_with("\u{e9}-backup"), "{name}");
    let off = Source::from_url("a", "rtmp://:1935/live?failover=false");
    assert_eq!(Flow::builder("f", Bitrate::mbps(1)).source(off).build().unwrap().sources().len(), 1);
}

#[test]
fn rtmp_failover_reports_what_is_wrong_once() {
    let with = |source: Source| Flow::builder("f", Bitrate::mbps(1)).source(source);
    let wrong = Source::from_url("a\n", "rtmp://:1935/live?failover=yes&idle_timeout=1");
    assert_eq!(paths(with(wrong).build()), ["sources[0].name", "sources[0].idle_timeout"]);
    let wrong = Source::from_url("a", "rtmp://:1935/live?failover=perhaps");
    assert_eq!(paths(with(wrong).build()), ["sources[0].failover"]);
    assert_eq!(paths(with(Source::from_url("a", "srt://:9000?failover=true")).build()), ["sources[0].failover"]);
    // Publishers come when they come, so that such a backup cannot be cold.
    let cold = with(Source::from_url("a", "rtmp://:1935/live?failover=true")).failover(Failover::default().cold());
    assert_eq!(paths(cold.build()), ["failover.cold"]);
    let added = Source::from_url("a", "rtmp://:1935/live?failover=true");
    let error = check_source("source", MediaFamily::Rtmp, added).unwrap_err();
    assert_eq!(error.iter().next().map(ConfigError::path), Some("source.failover"));
}
