//! Another implementation reads our broadcast: Cloudflare's `moq-transport`, which speaks draft 18.

use crate::common::{
    Certificate, InProcessRelay,
    hop::{Ingest, Ts, push_paced},
    soon,
};
use moq_transport::{
    coding::TrackNamespace,
    serve::{ServeError, SubgroupsReader, Track, TrackReaderMode},
    session::{Session, Subscriber, Transport, transport},
};
use std::{sync::Arc, time::Duration};
use streamlink_core::MediaFamily;
use streamlink_moq::{Catalog, PublishSettings};
use transport::quinn::quinn;

/// Connects over raw QUIC, with the protocol of draft 18.
async fn connect(port: u16, certificate: &Certificate) -> (Session, Subscriber) {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate.certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"moqt-18".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
    let url: url::Url = format!("moqt://localhost:{port}/").parse().unwrap();
    let response = transport::quinn::proto::ConnectResponse::default();
    let session = transport::quinn::Session::raw(connection, url, response);
    let (session, _, subscriber) = Session::connect(session.into(), None, Transport::RawQuic).await.unwrap();
    (session, subscriber)
}

/// Subscribes to a track of the broadcast, again until the relay knows it: a subscription that comes before
/// the broadcast's announcement is refused.
async fn subscribe(subscriber: &Subscriber, name: &str) -> SubgroupsReader {
    soon(name, async {
        loop {
            let (writer, reader) = Track::new(TrackNamespace::from_utf8_path("live/cam"), name).produce();
            let mut subscriber = subscriber.clone();
            tokio::spawn(async move {
                let _ = subscriber.subscribe(writer).await; // until the session ends
            });
            match reader.mode().await {
                Ok(TrackReaderMode::Subgroups(groups)) => return groups,
                Ok(_) => panic!("{name} comes in subgroups"),
                Err(ServeError::NotFound | ServeError::NotFoundWithId(..)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{name}: {error}"),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cloudflare_moq_transport_reads_our_catalog_and_mpeg_ts() {
    let certificate = Certificate::new();
    let relay = InProcessRelay::start(&certificate).await;
    let relays = [relay.address()];
    let ingest = Ingest::start(&relays, &certificate, "live/cam", MediaFamily::Datagrams, PublishSettings::new()).await;
    let mut ts = Ts::new();
    ingest.source.push(ts.datagram()).unwrap();
    let source = ingest.source.clone();
    let pushing = tokio::spawn(async move {
        push_paced(&source, || ts.datagram(), Duration::from_millis(2), Duration::from_secs(6)).await
    });
    let (session, subscriber) = soon("session", connect(relay.address().port(), &certificate)).await;
    let session = tokio::spawn(session.run());

    let mut groups = subscribe(&subscriber, "catalog").await;
    let mut group = soon("catalog", groups.next()).await.unwrap().unwrap();
    let catalog = soon("catalog", group.read_next()).await.unwrap().unwrap();
    assert!(Catalog::parse(&catalog).unwrap().media.is_transport_stream);

    let mut groups = subscribe(&subscriber, "media").await;
    // The first group may be cut at its beginning; the second is whole.
    soon("first group", groups.next()).await.unwrap().unwrap();
    let mut group = soon("second group", groups.next()).await.unwrap().unwrap();
    let mut objects = Vec::new();
    while let Some(object) = soon("object", group.read_next()).await.unwrap() {
        objects.push(object);
    }
    let sent = pushing.await.unwrap();
    let begin = sent.iter().position(|packet| *packet.data() == objects[0]).expect("the first object was sent");
    let packets = sent[begin..].iter().map(|packet| packet.data());
    assert!(objects.len() > 100, "{}", objects.len());
    assert!(objects.iter().zip(packets).all(|(object, packet)| object == packet));
    session.abort();
}
