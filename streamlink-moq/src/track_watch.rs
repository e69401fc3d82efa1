//! Watching small tracks of all broadcasts below a path, over one relay.

use crate::{RelayLink, SubscribeOptions};
use bytes::Bytes;
use std::{collections::HashMap, time::Duration};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// Shortest pause before a subscription that failed is tried again.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before a subscription that failed is tried again.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// News of a broadcast below the path.
#[derive(Debug)]
pub(crate) enum News {
    /// The newest object of its track.
    Object(Bytes),
    /// The broadcast is gone, or the relay is.
    Withdrawn,
    /// There are more broadcasts than are watched; this one is not.
    TooMany,
}

/// News, with the relay that brought them and the path of the broadcast.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) relay: usize,
    pub(crate) path: String,
    pub(crate) news: News,
}

/// Watch over the broadcasts of one relay.
pub(crate) struct Watch {
    pub(crate) link: RelayLink,
    /// Number of the relay.
    pub(crate) relay: usize,
    /// Path below which broadcasts are watched.
    pub(crate) prefix: String,
    /// Name of the track.
    pub(crate) track: &'static str,
    /// Maximum number of broadcasts.
    pub(crate) limit: usize,
    /// Time without an object after which a subscription is made anew. Publishers repeat themselves more often.
    pub(crate) patience: Duration,
}

impl Watch {
    /// Watches until the receiver is dropped or the link ends. A receiver that is slow gets the newest objects.
    pub(crate) async fn run<T: Send + 'static>(self, make: fn(Watched) -> T, news: mpsc::Sender<T>) {
        let Ok(mut announcements) = self.link.announcements(&self.prefix) else { return };
        let mut readers: HashMap<String, AbortHandle> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let announcement = tokio::select! {
                announcement = announcements.next() => announcement,
                Some(_) = tasks.join_next() => continue, // an aborted reader is reaped
                () = news.closed() => return,
            };
            let Some(announcement) = announcement else { return };
            let relay = self.relay;
            let path = announcement.path;
            let told = |news| make(Watched { relay, path: path.clone(), news });
            if !announcement.is_active {
                if let Some(reader) = readers.remove(&path) {
                    reader.abort();
                    if news.send(told(News::Withdrawn)).await.is_err() {
                        return;
                    }
                }
            } else if readers.len() >= self.limit && !readers.contains_key(&path) {
                if news.send(told(News::TooMany)).await.is_err() {
                    return;
                }
            } else {
                let subscription = Subscription {
                    link: self.link.clone(),
                    relay,
                    path: path.clone(),
                    track: self.track,
                    patience: self.patience,
                };
                let reader = subscription.read(make, news.clone());
                if let Some(before) = readers.insert(path.clone(), tasks.spawn(reader)) {
                    before.abort();
                }
            }
        }
    }
}

/// Subscription to the track of one broadcast.
struct Subscription {
    link: RelayLink,
    relay: usize,
    path: String,
    track: &'static str,
    patience: Duration,
}

impl Subscription {
    /// Reads the objects, and subscribes again when that fails or when none comes.
    async fn read<T>(self, make: fn(Watched) -> T, news: mpsc::Sender<T>) {
        // Small messages go before the media of the connection.
        let options = SubscribeOptions { priority: u8::MAX, ..SubscribeOptions::default() };
        let mut pause = MIN_PAUSE;
        loop {
            let subscribed = timeout(self.patience, self.link.subscribe(&self.path, self.track, options)).await;
            if let Ok(Ok(mut reader)) = subscribed {
                while let Ok(Ok(Some(object))) = timeout(self.patience, reader.next_object()).await {
                    pause = MIN_PAUSE;
                    let watched = Watched { relay: self.relay, path: self.path.clone(), news: News::Object(object) };
                    if news.send(make(watched)).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}
