use super::{
    MembershipEvent, Phase, TAKEOVER,
    simulation::{Node, Random, Region},
};
use proptest::prelude::*;
use std::{collections::BTreeSet, time::Duration};

const NAMES: [&str; 3] = ["node-a", "node-b", "node-c"];

fn region(seed: u64, outputs: usize) -> (Region, Vec<u64>) {
    let mut region = Region::new(seed, outputs, 2);
    let nodes = NAMES.iter().map(|name| region.start(name)).collect();
    (region, nodes)
}

fn placed(seed: u64, outputs: usize) -> (Region, Vec<u64>) {
    let (mut region, nodes) = region(seed, outputs);
    region.until(3000, Region::is_placed).unwrap_or_else(|| panic!("seed {seed}: not placed within 3 s"));
    (region, nodes)
}

/// Real membership and placement, on simulated links of up to 60 ms with two relays, in virtual time.
#[test]
fn membership_places_500_flows_on_three_nodes_within_three_seconds() {
    let mut slowest = [0; 4];
    for seed in 1..=3 {
        let (mut region, nodes) = region(seed, 500);
        let first = region.until(3000, Region::is_placed).expect("placed");
        region.kill(nodes[1]);
        let takeover = region.until(3000, Region::is_placed).expect("placed again without a node");
        assert!(takeover >= 1300, "taken over after {takeover} ms: the lease of the dead node was not over");
        let fourth = region.start("node-d");
        let joined = |region: &Region| region.is_placed() && region.nodes.values().all(|node| !node.open.is_empty());
        let join = region.until(3000, joined).expect("placed again with a new node");
        let now = region.now;
        region.nodes.get_mut(&fourth).expect("running").membership.leave(now);
        let others = |region: &Region| -> usize {
            let rest = region.nodes.iter().filter(|(number, _)| **number != fourth);
            rest.map(|(_, node)| node.open.values().filter(|stops| stops.is_none()).count()).sum()
        };
        let leave =
            region.until(3000, |region| others(region) == 500).expect("placed again without the one that leaves");
        for (slowest, passed) in slowest.iter_mut().zip([first, takeover, join, leave]) {
            *slowest = passed.max(*slowest);
        }
    }
    let [first, takeover, join, leave] = slowest;
    println!(
        "500 flows over 3 nodes: placed in {first} ms, after a death in {takeover} ms, after a join in {join} ms, \
         after a leave in {leave} ms"
    );
}

#[test]
fn membership_hands_over_without_waiting_when_a_node_leaves() {
    let (mut region, nodes) = placed(2, 60);
    let now = region.now;
    region.nodes.get_mut(&nodes[0]).expect("running").membership.leave(now);
    region.until(400, |region| region.nodes[&nodes[0]].membership.phase() == Phase::Left).expect("left");
    region
        .until(600, |region| {
            let others = || region.nodes.iter().filter(|(number, _)| **number != nodes[0]);
            let open: BTreeSet<_> = others().flat_map(|(_, node)| node.open.keys().copied()).collect();
            open.len() == 60
        })
        .expect("the others have taken over before the silence of a death");
}

#[test]
fn membership_survives_the_death_of_one_relay() {
    let (mut region, _) = placed(3, 60);
    for relay in [0, 1, 0] {
        region.relays_up[relay] = false;
        for _ in 0..3000 {
            region.step();
            assert!(region.is_placed(), "an output moved as relay {relay} died");
        }
        region.relays_up[relay] = true;
        region.steps(1000);
    }
    assert!(region.nodes.values().all(|node| !node.events.contains(&MembershipEvent::LeaseLost)));
}

#[test]
fn membership_takes_over_while_one_relay_is_down() {
    let (mut region, nodes) = placed(4, 60);
    region.relays_up[0] = false;
    region.steps(1000);
    region.kill(nodes[2]);
    region.until(3000, Region::is_placed).expect("taken over");
    region.start("node-c");
    let joined = |region: &Region| region.is_placed() && region.nodes.values().all(|node| !node.open.is_empty());
    region.until(3000, joined).expect("a node joins while a relay is down, as the others vouch for it");
}

#[test]
fn membership_fences_a_node_that_no_relay_reaches() {
    let (mut region, nodes) = placed(5, 60);
    region.cut.extend([(nodes[0], 0), (nodes[0], 1)]);
    region.until(1200, |region| region.nodes[&nodes[0]].open.is_empty()).expect("fenced within its lease");
    assert!(region.nodes[&nodes[0]].membership.fence().is_none());
    let others = |region: &Region| {
        let open = |number: &u64| region.nodes[number].open.len();
        open(&nodes[1]) + open(&nodes[2]) == 60
    };
    region.until(2000, others).expect("taken over by the others");
    region.cut.clear();
    region.until(3000, Region::is_placed).expect("placed after the partition");
    region.until(3000, |region| !region.nodes[&nodes[0]].open.is_empty()).expect("the node has joined again");
}

#[test]
fn membership_waits_for_the_relay_by_which_a_silent_node_may_live() {
    let mut region = Region::new(6, 40, 2);
    let a = region.start("node-a");
    let b = region.start("node-b");
    region.until(3000, Region::is_placed).expect("placed");
    // Node a sees one relay, and node b the other: each looks dead to the other.
    region.cut.extend([(a, 1), (b, 0)]);
    region.steps(5000);
    for number in [a, b] {
        let node = &region.nodes[&number];
        assert!(
            node.events.iter().any(|event| matches!(event, MembershipEvent::Unresolved { .. })),
            "{:?}",
            node.events
        );
        assert!(!node.open.is_empty() && node.open.len() < 40, "each keeps its own outputs, and takes over none");
    }
    region.cut.clear();
    region.until(1000, Region::is_placed).expect("whole again");
}

#[test]
fn membership_with_a_lease_of_the_host_does_not_wait_for_a_relay() {
    let mut region = Region::new(7, 40, 2);
    region.host_lease = true;
    let a = region.start("node-a");
    region.start("node-b");
    region.until(3000, Region::is_placed).expect("placed");
    region.kill(a);
    region.relays_up[0] = false;
    region.until(3000, Region::is_placed).expect("taken over although a relay died with the node");
}

#[test]
fn membership_suspended_node_finds_its_lease_over() {
    let (mut region, nodes) = placed(8, 60);
    for pause in [500, 1400, 1600, 2500, 8000] {
        let node = region.nodes.get_mut(&nodes[1]).expect("running");
        node.suspended_until = Some(region.now + Duration::from_millis(pause));
        let lost = |node: &Node| node.events.iter().filter(|event| **event == MembershipEvent::LeaseLost).count();
        let before = lost(node);
        region.steps(pause);
        let node = &region.nodes[&nodes[1]];
        if pause > 1100 {
            assert!(node.membership.fence().is_none(), "after {pause} ms");
            assert_eq!(lost(node), before + 1, "after {pause} ms");
        }
        let back = |region: &Region| region.is_placed() && region.nodes[&nodes[1]].membership.fence().is_some();
        region.until(5000, back).unwrap_or_else(|| panic!("placed after {pause} ms"));
    }
}

#[test]
fn membership_divides_between_processes_of_one_name() {
    let mut region = Region::new(9, 40, 2);
    let numbers = [region.start("node-a"), region.start("node-a")];
    region
        .until(4000, |region| {
            let open: usize = region.nodes.values().map(|node| node.open.len()).sum();
            open == 40
        })
        .expect("placed, each output once");
    let told = |number: &u64| {
        let events = &region.nodes[number].events;
        events.iter().any(|event| matches!(event, MembershipEvent::SameName(_)))
    };
    assert!(numbers.iter().all(told));
}

#[test]
fn membership_node_that_is_cut_off_does_not_start_all_listeners() {
    let mut region = Region::new(10, 60, 2);
    let nodes: Vec<u64> = ["a", "b", "c", "d", "e"].iter().map(|name| region.start(name)).collect();
    region.until(3000, Region::is_placed).expect("placed");
    let before = region.nodes[&nodes[0]].shared.clone();
    assert!(before.len() < 40);
    region.cut.extend([(nodes[0], 0), (nodes[0], 1)]);
    region.steps(5000);
    assert_eq!(region.nodes[&nodes[0]].shared, before);
}

/// Breaks things at random for 25 s, mends all, and waits until all outputs are placed.
fn torture(seed: u64) {
    let mut region = Region::new(seed, 24, 2 + (seed % 2) as usize);
    let mut plan = Random::new(seed ^ 0x5eed);
    let relays = region.relays_up.len() as u64;
    for name in NAMES {
        region.start(name);
        region.steps(plan.below(1500));
    }
    let mut started = NAMES.len();
    for _ in 0..40 {
        let node = region.nodes.keys().copied().nth(plan.below(region.nodes.len() as u64) as usize);
        let relay = plan.below(relays) as usize;
        match (plan.below(12), node) {
            (0, Some(node)) if region.nodes.len() > 1 => region.kill(node),
            (1 | 2, _) if region.nodes.len() < 4 => {
                // A name is used again at once, as by a supervisor that restarts the process.
                region.start(NAMES.get(started % 4).unwrap_or(&"node-d"));
                started += 1;
            }
            (3, _) => region.relays_up[relay] = false,
            (4 | 5, _) => region.relays_up[relay] = true,
            (6 | 7, Some(node)) => drop(region.cut.insert((node, relay))),
            (8, Some(node)) => region.cut.extend((0..relays as usize).map(|relay| (node, relay))),
            (9, _) => region.cut.clear(),
            (10, Some(node)) => {
                let until = region.now + Duration::from_millis(plan.below(4000));
                if let Some(node) = region.nodes.get_mut(&node) {
                    node.suspended_until = Some(until);
                }
            }
            (11, Some(node)) if region.nodes.len() > 2 => {
                let now = region.now;
                if let Some(node) = region.nodes.get_mut(&node) {
                    node.membership.leave(now);
                }
            }
            _ => {}
        }
        region.steps(plan.below(1200));
    }
    region.relays_up.fill(true);
    region.cut.clear();
    region.nodes.retain(|_, node| !matches!(node.membership.phase(), Phase::Left | Phase::Stopping));
    if region.nodes.is_empty() {
        region.start("node-a");
    }
    let limit = 5000 + TAKEOVER.as_millis() as u64 * 2;
    region.until(limit, Region::is_placed).unwrap_or_else(|| panic!("seed {seed}: not placed after all was mended"));
}

#[test]
fn membership_never_has_two_senders_with_fixed_seeds() {
    // The last one once found two joining nodes that forgot each other, while a third one vouched for both.
    for seed in (1..=40).chain([14_286_566_009_664_367_700]) {
        torture(seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn membership_never_has_two_senders(seed in 1_u64..) {
        torture(seed);
    }
}
