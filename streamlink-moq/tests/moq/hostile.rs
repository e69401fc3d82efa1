//! Bytes that are no media, and broadcasts of strangers.

use crate::common::{
    Certificate, InProcessRelay,
    hop::{Edge, Ingest, Ts, digest, event, flow},
    until,
};
use std::sync::Arc;
use streamlink_core::{Engine, MediaFamily};
use streamlink_moq::{
    CATALOG_TRACK, Error, Incoming, MEDIA_TRACK, MoqEvent, Publication, PublishSettings, Relays, SubscribeSettings,
    TrackOptions, unix_micros,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_the_media_is_counted_and_harmless() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let relays = [relay.address()];
    let stranger = Relays::connect(&relays, &certificate.settings(), None).unwrap();
    let broadcast = stranger.publish("live/cam").unwrap();
    let catalog = broadcast.track(CATALOG_TRACK, TrackOptions::default()).unwrap();
    let media = broadcast.track(MEDIA_TRACK, TrackOptions::default()).unwrap();
    let mut edge = Edge::start(&relays, &certificate, "live/cam", MediaFamily::Datagrams).await;
    let mut events = edge.incoming.events();
    broadcast.announce().unwrap();
    catalog.write_object(&b"{\"version\":7}"[..]).unwrap();
    let is_refused = |event: &MoqEvent| matches!(event, MoqEvent::CatalogRefused { .. });
    event(&mut events, "refusal of the catalog", is_refused).await;
    catalog.write_object(&br#"{"version":"draft-01","tracks":[{"name":"media","packaging":"mpeg2ts"}]}"#[..]).unwrap();
    edge.legs(1).await;
    let out = edge.collect();
    let mut ts = Ts::new();
    let good = [ts.datagram(), ts.datagram()];
    let mut group = media.begin_group(unix_micros()).unwrap();
    group.write(unix_micros(), good[0].data().clone()).unwrap();
    for garbage in
        [vec![], vec![0x47; 187], vec![1, 0, 0, 0, 0], vec![1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0], vec![7; 70_000]]
    {
        group.write(unix_micros(), garbage).unwrap();
    }
    group.write(unix_micros(), good[1].data().clone()).unwrap();
    let malformed = event(&mut events, "malformed objects", |event| matches!(event, MoqEvent::Malformed { .. })).await;
    assert!(matches!(malformed, MoqEvent::Malformed { objects: 1, .. }), "{malformed:?}");
    until("count", || edge.incoming.stats().legs[0].malformed == 5).await;
    // Objects that are no media are missing from the stream, which goes on after the wait.
    let out = out.finish_after(&edge, 2).await;
    assert_eq!(digest(out.iter().map(|(_, packet)| packet)), digest(good.iter()));
    assert_eq!(edge.incoming.stats().lost, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broadcast_of_another_family_feeds_nothing() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let relays = [relay.address()];
    let ingest = Ingest::start(&relays, &certificate, "live/cam", MediaFamily::Datagrams, PublishSettings::new()).await;
    let edge = Edge::start(&relays, &certificate, "live/cam", MediaFamily::Rtp).await;
    let mut events = edge.incoming.events();
    ingest.source.push(Ts::new().datagram()).unwrap();
    let refused = event(&mut events, "refusal", |event| matches!(event, MoqEvent::CatalogRefused { .. })).await;
    let MoqEvent::CatalogRefused { reason, .. } = refused else { panic!("{refused:?}") };
    assert!(reason.contains("Datagrams") && reason.contains("RTP"), "{reason}");
    assert_eq!(edge.incoming.stats().packets, 0);
    // Where the catalog is known, the source is refused at once.
    let links = Arc::new(Relays::connect(&relays, &certificate.settings(), None).unwrap());
    let incoming = Incoming::open(&links, "live/cam", SubscribeSettings::new()).unwrap();
    assert_eq!(incoming.catalog().await.unwrap().media.family(), MediaFamily::Datagrams);
    assert!(incoming.feed(edge.flow.app_source("in").unwrap()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publication_refuses_what_would_not_merge() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let relays = Arc::new(Relays::connect(&[relay.address()], &certificate.settings(), None).unwrap());
    let engine = Engine::on(tokio::runtime::Handle::current()).unwrap();
    let flow = flow(&engine, "rtmp", MediaFamily::Rtmp).await;
    let publish =
        |path: &str, tap: &str, settings: PublishSettings| Publication::of_flow(&relays, path, &flow, tap, &settings);
    assert!(matches!(publish("live/cam", "none", PublishSettings::new()), Err(Error::NotFound(_))));
    let _taken = relays.publish("live/cam").unwrap();
    assert!(matches!(relays.publish("live/cam"), Err(Error::Path(_))), "the path is taken");
    assert!(matches!(relays.publish("live/../cam"), Err(Error::Address(_))));
    let instance = PublishSettings::new().instance("a");
    assert!(matches!(publish("live/two", "out", instance), Err(Error::Path(_))), "RTMP of two nodes does not merge");
}
