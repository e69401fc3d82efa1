//! Links, broadcasts, small tracks and announcements.

use crate::common::{Certificate, InProcessRelay, RelayProcess, soon, until};
use std::time::Duration;
use streamlink_moq::{
    Announcement, Error, LinkSettings, LinkState, RelayLink, Relays, SubscribeOptions, TrackOptions, unix_micros,
};

fn only(relays: &Relays) -> &RelayLink {
    &relays.links()[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_track_brings_its_newest_object() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let publisher = Relays::connect(&[relay.address()], &certificate.settings(), None).unwrap();
    let subscriber = Relays::connect(&[relay.address()], &certificate.settings(), None).unwrap();

    let broadcast = publisher.publish("nodes/eu/one").unwrap();
    let track = broadcast.track("status", TrackOptions::default()).unwrap();
    for number in 0..5 {
        track.write_object(format!("{{\"n\":{number}}}")).unwrap();
    }
    broadcast.announce().unwrap();

    let mut watch = only(&subscriber).announcements("nodes/eu").unwrap();
    let announced = soon("announcement", watch.next()).await.unwrap();
    assert_eq!((announced.path.as_str(), announced.is_active), ("nodes/eu/one", true));
    let options = SubscribeOptions::default();
    let reader = only(&subscriber).subscribe("nodes/eu/one", "status", options);
    let mut reader = soon("subscription", reader).await.unwrap();
    assert_eq!(soon("object", reader.next_object()).await.unwrap().unwrap(), "{\"n\":4}");
    track.write_object("{\"n\":5}").unwrap();
    assert_eq!(soon("object", reader.next_object()).await.unwrap().unwrap(), "{\"n\":5}");
    assert!(track.has_subscribers());

    drop(track);
    drop(broadcast);
    let gone: Announcement = soon("withdrawal", watch.next()).await.unwrap();
    assert_eq!((gone.path.as_str(), gone.is_active), ("nodes/eu/one", false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_and_objects_arrive_with_their_numbers() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let publisher = Relays::connect(&[relay.address()], &certificate.settings(), None).unwrap();
    let broadcast = publisher.publish("live/cam").unwrap();
    let track = broadcast.track("media", TrackOptions::default()).unwrap();
    broadcast.announce().unwrap();
    let subscriber = Relays::connect(&[relay.address()], &certificate.settings(), None).unwrap();
    let options = SubscribeOptions { max_age: Duration::from_secs(2), ..SubscribeOptions::default() };
    let mut reader = soon("subscription", only(&subscriber).subscribe("live/cam", "media", options)).await.unwrap();
    let first = unix_micros();
    for number in [first, first + 1] {
        let mut group = track.begin_group(number).unwrap();
        for object in 0..3_u8 {
            group.write(unix_micros(), vec![object; 1316]).unwrap();
        }
    }
    let mut numbers = Vec::new();
    while numbers.len() < 6 {
        let mut group = soon("group", reader.next_group()).await.unwrap().unwrap();
        while let Some(object) = soon("object", group.next()).await.unwrap() {
            assert_eq!(object.payload, vec![u8::try_from(object.index).unwrap(); 1316]);
            assert!(object.time >= first);
            numbers.push((group.number() - first, object.index));
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_returns_after_its_relay_was_killed() {
    let certificate = Certificate::new();
    let mut relay = RelayProcess::start(&certificate);
    let relays = Relays::connect(&[relay.address()], &certificate.settings(), None).unwrap();
    let link = only(&relays);
    assert!(soon("connection", link.connected()).await);
    assert!(link.version().unwrap().contains("moq-lite"), "{:?}", link.version());
    assert!(link.stats().unwrap().rtt_ms.is_some());
    relay.kill();
    until("loss of the relay", || !link.status().is_connected()).await;
    assert!(link.status().last_error.is_some());
    relay.restart();
    assert!(soon("return of the relay", link.connected()).await);
    assert!(link.status().connects >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_refuses_a_stranger_s_certificate_and_shows_no_token() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let stranger = Certificate::new();
    let settings = stranger.settings().token(streamlink_moq::Token::new("s3cret"));
    let relays = Relays::connect(&[relay.address()], &settings, None).unwrap();
    let link = only(&relays);
    until("refusal", || link.status().failures > 0).await;
    let status = link.status();
    assert_ne!(status.state, LinkState::Connected);
    assert!(!format!("{status:?} {settings:?} {relays:?}").contains("s3cret"), "{status:?}");
    let both = LinkSettings::new().fingerprint("00").root("/nowhere");
    assert!(matches!(Relays::connect(&[relay.address()], &both, None), Err(Error::Settings(_))));
}
