//! Handle of a running flow: its addresses, events, statistics and changes.

use super::{
    Applied, OutputEdit, SourceEdit,
    changes::Caller,
    outputs::{OutputEnd, RunningOutput},
    running::{Running, config, not_found},
    stats::FlowStats,
};
use crate::{
    endpoint::{AppSource, Tap},
    error::{ConfigErrorKind, Error},
    event::{Event, Events, Mailbox},
    flow::{BandwidthPolicy, Bitrate, Failover, Flow, FlowConfiguration, InputProtocol, Output, Source},
    lock,
};
use std::{net::SocketAddr, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Handle of a running flow. It is cheap to clone. Dropping the last clone stops the flow without waiting;
/// [`FlowHandle::stop`] waits. The handles that [`Engine::flows`](crate::Engine::flows) returns are such clones.
#[derive(Clone, Debug)]
pub struct FlowHandle(pub(super) Arc<Owner>);

/// Owner of a running flow, shared by the clones of its handle.
#[derive(Debug)]
pub(super) struct Owner {
    running: Arc<Running>,
    events: tokio::sync::Mutex<Events>,
}

impl FlowHandle {
    pub(super) fn new(running: Arc<Running>, events: Mailbox<Event>) -> Self {
        let owner = Arc::new(Owner { running, events: tokio::sync::Mutex::new(Events::new(events)) });
        owner.running.handle.get_or_init(|| Arc::downgrade(&owner));
        Self(owner)
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> &Running {
        &self.0.running
    }

    /// Returns the name of the flow.
    pub fn name(&self) -> &str {
        &self.0.running.name
    }

    /// Returns the URLs to which encoders send, one for each source that listens.
    pub fn input_addresses(&self) -> Vec<String> {
        let sources = self.0.running.sources();
        sources.iter().filter_map(|s| Some(s.run.as_ref()?.input_address.as_ref()?.to_string())).collect()
    }

    /// Returns the names of the outputs that listen, each with the URL from which players fetch.
    pub fn playback_urls(&self) -> Vec<(String, String)> {
        let outputs = self.0.running.outputs();
        let url = |output: &RunningOutput| match &output.end {
            OutputEnd::Remote(remote) => remote.url(),
            _ => output.url.clone(),
        };
        outputs.iter().filter_map(|output| Some((output.status.name(), url(output)?.to_string()))).collect()
    }

    /// Waits for the next event since the flow was started. Returns `None` when the flow has stopped. This serves one
    /// reader. Further readers are created by [`FlowHandle::events`].
    pub async fn next_event(&self) -> Option<Event> {
        self.0.events.lock().await.next().await
    }

    /// Returns another reader of events, from now on. Within 5 s of the start of the flow, it brings the events since
    /// the start, too.
    pub fn events(&self) -> Events {
        Events::new(self.0.running.media.events.subscribe())
    }

    /// Returns a snapshot of the counters, without stopping the data path.
    /// ```
    /// use streamlink_core::{Bitrate, Engine, Flow, Output, Source};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::new()?;
    /// # let flow = Flow::builder("match-day", Bitrate::mbps(20))
    /// #     .source(Source::rtp("venue", "127.0.0.1:0"))
    /// #     .output(Output::rtp("studio", "127.0.0.1:5004"))
    /// #     .build()?;
    /// # let running = engine.block_on(engine.start(flow))?;
    /// let stats = running.stats();
    /// for endpoint in stats.sources.iter().chain(&stats.outputs) {
    ///     println!("{} ({}): {:?}, {} packets", endpoint.name, endpoint.protocol, endpoint.state, endpoint.packets);
    /// }
    /// print!("{}", engine.metrics()); // the same of all flows, as OpenMetrics text
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> FlowStats {
        self.0.running.stats()
    }

    /// Returns the protocol of the sources, by whose family outputs are permitted.
    pub fn input(&self) -> InputProtocol {
        self.0.running.input
    }

    /// Returns the SDP (RFC 8866) that players are offered. `None` before the first source has described its media, and
    /// for flows whose media has no such description.
    pub fn sdp(&self) -> Option<String> {
        self.0.running.media.presentation.current().map(|presentation| presentation.to_sdp())
    }

    /// Returns the handle into which the host pushes the media of an app source, such as
    /// [`Source::app_datagrams`](crate::Source::app_datagrams).
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such source.
    pub fn app_source(&self, name: &str) -> Result<AppSource, Error> {
        let sources = self.0.running.sources();
        let found = sources.iter().find(|s| s.status.is_named(name)).and_then(|s| s.run.as_ref()?.app.clone());
        found.ok_or_else(|| not_found("app source", name))
    }

    /// Returns the handle from which the host takes the packets of an [`Output::tap`]. It can be taken once.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such tap, or it was taken before.
    pub fn tap(&self, name: &str) -> Result<Tap, Error> {
        let mut outputs = self.0.running.outputs();
        let found = outputs.iter_mut().find(|o| o.status.is_named(name));
        let taken = found.and_then(|o| match &mut o.end {
            OutputEnd::Tap(tap) => tap.reader.take().map(|reader| (reader, o.status.clone())),
            _ => None,
        });
        let (reader, status) = taken.ok_or_else(|| not_found("tap", name))?;
        Ok(Tap::new(reader, status, self.0.running.tasks.clone()))
    }

    /// Adds an output. It receives the media from now on, and no other output is affected.
    ///
    /// Its sockets are opened first, which may wait for name resolution. Meanwhile other changes go on, and
    /// [`FlowHandle::stop`] ends this one. If the future is dropped before the output is applied, no output is added.
    /// If it is dropped later, the output is there.
    ///
    /// # Errors
    /// When it is not valid for this flow, its name is taken, or its sockets cannot be opened.
    pub async fn add_output(&self, output: impl Into<Output>) -> Result<(), Error> {
        let running = self.0.running.clone();
        let output = output.into();
        self.on_runtime(|caller| async move { running.add_output(output, &caller).await }).await
    }

    /// Removes an output, and waits until its sockets are closed. No other output is affected. If the future is dropped
    /// after it was first polled, the output may still be removed, as a whole.
    ///
    /// Code that the library runs (release functions, wakers, callbacks, the logger) may call this. It does not wait then:
    /// the output is gone from the statistics, and its sockets are closed soon after.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of that name.
    pub async fn remove_output(&self, name: &str) -> Result<(), Error> {
        let running = self.0.running.clone();
        let name = name.to_owned();
        self.on_runtime(|caller| async move { running.remove_output(&name, &caller).await }).await
    }

    /// Replaces an output with another one, under a name of its own choice, and waits until the sockets of the old one
    /// are closed. The new output may listen at the same address with the same key, and no other flow can take them in
    /// between.
    ///
    /// The new output is checked and opened first, which may wait for name resolution. The old one stays meanwhile, and
    /// also if this fails. Other changes go on, and [`FlowHandle::stop`] ends this one. Then the two are swapped in one
    /// step. If the future is dropped before that, the old output stays. If it is dropped later, the new one is there.
    ///
    /// Code that the library runs does not wait for the sockets of the old one, as in [`FlowHandle::remove_output`].
    ///
    /// # Errors
    /// As [`FlowHandle::add_output`] and [`FlowHandle::remove_output`].
    pub async fn replace_output(&self, name: &str, output: impl Into<Output>) -> Result<(), Error> {
        let running = self.0.running.clone();
        let name = name.to_owned();
        let output = output.into();
        self.on_runtime(|caller| async move { running.replace_output(&name, output, &caller).await }).await
    }

    /// Changes an output without a reconnection.
    ///
    /// # Errors
    /// When there is no such output, or a new value is wrong; nothing is then changed.
    /// ```
    /// use streamlink_core::{Applied, Bitrate, Engine, Flow, Output, OutputEdit, Source};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::new()?;
    /// # let flow = Flow::builder("match-day", Bitrate::mbps(20))
    /// #     .source(Source::srt_listener("venue", "127.0.0.1:0"))
    /// #     .output(Output::srt_listener("partner", "127.0.0.1:0"))
    /// #     .build()?;
    /// # let running = engine.block_on(engine.start(flow))?;
    /// // Players at other addresses are disconnected; the rest stay connected.
    /// let edit = OutputEdit::new().allow("203.0.113.0/24".parse()?).max_players(4);
    /// assert_eq!(running.edit_output("partner", edit)?, Applied::InPlace);
    /// # Ok(())
    /// # }
    /// ```
    pub fn edit_output(&self, name: &str, edit: OutputEdit) -> Result<Applied, Error> {
        self.0.running.edit_output(name, edit)
    }

    /// Enables or disables an output. A disabled output holds its configuration, its name and its counters, and no
    /// sockets: its peers are disconnected, and another flow may take its address. Disabling waits until the sockets are
    /// closed, as [`FlowHandle::remove_output`] does.
    ///
    /// The output alone reconnects; if nothing changes, the result is [`Applied::InPlace`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of that name; as [`FlowHandle::add_output`] when its sockets cannot be
    /// opened. It then stays disabled.
    pub async fn set_output_enabled(&self, name: &str, enabled: bool) -> Result<Applied, Error> {
        let running = self.0.running.clone();
        let name = name.to_owned();
        self.on_runtime(|caller| async move { running.set_output_enabled(&name, enabled, &caller).await }).await
    }

    /// Adds a source, as the last one in the order of preference. Its media must be of the family of the other sources.
    /// It is a backup like those that the flow was built with: players stay connected when it takes over.
    ///
    /// # Errors
    /// When it is not valid for this flow, the flow has 16 sources already, its name is taken, its backups are cold and
    /// it is no caller, or its sockets cannot be opened.
    /// ```
    /// use streamlink_core::{Bitrate, Engine, Flow, Output, Source};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::new()?;
    /// # let flow = Flow::builder("match-day", Bitrate::mbps(20))
    /// #     .source(Source::srt_listener("venue", "127.0.0.1:0"))
    /// #     .output(Output::srt_listener("partner", "127.0.0.1:0"))
    /// #     .build()?;
    /// # let running = engine.block_on(engine.start(flow))?;
    /// engine.block_on(running.add_source(Source::srt_caller("backup", "198.51.100.7:9000")))?;
    /// running.switch_to("backup")?;
    /// assert_eq!(running.stats().sources.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn add_source(&self, source: impl Into<Source>) -> Result<(), Error> {
        let running = self.0.running.clone();
        let source = source.into();
        self.on_runtime(|caller| async move { running.add_source(source, &caller).await }).await
    }

    /// Removes a source, and waits until its sockets are closed. If it feeds the flow, another source takes over as when
    /// it is lost; players stay connected. Code that the library runs does not wait, as in
    /// [`FlowHandle::remove_output`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of that name; [`Error::Config`] for the last source of the flow, which can
    /// only be replaced or disabled.
    pub async fn remove_source(&self, name: &str) -> Result<(), Error> {
        let running = self.0.running.clone();
        let name = name.to_owned();
        self.on_runtime(|caller| async move { running.remove_source(&name, &caller).await }).await
    }

    /// Replaces a source with another one of the same family, under a name of its own choice, at the same place in the
    /// order of preference. Players stay connected, and the media of the new source continues that of the old one.
    ///
    /// The new source is opened before the old one ends, except where both need the same socket: the old one is then
    /// closed first, and opened again if the new one cannot be opened.
    ///
    /// # Errors
    /// As [`FlowHandle::add_source`] and [`FlowHandle::remove_source`].
    pub async fn replace_source(&self, name: &str, source: impl Into<Source>) -> Result<Applied, Error> {
        let running = self.0.running.clone();
        let name = name.to_owned();
        let source = source.into();
        self.on_runtime(|caller| async move { running.replace_source(&name, source, &caller).await }).await
    }

    /// Enables or disables a source. A disabled source holds its configuration, its name and its counters, and no
    /// sockets. If it feeds the flow, another source takes over as when it is lost.
    ///
    /// The source alone reconnects; if nothing changes, the result is [`Applied::InPlace`].
    ///
    /// # Errors
    /// As [`FlowHandle::set_output_enabled`].
    pub async fn set_source_enabled(&self, name: &str, enabled: bool) -> Result<Applied, Error> {
        let running = self.0.running.clone();
        let name = name.to_owned();
        self.on_runtime(|caller| async move { running.set_source_enabled(&name, enabled, &caller).await }).await
    }

    /// Switches to a source by hand. The switch takes place when the source delivers media to begin with, such as the
    /// next key frame; until then, the flow stays as it is. A cold source connects for that. [`Event::Switched`] reports
    /// it.
    ///
    /// The flow then stays with the source until it is lost, whatever [`Failover`] prefers; from then on the policy
    /// holds again. Another call replaces the choice.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such source; [`Error::Config`] when it is disabled, or the flow merges its
    /// sources.
    pub fn switch_to(&self, source: &str) -> Result<(), Error> {
        self.0.running.switch_to(source)
    }

    /// Changes the rules for the change between the sources, from the next packet on. The policies `Stay` and `Prefer`,
    /// their hold time, the window of a merge and the loss threshold are changed in place.
    ///
    /// # Errors
    /// When a value is out of range. When it would begin or end a merge, or make backups cold or hot: sources are opened
    /// differently for these, so the flow must be started anew. Nothing is then changed.
    pub fn set_failover(&self, failover: Failover) -> Result<Applied, Error> {
        self.0.running.set_failover(failover)
    }

    /// Returns the current configuration with its secrets hidden: as the flow was built, with all changes since. Ports
    /// are those configured; those that the system has picked are in the statistics.
    pub fn configuration(&self) -> FlowConfiguration {
        self.0.running.configuration().configuration()
    }

    /// Returns the current configuration with its secrets, such as generated stream keys, as a flow that can be started
    /// again. Do not log it.
    pub fn configuration_with_secrets(&self) -> Flow {
        self.0.running.configuration()
    }

    /// Disconnects a player of an output that listens, by its address as in [`PlayerStats`](crate::PlayerStats). The
    /// player may reconnect; use an allowlist to prevent that. For code that the library runs, it is disconnected soon
    /// after, if it is in the statistics. Where the output runs in a region on other machines, this waits until its node
    /// reports that the player has gone.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such output, or no such player of it; [`Error::Config`] when the node of a
    /// region on other machines has not disconnected it within 5 s.
    pub async fn kick_player(&self, output: &str, peer: SocketAddr) -> Result<(), Error> {
        self.0.running.alive()?;
        let entry = self.0.running.outputs().iter().find(|o| o.status.is_named(output)).map(|o| match &o.end {
            OutputEnd::Listener(entry) => (Some(entry.clone()), None),
            OutputEnd::Remote(remote) => (None, Some((remote.region().to_owned(), remote.kick(peer)))),
            _ => (None, None),
        });
        let (entry, remote) = entry.ok_or_else(|| not_found("output", output))?;
        let kicked = match (entry, remote) {
            (_, Some((region, Some(pending)))) => {
                if !lock::is_on_task() && !pending.finished().await {
                    let problem = format!("its node in region `{region}` has not disconnected {peer} within 5 s");
                    return Err(config("output", ConfigErrorKind::Conflict(problem)));
                }
                true
            }
            // The port may be what runs the caller, so its answer is not waited for.
            (Some(entry), _) if lock::is_on_task() => {
                self.0.running.tasks.runtime.spawn(lock::task(async move { entry.kick(peer).await }));
                self.0.running.has_player(output, peer)
            }
            (Some(entry), _) => entry.kick(peer).await,
            _ => false,
        };
        if kicked { Ok(()) } else { Err(not_found("player", &peer.to_string())) }
    }

    /// Changes a source without a reconnection.
    ///
    /// # Errors
    /// When there is no such source, or a new value is wrong; nothing is then changed.
    pub fn edit_source(&self, name: &str, edit: SourceEdit) -> Result<Applied, Error> {
        self.0.running.edit_source(name, edit)
    }

    /// Changes the maximum bandwidth, from the next packet on. Queues, socket buffers, and the rates and windows of
    /// protocols that pace their packets follow, on open connections, too. An endpoint with a maximum of its own keeps
    /// it.
    ///
    /// # Errors
    /// When it is 0, or the flow has stopped.
    pub fn set_max_bandwidth(&self, rate: Bitrate) -> Result<(), Error> {
        self.0.running.alive()?;
        if rate.as_bps() == 0 {
            return Err(config("max_bandwidth", ConfigErrorKind::out_of_range("0", "1 bit per second and more")));
        }
        self.0.running.change_bandwidth(|bandwidth| bandwidth.max = rate);
        Ok(())
    }

    /// Changes the policy for media above the maximum bandwidth.
    ///
    /// # Errors
    /// When the flow has stopped.
    pub fn set_bandwidth_policy(&self, policy: BandwidthPolicy) -> Result<(), Error> {
        self.0.running.alive()?;
        self.0.running.change_bandwidth(|bandwidth| bandwidth.policy = policy);
        Ok(())
    }

    /// Stops the flow: the received media is passed on, then all tasks end and all sockets are closed. Changes in
    /// preparation end without effect. If the future is dropped after it was first polled, the flow still stops.
    /// Dropping the handle as well does not wait for work in progress.
    ///
    /// Code that the library runs (release functions, wakers, callbacks, the logger) may call this. It does not wait then:
    /// the flow stops in the background, and [`Event::FlowStopped`] tells when it has.
    pub async fn stop(&self) {
        lock::hold_back(self.0.running.stop()).await;
    }

    /// Runs a change on the engine's runtime, to which sockets belong, on whichever executor it is awaited.
    async fn on_runtime<F, T>(&self, change: impl FnOnce(Caller) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
    {
        let abandoned = CancellationToken::new();
        let waits = !lock::is_on_task();
        let change = lock::hold_back(change(Caller { abandoned: abandoned.clone(), waits }));
        if !waits {
            return lock::within_task(change).await;
        }
        let interest = abandoned.drop_guard();
        let done = self.0.running.tasks.runtime.spawn(lock::task(change)).await;
        interest.disarm();
        done.unwrap_or(Err(Error::Stopped("engine")))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.running.cancel();
    }
}
