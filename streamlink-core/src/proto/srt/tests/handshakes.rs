//! Handshakes: rejections by code, forged and repeated packets, agreement on sizes.

use super::*;

#[test]
fn srt_ignores_forged_and_replayed_handshakes() {
    let now = Instant::now();
    let listener = Listener::new([3; 32], now);
    let local = Local { id: 1, start: now, random: Random::of(random) };
    let mut caller = Caller::new(Terms::default(), local, None, ms(3000));
    let (a, b): (SocketAddr, SocketAddr) = (PEER.parse().unwrap(), "192.0.2.2:5000".parse().unwrap());
    let body = |bytes: &[u8]| bytes[HEADER..].to_vec();
    let induction = caller.poll_transmit(now).unwrap();
    let Greeting::Induction(asked) = listener.greet(&body(&induction), a, now) else { panic!("not an induction") };
    let reply = listener.welcome(&asked, a, now);
    assert!(reply.len() <= induction.len(), "an answer to an unknown address must not amplify");
    assert!(matches!(caller.handle(&body(&reply), 0, now), Progress::Calling));
    let conclusion = body(&caller.poll_transmit(now).unwrap());
    assert!(matches!(listener.greet(&conclusion, a, now), Greeting::Request(_)));
    assert!(matches!(listener.greet(&conclusion, b, now), Greeting::Ignore), "the cookie is another address's");
    let later = now + Duration::from_secs(121);
    assert!(matches!(listener.greet(&conclusion, a, later), Greeting::Ignore), "the cookie is too old");
    for cut in 0..conclusion.len() {
        let _ = listener.greet(&conclusion[..cut], a, now);
    }
}

/// Checks that no packet sent by a listener is answered by another listener or by itself.
#[test]
fn srt_listener_answers_no_listener() {
    let now = Instant::now();
    let one = Listener::new([3; 32], now);
    let other = Listener::new([4; 32], now);
    let peer: SocketAddr = PEER.parse().unwrap();
    let local = Local { id: 7, start: now, random: Random::of(random) };
    let secret = Terms { passphrase: Some("correct horse".into()), ..Terms::default() };
    for terms in [Terms::default(), secret] {
        let mut caller = Caller::new(terms.clone(), local.clone(), None, ms(3000));
        let mut handshake = || Handshake::parse(&caller.poll_transmit(now).unwrap()[HEADER..]).unwrap();
        let induction = handshake();
        let mut answers = vec![one.reject(&induction, Rejection::FORBIDDEN, now)];
        answers.push(one.welcome(&induction, peer, now));
        assert!(answers.iter().all(|answer| answer.len() <= HEADER + induction.write().len()));
        let _ = caller.handle(&answers[1][HEADER..], 0, now);
        let conclusion = Handshake::parse(&caller.poll_transmit(now).unwrap()[HEADER..]).unwrap();
        let Greeting::Request(request) = one.greet(&conclusion.write(), peer, now) else { panic!("no request") };
        let (_, agreed) = terms.accept_here(&request, 0, &Local { id: 9, ..local.clone() }).unwrap();
        answers.push(write_control(&Control::Handshake(&agreed.write()), 0, 7));
        answers.push(one.reject(&request, Rejection::BAD_SECRET, now));
        for answer in &answers {
            for listener in [&one, &other] {
                assert!(matches!(listener.greet(&answer[HEADER..], peer, now), Greeting::Ignore), "{answer:?}");
            }
        }
        // Without a socket id to answer to, an answer would have the destination of a handshake.
        for request in [&induction, &conclusion] {
            let forged = Handshake { socket_id: 0, ..request.clone() };
            assert!(matches!(one.greet(&forged.write(), peer, now), Greeting::Ignore));
        }
    }
}

#[test]
fn srt_listener_rejects_with_exact_codes() {
    use super::handshake::{ExtensionFault, FLAG_STREAM};
    let request = |change: &dyn Fn(&mut Handshake)| {
        let mut request = conclusion(secret_terms());
        change(&mut request);
        secret_terms().prepare(&request).map(|_| ()).map_err(|Rejection(code)| code)
    };
    let srt = |r: &mut Handshake, change: &dyn Fn(&mut handshake::SrtExtension)| {
        change(r.extensions.srt.as_mut().unwrap());
    };
    assert_eq!(request(&|_| {}), Ok(()));
    assert_eq!(request(&|r| r.version = 4), Err(8));
    assert_eq!(request(&|r| srt(r, &|s| s.version = 0x01_02_00)), Err(8));
    assert_eq!(request(&|r| r.extensions.srt = None), Err(4));
    assert_eq!(request(&|r| r.extensions.fault = Some(ExtensionFault::Malformed)), Err(4));
    assert_eq!(request(&|r| r.mtu = 200), Err(4));
    assert_eq!(request(&|r| srt(r, &|s| s.flags |= FLAG_STREAM)), Err(12));
    assert_eq!(request(&|r| r.extensions.congestion = Some("file".into())), Err(13));
    for filter in ["fec", "fec,cols:1", "fec,cols:255,rows:255", "adaptive", "fec,cols:8,more:1", ""] {
        assert_eq!(request(&|r| r.extensions.filter = Some(filter.into())), Err(14), "{filter}");
    }
    assert_eq!(request(&|r| r.extensions.filter = Some("fec,cols:8".into())), Ok(()));
    assert_eq!(request(&|r| r.extensions.fault = Some(ExtensionFault::Filter)), Err(14));
    let group = |kind| Some(GroupExtension { id: 0x4000_0001, kind, weight: 0 });
    assert_eq!(request(&|r| r.extensions.group = group(1)), Err(15));
    for (groups, kind, result) in [
        (Groups::None, 1, Err(15)),
        (Groups::All, 1, Ok(())),
        (Groups::All, 2, Ok(())),
        (Groups::All, 0, Err(15)),
        (Groups::All, 3, Err(15)),
    ] {
        let mut request = conclusion(secret_terms());
        request.extensions.group = group(kind);
        let terms = Terms { groups, ..secret_terms() };
        assert_eq!(terms.prepare(&request).map(|_| ()).map_err(|Rejection(code)| code), result, "{groups:?}, {kind}");
    }
    assert_eq!(request(&|r| r.extensions.key_material = None), Err(11));
    assert_eq!(request(&|r| r.extensions.key_material.as_mut().unwrap()[8] = 4), Err(17), "AES-GCM without its tag");
    assert_eq!(request(&|r| r.extensions.key_material.as_mut().unwrap()[8] = 3), Err(17), "an unknown cipher");
    assert_eq!(request(&|r| r.extensions.key_material.as_mut().unwrap()[0] = 0), Err(4));
    assert_eq!(request(&|r| r.extensions.fault = Some(ExtensionFault::StreamId)), Err(1400));
    let plain = Terms::default().prepare(&conclusion(secret_terms())).map(|_| ());
    assert_eq!(plain, Err(Rejection::UNSECURE));
}

#[test]
fn srt_caller_names_rejections_exactly() {
    for (code, name) in [
        (0, "UNKNOWN"),
        (8, "VERSION"),
        (9, "RDVCOOKIE"),
        (10, "BADSECRET"),
        (11, "UNSECURE"),
        (13, "CONGESTION"),
        (14, "FILTER"),
        (15, "GROUP"),
        (17, "CRYPTO"),
        (1401, "UNAUTHORIZED"),
        (1404, "NOTFOUND"),
        (1507, "NOROOM"),
    ] {
        let text = Rejection(code).to_string();
        assert!(text.ends_with(&format!("({name}, code {code})")), "{text}");
    }
    for code in [18, 999, 1004, 1999, 2000, 2042, 0x7fff_0000] {
        let text = Rejection(code).to_string();
        assert!(text.ends_with(&format!("(code {code})")), "{text}");
    }
    // The status word of a listener that does not want the cipher.
    let now = Instant::now();
    let local = Local { id: 7, start: now, random: Random::of(random) };
    let request = conclusion(secret_terms());
    let wrapping = secret_terms().prepare(&request).unwrap().map(|derivation| derivation.run());
    let (_, answer) = secret_terms().accept(&request, 0, &Local { id: 9, ..local.clone() }, wrapping).unwrap();
    let keys = || Keys::generate(16, CipherMode::Ctr, &[1; 48], "correct horse");
    for (status, rejection) in [(3u8, Rejection::UNSECURE), (4, Rejection::BAD_SECRET), (5, Rejection::CRYPTO)] {
        // libsrt on most machines has the lowest byte first.
        for word in [vec![0, 0, 0, status], vec![status, 0, 0, 0]] {
            let mut answer = answer.clone();
            answer.extensions.key_material = Some(word.clone());
            let result = secret_terms().conclude(&answer, 0, &local, Some(keys()), Sequence::new(1));
            assert_eq!(result.map(|_| ()), Err(rejection), "status {word:?}");
        }
    }
}

#[test]
fn srt_packet_size_is_the_smaller_of_both_ends() {
    let local = Local { id: 9, start: Instant::now(), random: Random::of(random) };
    // Some peers announce their payload size instead.
    let request = Handshake { mtu: 1316, ..conclusion(Terms::default()) };
    assert_eq!(Terms::default().accept_here(&request, 0, &local).unwrap().0.max_payload, 1316);
    for (theirs, agreed) in [(1500, 1500), (1360, 1360), (9000, 1500)] {
        let mut request = conclusion(Terms::default());
        request.mtu = theirs;
        let (agreement, answer) = Terms::default().accept_here(&request, 0, &local).unwrap();
        assert_eq!((answer.mtu, agreement.max_payload), (agreed, agreed as usize - 44));
        let mut connection = Connection::new(agreement, local.start);
        assert!(connection.push(&Bytes::from(vec![1; agreed as usize - 44]), local.start));
        assert!(!connection.push(&Bytes::from(vec![1; agreed as usize - 43]), local.start));
        assert_eq!(connection.stats().sent.oversized, 1);
        let own = Terms::default().conclude(&Handshake { mtu: theirs, ..answer }, 0, &local, None, Sequence::new(1));
        assert_eq!(own.unwrap().max_payload, agreed as usize - 44);
    }
}
