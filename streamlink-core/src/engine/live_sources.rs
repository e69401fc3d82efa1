//! Sources of a running flow that come, go, and are switched to by hand, and the configuration of the flow as it is now.
//!
//! A source has a number in the group that no other source ever has, and a place in the order of preference: that of
//! its entry among the enabled sources. Changes have the two steps of [`super::changes`], under the same lock.

use super::{
    Applied, EngineState,
    changes::Caller,
    running::{Running, config, not_found},
    sources::{RunningSource, SourceRun, group_terms, open_source},
    start,
};
use crate::{
    endpoint::{Status, driver::OpenSource},
    error::{ConfigError, ConfigErrorKind, ConfigErrors, Error},
    event::Event,
    flow::{Claim, Failover, FailoverPolicy, Flow, MAX_PATHS, Source, check_failover, check_source},
    lock::lock,
    net::is_local_ip,
    router::State,
};
use std::{sync::Arc, time::Instant};

impl Running {
    pub(super) async fn add_source(&self, source: Source, caller: &Caller) -> Result<(), Error> {
        let shared = self.alive()?;
        let source = self.check_new_source(source, None)?;
        self.check_free(&self.outputs(), source.name(), None)?;
        let reserved = self.reserve(&shared, "source", source.claim())?;
        let opened = self.open_enabled(&shared, &source)?;
        let _change = self.changes.token();
        {
            let outputs = self.outputs();
            self.may_apply(&caller.abandoned)?;
            self.check_free(&outputs, source.name(), None)?;
            let place = self.sources().len();
            if place >= MAX_PATHS {
                return Err(too_many());
            }
            let mut source = RunningSource::new(source, self.media.bandwidth.now());
            if let Some(opened) = opened {
                source.run = Some(self.run_at(&shared, &source, opened, place)?);
            }
            self.sources().push(source);
            reserved.keep();
        }
        self.sources_changed();
        Ok(())
    }

    pub(super) async fn remove_source(self: &Arc<Self>, name: &str, caller: &Caller) -> Result<(), Error> {
        self.alive()?;
        let change = self.changes.token();
        let old = {
            let _outputs = self.outputs();
            self.may_apply(&caller.abandoned)?;
            let mut sources = self.sources();
            let place = place_of(&sources, name)?;
            if sources.len() == 1 {
                let problem = "a flow has at least one source; the last one can only be replaced or disabled";
                return Err(config("sources", ConfigErrorKind::Conflict(problem.into())));
            }
            sources.remove(place)
        };
        let running = self.clone();
        let rest = async move {
            running.end_source(old.run, &old.status).await;
            drop(change);
        };
        caller.wait_for(&self.tasks.runtime, rest).await;
        Ok(())
    }

    pub(super) async fn replace_source(
        self: &Arc<Self>,
        name: &str,
        source: Source,
        caller: &Caller,
    ) -> Result<Applied, Error> {
        let shared = self.alive()?;
        let source = self.check_new_source(source, Some(name))?;
        let (old, old_claim) = {
            let outputs = self.outputs();
            let sources = self.sources();
            let found = sources.get(place_of(&sources, name)?).ok_or_else(|| not_found("source", name))?;
            let old = found.status.clone();
            let claim = found.run.as_ref().and_then(|run| run.claim.clone());
            drop(sources);
            self.check_free(&outputs, source.name(), Some(&old))?;
            (old, claim)
        };
        let claim = source.claim();
        let reserved = self.reserve(&shared, "source", claim.clone().filter(|_| claim != old_claim))?;
        let change = self.changes.token();
        let opened = match self.open_enabled(&shared, &source) {
            Ok(opened) => opened,
            // The old source may hold the socket, which is closed first then.
            Err(Error::Bind { .. }) if old_claim.is_some() && claim == old_claim => {
                self.reopen_as(&shared, &old, &source, caller).await?
            }
            Err(error) => return Err(error),
        };
        let before = {
            let outputs = self.outputs();
            self.may_apply(&caller.abandoned)?;
            self.check_free(&outputs, source.name(), Some(&old))?;
            let place = self.place_of_status(&old).ok_or_else(|| not_found("source", name))?;
            let mut source = RunningSource::new(source, self.media.bandwidth.now());
            if let Some(run) = self.sources().get(place).and_then(|before| before.run.as_ref()) {
                run.stop.cancel();
                if let Some(entry) = &run.entry {
                    // The route is gone at once; the end of its connections is waited for below.
                    self.tasks.runtime.spawn(crate::lock::task(entry.remove()));
                }
            }
            if let Some(opened) = opened {
                // Behind the old one, which still has its place.
                source.run = Some(self.run_at(&shared, &source, opened, place + 1)?);
            }
            let mut sources = self.sources();
            let before = sources.get_mut(place).map(|before| std::mem::replace(before, source));
            reserved.keep();
            before
        };
        let running = self.clone();
        let rest = async move {
            if let Some(mut before) = before {
                if let Some(run) = &mut before.run {
                    run.claim = run.claim.take().filter(|old| Some(old) != claim.as_ref());
                }
                running.end_source(before.run, &before.status).await;
            }
            drop(change);
        };
        caller.wait_for(&self.tasks.runtime, rest).await;
        Ok(Applied::Reconnect)
    }

    /// Closes the sockets of a source, keeps its claim, and opens those of its replacement. If that fails, the source
    /// is opened again.
    async fn reopen_as(
        &self,
        shared: &EngineState,
        old: &Arc<Status>,
        source: &Source,
        caller: &Caller,
    ) -> Result<Option<Box<dyn OpenSource>>, Error> {
        let run = {
            let _outputs = self.outputs();
            self.may_apply(&caller.abandoned)?;
            let place = self.place_of_status(old);
            place.and_then(|place| self.sources().get_mut(place)?.run.take())
        };
        // The claim stays with the flow, for the replacement.
        let run = run.map(|run| SourceRun { claim: None, ..run });
        self.end_source(run, old).await;
        let opened = self.open_enabled(shared, source);
        let _outputs = self.outputs();
        let Some(place) = self.place_of_status(old) else { return opened };
        if opened.is_err() {
            let before = self.sources().get(place).map(|before| before.source.clone());
            if let Some(before) = before
                && let Some(again) = self.open_enabled(shared, &before)?
            {
                self.put_run(shared, place, again)?;
            }
        }
        opened
    }

    pub(super) async fn set_source_enabled(
        self: &Arc<Self>,
        name: &str,
        enabled: bool,
        caller: &Caller,
    ) -> Result<Applied, Error> {
        let shared = self.alive()?;
        let (status, mut source) = {
            let sources = self.sources();
            let found = sources.get(place_of(&sources, name)?).ok_or_else(|| not_found("source", name))?;
            if found.source.common.enabled == enabled {
                return Ok(Applied::InPlace);
            }
            (found.status.clone(), found.source.clone())
        };
        source.common.enabled = enabled;
        let reserved = self.reserve(&shared, "source", source.claim())?;
        let opened = self.open_enabled(&shared, &source)?;
        let change = self.changes.token();
        let run = {
            let _outputs = self.outputs();
            self.may_apply(&caller.abandoned)?;
            let place = self.place_of_status(&status).ok_or_else(|| not_found("source", name))?;
            let run = {
                let mut sources = self.sources();
                let found = sources.get_mut(place).filter(|found| found.source.common.enabled != enabled);
                let found = found.ok_or_else(|| not_found("source", name))?;
                found.source.common.enabled = enabled;
                found.run.take()
            };
            if let Some(opened) = opened {
                self.put_run(&shared, place, opened)?;
            }
            reserved.keep();
            run
        };
        let running = self.clone();
        let rest = async move {
            if run.is_some() {
                running.end_source(run, &status).await;
            }
            running.sources_changed();
            drop(change);
        };
        caller.wait_for(&self.tasks.runtime, rest).await;
        Ok(Applied::Reconnect)
    }

    pub(super) fn switch_to(&self, name: &str) -> Result<(), Error> {
        self.alive()?;
        if matches!(self.failover().policy, FailoverPolicy::Merge(_)) {
            return Err(config("source", ConfigErrorKind::Conflict("all sources of a merge feed the flow".into())));
        }
        let number = {
            let sources = self.sources();
            let found = sources.get(place_of(&sources, name)?);
            found.and_then(|source| source.run.as_ref()).map(|run| run.number)
        };
        let is_chosen = number.is_some_and(|number| self.group.switch_to(number));
        if is_chosen {
            Ok(())
        } else {
            Err(config("source", ConfigErrorKind::Conflict("the source is disabled".into())))
        }
    }

    pub(super) fn set_failover(&self, failover: Failover) -> Result<Applied, Error> {
        self.alive()?;
        let mut errors = Vec::new();
        let sources: Vec<Source> = self.sources().iter().map(|source| source.source.clone()).collect();
        check_failover(failover, &sources, &mut |path, result| {
            errors.extend(result.err().map(|problem| ConfigError::new(path, problem)));
        });
        if let Some(errors) = ConfigErrors::collect(errors) {
            return Err(errors.into());
        }
        let mut settings = lock(&self.settings);
        let merges = |failover: Failover| matches!(failover.policy, FailoverPolicy::Merge(_));
        if merges(failover) != merges(settings.failover) {
            let problem = "sources of a merge are opened differently: start the flow anew to begin or end a merge";
            return Err(config("failover.policy", ConfigErrorKind::Conflict(problem.into())));
        }
        if failover.cold != settings.failover.cold {
            let problem = "start the flow anew to make its backups cold or hot";
            return Err(config("failover.cold", ConfigErrorKind::Conflict(problem.into())));
        }
        settings.failover = failover;
        self.group.set_terms(group_terms(failover));
        Ok(Applied::InPlace)
    }

    /// Returns the configuration as it is now, with its secrets.
    pub(super) fn configuration(&self) -> Flow {
        let mut flow = lock(&self.settings).clone();
        let bandwidth = self.media.bandwidth.now();
        flow.max_bandwidth = bandwidth.max;
        flow.policy = bandwidth.policy;
        let sources = self.sources();
        let source = |running: &RunningSource| {
            let mut source = running.source.clone();
            let snapshot = running.status.snapshot();
            source.common.name = snapshot.name;
            source.common.description = snapshot.description;
            if let Some(allow) = source.allow_mut() {
                *allow = running.live.borrow().allow.clone();
            }
            source
        };
        flow.sources = sources.iter().map(source).collect();
        drop(sources);
        let outputs = self.outputs();
        let output = |running: &super::outputs::RunningOutput| {
            let mut output = running.output.clone();
            let snapshot = running.status.snapshot();
            output.common.name = snapshot.name;
            output.common.description = snapshot.description;
            output
        };
        flow.outputs = outputs.iter().map(output).collect();
        flow
    }

    fn failover(&self) -> Failover {
        lock(&self.settings).failover
    }

    /// Checks a source that is added, or replaces the one named `replaced`.
    fn check_new_source(&self, source: Source, replaced: Option<&str>) -> Result<Source, Error> {
        let source = check_source("source", self.input.family(), source)?;
        start::check_congestion(source.congestion()).map_err(|problem| config("source.congestion", problem))?;
        let sources = self.sources();
        let is_first = match replaced {
            Some(name) => place_of(&sources, name)? == 0,
            None if sources.len() >= MAX_PATHS => return Err(too_many()),
            None => false,
        };
        drop(sources);
        if self.failover().cold && !is_first && !source.is_caller() {
            let problem = "the backups of this flow are cold; only a caller can be a cold backup";
            return Err(config("source", ConfigErrorKind::Conflict(problem.into())));
        }
        if let Some(address) = source.called_own_address(is_local_ip) {
            let remark = Event::CallsOwnAddress { endpoint: source.name().to_owned(), address };
            start::report_remark(&self.media.events, remark);
        }
        Ok(source)
    }

    fn open_enabled(&self, shared: &EngineState, source: &Source) -> Result<Option<Box<dyn OpenSource>>, Error> {
        if !source.common.enabled {
            return Ok(None);
        }
        open_source(shared, &self.name, source, self.media.bandwidth.now(), self.failover()).map(Some)
    }

    fn place_of_status(&self, status: &Arc<Status>) -> Option<usize> {
        self.sources().iter().position(|source| Arc::ptr_eq(&source.status, status))
    }

    /// Runs an opened source whose entry has, or will have, this place in the list. Must be called under the lock of the
    /// outputs.
    fn run_at(
        &self,
        shared: &EngineState,
        source: &RunningSource,
        opened: Box<dyn OpenSource>,
        place: usize,
    ) -> Result<SourceRun, Error> {
        let position = self.sources().iter().take(place).filter(|source| source.run.is_some()).count();
        let number = self.group.add(position).ok_or_else(too_many)?;
        let cold = self.failover().cold && position > 0;
        Ok(self.run_source(shared, source, opened, number, cold))
    }

    /// Runs an opened source whose entry is in the list and does not run. Must be called under the lock of the outputs.
    fn put_run(&self, shared: &EngineState, place: usize, opened: Box<dyn OpenSource>) -> Result<(), Error> {
        let entry = |source: &RunningSource| RunningSource {
            source: source.source.clone(),
            status: source.status.clone(),
            live: source.live.clone(),
            run: None,
        };
        let Some(source) = self.sources().get(place).map(entry) else { return Ok(()) };
        let run = self.run_at(shared, &source, opened, place)?;
        if let Some(source) = self.sources().get_mut(place) {
            source.run = Some(run);
        }
        Ok(())
    }

    /// Ends a source, and waits until its sockets are closed. Another source takes over if it has fed the flow.
    async fn end_source(&self, run: Option<SourceRun>, status: &Status) {
        let Some(SourceRun { number, stop, task, entry, claim, .. }) = run else { return };
        stop.cancel();
        if let Some(entry) = entry {
            entry.remove().await;
            entry.release().await;
        }
        if let Some(task) = task {
            let _ = task.await; // a failed task has ended, too
        }
        let now = Instant::now();
        self.source_list.report(self.group.remove(number, now), &self.media.events);
        self.source_list.remove(number);
        self.give_back(claim);
        status.counters.set_state(State::Idle, now);
        self.sources_changed();
    }

    fn give_back(&self, claim: Option<Claim>) {
        if let (Some(shared), Some(claim)) = (self.shared.upgrade(), &claim) {
            shared.unclaim(self.id, claim);
        }
    }

    /// Lets the sources notice that others have come or gone.
    fn sources_changed(&self) {
        for source in self.sources().iter() {
            source.live.send_modify(|_| {});
        }
    }
}

fn place_of(sources: &[RunningSource], name: &str) -> Result<usize, Error> {
    sources.iter().position(|source| source.status.is_named(name)).ok_or_else(|| not_found("source", name))
}

fn too_many() -> Error {
    config("sources", ConfigErrorKind::Conflict(format!("a flow takes no more than {MAX_PATHS} sources while it runs")))
}
