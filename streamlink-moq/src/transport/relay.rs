//! Links to relays: connect, stay connected, tell why not.

use super::{
    settings::LinkSettings,
    tracks::{Announcements, Broadcast, SubscribeOptions, TrackReader},
};
use crate::{
    Error,
    address::{RelayAddress, Token, checked_path},
};
use moq_net::{Hop, cache, origin};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};
use streamlink_core::PeerText;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// Shortest pause between two attempts to connect.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest pause between two attempts to connect.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Time beyond the connect timeout in which the relay has to answer the setup of MoQ.
const SETUP_MARGIN: Duration = Duration::from_millis(500);
/// Pause after a relay has refused the token or the certificate.
const REFUSED_BACKOFF: Duration = Duration::from_secs(30);
/// Time for which a link must have been connected for its pauses to begin again at the shortest.
const HEALTHY: Duration = Duration::from_secs(2);
/// Maximum of received data that a link holds, in bytes: a target that the cache converges to.
const RECEIVE_CACHE: u64 = 64 << 20;
/// Time for which received data that nobody reads is held.
const RECEIVE_EXPIRY: Duration = Duration::from_secs(10);
/// Maximum of data in flight from a relay, in bytes, over all streams.
const RECEIVE_WINDOW: u64 = 32 << 20;

/// State of a link to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinkState {
    /// A connection is being made.
    Connecting,
    /// The relay answers.
    Connected,
    /// The link waits for its next attempt; `last_error` says why.
    Waiting,
}

/// State of a link to a relay, with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStatus {
    /// State now.
    pub state: LinkState,
    /// Number of connections made so far.
    pub connects: u64,
    /// Number of attempts that failed so far.
    pub failures: u64,
    /// Reason of the last failure or loss.
    pub last_error: Option<PeerText>,
    /// Set if the relay has refused the token or the certificate.
    pub is_refused: bool,
}

impl LinkStatus {
    /// Returns whether the relay answers.
    pub fn is_connected(&self) -> bool {
        self.state == LinkState::Connected
    }
}

/// Figures of the present connection to a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct LinkStats {
    /// Round trip time, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes sent over UDP.
    pub bytes_sent: u64,
    /// Bytes received over UDP.
    pub bytes_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets that were sent and lost.
    pub packets_lost: u64,
    /// Packets received.
    pub packets_received: u64,
}

/// Links to several relays, which all have what is published.
///
/// Dropping this ends the links.
#[derive(Debug)]
pub struct Relays {
    paths: Paths,
    links: Vec<RelayLink>,
}

/// Paths that are published now.
pub(super) type Paths = Arc<Mutex<HashSet<String>>>;

/// An origin of broadcasts, without a `Debug` of its own.
#[derive(Clone)]
struct Origin(origin::Producer);

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Origin")
    }
}

impl Relays {
    /// Opens links to relays, on the present tokio runtime. Returns before they are connected; each link connects, and
    /// connects again, on its own.
    ///
    /// # Errors
    /// [`Error::Settings`] if certificates cannot be read or settings exclude each other, [`Error::Socket`] if no
    /// socket can be opened.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(relays: &[RelayAddress], settings: &LinkSettings, token: Option<&Token>) -> Result<Self, Error> {
        // To relays of a cluster, all links lead to one publisher.
        let hop = Hop::random();
        let links = relays
            .iter()
            .map(|relay| RelayLink::connect(relay, settings, token, hop))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { paths: Paths::default(), links })
    }

    /// Creates a broadcast that all relays are to have. It is announced by [`Broadcast::announce`].
    ///
    /// # Errors
    /// [`Error::Address`] for a path that cannot name a broadcast, [`Error::Path`] if it is published already.
    pub fn publish(&self, path: &str) -> Result<Broadcast, Error> {
        let path = checked_path(path)?;
        let mut producers = Vec::with_capacity(self.links.len());
        for link in &self.links {
            let producer = link.published.0.create_broadcast(path.as_str());
            let producer = producer.map_err(|error| Error::Path(error.to_string().into()))?;
            producers.push((producer, RoundTrip(Arc::downgrade(&link.shared))));
        }
        if !lock(&self.paths).insert(path.clone()) {
            return Err(Error::Path("the path is published already".into()));
        }
        Ok(Broadcast::new(producers, path, self.paths.clone()))
    }

    /// Returns the links, in the order of the addresses.
    pub fn links(&self) -> &[RelayLink] {
        &self.links
    }
}

/// Link to one relay, which connects again for as long as it lives. Cheap to clone; the last clone ends it.
#[derive(Clone, Debug)]
pub struct RelayLink {
    address: RelayAddress,
    published: Origin,
    received: Origin,
    status: watch::Receiver<LinkStatus>,
    shared: Arc<Shared>,
}

/// Round trip time of a link, which this does not keep alive.
#[derive(Clone)]
pub(super) struct RoundTrip(Weak<Shared>);

impl RoundTrip {
    /// Returns the time now; `None` while there is no connection.
    pub(super) fn now(&self) -> Option<Duration> {
        let shared = self.0.upgrade()?;
        lock(&shared.connection).as_ref()?.monitor().stats()?.rtt
    }
}

struct Shared {
    connection: Mutex<Option<moq_tokio::Connection>>,
    task: OnceLock<JoinHandle<()>>,
}

impl Shared {
    /// Makes the state of a link, and then its task, which ends when it finds the state dropped.
    fn with_task<T>(task: impl FnOnce(Weak<Self>) -> T) -> Arc<Self>
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::new(Self { connection: Mutex::new(None), task: OnceLock::new() });
        let task = tokio::spawn(task(Arc::downgrade(&shared)));
        let _ = shared.task.set(task); // nobody else sets it
        shared
    }

    fn stop(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RelayLink {
    fn connect(
        address: &RelayAddress,
        settings: &LinkSettings,
        token: Option<&Token>,
        hop: Hop,
    ) -> Result<Self, Error> {
        let mut config = origin::Config::default();
        config.hop = hop;
        let published = moq_tokio::origin::spawn_config(config);
        let mut config = origin::Config::default();
        let pool = cache::Config::default().with_capacity(RECEIVE_CACHE).with_expiry(RECEIVE_EXPIRY);
        config.pool = cache::Pool::new(pool);
        let received = moq_tokio::origin::spawn_config(config);
        let client = client(settings)?
            .with_publisher(published.consume())
            .with_subscriber(received.clone())
            .with_cost(settings.cost);
        let url = connection_url(address, token.or(settings.token.as_ref()))?;
        let idle =
            LinkStatus { state: LinkState::Connecting, connects: 0, failures: 0, last_error: None, is_refused: false };
        let (status, receiver) = watch::channel(idle);
        let limit = settings.connect_timeout + SETUP_MARGIN;
        let shared = Shared::with_task(|shared| stay_connected(client, url, limit, status, shared));
        let address = address.clone();
        Ok(Self { address, published: Origin(published), received: Origin(received), status: receiver, shared })
    }

    /// Returns the address of the relay.
    pub fn address(&self) -> &RelayAddress {
        &self.address
    }

    /// Returns the state of the link.
    pub fn status(&self) -> LinkStatus {
        self.status.borrow().clone()
    }

    /// Waits until the state is another than when this was last called, and returns it. `None` once the link has ended.
    pub async fn status_changed(&mut self) -> Option<LinkStatus> {
        self.status.changed().await.ok()?;
        Some(self.status.borrow_and_update().clone())
    }

    /// Returns the state as it changes, which does not keep the link alive.
    pub(crate) fn changes(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// Waits until the relay answers. `false` if the link has ended.
    pub async fn connected(&self) -> bool {
        self.status.clone().wait_for(LinkStatus::is_connected).await.is_ok()
    }

    /// Returns the figures of the present connection; `None` while there is none.
    pub fn stats(&self) -> Option<LinkStats> {
        let stats = lock(&self.shared.connection).as_ref()?.monitor().stats()?;
        Some(LinkStats {
            rtt_ms: stats.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            bytes_sent: stats.bytes_sent.unwrap_or_default(),
            bytes_received: stats.bytes_received.unwrap_or_default(),
            packets_sent: stats.packets_sent.unwrap_or_default(),
            packets_lost: stats.packets_lost.unwrap_or_default(),
            packets_received: stats.packets_received.unwrap_or_default(),
        })
    }

    /// Returns the version of MoQ that the present connection speaks, for example `moq-lite-06`.
    pub fn version(&self) -> Option<String> {
        let connection = lock(&self.shared.connection);
        Some(connection.as_ref()?.version()?.to_string())
    }

    /// Watches the broadcasts that are announced at a path and below it. Those that are announced now come first.
    ///
    /// # Errors
    /// [`Error::Address`] for a path that cannot name a broadcast.
    pub fn announcements(&self, prefix: &str) -> Result<Announcements, Error> {
        Announcements::new(&self.received.0.consume(), &checked_path(prefix)?)
    }

    /// Subscribes to a track. Waits until the broadcast is announced.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the broadcast has no such track, [`Error::Forbidden`] if the relay does not permit it,
    /// [`Error::Interrupted`] if the connection is lost meanwhile.
    pub async fn subscribe(&self, path: &str, track: &str, options: SubscribeOptions) -> Result<TrackReader, Error> {
        let path = checked_path(path)?;
        TrackReader::subscribe(&self.received.0.consume(), &path, track, options).await
    }

    /// Closes the connection after what was written has been delivered, for at most a second.
    pub async fn close(self) {
        self.shared.stop();
        let connection = lock(&self.shared.connection).take();
        if let Some(connection) = connection {
            let _ = connection.close().await; // it ends anyway
        }
    }
}

/// Makes the client of one relay. Its TLS takes the process's rustls provider if there is one, and ring otherwise.
fn client(settings: &LinkSettings) -> Result<moq_tokio::Client, Error> {
    let mut connect = moq_tokio::connect::Config::default();
    connect.once = Some(true);
    connect.bind = settings.bind;
    connect.timeout = settings.connect_timeout;
    connect.tls.root = settings.roots.clone();
    connect.tls.fingerprint = settings.fingerprints.clone();
    connect.tls.host_name = settings.server_name.clone();
    if let Some((certificate, key)) = &settings.identity {
        connect.tls.cert = Some(certificate.clone());
        connect.tls.key = Some(key.clone());
    }
    let mut quic = moq_tokio::quic::Config::default();
    quic.keep_alive = settings.keep_alive;
    quic.idle_timeout = settings.idle_timeout;
    quic.congestion_control = Some(moq_tokio::quic::CongestionControl::Delay);
    quic.receive_window = Some(RECEIVE_WINDOW);
    connect.tls.build().map_err(|error| Error::Settings(error.to_string().into()))?;
    let any_ipv4 = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    match connect.clone().init(quic.clone()) {
        Ok(client) => Ok(client),
        Err(_) if settings.bind.is_none() => {
            // A machine without IPv6 cannot open the socket for both families.
            connect.bind = Some(any_ipv4);
            connect.init(quic).map_err(|error| Error::Socket(error.to_string().into()))
        }
        Err(error) => Err(Error::Socket(error.to_string().into())),
    }
}

/// Returns the URL of the connection: raw QUIC, whose setup message carries the token.
fn connection_url(address: &RelayAddress, token: Option<&Token>) -> Result<url::Url, Error> {
    let url = format!("moqt://{address}/");
    let mut url: url::Url = url.parse().map_err(|_| crate::AddressError::Host(1))?;
    if let Some(token) = token {
        url.query_pairs_mut().append_pair("jwt", token.reveal());
    }
    Ok(url)
}

/// Connects, and connects again after each loss, until the task is aborted.
async fn stay_connected(
    client: moq_tokio::Client,
    url: url::Url,
    limit: Duration,
    status: watch::Sender<LinkStatus>,
    shared: Weak<Shared>,
) {
    let mut backoff = MIN_BACKOFF;
    loop {
        status.send_modify(|status| status.state = LinkState::Connecting);
        let begun = Instant::now();
        let connection = client.connect(url.clone());
        let (reason, is_refused, was_connected) = match tokio::time::timeout(limit, connection.established()).await {
            // The client bounds the handshake of QUIC, and not all of what follows.
            Err(_) => ("the relay does not answer".to_owned(), false, false),
            Ok(Ok(connection)) => {
                let Some(shared) = shared.upgrade() else { return };
                *lock(&shared.connection) = Some(connection.clone());
                drop(shared);
                status.send_modify(|status| {
                    status.state = LinkState::Connected;
                    status.connects += 1;
                    status.is_refused = false;
                });
                match connection.closed().await {
                    Ok(()) => ("the relay is going away".to_owned(), false, true),
                    Err(error) => (error.to_string(), error.is_auth(), true),
                }
            }
            Ok(Err(error)) => (error.to_string(), error.is_auth(), false),
        };
        let Some(alive) = shared.upgrade() else { return };
        lock(&alive.connection).take();
        drop(alive);
        status.send_modify(|status| {
            status.state = LinkState::Waiting;
            status.failures += u64::from(!was_connected);
            status.last_error = Some(PeerText::new(&reason));
            status.is_refused = is_refused;
        });
        if was_connected && begun.elapsed() >= HEALTHY {
            backoff = MIN_BACKOFF;
        }
        let pause = if is_refused { REFUSED_BACKOFF } else { backoff };
        tokio::time::sleep(jittered(pause)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Returns a time between three quarters and all of a pause, so that many nodes do not come back at once.
fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let quarter = pause / 4;
    let random = RandomState::new().hash_one(0_u8);
    let part = quarter.as_micros().try_into().unwrap_or(u64::MAX).max(1);
    pause - Duration::from_micros(random % part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    /// A task may connect before the constructor of its link has returned, and must find the link's state then.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn relay_link_state_exists_before_its_task() {
        let (sender, found) = oneshot::channel();
        let shared = Shared::with_task(|shared| {
            let exists = shared.upgrade().is_some();
            async move {
                let found = (exists, shared.upgrade().is_some());
                let _ = sender.send(found); // the test waits for it
                std::future::pending().await
            }
        });
        assert_eq!(found.await, Ok((true, true)));
        // The task does not keep the state, and ends with it.
        let task = shared.task.get().map(JoinHandle::abort_handle);
        let weak = Arc::downgrade(&shared);
        drop(shared);
        assert!(weak.upgrade().is_none());
        let task = task.unwrap();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
