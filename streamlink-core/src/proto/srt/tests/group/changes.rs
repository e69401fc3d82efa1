//! Members that are removed while packets flow, by the end that sends or by the end that receives.

use super::*;
use crate::proto::srt::Departure;

/// End that removes members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Sender,
    Receiver,
}

/// Removal of a member, from the edit to the shutdown packet.
struct Removal {
    leg: usize,
    by: By,
    departure: Departure,
    /// Time of the shutdown packet.
    left: Option<Instant>,
}

impl Removal {
    fn begin(bond: &mut Bond, leg: usize, by: By) -> Self {
        let now = bond.now;
        let removed = &mut bond.legs[leg];
        removed.backup.set(100 - leg as u16, by == By::Sender);
        let connection = if by == By::Sender { &removed.near } else { &removed.far };
        Self { leg, by, departure: Departure::begin(connection, ms(3000), now), left: None }
    }

    fn end(connection: &mut Connection, by: By, now: Instant) {
        match by {
            By::Sender => connection.shut_down(now),
            By::Receiver => connection.leave(now),
        }
    }

    /// Shuts the member down when it may go.
    fn attend(&mut self, bond: &mut Bond) {
        let now = bond.now;
        let is_backup = bond.backup.is_some() && self.by == By::Sender;
        let others = bond.legs.iter().enumerate().filter(|(at, leg)| *at != self.leg && leg.is_up);
        let carrying: Vec<Instant> =
            others.filter_map(|(_, leg)| if is_backup { leg.backup.stable_since() } else { Some(leg.since) }).collect();
        let removed = &mut bond.legs[self.leg];
        let connection = if self.by == By::Sender { &mut removed.near } else { &mut removed.far };
        if self.left.is_none() && self.departure.due(connection, carrying.into_iter()) <= now {
            Self::end(connection, self.by, now);
            removed.is_up = false;
            // The sender learns of a receiver's departure by the shutdown packet, or by the silence that follows.
            removed.is_fed = self.by == By::Receiver;
            self.left = Some(now);
        }
    }
}

const SLOW: Weather = Weather { delay: Duration::from_millis(150), jitter: Duration::from_millis(5), ..FAIR };
const LOSSY: Weather = Weather { loss: 15, ..FAST };

/// Packets that are sent while a member is removed.
const COUNT: u32 = 3000;

/// Sends packets over some paths. `removed` are removed after a while, and `added` come at the same time.
fn with_removal(
    terms: &Terms,
    by: By,
    is_backup: bool,
    paths: &[Weather],
    added: &[Weather],
    removed: &[usize],
) -> Bond {
    let mut bond = Bond::new(terms, paths, 7);
    bond.backup = is_backup.then(BackupSender::default);
    let mut removals: Vec<Removal> = Vec::new();
    for i in 0..COUNT {
        if i == 500 {
            for weather in added {
                bond.add(terms, *weather);
            }
            removals = removed.iter().map(|leg| Removal::begin(&mut bond, *leg, by)).collect();
        }
        for removal in &mut removals {
            removal.attend(&mut bond);
        }
        bond.push(&payload(i));
        bond.step(ms(2));
    }
    assert!(removals.iter().all(|removal| removal.left.is_some()), "it has left");
    bond.step(ms(3000));
    for leg in removed {
        let leg = &bond.legs[*leg];
        // The shutdown packet is sent once: an end that has lost it finds the other one silent.
        let by_itself = if by == By::Sender { &leg.near } else { &leg.far };
        assert_eq!(by_itself.closed(), Some(CloseReason::Shutdown));
        assert!(leg.near.closed().is_some() && leg.far.closed().is_some(), "both ends are closed");
    }
    bond
}

#[test]
fn srt_group_loses_nothing_when_a_member_is_removed() {
    for by in [By::Sender, By::Receiver] {
        for is_backup in [false, true] {
            for (paths, added) in [
                (vec![FAST, FAST], vec![]),
                (vec![FAST, SLOW], vec![]),
                (vec![SLOW, FAST], vec![]),
                (vec![FAST, LOSSY], vec![]),
                (vec![LOSSY, FAST], vec![]),
                (vec![FAST, FAST], vec![SLOW]),
            ] {
                let secret = added.first().map(|_| "correct horse".into());
                let terms = Terms { passphrase: secret, ..latency(800) };
                let bond = with_removal(&terms, by, is_backup, &paths, &added, &[0]);
                bond.check(COUNT);
                let survivor = &bond.legs[1];
                assert_eq!((survivor.near.closed(), survivor.far.closed()), (None, None));
            }
        }
    }
}

#[test]
fn srt_group_loses_nothing_when_all_members_are_replaced_at_once() {
    for by in [By::Sender, By::Receiver] {
        for is_backup in [false, true] {
            for new in [FAST, SLOW, LOSSY] {
                let bond = with_removal(&latency(800), by, is_backup, &[FAST, FAST], &[new], &[0, 1]);
                bond.check(COUNT);
                assert_eq!((bond.legs[2].near.closed(), bond.legs[2].far.closed()), (None, None));
            }
        }
    }
}

#[test]
fn srt_group_would_lose_packets_if_a_member_went_before_another_carries_them() {
    let terms = latency(800);
    let mut bond = Bond::new(&terms, &[LOSSY], 7);
    for i in 0..2000 {
        if i == 1000 {
            bond.add(&terms, SLOW);
            let now = bond.now;
            bond.legs[0].near.shut_down(now);
            bond.legs[0].is_up = false;
            bond.legs[0].is_fed = false;
        }
        bond.push(&payload(i));
        bond.step(ms(2));
    }
    bond.step(ms(3000));
    assert!(bond.input.lost > 0, "the wait is of use");
}

#[test]
fn srt_group_member_goes_at_last_when_no_other_comes() {
    let mut bond = Bond::new(&latency(300), &[FAST], 7);
    let mut removal = Removal::begin(&mut bond, 0, By::Sender);
    let begun = bond.now;
    for i in 0..5000 {
        removal.attend(&mut bond);
        bond.push(&payload(i));
        bond.step(ms(2));
    }
    let left = removal.left.expect("it has left").duration_since(begun);
    // The connect timeout, and twice the second in which another one would have proven itself.
    assert!((ms(4990)..ms(5100)).contains(&left), "{left:?}");
}

#[test]
fn srt_backup_group_follows_changed_weights() {
    let mut bond = Bond::new(&latency(300), &[FAST, FAST], 1);
    bond.backup = Some(BackupSender::default());
    for i in 0..4000 {
        if i == 1000 {
            bond.legs[1].backup.set(1000, false);
        }
        bond.push(&payload(i));
        bond.step(ms(2));
    }
    bond.step(ms(3000));
    bond.check(4000);
    assert!(!bond.legs[0].backup.is_active() && bond.legs[1].backup.is_active());
    // Both send while the heavier one proves itself for a second.
    assert!((1490..1700).contains(&sent(&bond, 0)), "{}", sent(&bond, 0));
    assert!(sent(&bond, 1) >= 3000, "{}", sent(&bond, 1));
}

#[test]
fn srt_backup_group_uses_a_leaving_member_while_no_other_works() {
    let mut bond = Bond::new(&latency(300), &[FAST, FAST], 1);
    bond.backup = Some(BackupSender::default());
    for i in 0..2000 {
        match i {
            // The lighter one is to leave, and the heavier one dies before it has.
            500 => bond.legs[1].backup.set(99, true),
            510 => bond.legs[0].is_dead = true,
            _ => {}
        }
        bond.push(&payload(i));
        bond.step(ms(2));
    }
    bond.step(ms(3000));
    bond.check(2000);
}
