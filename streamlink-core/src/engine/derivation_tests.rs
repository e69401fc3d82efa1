//! Test of an SRT port that goes on while the key of a caller is derived, for as long as the test wants.

use super::Engine;
use crate::{
    endpoint::HeldDerivations,
    event::{Event, RefusalReason},
    flow::{Bitrate, Flow, KeyLength, Output, Passphrase, Source},
    media::Packet,
};
use std::time::{Duration, Instant};

/// Timeout of each wait, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
const SECRET: &str = "derived by this test only";
const PACKETS: u32 = 100;

/// Waits until a condition holds.
#[track_caller]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text).unwrap()
}

#[test]
fn srt_port_passes_media_while_a_key_is_derived() {
    let engine = Engine::builder().workers(2).build().unwrap();
    let start = |flow| engine.block_on(engine.start(flow)).unwrap();
    let output = Output::srt_listener("out", "127.0.0.1:0").encryption(passphrase(SECRET), KeyLength::Aes128);
    let sender = Flow::builder("sender", Bitrate::mbps(20)).source(Source::app_datagrams("in")).output(output);
    let sender = start(sender.build().unwrap());
    let url = sender.playback_urls().remove(0).1;
    let address = url.trim_start_matches("srt://").split('?').next().unwrap().to_owned();
    let player = |name: &str, secret: &str| {
        let source = Source::srt_caller("in", &address).encryption(passphrase(secret), KeyLength::Aes128);
        start(Flow::builder(name, Bitrate::mbps(20)).source(source).output(Output::tap("tap")).build().unwrap())
    };
    let live = player("live", SECRET);
    let app = sender.app_source("in").unwrap();
    let mut tap = live.tap("tap").unwrap();
    let push = |number: u32| app.push(Packet::datagram(number.to_be_bytes().repeat(47), Instant::now())).unwrap();
    wait_for("the live player gets media", || {
        push(u32::MAX);
        tap.try_next().is_some()
    });
    let held = HeldDerivations::of(SECRET);
    let stranger = player("stranger", "a passphrase that is wrong");
    wait_for("the key of the stranger is being derived", || held.waiting() > 0);
    let mut pushed = 0;
    let mut got = 0;
    wait_for("media reaches the live player while a key is derived", || {
        if pushed < PACKETS {
            push(pushed);
            pushed += 1;
        }
        while let Some(packet) = tap.try_next() {
            if packet.data()[..4] == u32::to_be_bytes(got) {
                got += 1;
            }
        }
        got == PACKETS
    });
    assert!(held.waiting() > 0);
    drop(held);
    // Its next attempt is decided.
    let refused = async {
        loop {
            let event = sender.next_event().await.unwrap();
            if matches!(event, Event::PeerRefused { reason: RefusalReason::WrongPassphrase, .. }) {
                return;
            }
        }
    };
    engine.block_on(async { tokio::time::timeout(3 * PATIENCE, refused).await.unwrap() });
    engine.block_on(async {
        stranger.stop().await;
        live.stop().await;
        sender.stop().await;
    });
}
