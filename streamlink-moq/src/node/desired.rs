//! Outputs that the node is to run of each flow: the descriptions of all publishers, and what the membership makes of them.

use crate::{
    membership::Membership,
    outputs::{DescribedKick, DescribedOutput, FlowOutputs, secret_json},
    placement::{Exclusivity, OutputId},
    srt_link::SrtMedia,
    status::{MAX_PUBLISHERS, PublishedId, SeenRevision},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use streamlink_core::{Bitrate, MediaFamily, Output};

/// Time after which a flow is gone whose publishers no relay announces. Relays that are restarted come back before.
const LINGER: Duration = Duration::from_secs(10);

/// Flow as its publishers describe it.
#[derive(Debug, Default)]
pub(super) struct PublishedFlow {
    publishers: BTreeMap<u64, Published>,
}

#[derive(Debug)]
struct Published {
    outputs: FlowOutputs,
    /// Relays that announce the publisher.
    relays: BTreeSet<usize>,
    /// Time since which none does.
    lost: Option<Instant>,
}

impl PublishedFlow {
    /// Takes a description. Returns `false` if it is an old one, or there are too many publishers.
    pub(super) fn take(&mut self, relay: usize, outputs: FlowOutputs) -> bool {
        let publisher = outputs.publisher;
        if let Some(known) = self.publishers.get_mut(&publisher) {
            known.relays.insert(relay);
            known.lost = None;
            if outputs.revision <= known.outputs.revision {
                return false;
            }
            known.outputs = outputs;
            return true;
        }
        if self.publishers.len() >= MAX_PUBLISHERS {
            return false;
        }
        self.publishers.insert(publisher, Published { outputs, relays: BTreeSet::from([relay]), lost: None });
        true
    }

    /// Notes that a relay announces a publisher no more.
    pub(super) fn withdraw(&mut self, relay: usize, publisher: u64, now: Instant) {
        if let Some(known) = self.publishers.get_mut(&publisher) {
            known.relays.remove(&relay);
            if known.relays.is_empty() {
                known.lost.get_or_insert(now);
            }
        }
    }

    /// Returns `true` if there are too many publishers for another one.
    pub(super) fn is_full_for(&self, publisher: u64) -> bool {
        self.publishers.len() >= MAX_PUBLISHERS && !self.publishers.contains_key(&publisher)
    }

    /// Lets the time begin anew after which lost publishers are gone.
    pub(super) fn hold(&mut self, now: Instant) {
        for known in self.publishers.values_mut() {
            known.lost = known.lost.map(|_| now);
        }
    }

    /// Removes publishers that are gone. Returns `true` if any was.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.publishers.len();
        let is_gone = |known: &Published| {
            // A publisher that has ended says so by an empty list.
            let linger = if known.outputs.outputs.is_empty() { Duration::ZERO } else { LINGER };
            known.lost.is_some_and(|lost| now.saturating_duration_since(lost) >= linger)
        };
        self.publishers.retain(|_, known| !is_gone(known));
        self.publishers.len() != before
    }

    pub(super) fn is_empty(&self) -> bool {
        self.publishers.is_empty()
    }

    /// Returns all outputs by their names, each with its numbers. Where publishers differ, the one with the smallest
    /// number is believed, by all nodes alike.
    fn outputs(&self) -> BTreeMap<&str, (&DescribedOutput, Vec<PublishedId>)> {
        let mut outputs: BTreeMap<&str, (&DescribedOutput, Vec<PublishedId>)> = BTreeMap::new();
        for (publisher, known) in &self.publishers {
            for described in &known.outputs.outputs {
                let id = PublishedId { publisher: *publisher, id: described.id };
                outputs.entry(described.output.name()).or_insert_with(|| (described, Vec::new())).1.push(id);
            }
        }
        outputs
    }

    /// Returns the players that are to be disconnected, with the names of their outputs.
    fn kicks(&self) -> Vec<DesiredKick> {
        let mut kicks = Vec::new();
        for (publisher, known) in &self.publishers {
            let outputs = &known.outputs;
            for DescribedKick { number, output, peer } in outputs.kicks.iter().copied() {
                let Some(described) = outputs.outputs.iter().find(|described| described.id == output) else { continue };
                let output = described.output.name().to_owned();
                kicks.push(DesiredKick { publisher: *publisher, number, output, peer });
            }
        }
        kicks
    }

    /// Returns where the media comes from over SRT; `None` if it comes over the relays.
    fn srt(&self) -> Option<SrtMedia> {
        let known = || self.publishers.iter().map(|(publisher, known)| (*publisher, &known.outputs));
        let targets: BTreeMap<_, _> = known().filter_map(|(id, outputs)| Some((id, outputs.srt.clone()?))).collect();
        let max_bandwidth = known().map(|(_, outputs)| outputs.max_bandwidth).max()?;
        let sdp = known().find_map(|(_, outputs)| outputs.sdp.clone());
        (!targets.is_empty()).then_some(SrtMedia { targets, sdp, max_bandwidth })
    }

    /// Returns what this node is to run. `may_run` says whether the host's lease of an exclusive output is held.
    pub(super) fn desired(
        &self,
        flow: &str,
        membership: &Membership,
        mut may_run: impl FnMut(&OutputId) -> bool,
    ) -> Desired {
        let first = self.publishers.values().next().map(|known| &known.outputs);
        let mut desired = Desired {
            generation: membership.generation(),
            round: 0,
            family: first.map(|outputs| outputs.family),
            max_bandwidth: first.map_or(Bitrate::mbps(1), |outputs| outputs.max_bandwidth),
            is_warm: false,
            outputs: BTreeMap::new(),
            seen: Vec::new(),
            srt: self.srt(),
            kicks: self.kicks(),
        };
        for (publisher, known) in &self.publishers {
            desired.seen.push(SeenRevision { publisher: *publisher, revision: known.outputs.revision });
        }
        for (name, (described, ids)) in self.outputs() {
            let id = OutputId::new(flow, name);
            let exclusivity = Exclusivity::of(described.output.scope());
            let rank = membership.rank(&id);
            // The standby of a push receives the media already, as new legs need seconds before they carry it.
            desired.is_warm |= rank < 2;
            let is_exclusive = exclusivity == Exclusivity::Exclusive;
            if membership.runs(&id, exclusivity) && (!is_exclusive || may_run(&id)) {
                let output = DesiredOutput {
                    json_hash: hash(&secret_json(&described.output)),
                    output: described.output.clone(),
                    ids,
                    is_exclusive,
                    is_primary: is_exclusive || rank == 0,
                };
                desired.outputs.insert(name.to_owned(), output);
            }
        }
        desired
    }
}

/// Outputs that a node is to run of one flow.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    /// Generation of the membership.
    pub(super) generation: u64,
    /// Number of the agent's decision.
    pub(super) round: u64,
    /// Media family; `None` for a flow that is gone.
    pub(super) family: Option<MediaFamily>,
    pub(super) max_bandwidth: Bitrate,
    /// True if the media is to be received, even if no output runs.
    pub(super) is_warm: bool,
    pub(super) outputs: BTreeMap<String, DesiredOutput>,
    pub(super) seen: Vec<SeenRevision>,
    /// Media over SRT; `None`: over the relays.
    pub(super) srt: Option<SrtMedia>,
    /// Players to be disconnected once.
    pub(super) kicks: Vec<DesiredKick>,
}

/// Player that is to be disconnected once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DesiredKick {
    pub(super) publisher: u64,
    /// Number of the publisher's request.
    pub(super) number: u64,
    /// Name of the output.
    pub(super) output: String,
    pub(super) peer: SocketAddr,
}

impl Desired {
    /// Returns `true` if a runner that has done one has done the other.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let key = |desired: &Self| (desired.generation, desired.family, desired.max_bandwidth, desired.is_warm);
        key(self) == key(other)
            && self.seen == other.seen
            && self.srt == other.srt
            && self.kicks == other.kicks
            && self.outputs.len() == other.outputs.len()
            && self.outputs.iter().zip(&other.outputs).all(|((name, a), (other_name, b))| {
                name == other_name && a.json_hash == b.json_hash && a.ids == b.ids && a.is_primary == b.is_primary
            })
    }
}

/// Output that the node is to run.
#[derive(Clone, Debug)]
pub(super) struct DesiredOutput {
    /// Settings, with secrets. `Debug` hides them.
    pub(super) output: Output,
    /// Hash of the settings, to compare them.
    pub(super) json_hash: [u8; 32],
    pub(super) ids: Vec<PublishedId>,
    pub(super) is_exclusive: bool,
    pub(super) is_primary: bool,
}

fn hash(text: &str) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(publisher: u64, revision: u64, names: &[&str]) -> FlowOutputs {
        let described = |(n, name): (usize, &&str)| DescribedOutput {
            id: publisher * 100 + n as u64,
            output: Output::from_url(*name, &format!("srt://example.com:{}", 9000 + publisher)),
        };
        FlowOutputs {
            region: "eu".into(),
            flow: "f".into(),
            publisher,
            revision,
            family: MediaFamily::Datagrams,
            max_bandwidth: Bitrate::mbps(5),
            outputs: names.iter().enumerate().map(described).collect(),
            srt: None,
            sdp: None,
            kicks: Vec::new(),
        }
    }

    #[test]
    fn flow_of_two_publishers_runs_each_output_once() {
        let mut flow = PublishedFlow::default();
        assert!(flow.take(0, outputs(2, 1, &["a", "b"])));
        assert!(flow.take(1, outputs(1, 1, &["a"])));
        let all = flow.outputs();
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), ["a", "b"]);
        let (described, ids) = &all["a"];
        assert!(described.output.to_url().contains("9001"), "the first publisher is believed");
        assert_eq!(ids.iter().map(|id| (id.publisher, id.id)).collect::<Vec<_>>(), [(1, 100), (2, 200)]);
    }

    #[test]
    fn flow_ignores_old_descriptions() {
        let mut flow = PublishedFlow::default();
        assert!(flow.take(0, outputs(1, 5, &["a"])));
        assert!(!flow.take(1, outputs(1, 5, &["a"])));
        assert!(!flow.take(1, outputs(1, 4, &["a", "b"])));
        assert!(flow.take(1, outputs(1, 6, &[])));
    }

    #[test]
    fn flow_outlives_its_relays_for_a_while() {
        let now = Instant::now();
        let mut flow = PublishedFlow::default();
        flow.take(0, outputs(1, 1, &["a"]));
        flow.take(1, outputs(1, 1, &["a"]));
        flow.withdraw(0, 1, now);
        assert!(!flow.expire(now + LINGER));
        flow.withdraw(1, 1, now);
        assert!(!flow.expire(now + LINGER / 2));
        flow.take(0, outputs(1, 1, &["a"]));
        assert!(!flow.expire(now + LINGER));
        flow.withdraw(0, 1, now);
        assert!(flow.expire(now + LINGER) && flow.is_empty());
        // Nothing is gone while no relay answers at all.
        flow.take(0, outputs(1, 1, &["a"]));
        flow.withdraw(0, 1, now);
        flow.hold(now + LINGER);
        assert!(!flow.expire(now + LINGER));
        flow.take(0, outputs(1, 1, &["a"]));
        // A publisher that has ended in order is gone at once.
        flow.take(0, outputs(1, 2, &[]));
        flow.withdraw(0, 1, now);
        assert!(flow.expire(now) && flow.is_empty());
    }

    #[test]
    fn flow_bounds_its_publishers() {
        let mut flow = PublishedFlow::default();
        for publisher in 0..20 {
            assert_eq!(flow.take(0, outputs(publisher, 1, &[])), publisher < MAX_PUBLISHERS as u64);
        }
    }
}
