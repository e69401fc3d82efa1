//! Tests of changes to a running flow while name resolution is pending, for as long as the test wants.

use super::*;
use crate::{
    error::ErrorKind,
    event::Event,
    flow::{Allowlist, Bitrate, Output, Source, StreamKey},
    router::State,
};
use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};
use tokio::sync::Semaphore;

/// Timeout of each wait, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Engine with a resolver that answers names ending in `.slow` with 127.0.0.1 when the test allows it.
struct SlowNames {
    engine: Engine,
    asked: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl SlowNames {
    fn new() -> Self {
        let asked = Arc::new(Semaphore::new(0));
        let answers = Arc::new(Semaphore::new(0));
        let ask = asked.clone();
        let wait = answers.clone();
        let resolver = Resolver::asking(move |host, port| {
            let is_slow = host.ends_with(".slow");
            let ask = ask.clone();
            let wait = wait.clone();
            Box::pin(async move {
                if is_slow {
                    ask.add_permits(1);
                    wait.acquire().await.map_err(io::Error::other)?.forget();
                }
                Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
            })
        });
        let builder = EngineBuilder { resolver, ..Engine::builder().workers(2) };
        Self { engine: builder.build().unwrap(), asked, answers }
    }

    fn start(&self, outputs: Vec<Output>) -> FlowHandle {
        let mut flow = Flow::builder("f", Bitrate::mbps(1)).source(Source::from(Source::app_rtp("in")));
        for output in outputs {
            flow = flow.output(output);
        }
        self.engine.block_on(self.engine.start(flow.build().unwrap())).unwrap()
    }

    /// Waits until a name is looked up.
    async fn is_asked(&self) {
        tokio::time::timeout(PATIENCE, self.asked.acquire()).await.unwrap().unwrap().forget();
    }

    fn answer(&self) {
        self.answers.add_permits(1);
    }
}

fn names(running: &FlowHandle) -> Vec<String> {
    running.stats().outputs.iter().map(|o| o.name.clone()).collect()
}

fn rtp(name: &str, target: &str) -> Output {
    Output::rtp(name, target).into()
}

#[test]
fn replace_output_leaves_the_old_one_as_it_is_while_a_name_is_resolved() {
    let names_later = SlowNames::new();
    let running = names_later.start(vec![rtp("out", "127.0.0.1:5004"), rtp("other", "127.0.0.1:5006")]);
    names_later.engine.block_on(async {
        let replacing = running.replace_output("out", rtp("out", "new.slow:5008"));
        let meanwhile = async {
            names_later.is_asked().await;
            let text = names_later.engine.metrics();
            assert!(!text.contains('\0') && text.contains("endpoint=\"out\""), "{text:?}");
            assert_eq!(names(&running), ["out", "other"]);
            assert_eq!(running.stats().outputs[0].state, State::Connected);
            // Other changes do not wait for the lookup.
            running.edit_output("out", OutputEdit::new().description("still here")).unwrap();
            running.add_output(rtp("third", "127.0.0.1:5010")).await.unwrap();
            running.remove_output("other").await.unwrap();
            assert_eq!(names(&running), ["out", "third"]);
            assert_eq!(running.stats().outputs[0].description.as_deref(), Some("still here"));
            names_later.answer();
        };
        let (replaced, ()) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(replacing, meanwhile) }).await.unwrap();
        replaced.unwrap();
        assert_eq!(names(&running), ["out", "third"]);
        assert_eq!(running.stats().outputs[0].description, None, "it is the new one");
        running.stop().await;
    });
}

#[test]
fn stop_ends_changes_that_wait_for_a_name() {
    let names_later = SlowNames::new();
    let running = names_later.start(vec![rtp("out", "127.0.0.1:5004")]);
    names_later.engine.block_on(async {
        let replacing = running.replace_output("out", rtp("out", "new.slow:5008"));
        let adding = running.add_output(rtp("more", "more.slow:5008"));
        let stopping = async {
            names_later.is_asked().await;
            names_later.is_asked().await;
            running.stop().await;
        };
        let all = async { tokio::join!(replacing, adding, stopping) };
        let (replaced, added, ()) = tokio::time::timeout(PATIENCE, all).await.unwrap();
        assert_eq!(replaced.unwrap_err().kind(), ErrorKind::Stopped);
        assert_eq!(added.unwrap_err().kind(), ErrorKind::Stopped);
        assert_eq!(names(&running), ["out"]);
    });
}

#[test]
fn change_whose_future_is_dropped_while_a_name_is_resolved_does_nothing() {
    let names_later = SlowNames::new();
    let running = names_later.start(vec![rtp("out", "127.0.0.1:5004")]);
    names_later.engine.block_on(async {
        for target in ["out", "more"] {
            let change = async {
                if target == "out" {
                    running.replace_output("out", rtp("new", "new.slow:5008")).await
                } else {
                    running.add_output(rtp("more", "more.slow:5008")).await
                }
            };
            tokio::select! {
                _ = change => panic!("no name is known yet"),
                () = names_later.is_asked() => {}
            }
        }
        // The abandoned changes have cancelled their lookups, so the answers serve other changes.
        names_later.answers.add_permits(3);
        for name in ["new", "more"] {
            // The abandoned changes have left no name or claim behind.
            running.add_output(rtp(name, "later.slow:5012")).await.unwrap();
        }
        assert_eq!(names(&running), ["out", "new", "more"]);
        let later = running.stop();
        drop(later); // never polled
        assert_eq!(running.stats().outputs[0].state, State::Connected);
        // A change that has been polled goes on after its future is dropped.
        let mut events = running.events();
        tokio::select! {
            biased;
            () = running.stop() => {}
            () = std::future::ready(()) => {}
        }
        let stopped = async { while events.next().await.is_some_and(|event| event != Event::FlowStopped) {} };
        tokio::time::timeout(PATIENCE, stopped).await.unwrap();
    });
}

#[test]
fn replace_output_hands_its_address_on_without_letting_another_flow_take_it() {
    let names_later = SlowNames::new();
    let bind = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let engine = &names_later.engine;
    let listener = |name: &str| Output::srt_listener(name, &bind);
    let flow = |name: &str| Flow::builder(name, Bitrate::mbps(1)).source(Source::app_datagrams("in"));
    engine.block_on(async {
        let running = engine.start(flow("f").output(listener("out")).build().unwrap()).await.unwrap();
        let other = engine.start(flow("other").build().unwrap()).await.unwrap();
        let grab = async {
            for _ in 0..500 {
                let error = other.add_output(listener("mine")).await.unwrap_err();
                assert!(error.to_string().contains("flow `f` already listens"), "{error}");
            }
        };
        let replace = async {
            for _ in 0..100 {
                running.replace_output("out", listener("out")).await.unwrap();
            }
        };
        tokio::join!(grab, replace);
        // A failed replacement leaves the claim as it was. A removed output gives it back once its address is free.
        let elsewhere = Output::srt_listener("in", "127.0.0.1:0");
        assert_eq!(running.replace_output("out", elsewhere).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(other.add_output(listener("mine")).await.is_err());
        running.replace_output("out", Output::srt_listener("out", "127.0.0.1:0")).await.unwrap();
        other.add_output(listener("mine")).await.unwrap();
        running.stop().await;
        assert!(engine.start(flow("third").output(listener("x")).build().unwrap()).await.is_err());
        other.stop().await;
    });
}

#[test]
fn edits_that_fail_change_nothing() {
    let names_later = SlowNames::new();
    let engine = &names_later.engine;
    engine.block_on(async {
        let flow = Flow::builder("f", Bitrate::mbps(1))
            .source(Source::srt_caller("in", "127.0.0.1:9"))
            .output(Output::srt_listener("out", "127.0.0.1:0").max_players(3))
            .output(Output::tap("tap"));
        let running = engine.start(flow.build().unwrap()).await.unwrap();
        let limit = || {
            let mut outputs = running.running().outputs();
            let listen = outputs[0].output.listen_mut().unwrap();
            (listen.max_peers, listen.allow.clone())
        };
        let before = limit();
        let allow: Allowlist = "10.0.0.0/8".parse().unwrap();
        let edit = || OutputEdit::new().allow(allow.clone()).max_players(7).description("new");
        for wrong in
            [edit().rename("tap"), edit().rename("in"), edit().rename(""), edit().description("\n".repeat(2000))]
        {
            running.edit_output("out", wrong).unwrap_err();
            assert_eq!(limit(), before);
            assert_eq!(running.stats().outputs[0].description, None);
        }
        running.edit_output("tap", edit().rename("fresh")).unwrap_err();
        assert_eq!(names(&running), ["out", "tap"]);
        running.edit_output("out", edit().rename("fresh")).unwrap();
        assert_eq!(limit(), (Some(7), allow.clone()));
        assert_eq!(names(&running), ["fresh", "tap"]);
        // A caller has no allowlist: setting one is an error, and no other part of that edit is applied.
        let edit = SourceEdit::new().rename("camera").description("new").allow(allow);
        assert_eq!(running.edit_source("in", edit).unwrap_err().kind(), ErrorKind::InvalidConfig);
        assert_eq!(running.stats().sources[0].name, "in");
        running.edit_source("in", SourceEdit::new().rename("tap")).unwrap_err();
        running.edit_source("in", SourceEdit::new().rename("camera")).unwrap();
        assert_eq!(running.stats().sources[0].name, "camera");
        running.stop().await;
    });
}

#[test]
fn callers_try_every_address_of_a_name() {
    let resolver = Resolver::asking(|_, port| {
        Box::pin(async move {
            let refusing = SocketAddr::from(([127, 0, 0, 77], port));
            Ok(vec![refusing, SocketAddr::from(([127, 0, 0, 1], port))])
        })
    });
    let builder = EngineBuilder { resolver, ..Engine::builder().workers(2) };
    let engine = builder.build().unwrap();
    let key = || StreamKey::new("a-key-of-some-length").unwrap();
    let port = |flow: &FlowHandle| {
        let url = flow.input_addresses().remove(0);
        let rest = url.split("127.0.0.1:").nth(1).unwrap().to_owned();
        rest.split(['/', '?']).next().unwrap().to_owned()
    };
    engine.block_on(async {
        let rtmp = Flow::builder("rtmp", Bitrate::mbps(1)).source(Source::rtmp("in", "127.0.0.1:0", "live").key(key()));
        let rtmp = engine.start(rtmp.build().unwrap()).await.unwrap();
        let srt = Flow::builder("srt", Bitrate::mbps(1)).source(Source::srt_listener("in", "127.0.0.1:0"));
        let srt = engine.start(srt.build().unwrap()).await.unwrap();
        let address = format!("rtmp://both.test:{}/live", port(&rtmp));
        let push = Flow::builder("push", Bitrate::mbps(1)).source(Source::app_rtmp("in")).output(Output::rtmp_push(
            "out",
            &address,
            key(),
        ));
        let call = Flow::builder("call", Bitrate::mbps(1))
            .source(Source::app_datagrams("in"))
            .output(Output::srt_caller("out", &format!("both.test:{}", port(&srt))));
        for flow in [push.build().unwrap(), call.build().unwrap()] {
            let name = flow.name().to_owned();
            let running = engine.start(flow).await.unwrap();
            let connected = async {
                loop {
                    match running.next_event().await.unwrap() {
                        Event::OutputConnected { peer, .. } => return peer.unwrap(),
                        Event::OutputLost { reason, .. } => panic!("{name}: {reason}"),
                        _ => {}
                    }
                }
            };
            let peer = tokio::time::timeout(PATIENCE, connected).await.unwrap();
            assert_eq!(peer.ip(), IpAddr::from([127, 0, 0, 1]), "{name}");
            assert_eq!(running.stats().outputs[0].peer, Some(peer));
            running.stop().await;
            assert_eq!(running.stats().outputs[0].state, State::Idle);
        }
        let unreachable = Flow::builder("f", Bitrate::mbps(1))
            .source(Source::app_rtmp("in"))
            .output(Output::rtmp_push("out", "rtmp://both.test:1/live", key()));
        let running = engine.start(unreachable.build().unwrap()).await.unwrap();
        let lost = async {
            loop {
                if let Event::OutputLost { reason, .. } = running.next_event().await.unwrap() {
                    return reason.to_string();
                }
            }
        };
        let reason = tokio::time::timeout(PATIENCE, lost).await.unwrap();
        assert!(reason.contains("127.0.0.77:1") && reason.contains("127.0.0.1:1"), "{reason}");
    });
}

#[test]
fn engine_starts_no_flow_after_its_shutdown() {
    let engine = Engine::builder().workers(1).build().unwrap();
    let flow = || Flow::builder("f", Bitrate::mbps(1)).source(Source::app_rtp("in")).build().unwrap();
    engine.block_on(async {
        let running = engine.start(flow()).await.unwrap();
        engine.shutdown().await;
        assert_eq!(running.stats().sources[0].state, State::Idle);
        assert_eq!(engine.start(flow()).await.unwrap_err().kind(), ErrorKind::Stopped);
    });
}
