//! Encryption over the simulated network: key refreshes, ciphers, wrong passphrases.

use super::*;

#[test]
fn srt_key_refresh_leaves_no_gap() {
    let terms = Terms {
        passphrase: Some("correct horse".into()),
        key_refresh: 200,
        key_announce: 50,
        key_length: 32,
        ..latency(400)
    };
    let weather = Weather { loss: 5, delay: ms(20), ..FAIR };
    let mut world = World::new(weather, terms.clone(), terms, 4);
    world.connect().send(3000, ms(2));
    assert_eq!(world.check().len(), 3000);
    assert_eq!(world.receiver().stats().undecrypted, 0);
}

fn gcm(length: usize) -> Terms {
    Terms {
        passphrase: Some("correct horse".into()),
        cipher: Some(CipherMode::Gcm),
        key_length: length,
        ..latency(400)
    }
}

#[test]
fn srt_gcm_carries_everything_over_losses_and_key_refreshes() {
    for length in [16, 24, 32] {
        // A listener without a mode of its own takes the caller's.
        for listener in [gcm(16), Terms { cipher: None, ..gcm(16) }] {
            let caller = Terms { key_refresh: 200, key_announce: 50, ..gcm(length) };
            let weather = Weather { loss: 5, duplicates: 3, delay: ms(20), jitter: ms(2), ..FAIR };
            let mut world = World::new(weather, caller, listener, 40 + length as u64);
            world.connect().send(2000, ms(2));
            assert_eq!(world.check().len(), 2000);
            let stats = world.receiver().stats();
            assert_eq!((stats.encrypted, stats.undecrypted, stats.received.lost), (true, 0, 0));
            assert_eq!(world.sender().max_payload(), 1456 - 16);
            assert_eq!(world.receiver().max_payload(), 1456 - 16);
        }
    }
}

#[test]
fn srt_gcm_discards_altered_packets_and_gets_the_real_ones() {
    let mut world = World::new(FAIR, gcm(32), gcm(32), 8);
    world.connect();
    let mut dice = TestRng(77);
    let mut forged = 0;
    for i in 0..300 {
        let now = world.now;
        assert!(world.sender().push(&payload(i), now));
        for bytes in drain(world.sender(), now) {
            if bytes[0] & 0x80 == 0 {
                // The altered copy arrives before the real one.
                let mut altered = bytes.to_vec();
                let at = 4 + dice.next_u64() as usize % (altered.len() - 4);
                altered[at] ^= 1 << (dice.next_u64() % 8);
                let altered = Bytes::from(altered);
                let marks_repeat = at == 4 && altered[4] ^ bytes[4] == 4;
                let changes_key = at == 4 && (altered[4] ^ bytes[4]) & 0x18 != 0;
                if let Some(packet) = Packet::parse(&altered).filter(|_| !marks_repeat && !changes_key) {
                    world.receiver().handle(&packet, &altered, now);
                    forged += 1;
                }
            }
            let packet = Packet::parse(&bytes).unwrap();
            world.receiver().handle(&packet, &bytes, now);
        }
        world.run_until(now + ms(2));
    }
    world.run_until(world.now + ms(1000));
    assert_eq!(world.check().len(), 300);
    let stats = world.receiver().stats();
    assert_eq!((stats.undecrypted, stats.received.lost), (forged, 0));
    assert!(forged > 250, "{forged}");
}

#[test]
fn srt_rejects_other_cipher_in_both_roles() {
    let ctr = Terms { cipher: Some(CipherMode::Ctr), ..gcm(16) };
    let auto = Terms { cipher: None, ..gcm(16) };
    for (caller, listener, accepted) in [
        (gcm(16), ctr.clone(), false),
        (ctr.clone(), gcm(16), false),
        (auto.clone(), gcm(16), false),
        (auto.clone(), ctr.clone(), true),
        (auto.clone(), auto.clone(), true),
        (ctr, auto, true),
    ] {
        let mut world = World::new(FAIR, caller, listener, 2);
        world.run_until(world.now + ms(500));
        assert_eq!(world.rejected, (!accepted).then_some(Rejection::CRYPTO));
        assert_eq!(world.accepted.is_some(), accepted);
    }
}

#[test]
fn srt_gcm_of_libsrt_before_1_5_4_is_rejected_in_both_roles() {
    for (version, accepted) in [(0x01_05_02, false), (0x01_05_03, false), (0x01_05_04, true), (0x01_06_00, true)] {
        let mut request = conclusion(gcm(16));
        request.extensions.srt.as_mut().unwrap().version = version;
        let local = Local { id: 9, start: Instant::now(), random: Random::of(random) };
        let result = gcm(16).accept_here(&request, 0, &local);
        assert_eq!(result.as_ref().err(), (!accepted).then_some(&Rejection::CRYPTO), "{version:x}");
        let (_, mut answer) = gcm(16).accept_here(&conclusion(gcm(16)), 0, &local).unwrap();
        answer.extensions.srt.as_mut().unwrap().version = version;
        let keys = Keys::generate(16, CipherMode::Gcm, &[1; 48], "correct horse");
        let result = gcm(16).conclude(&answer, 0, &local, Some(keys), Sequence::new(1));
        assert_eq!(result.err(), (!accepted).then_some(Rejection::CRYPTO), "{version:x}");
    }
    // The counter mode of old versions is as good as that of new ones.
    let mut request = conclusion(secret_terms());
    request.extensions.srt.as_mut().unwrap().version = 0x01_03_00;
    assert!(secret_terms().prepare(&request).is_ok());
}

#[test]
fn srt_rejects_wrong_passphrase() {
    let secret = |s: &str| Terms { passphrase: Some(s.into()), ..Terms::default() };
    for (caller, listener, reason) in [
        (secret("correct horse"), secret("wrong horse!"), Rejection::BAD_SECRET),
        (secret("correct horse"), Terms::default(), Rejection::UNSECURE),
        (Terms::default(), secret("correct horse"), Rejection::UNSECURE),
    ] {
        let mut world = World::new(FAIR, caller, listener, 2);
        world.run_until(world.now + ms(500));
        assert_eq!(world.rejected, Some(reason));
        assert!(world.accepted.is_none());
    }
}

/// Checks the limit on derivations, each of which takes half a millisecond of the task that serves all connections of a
/// port.
#[test]
fn srt_key_requests_with_ever_new_salts_are_derived_rarely() {
    let terms = Terms { passphrase: Some("correct horse".into()), ..latency(120) };
    let mut world = World::new(FAIR, terms.clone(), terms, 7);
    world.connect().send(10, ms(2));
    let begin = world.now;
    let answers = |connection: &mut Connection, material: &[u8], now: Instant| {
        let request = write_control(&Control::KeyRequest(material), 0, 200);
        connection.handle(&Packet::parse(&request).unwrap(), &Bytes::copy_from_slice(&request), now);
        let sent = drain(connection, now);
        let is_answer = |bytes: &Bytes| matches!(Packet::parse(bytes), Some(Packet::Control { control: Control::KeyResponse(ours), .. }) if ours == material);
        sent.iter().filter(|bytes| is_answer(bytes)).count()
    };
    let material = |byte: u8| Keys::generate(16, CipherMode::Ctr, &[byte; 48], "correct horse").material().unwrap();
    let materials: Vec<_> = (100..=255).map(material).collect();
    let flood: usize = materials.iter().map(|m| answers(world.receiver(), m, begin)).sum();
    assert_eq!(flood, 1, "one is derived, the others wait");
    // A request with the known salt costs nothing, and so is always answered.
    let again: usize = (0..100).map(|_| answers(world.receiver(), &materials[0], begin)).sum();
    assert_eq!(again, 100);
    let later = begin + Duration::from_secs(10);
    assert_eq!(
        materials.iter().map(|m| answers(world.receiver(), m, later)).sum::<usize>(),
        2,
        "one more, and the known"
    );
}
