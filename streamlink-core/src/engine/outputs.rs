//! Outputs of a flow, which are opened first and then run.

use super::{Shared, handle::Running, start::region};
use crate::{
    endpoint::{
        FlowBandwidth, RemuxStatus, Status,
        driver::{EndpointLabel, ListenerEntry, OpenOutput, OutputDrive, OutputOpening, StartedOutput, Task},
        fanout::SinkId,
    },
    error::{ConfigError, ConfigErrors, Error},
    flow::{Allowlist, Claim, Output, PeerUrl},
    router::{Reader, ReaderCloser, State},
};
use std::{net::SocketAddr, sync::Arc, time::Instant};
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
    /// The output is disabled, and holds no sockets.
    Disabled,
}

/// Output that has been told to end. The remaining step is to wait.
pub(super) enum Ending {
    Sinks(Vec<SinkId>),
    Tap(ReaderCloser),
    Task(tokio::task::JoinHandle<()>),
    Listener(ListenerEntry, Task),
    Disabled,
}

impl OutputEnd {
    /// Tells the output to end, without waiting. Sinks are removed in the later wait, so that a replacement misses no
    /// packets. A tap is closed there, too, because closing it wakes the host.
    pub(super) fn begin(self) -> Ending {
        match self {
            OutputEnd::Sinks(sinks) => Ending::Sinks(sinks),
            OutputEnd::Tap(tap) => Ending::Tap(tap.closer),
            OutputEnd::Task { stop, task } => {
                stop.cancel();
                Ending::Task(task)
            }
            OutputEnd::Listener(entry) => {
                let removal = entry.remove();
                Ending::Listener(entry, removal)
            }
            OutputEnd::Disabled => Ending::Disabled,
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
}

/// Engine side of a tap: the reader, until the host takes it, and the handle that closes it.
#[derive(Debug)]
pub(super) struct TapEnd {
    pub(super) reader: Option<Reader>,
    pub(super) closer: ReaderCloser,
}

/// Opens the sockets of an output; `None` if it is disabled.
pub(super) async fn open_output(
    shared: &Shared,
    flow: &str,
    output: &Output,
    bandwidth: &FlowBandwidth,
    status: &Arc<Status>,
) -> Result<Option<Box<dyn OpenOutput>>, Error> {
    if !output.common.enabled {
        return Ok(None);
    }
    let egress = region(shared, output)
        .map_err(|problem| Error::from(ConfigErrors::from(ConfigError::new("region", problem))))?;
    let opening = OutputOpening {
        resources: &shared.resources,
        label: EndpointLabel::output(flow, output.name()),
        egress,
        bandwidth: bandwidth.clone(),
        status: status.clone(),
    };
    (shared.drivers.output)(&output.kind).open(opening).await.map(Some)
}

impl Running {
    /// Runs an initial output of a flow.
    pub(super) fn put_output(
        &self,
        shared: &Shared,
        output: Output,
        status: Arc<Status>,
        opened: Option<Box<dyn OpenOutput>>,
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

    /// Runs an opened output, or holds one that is disabled. Returns it with the peers to which it is connected from the beginning, which are reported
    /// to the host. A caller connects only after `after` is cancelled.
    pub(super) fn run_output(
        &self,
        shared: &Shared,
        output: Output,
        status: Arc<Status>,
        opened: Option<Box<dyn OpenOutput>>,
        after: Option<CancellationToken>,
    ) -> (RunningOutput, Vec<SocketAddr>) {
        let Some(opened) = opened else {
            let disabled =
                RunningOutput { output, status, end: OutputEnd::Disabled, claim: None, url: None, remux: None };
            return (disabled, Vec::new());
        };
        // Set first, because a listener may have a player as soon as it is started.
        status.counters.set_state(State::Waiting, Instant::now());
        let StartedOutput { url, peers, remux, drive } = opened.start(&shared.resources, &self.media, status.clone());
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
        (RunningOutput { output, status, end, claim, url, remux }, peers)
    }
}
