//! Broadcasts, tracks, groups and objects.

use super::{
    in_order::Lanes,
    relay::{Paths, RoundTrip, lock},
};
use crate::Error;
use bytes::Bytes;
use moq_net::{Pattern, Patterns, Timescale, Timestamp, announce, broadcast, group, origin, track};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// Maximum size of an object of a small track, in bytes.
pub(crate) const MAX_SMALL_OBJECT: usize = 1 << 20;
/// Maximum number of objects of a group. MoQ-net permits 8192.
pub(crate) const MAX_GROUP_OBJECTS: usize = 8000;
/// Largest group number (RFC 9000 section 16).
pub(crate) const MAX_GROUP: u64 = (1 << 62) - 1;
/// Maximum length of an announced path, in bytes. Longer ones are left out.
const MAX_ANNOUNCED: usize = 1024;

/// Returns the wall clock, in microseconds since 1970.
pub fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_micros().try_into().unwrap_or(MAX_GROUP)
}

/// Returns the reason of a failure, whether it arose here or the relay told it.
pub(super) fn failure(error: &moq_net::Error) -> Error {
    use moq_net::{Error as Local, StreamError as Told};
    match error {
        Local::NotFound | Local::Unroutable | Local::Stream(Told::NotFound | Told::Unroutable) => {
            Error::NotFound(error.to_string().into())
        }
        Local::Unauthorized | Local::Session(moq_net::SessionError::Unauthorized) => Error::Forbidden,
        Local::Old | Local::Lagged | Local::Stream(Told::Old | Told::TooFarBehind) => Error::Superseded,
        _ => Error::Interrupted(error.to_string().into()),
    }
}

/// Options of a track that is published.
#[derive(Clone, Copy, Debug)]
pub struct TrackOptions {
    /// Time for which groups that are not the newest are kept. Default 5 s.
    pub max_age: Duration,
    /// Priority among the tracks of the connection: higher ones first. Default 127.
    pub priority: u8,
    /// Holds back what follows a group while a relay does not have all of it: for up to 1 s, at each relay by itself.
    /// Otherwise the newest group goes first, and what a relay lacks of older ones comes when there is room. There is one
    /// group at a time: beginning one ends the one before. Default `false`.
    pub in_order: bool,
}

impl Default for TrackOptions {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(5), priority: 127, in_order: false }
    }
}

/// A broadcast that this process publishes. Dropping it withdraws the announcement.
pub struct Broadcast {
    /// The broadcast at each relay.
    relays: Vec<(broadcast::Producer, RoundTrip)>,
    path: String,
    paths: Paths,
}

impl std::fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broadcast").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Broadcast {
    pub(super) fn new(relays: Vec<(broadcast::Producer, RoundTrip)>, path: String, paths: Paths) -> Self {
        Self { relays, path, paths }
    }

    /// Returns the path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Creates a track. Tracks that subscribers need first should exist before the broadcast is announced.
    ///
    /// # Errors
    /// [`Error::Path`] if there is a track of that name.
    pub fn track(&self, name: &str, options: TrackOptions) -> Result<TrackWriter, Error> {
        let info = track::Info::default()
            .with_timescale(Timescale::MICRO)
            .with_max_age(options.max_age)
            .with_priority(options.priority);
        let mut producers = Vec::with_capacity(self.relays.len());
        for (broadcast, _) in &self.relays {
            let producer = broadcast.create_track(name, info.clone());
            producers.push(producer.map_err(|error| Error::Path(error.to_string().into()))?);
        }
        let in_order = options.in_order.then(|| {
            let round_trips = self.relays.iter().map(|(_, round_trip)| round_trip.clone());
            Arc::new(Mutex::new(Lanes::new(producers.iter().cloned().zip(round_trips))))
        });
        Ok(TrackWriter { producers, in_order, last: AtomicU64::new(0) })
    }

    /// Announces the broadcast to the relays, and so to all who watch its path.
    ///
    /// # Errors
    /// [`Error::Closed`] if the broadcast has ended.
    pub fn announce(&self) -> Result<(), Error> {
        for (relay, _) in &self.relays {
            relay.announce(origin::Route::default()).map_err(|_| Error::Closed)?;
        }
        Ok(())
    }

    /// Withdraws the announcement. Subscriptions go on until the broadcast is dropped.
    pub fn withdraw(&self) {
        for (relay, _) in &self.relays {
            relay.unannounce();
        }
    }
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        for (relay, _) in &self.relays {
            relay.close();
        }
        lock(&self.paths).remove(&self.path);
    }
}

/// A track that this process publishes. Dropping it ends the track.
pub struct TrackWriter {
    /// The track at each relay.
    producers: Vec<track::Producer>,
    /// The ways to the relays, if groups go in order.
    in_order: Option<Arc<Mutex<Lanes>>>,
    /// Number of the last group of [`write_object`](Self::write_object), or 0.
    last: AtomicU64,
}

impl std::fmt::Debug for TrackWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.producers.first().map(track::Producer::name);
        f.debug_struct("TrackWriter").field("name", &name).finish_non_exhaustive()
    }
}

impl TrackWriter {
    /// Returns whether anyone is subscribed.
    pub fn has_subscribers(&self) -> bool {
        self.producers.iter().any(track::Producer::is_used)
    }

    /// Begins the group of a number.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if there is such a group already, or the track has ended.
    pub fn begin_group(&self, number: u64) -> Result<GroupWriter, Error> {
        if let Some(lanes) = &self.in_order {
            lock(lanes).begin(number)?;
            return Ok(GroupWriter { to: Writers::InOrder(lanes.clone()), number, objects: 0 });
        }
        let info = || group::Info::from(number);
        let groups = self.producers.iter().map(|track| track.create_group(info()).map_err(|error| failure(&error)));
        let groups = groups.collect::<Result<Vec<_>, _>>()?;
        Ok(GroupWriter { to: Writers::Direct(groups), number, objects: 0 })
    }

    /// Looks whether what was held back of a track whose groups go in order may follow. Each object looks, too.
    pub(crate) fn look(&self) {
        if let Some(lanes) = &self.in_order {
            lock(lanes).look(Instant::now());
        }
    }

    /// Publishes one whole object in a group of its own, which replaces the one before. Groups are numbered by the wall
    /// clock, so that a publisher that begins again goes on.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for more than 1 MiB, [`Error::Interrupted`] if the track has ended.
    pub fn write_object(&self, object: impl Into<Bytes>) -> Result<(), Error> {
        let object = object.into();
        if object.len() > MAX_SMALL_OBJECT {
            return Err(Error::TooLarge { size: object.len(), limit: MAX_SMALL_OBJECT });
        }
        let now = unix_micros();
        let next = |last: u64| Some(now.max(last.saturating_add(1)).min(MAX_GROUP));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(now);
        let number = now.max(last.saturating_add(1)).min(MAX_GROUP);
        let mut group = self.begin_group(number)?;
        group.write(now, object)?;
        group.finish();
        Ok(())
    }
}

impl Drop for TrackWriter {
    fn drop(&mut self) {
        if let Some(lanes) = &self.in_order {
            lock(lanes).release(Instant::now());
        }
    }
}

pub(super) fn write_object(group: &mut group::Producer, time: u64, object: Bytes) -> Result<(), Error> {
    let time = Timestamp::from_micros(time.min(MAX_GROUP));
    let time = time.map_err(|error| Error::Interrupted(error.to_string().into()))?;
    group.write_frame(time, object).map_err(|error| failure(&error))
}

/// A group that is being written. Dropping it finishes the group.
pub struct GroupWriter {
    to: Writers,
    number: u64,
    objects: usize,
}

enum Writers {
    Direct(Vec<group::Producer>),
    InOrder(Arc<Mutex<Lanes>>),
}

impl std::fmt::Debug for GroupWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupWriter").field("number", &self.number).finish_non_exhaustive()
    }
}

impl GroupWriter {
    /// Returns the number of the group.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the number of objects written.
    pub fn objects(&self) -> usize {
        self.objects
    }

    /// Writes an object, with its time in microseconds since 1970.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the group or its track has ended.
    pub fn write(&mut self, time: u64, object: impl Into<Bytes>) -> Result<(), Error> {
        let object: Bytes = object.into();
        match &mut self.to {
            Writers::Direct(groups) => {
                for group in groups {
                    write_object(group, time, object.clone())?;
                }
            }
            Writers::InOrder(lanes) => lock(lanes).write(self.number, time, &object)?,
        }
        self.objects += 1;
        Ok(())
    }

    /// Ends the group: no more objects follow.
    pub fn finish(self) {}
}

impl Drop for GroupWriter {
    fn drop(&mut self) {
        match &self.to {
            // A group of a track that has ended is over anyway.
            Writers::Direct(groups) => {
                for group in groups {
                    let _ = group.finish();
                }
            }
            Writers::InOrder(lanes) => lock(lanes).end(self.number),
        }
    }
}

/// A broadcast appeared at a path, or went away.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announcement {
    /// Path of the broadcast.
    pub path: String,
    /// `true` if the broadcast is there.
    pub is_active: bool,
}

impl Announcement {
    /// Makes an announcement, for tests of the choice among them.
    #[cfg(test)]
    pub(crate) fn new(path: String, is_active: bool) -> Self {
        Self { path, is_active }
    }
}

/// Announcements of broadcasts at a path and below it.
pub struct Announcements {
    consumer: announce::Consumer,
}

impl std::fmt::Debug for Announcements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Announcements")
    }
}

impl Announcements {
    pub(super) fn new(origin: &origin::Consumer, prefix: &str) -> Result<Self, Error> {
        let pattern = Pattern::subtree(prefix).map_err(|error| Error::Path(error.to_string().into()))?;
        let scoped = origin.scope("", &Patterns::from(pattern)).map_err(|error| failure(&error))?;
        Ok(Self { consumer: scoped.announced() })
    }

    /// Waits for the next announcement or withdrawal. `None` once the link has ended. All broadcasts of a relay are
    /// withdrawn when the connection to it is lost.
    pub async fn next(&mut self) -> Option<Announcement> {
        loop {
            let update = self.consumer.next().await?;
            if update.prefix.as_str().len() <= MAX_ANNOUNCED {
                return Some(Announcement {
                    path: update.prefix.as_str().to_owned(),
                    is_active: update.kind.is_active(),
                });
            }
        }
    }
}

/// Beginning of a subscription, and the bound of what it waits for.
#[derive(Clone, Copy, Debug)]
pub struct SubscribeOptions {
    /// First group that is wanted; `None` for the newest.
    pub from_group: Option<u64>,
    /// Age up to which groups that are not the newest are still wanted. Zero: only the newest.
    pub max_age: Duration,
    /// Priority among the subscriptions of the connection: higher ones first.
    pub priority: u8,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self { from_group: None, max_age: Duration::ZERO, priority: 127 }
    }
}

impl SubscribeOptions {
    fn subscription(self) -> track::Subscription {
        let start = self.from_group.map(track::Position::group);
        track::Subscription::default().with_priority(self.priority).with_max_age(self.max_age).with_start(start)
    }
}

/// Reader of a track that is subscribed to. Dropping it ends the subscription.
pub struct TrackReader {
    subscriber: track::Subscriber,
    broadcast: broadcast::Consumer,
    last_object: Option<u64>,
}

impl std::fmt::Debug for TrackReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrackReader").field("name", &self.subscriber.name()).finish_non_exhaustive()
    }
}

impl TrackReader {
    pub(super) async fn subscribe(
        origin: &origin::Consumer,
        path: &str,
        track: &str,
        options: SubscribeOptions,
    ) -> Result<Self, Error> {
        let broadcast = origin.routed_broadcast(path).await.map_err(|error| failure(&error))?;
        let track = broadcast.track(track).map_err(|error| failure(&error))?;
        let subscriber = track.subscribe(options.subscription()).await.map_err(|error| failure(&error))?;
        Ok(Self { subscriber, broadcast, last_object: None })
    }

    /// Changes what the subscription wants.
    pub fn update(&mut self, options: SubscribeOptions) {
        let _ = self.subscriber.update(options.subscription()); // a track that has ended says so when it is read
    }

    /// Waits for the next group, in the order of arrival. `None` when the track has ended.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the broadcast or the connection is lost.
    pub async fn next_group(&mut self) -> Result<Option<GroupReader>, Error> {
        tokio::select! {
            biased;
            group = self.subscriber.recv_group() => match group {
                Ok(group) => Ok(group.map(|group| GroupReader { number: group.sequence, consumer: group })),
                Err(error) => Err(failure(&error)),
            },
            error = self.broadcast.closed() => Err(Error::Interrupted(error.to_string().into())),
        }
    }

    /// Waits for the next object of a small track: the first object of the newest group. Older groups are skipped.
    /// `None` when the track has ended.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the broadcast or the connection is lost, [`Error::TooLarge`] for more than 1 MiB.
    pub async fn next_object(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(mut group) = self.next_group().await? else { return Ok(None) };
            if self.last_object.is_some_and(|last| group.number() <= last) {
                continue;
            }
            let number = group.number();
            match group.next().await {
                Ok(Some(object)) if object.payload.len() > MAX_SMALL_OBJECT => {
                    return Err(Error::TooLarge { size: object.payload.len(), limit: MAX_SMALL_OBJECT });
                }
                Ok(Some(object)) => {
                    self.last_object = Some(number);
                    return Ok(Some(object.payload));
                }
                Ok(None) | Err(Error::Superseded) => {}
                // The connection was lost within the object. A track that goes on over another connection may bring no
                // other object for long, so the caller has to subscribe again.
                Err(error) => return Err(error),
            }
        }
    }
}

/// Object of a group.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Object {
    /// Number within the group, from 0.
    pub index: u64,
    /// Time, in microseconds since 1970 where the publisher is one of this library.
    pub time: u64,
    /// Bytes.
    pub payload: Bytes,
}

/// Reader of the objects of a group, in their order.
pub struct GroupReader {
    consumer: group::Consumer,
    number: u64,
}

impl std::fmt::Debug for GroupReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupReader").field("number", &self.number).finish_non_exhaustive()
    }
}

impl GroupReader {
    /// Returns the number of the group.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the next object. `None` at the end of the group.
    ///
    /// # Errors
    /// [`Error::Superseded`] if the rest of the group is not sent, as it is too old, [`Error::Interrupted`] if the
    /// connection was lost.
    pub async fn next(&mut self) -> Result<Option<Object>, Error> {
        let frame = self.consumer.read_frame().await.map_err(|error| failure(&error))?;
        let index = self.consumer.index().saturating_sub(1);
        Ok(frame.map(|frame| Object {
            index,
            time: frame.timestamp.as_micros().try_into().unwrap_or(MAX_GROUP),
            payload: frame.payload,
        }))
    }
}

/// Paths that are announced now, bounded: an ordered set that remembers at most so many.
#[derive(Debug, Default)]
pub(crate) struct AnnouncedPaths {
    paths: Vec<String>,
}

impl AnnouncedPaths {
    /// Maximum number of paths.
    const MAX: usize = 64;

    /// Takes in an announcement.
    pub(crate) fn apply(&mut self, announcement: Announcement) {
        let at = self.paths.binary_search(&announcement.path);
        match (at, announcement.is_active) {
            (Err(at), true) if self.paths.len() < Self::MAX => self.paths.insert(at, announcement.path),
            (Ok(at), false) => drop(self.paths.remove(at)),
            _ => {}
        }
    }

    /// Returns the paths, in their order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }
}
