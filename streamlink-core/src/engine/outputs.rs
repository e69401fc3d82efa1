//! Outputs of a flow, which are opened first and then run.

use super::{
    EngineState,
    region::{Attachment, FlowParts, Region, RemoteEnd, RemoteRegion, Removal},
    running::Running,
    start::region,
};
use crate::{
    endpoint::{
        FlowBandwidth, RemuxStatus, Status,
        driver::{EndpointLabel, ListenerEntry, OpenOutput, OutputDrive, OutputOpening, StartedOutput, Task},
        fanout::SinkId,
    },
    error::{ConfigError, ConfigErrors, Error},
    flow::{Allowlist, Claim, GroupNode, Output, PeerUrl},
    router::{Reader, ReaderCloser, State},
};
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Output of a running flow.
#[derive(Debug)]
pub(super) struct RunningOutput {
    pub(super) output: Output,
    pub(super) status: Arc<Status>,
    pub(super) end: OutputEnd,
    /// Exclusive claim on an address and key.
    pub(super) claim: Option<Claim>,
    /// URL from which players fetch.
    pub(super) url: Option<PeerUrl>,
    /// Status of the remux whose messages the output sends.
    pub(super) remux: Option<Arc<RemuxStatus>>,
    /// Members of the group of connections that the output is.
    pub(super) members: Option<watch::Sender<Vec<GroupNode>>>,
}

/// Driver of an output, with the handle that ends it.
#[derive(Debug)]
pub(super) enum OutputEnd {
    Sinks(Vec<SinkId>),
    Tap(TapEnd),
    /// Task of the output's own.
    Task {
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    },
    Listener(ListenerEntry),
    /// The output runs in a region on other machines.
    Remote(RemoteEnd),
    /// The output is disabled, and holds no sockets.
    Disabled,
}

/// Output that has been told to end. The remaining step is to wait.
pub(super) enum Ending {
    Sinks(Vec<SinkId>),
    Tap(ReaderCloser),
    Task(tokio::task::JoinHandle<()>),
    Listener(ListenerEntry, Task),
    Remote(Removal),
    Disabled,
}

impl OutputEnd {
    /// Tells the output to end, without waiting. Sinks are removed in the later wait, so that a replacement misses no
    /// packets. A tap is closed there, too, because closing it wakes the host.
    pub(super) fn begin(self) -> Ending {
        match self {
            Self::Sinks(sinks) => Ending::Sinks(sinks),
            Self::Tap(tap) => Ending::Tap(tap.closer),
            Self::Task { stop, task } => {
                stop.cancel();
                Ending::Task(task)
            }
            Self::Listener(entry) => {
                let removal = entry.remove();
                Ending::Listener(entry, removal)
            }
            Self::Remote(remote) => Ending::Remote(remote.remove()),
            Self::Disabled => Ending::Disabled,
        }
    }
}

impl RunningOutput {
    /// Changes the allowlist and the maximum number of peers of an output that listens.
    pub(super) fn edit_listener(&self, allow: Allowlist, max_peers: Option<u32>) {
        if let OutputEnd::Listener(entry) = &self.end {
            entry.edit(allow, max_peers);
        }
    }

    /// Changes the members of the group of connections that the output is.
    pub(super) fn set_members(&self, members: Vec<GroupNode>) {
        if let Some(sender) = &self.members {
            sender.send_replace(members);
        }
    }

    /// Passes an edited configuration, name or description on to the region where the output runs.
    pub(super) fn edit_remote(&self) {
        if let OutputEnd::Remote(remote) = &self.end {
            remote.edit(&self.output);
        }
    }
}

/// Engine side of a tap: the reader, until the host takes it, and the handle that closes it.
#[derive(Debug)]
pub(super) struct TapEnd {
    pub(super) reader: Option<Reader>,
    pub(super) closer: ReaderCloser,
}

/// Output that is ready to run.
pub(super) enum OpenedOutput {
    /// With its sockets open.
    Local(Box<dyn OpenOutput>),
    /// In a region on other machines.
    Remote(Arc<RemoteRegion>),
    /// Disabled, without sockets.
    Disabled,
}

/// Opens the sockets of an output, unless it is disabled or runs on other machines.
pub(super) async fn open_output(
    shared: &EngineState,
    flow: &str,
    output: &Output,
    bandwidth: &FlowBandwidth,
    status: &Arc<Status>,
) -> Result<OpenedOutput, Error> {
    if !output.common.enabled {
        return Ok(OpenedOutput::Disabled);
    }
    let region = region(shared, output)
        .map_err(|problem| Error::from(ConfigErrors::from(ConfigError::new("region", problem))))?;
    let egress = match region {
        Region::Local(egress) => egress,
        Region::Remote(region) => return Ok(OpenedOutput::Remote(region)),
    };
    let opening = OutputOpening {
        resources: &shared.resources,
        label: EndpointLabel::output(flow, output.name()),
        egress,
        bandwidth: bandwidth.clone(),
        status: status.clone(),
    };
    (shared.drivers.output)(&output.kind).open(opening).await.map(OpenedOutput::Local)
}

impl Running {
    /// Runs an initial output of a flow.
    pub(super) fn put_output(
        &self,
        shared: &EngineState,
        output: Output,
        status: Arc<Status>,
        opened: OpenedOutput,
    ) -> Result<(), Error> {
        let name = status.name();
        let peers = {
            let mut outputs = self.outputs();
            if self.stop.is_cancelled() {
                return Err(Error::Stopped("flow"));
            }
            let (running, peers) = self.run_output(shared, output, status, opened, None);
            outputs.push(running);
            peers
        };
        self.tell_connected(&name, peers);
        Ok(())
    }

    /// Runs an opened output, or holds one that is disabled. Returns it with the peers to which it is connected from the
    /// beginning, which are reported to the host. A caller connects only after `after` is cancelled, and an output of
    /// another machine begins only then.
    pub(super) fn run_output(
        &self,
        shared: &EngineState,
        output: Output,
        status: Arc<Status>,
        opened: OpenedOutput,
        after: Option<CancellationToken>,
    ) -> (RunningOutput, Vec<SocketAddr>) {
        let without_sockets = |output, status, end| {
            (RunningOutput { output, status, end, claim: None, url: None, remux: None, members: None }, Vec::new())
        };
        let opened = match opened {
            OpenedOutput::Local(opened) => opened,
            OpenedOutput::Remote(region) => {
                let remote = self.enter_region(shared, &region, &output, &status, after);
                return without_sockets(output, status, OutputEnd::Remote(remote));
            }
            OpenedOutput::Disabled => return without_sockets(output, status, OutputEnd::Disabled),
        };
        // Set first, because a listener may have a player as soon as it is started.
        status.counters.set_state(State::Waiting, Instant::now());
        let started = opened.start(&shared.resources, &self.media, status.clone());
        let StartedOutput { url, peers, remux, members, drive } = started;
        let end = match drive {
            OutputDrive::Sinks(sinks) => {
                status.counters.set_state(State::Connected, Instant::now());
                OutputEnd::Sinks(sinks.into_iter().map(|sink| self.fanout.add(sink, status.clone())).collect())
            }
            OutputDrive::Task { stop, task } => {
                let task = self.tasks.spawn(async move {
                    if let Some(after) = after {
                        after.cancelled().await;
                    }
                    task.await;
                });
                OutputEnd::Task { stop, task }
            }
            OutputDrive::Listener(entry) => OutputEnd::Listener(entry),
            OutputDrive::Tap(reader) => {
                status.counters.set_state(State::Connected, Instant::now());
                let closer = reader.closer();
                OutputEnd::Tap(TapEnd { reader: Some(reader), closer })
            }
        };
        let claim = output.claim();
        (RunningOutput { output, status, end, claim, url, remux, members }, peers)
    }

    /// Brings an output into a region on other machines, where it begins after `after` is cancelled. The first one there
    /// brings the flow.
    fn enter_region(
        &self,
        shared: &EngineState,
        region: &Arc<RemoteRegion>,
        output: &Output,
        status: &Arc<Status>,
        after: Option<CancellationToken>,
    ) -> RemoteEnd {
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let is_held = after.is_some();
        let mut regions = self.regions();
        let known = regions.iter().find(|attachment| attachment.is_of(region));
        let end = known.and_then(|attachment| attachment.add(id, output, status, is_held)).unwrap_or_else(|| {
            let parts = FlowParts {
                flow: self.name.clone(),
                input: self.input,
                family: self.input.family(),
                ring: self.media.ring.clone(),
                presentation: self.media.presentation.clone(),
                bandwidth: self.media.bandwidth.view(),
                events: self.media.events.clone(),
                tasks: self.tasks.clone(),
                random: shared.resources.random.clone(),
            };
            let (attachment, end) =
                Attachment::start(region.clone(), parts, id, output.clone(), status.clone(), is_held);
            regions.retain(|attachment| !attachment.is_closed());
            regions.push(attachment);
            end
        });
        if let Some(after) = after {
            let begin = end.begin();
            self.tasks.spawn(async move {
                after.cancelled().await;
                begin();
            });
        }
        end
    }
}
