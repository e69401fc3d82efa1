//! Access hook of the host: asked about publishers and players of every protocol that listens, and told how each asks.

use std::sync::{Arc, Mutex};
use streamlink_core::{
    Access, AccessRequest, Credentials, Engine, EngineBuilder, Event, Failover, LossReason, Output, RefusalReason,
    Source, StreamKey,
};
use streamlink_tests::rig::Rig;

const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";

/// Requests that a hook was asked about. It rejects the first and accepts the others.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<AccessRequest>>>);

impl Asked {
    fn decide(&self, request: &AccessRequest) -> Access {
        assert!(!format!("{request:?}").contains("s3cret"), "{request:?}");
        let mut asked = self.0.lock().unwrap();
        asked.push(request.clone());
        if asked.len() == 1 { Access::Reject(1453) } else { Access::Accept }
    }

    fn blocking(&self) -> EngineBuilder {
        let asked = self.clone();
        Engine::builder().access(move |request| asked.decide(request))
    }

    fn later(&self) -> EngineBuilder {
        let asked = self.clone();
        Engine::builder().access_later(move |request| {
            let asked = asked.clone();
            async move {
                tokio::task::yield_now().await;
                asked.decide(&request)
            }
        })
    }

    /// Checks that the listener has refused the peer at first, and returns the last request.
    fn refused_first(&self, listener: &Rig) -> AccessRequest {
        let (name, reason) = listener.event(|event| match event {
            Event::PeerRefused { endpoint, reason, .. } => Some((endpoint, reason)),
            _ => None,
        });
        assert_eq!((name.as_str(), reason), ("here", RefusalReason::ByHost));
        let asked = self.0.lock().unwrap();
        assert!(asked.len() >= 2, "{asked:?}");
        for request in asked.iter() {
            assert_eq!((request.flow.as_str(), request.endpoint.as_str()), ("test", "here"));
            assert!(request.peer.ip().is_loopback());
        }
        asked.last().unwrap().clone()
    }
}

fn key() -> StreamKey {
    StreamKey::new("s3cret").unwrap()
}

/// Starts a flow that calls, prepares it, and waits until its output is connected.
fn publish(source: impl Into<Source>, output: impl Into<Output>, prepare: &dyn Fn(&Rig)) -> Rig {
    let caller = Rig::start(source, vec![output.into()]);
    prepare(&caller);
    caller.event(|event| matches!(event, Event::OutputConnected { .. }).then_some(()));
    caller
}

#[test]
fn access_hook_decides_on_rtmp_publishers_by_key_and_parameters() {
    for later in [false, true] {
        let asked = Asked::default();
        let builder = if later { asked.later() } else { asked.blocking() };
        let source = Source::rtmp("here", "127.0.0.1:0", "live").key(key()).into();
        let listener = Rig::start_on(builder, vec![source], Failover::default(), vec![Output::tap("tap").into()]);
        let url = format!("rtmp://127.0.0.1:{}/live", listener.input_port());
        let sent = StreamKey::new("s3cret?token=abc").unwrap();
        let caller = publish(Source::app_rtmp("app"), Output::rtmp_push("out", &url, sent), &|_| {});
        let request = asked.refused_first(&listener);
        assert_eq!((request.protocol, request.publishes), ("RTMP", true));
        assert_eq!((request.app.as_deref(), request.key()), (Some("live"), Some("s3cret?token=abc")));
        assert_eq!((request.path, request.user, request.stream_id), (None, None, None));
        caller.stop();
        listener.stop();
    }
}

#[test]
fn access_hook_decides_on_rtmp_players() {
    let asked = Asked::default();
    let output = Output::rtmp_pull("here", "127.0.0.1:0", "live").key(key()).into();
    let app = Source::app_rtmp("app").into();
    let listener = Rig::start_on(asked.later(), vec![app], Failover::default(), vec![output]);
    let address = listener.playback().split('/').nth(2).unwrap().to_owned();
    let player =
        Rig::start(Source::rtmp_pull("in", &format!("rtmp://{address}/live"), key()), vec![Output::tap("tap").into()]);
    listener.event(|event| matches!(event, Event::PeerRefused { reason: RefusalReason::ByHost, .. }).then_some(()));
    listener.event(|event| matches!(event, Event::OutputConnected { .. }).then_some(()));
    let requests = asked.0.lock().unwrap().clone();
    let request = requests.last().unwrap();
    assert_eq!((request.protocol, request.publishes, request.key()), ("RTMP", false, Some("s3cret")));
    player.stop();
    listener.stop();
}

#[test]
fn access_hook_decides_on_rtsp_publishers_and_knows_their_user() {
    let asked = Asked::default();
    let user = || Credentials::new("camera", "correct horse").unwrap();
    let source = Source::rtsp_listener("here", "127.0.0.1:0", "cam/1").credentials(user()).into();
    let listener = Rig::start_on(asked.blocking(), vec![source], Failover::default(), vec![Output::tap("tap").into()]);
    let url = format!("rtsp://127.0.0.1:{}/cam/1", listener.input_port());
    let output = Output::rtsp_caller("out", &url).credentials(user());
    let caller = publish(Source::app_rtsp("app"), output, &|caller| {
        caller.running.app_source("app").unwrap().set_sdp(SDP).unwrap();
    });
    let request = asked.refused_first(&listener);
    assert_eq!((request.protocol, request.publishes), ("RTSP", true));
    assert_eq!((request.path.as_deref(), request.user.as_deref()), (Some("cam/1"), Some("camera")));
    assert_eq!((request.key(), request.app.as_deref()), (None, None));
    caller.stop();
    listener.stop();
}

#[test]
fn access_hook_decides_on_rtsp_players_with_a_status() {
    let asked = Asked::default();
    let output = Output::rtsp_listener("here", "127.0.0.1:0", "cam").into();
    let app = Source::app_rtsp("app").into();
    let listener = Rig::start_on(asked.blocking(), vec![app], Failover::default(), vec![output]);
    listener.running.app_source("app").unwrap().set_sdp(SDP).unwrap();
    let player = Rig::start(Source::rtsp_caller("in", &listener.playback()), vec![Output::tap("tap").into()]);
    // The caller tries another transport at once, without a loss.
    let reason = player.event(|event| match event {
        Event::SourceLost { reason, .. } | Event::SourceRetrying { reason, .. } => Some(reason),
        _ => None,
    });
    assert!(matches!(&reason, LossReason::OtherWay(what) if what.contains("453")), "{reason:?}");
    listener.event(|event| matches!(event, Event::OutputConnected { .. }).then_some(()));
    let request = asked.0.lock().unwrap().last().unwrap().clone();
    let found = (request.protocol, request.publishes, request.path.as_deref());
    assert_eq!(found, ("RTSP", false, Some("cam")));
    player.stop();
    listener.stop();
}

#[test]
fn access_hook_that_answers_later_decides_on_srt_publishers() {
    let asked = Asked::default();
    let source = Source::srt_listener("here", "127.0.0.1:0").into();
    let listener = Rig::start_on(asked.later(), vec![source], Failover::default(), vec![Output::tap("tap").into()]);
    let remote = format!("127.0.0.1:{}", listener.input_port());
    let output = Output::srt_caller("out", &remote).stream_id("#!::r=cam,m=publish,u=camera");
    let caller = publish(Source::app_datagrams("app"), output, &|_| {});
    let request = asked.refused_first(&listener);
    assert_eq!((request.protocol, request.publishes), ("SRT", true));
    assert_eq!(request.stream_id.as_deref(), Some("#!::r=cam,m=publish,u=camera"));
    assert_eq!(request.user.as_deref(), Some("camera"));
    caller.stop();
    listener.stop();
}

#[test]
fn access_hook_that_never_answers_refuses_and_holds_back_no_stop() {
    let silent = Engine::builder().access_later(|_| std::future::pending());
    let source = Source::rtmp("here", "127.0.0.1:0", "live").key(key()).into();
    let listener = Rig::start_on(silent, vec![source], Failover::default(), vec![Output::tap("tap").into()]);
    let url = format!("rtmp://127.0.0.1:{}/live", listener.input_port());
    let caller = Rig::start(Source::app_rtmp("app"), vec![Output::rtmp_push("out", &url, key()).into()]);
    listener.event(|event| matches!(event, Event::PeerRefused { reason: RefusalReason::ByHost, .. }).then_some(()));
    listener.stop();
    caller.stop();
}
