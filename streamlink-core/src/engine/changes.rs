//! Changes of the outputs and sources of a running flow.
//!
//! A change has two steps. First it is prepared: it is checked, its address is claimed, and its sockets are opened,
//! which may wait for name resolution. Meanwhile it has no visible effect and other changes go on. It is undone if the
//! flow stops or the caller drops its future. Then it is applied in one step under the lock of the outputs, and runs to
//! completion.

use super::{
    Applied, EngineState,
    outputs::{self, Ending, OpenedOutput, RunningOutput},
    running::{Running, config, not_found},
    start,
};
use crate::{
    endpoint::Status,
    error::{ConfigError, Error},
    event::Event,
    flow::{Claim, Output, check_output},
    lock,
    net::is_local_ip,
    router::State,
};
use std::{net::SocketAddr, sync::Arc, time::Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Caller of a change.
pub(super) struct Caller {
    /// Token that is cancelled when the caller drops the future.
    pub(super) abandoned: CancellationToken,
    /// Set if the caller waits until the old output has ended. Host code that the library runs does not: the old output
    /// may be what runs it.
    pub(super) waits: bool,
}

impl Caller {
    /// Runs the rest of an applied change, which waits for tasks to end. If the caller does not wait, it runs in the
    /// background.
    pub(super) async fn wait_for(&self, runtime: &Handle, rest: impl Future<Output = ()> + Send + 'static) {
        if self.waits {
            rest.await;
        } else {
            runtime.spawn(lock::task(lock::hold_back(rest)));
        }
    }
}

/// Claim on an address and key for an endpoint that is not running yet. It is given back unless the endpoint starts.
pub(super) struct Reserved<'a> {
    shared: &'a EngineState,
    id: u64,
    claim: Option<Claim>,
}

impl Reserved<'_> {
    pub(super) fn keep(mut self) {
        self.claim = None;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(claim) = &self.claim {
            self.shared.unclaim(self.id, claim);
        }
    }
}

impl Running {
    pub(super) async fn add_output(&self, output: Output, caller: &Caller) -> Result<(), Error> {
        let shared = self.alive()?;
        let output = self.check_new(&shared, output)?;
        self.check_free(&self.outputs(), output.name(), None)?;
        let reserved = self.reserve(&shared, "output", start::local_claim(&shared, &output))?;
        let (status, opened) = self.open_new(&shared, &output, &caller.abandoned).await?;
        let _change = self.changes.token();
        let name = status.name();
        let peers = {
            let mut outputs = self.outputs();
            self.may_apply(&caller.abandoned)?;
            self.check_free(&outputs, &name, None)?;
            let (running, peers) = self.run_output(&shared, output, status, opened, None);
            outputs.push(running);
            reserved.keep();
            peers
        };
        self.tell_connected(&name, peers);
        Ok(())
    }

    /// Replaces an output with another one, which may have the same name and claim the same address and key.
    pub(super) async fn replace_output(
        self: &Arc<Self>,
        name: &str,
        output: Output,
        caller: &Caller,
    ) -> Result<(), Error> {
        let shared = self.alive()?;
        let output = self.check_new(&shared, output)?;
        let (old, old_claim) = {
            let outputs = self.outputs();
            let found = outputs.iter().find(|o| o.status.is_named(name)).ok_or_else(|| not_found("output", name))?;
            self.check_free(&outputs, output.name(), Some(&found.status))?;
            (found.status.clone(), found.claim.clone())
        };
        // The claim of the old output passes to the new one when they are swapped, so that no other flow can take it in
        // between.
        let claim = start::local_claim(&shared, &output);
        let reserved = self.reserve(&shared, "output", claim.clone().filter(|_| claim != old_claim))?;
        let (status, opened) = self.open_new(&shared, &output, &caller.abandoned).await?;
        let change = self.changes.token();
        let new_name = status.name();
        // The new output connects after the old one has disconnected, because a server may accept only one publisher at
        // a time.
        let over = CancellationToken::new();
        let (ending, mut given_up, peers) = {
            let mut outputs = self.outputs();
            self.may_apply(&caller.abandoned)?;
            let place = outputs.iter().position(|o| Arc::ptr_eq(&o.status, &old));
            let place = place.ok_or_else(|| not_found("output", name))?;
            self.check_free(&outputs, &new_name, Some(&old))?;
            let before = outputs.remove(place);
            let ending = before.end.begin();
            let (running, peers) = self.run_output(&shared, output, status, opened, Some(over.clone()));
            outputs.insert(place, running);
            reserved.keep();
            (ending, before.claim, peers)
        };
        let over = over.drop_guard();
        self.tell_connected(&new_name, peers);
        if given_up == claim {
            given_up = None;
        }
        let running = self.clone();
        let rest = async move {
            running.finish(ending, &old, given_up).await;
            drop((over, change));
        };
        caller.wait_for(&self.tasks.runtime, rest).await;
        Ok(())
    }

    pub(super) async fn remove_output(self: &Arc<Self>, name: &str, caller: &Caller) -> Result<(), Error> {
        self.alive()?;
        let change = self.changes.token();
        let (ending, status, claim) = {
            let mut outputs = self.outputs();
            self.may_apply(&caller.abandoned)?;
            let place = outputs.iter().position(|o| o.status.is_named(name));
            let output = outputs.remove(place.ok_or_else(|| not_found("output", name))?);
            (output.end.begin(), output.status, output.claim)
        };
        let running = self.clone();
        let rest = async move {
            running.finish(ending, &status, claim).await;
            drop(change);
        };
        caller.wait_for(&self.tasks.runtime, rest).await;
        Ok(())
    }

    /// Opens or closes the sockets of an output, which keeps its configuration, name and counters.
    pub(super) async fn set_output_enabled(
        self: &Arc<Self>,
        name: &str,
        enabled: bool,
        caller: &Caller,
    ) -> Result<Applied, Error> {
        let shared = self.alive()?;
        let (status, mut output) = {
            let outputs = self.outputs();
            let found = outputs.iter().find(|o| o.status.is_named(name)).ok_or_else(|| not_found("output", name))?;
            if found.output.common.enabled == enabled {
                return Ok(Applied::InPlace);
            }
            (found.status.clone(), found.output.clone())
        };
        output.common.enabled = enabled;
        let reserved = self.reserve(&shared, "output", start::local_claim(&shared, &output))?;
        let opened = self.open(&shared, &output, &status, &caller.abandoned).await?;
        let change = self.changes.token();
        let (ending, claim, peers) = {
            let mut outputs = self.outputs();
            self.may_apply(&caller.abandoned)?;
            let is_it = |o: &RunningOutput| Arc::ptr_eq(&o.status, &status) && o.output.common.enabled != enabled;
            let place = outputs.iter().position(is_it).ok_or_else(|| not_found("output", name))?;
            // Edits meanwhile have changed the configuration of the running output.
            let mut before = outputs.remove(place);
            before.output.common.enabled = enabled;
            let RunningOutput { output, end, claim, .. } = before;
            let (mut running, peers) = self.run_output(&shared, output, status.clone(), opened, None);
            if let Some(listen) = running.output.listen_mut() {
                let allow = listen.allow.clone();
                let max_peers = listen.max_peers;
                running.edit_listener(allow, max_peers);
                running.edit_remote();
            }
            running.set_members(running.output.members());
            outputs.insert(place, running);
            reserved.keep();
            (end.begin(), claim, peers)
        };
        self.tell_connected(&status.name(), peers);
        if enabled {
            return Ok(Applied::Reconnect); // there were no sockets to close
        }
        let running = self.clone();
        let rest = async move {
            running.finish(ending, &status, claim).await;
            drop(change);
        };
        caller.wait_for(&self.tasks.runtime, rest).await;
        Ok(Applied::Reconnect)
    }

    fn check_new(&self, shared: &EngineState, output: Output) -> Result<Output, Error> {
        let output = check_output("output", self.input, output)?;
        let region = start::region(shared, &output).map_err(|problem| config("output.region", problem))?;
        if region.is_remote() {
            return Ok(output);
        }
        start::check_congestion(output.congestion()).map_err(|problem| config("output.congestion", problem))?;
        if let Some(address) = output.called_own_address(is_local_ip) {
            let remark = Event::CallsOwnAddress { endpoint: output.name().to_owned(), address };
            start::report_remark(&self.media.events, remark);
        }
        Ok(output)
    }

    /// Checks that no endpoint other than `own` has the name. `own` is the one to be renamed or replaced.
    pub(super) fn check_free(
        &self,
        outputs: &[RunningOutput],
        name: &str,
        own: Option<&Arc<Status>>,
    ) -> Result<(), Error> {
        let has_it = |status: &Arc<Status>| status.is_named(name) && !own.is_some_and(|own| Arc::ptr_eq(own, status));
        let taken = outputs.iter().any(|o| has_it(&o.status)) || self.sources().iter().any(|s| has_it(&s.status));
        if taken {
            return Err(Error::AlreadyExists { what: "an endpoint", name: name.to_owned() });
        }
        Ok(())
    }

    /// Takes a claim for an endpoint that is about to be opened. `what`: source or output.
    pub(super) fn reserve<'a>(
        &self,
        shared: &'a EngineState,
        what: &str,
        claim: Option<Claim>,
    ) -> Result<Reserved<'a>, Error> {
        if let Some(claim) = &claim {
            let claimed = |problem| Error::Claimed(ConfigError::new("bind", problem).within(what).into());
            shared.claim(self.id, &self.name, claim).map_err(claimed)?;
        }
        Ok(Reserved { shared, id: self.id, claim })
    }

    /// Opens the sockets of a new output. Returns them with its status.
    async fn open_new(
        &self,
        shared: &EngineState,
        output: &Output,
        abandoned: &CancellationToken,
    ) -> Result<(Arc<Status>, OpenedOutput), Error> {
        let status = Status::new(output.name(), output.common.description.clone());
        let opened = self.open(shared, output, &status, abandoned).await?;
        Ok((status, opened))
    }

    /// Opens the sockets of an output, unless the flow stops or the change is abandoned meanwhile.
    async fn open(
        &self,
        shared: &EngineState,
        output: &Output,
        status: &Arc<Status>,
        abandoned: &CancellationToken,
    ) -> Result<OpenedOutput, Error> {
        let bandwidth = self.media.bandwidth.view();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::Stopped("flow")),
            () = abandoned.cancelled() => Err(Error::Stopped("change")),
            opened = outputs::open_output(shared, &self.name, output, &bandwidth, status) => opened,
        }
    }

    /// Checks that the flow is not stopping and the change is not abandoned. Must be called under the lock of the
    /// outputs, because a stop cancels the flow before it takes that lock.
    pub(super) fn may_apply(&self, abandoned: &CancellationToken) -> Result<(), Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Stopped("flow"));
        }
        if abandoned.is_cancelled() {
            return Err(Error::Stopped("change"));
        }
        Ok(())
    }

    pub(super) fn tell_connected(&self, output: &str, peers: Vec<SocketAddr>) {
        for peer in peers {
            self.media.events.emit(Event::OutputConnected { output: output.to_owned(), peer: Some(peer) });
        }
    }

    /// Waits until an output has ended, and gives back its claim.
    async fn finish(&self, ending: Ending, status: &Status, claim: Option<Claim>) {
        match ending {
            Ending::Disabled => {}
            Ending::Tap(closer) => closer.close(),
            Ending::Sinks(sinks) => {
                for sink in sinks {
                    self.fanout.remove(sink).await;
                }
            }
            Ending::Task(task) => {
                let _ = task.await; // a failed task has ended, too
            }
            Ending::Remote(removal) => removal.finished().await,
            Ending::Listener(entry, ended) => {
                ended.await;
                entry.release().await;
            }
        }
        if let (Some(shared), Some(claim)) = (self.shared.upgrade(), &claim) {
            shared.unclaim(self.id, claim);
        }
        status.counters.set_state(State::Idle, Instant::now());
    }
}
