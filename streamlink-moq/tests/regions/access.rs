//! Secrets that a relay's rules and the seal keep from the nodes of other regions.

use crate::common::{Certificate, InProcessRelay, PATIENCE, soon, until};
use std::path::PathBuf;
use streamlink_core::{Bitrate, MediaFamily, Output};
use streamlink_moq::{
    LinkSettings, Relays, SubscribeOptions, TrackOptions,
    outputs::{DescribedOutput, FlowOutputs},
    paths::{ingest_patterns, node_patterns},
    seal::{RegionKeys, RegionSecretKey},
};

/// Certificate authority of the clients.
struct Authority {
    folder: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, issuer: rcgen::Issuer::new(parameters, key) }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Settings of a client with a certificate for a name.
    fn client(&self, name: &str, relay: &Certificate) -> LinkSettings {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let files = [format!("{name}.pem"), format!("{name}.key")].map(|name| self.folder.path().join(name));
        std::fs::write(&files[0], certificate.pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        relay.settings().client_certificate(&files[0], &files[1])
    }
}

fn patterns(texts: &[String]) -> moq_auth::Patterns {
    texts.iter().map(|text| text.parse::<moq_auth::Pattern>().unwrap()).collect()
}

/// Admits clients by the names of their certificates: `ingest`, or `node.REGION`.
async fn admit(mut admissions: moq_relay::auth::Admissions) {
    while let Some(admission) = admissions.next().await {
        let name = admission.request.tls.as_ref().map(|peer| peer.name.clone()).unwrap_or_default();
        let (publish, subscribe) = match (name.as_str(), name.strip_prefix("node.")) {
            ("ingest", _) => ingest_patterns("live"),
            (_, Some(region)) => node_patterns("live", region),
            _ => {
                admission.refuse(moq_relay::auth::Error::Refused);
                continue;
            }
        };
        let grant = moq_auth::Grant::new(patterns(&publish), patterns(&subscribe));
        admission.grant(moq_auth::lease::Consumer::fixed(grant));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_node_cannot_read_the_outputs_of_another_region() {
    let certificate = Certificate::new();
    let authority = Authority::new();
    let (relay, admissions) = InProcessRelay::start_admitting(&certificate, authority.file()).await;
    tokio::spawn(admit(admissions));
    let connect = |settings: LinkSettings| Relays::connect(&[relay.address()], &settings, None).unwrap();
    let ingest = connect(authority.client("ingest", &certificate));
    let eu = connect(authority.client("node.eu", &certificate));
    let us = connect(authority.client("node.us", &certificate));
    let stranger = connect(certificate.settings());
    for relays in [&ingest, &eu, &us] {
        assert!(soon("a connection", relays.links()[0].connected()).await);
    }
    until("refusal of a client without a certificate", || stranger.links()[0].status().last_error.is_some()).await;

    let eu_key = RegionSecretKey::generate();
    let us_key = RegionSecretKey::generate();
    let outputs = FlowOutputs {
        region: "eu".into(),
        flow: "match-day".into(),
        publisher: 1,
        revision: 1,
        family: MediaFamily::Datagrams,
        max_bandwidth: Bitrate::mbps(5),
        outputs: vec![DescribedOutput { id: 1, output: Output::from_url("p", "rtmp://example.com/live?key=hunter2") }],
        srt: None,
        sdp: None,
        kicks: Vec::new(),
    };
    let sealed = outputs.seal(&eu_key.public_key()).unwrap();
    let path = "live/outputs/eu/match-day/0000000000000001";
    let broadcast = ingest.publish(path).unwrap();
    let track = broadcast.track("outputs", TrackOptions::default()).unwrap();
    track.write_object(sealed.clone()).unwrap();
    broadcast.announce().unwrap();

    let options = SubscribeOptions::default();
    let mut reader = soon("a subscription", eu.links()[0].subscribe(path, "outputs", options)).await.unwrap();
    let object = soon("the outputs", reader.next_object()).await.unwrap().unwrap();
    let opened = FlowOutputs::open(&object, &RegionKeys::new(eu_key), "eu", "match-day").unwrap();
    assert!(opened.outputs[0].output.to_url().contains("hunter2"));

    // The relay neither announces it to the other region nor serves it; and it would read ciphertext.
    let refused = tokio::time::timeout(PATIENCE / 10, us.links()[0].subscribe(path, "outputs", options)).await;
    assert!(!matches!(refused, Ok(Ok(_))), "a node of another region has read the outputs");
    assert!(FlowOutputs::open(&object, &RegionKeys::new(us_key), "eu", "match-day").is_err());
    // Nor may it publish as a node of that region.
    let forged = us.publish("live/nodes/eu/forged/0000000000000001").unwrap();
    let _track = forged.track("heartbeat", TrackOptions::default()).unwrap();
    forged.announce().unwrap();
    let mut nodes = eu.links()[0].announcements("live/nodes/eu").unwrap();
    let announced = tokio::time::timeout(PATIENCE / 10, nodes.next()).await;
    assert!(announced.is_err(), "{announced:?}");
}
