//! One leg: the subscription to a broadcast over one relay, made again after each loss.

use super::path::PathChoice;
use crate::{
    Error,
    transport::{Announcements, GroupReader, RelayLink, SubscribeOptions},
    wire::{CATALOG_TRACK, Catalog, DecodedObject, FrameError, decode},
};
use std::time::Duration;
use streamlink_core::{AppSource, MediaFamily, PeerText};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout},
};

/// Maximum number of groups that a leg reads at a time.
const MAX_GROUPS: usize = 256;
/// Time without an object after which a group is no longer read.
const GROUP_IDLE: Duration = Duration::from_secs(10);
/// Time without a group after which a leg that asked for old ones asks for the newest.
const RESUME_PATIENCE: Duration = Duration::from_secs(3);
/// Shortest and longest pause before a leg subscribes again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Time within which a relay has to answer a subscription, and to bring the catalog.
const ANSWER: Duration = Duration::from_secs(3);
/// Priority of the catalog among the subscriptions of a connection.
const CATALOG_PRIORITY: u8 = 200;

/// Message of a leg to the merge.
#[derive(Debug)]
pub(super) enum LegReport {
    /// The description of the broadcast.
    Catalog { leg: usize, catalog: Catalog },
    /// A description that cannot be used.
    Refused { leg: usize, reason: PeerText },
    /// The leg is subscribed to the media.
    Up { leg: usize, path: PeerText },
    /// The leg no longer is.
    Down { leg: usize, reason: PeerText },
    /// An object of the media.
    Object { leg: usize, group: u64, index: u64, size: usize, object: Result<DecodedObject, FrameError> },
    /// A group has ended after so many objects.
    EndOfGroup { group: u64, objects: u64 },
}

/// A leg.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) index: usize,
    pub(super) link: RelayLink,
    pub(super) path: String,
    pub(super) max_age: Duration,
    pub(super) reports: mpsc::Sender<LegReport>,
    pub(super) source: watch::Receiver<Option<AppSource>>,
    pub(super) resume_from: watch::Receiver<Option<u64>>,
}

impl Leg {
    /// Receives until the incoming flow is dropped.
    pub(super) async fn run(mut self) {
        let Ok(mut announcements) = self.link.announcements(&self.path) else { return };
        let mut paths = PathChoice::new(self.index, &self.path);
        let mut pause = PAUSES.0;
        loop {
            let path = loop {
                if let Some(path) = paths.choice() {
                    break path.to_owned();
                }
                let Some(announcement) = announcements.next().await else { return };
                paths.apply(announcement);
            };
            let begun = Instant::now();
            let reason = tokio::select! {
                reason = self.receive(&path) => reason,
                reason = leave(&mut announcements, &mut paths, &path) => reason,
            };
            let report = LegReport::Down { leg: self.index, reason };
            if self.reports.send(report).await.is_err() {
                return;
            }
            pause = if begun.elapsed() > PAUSES.1 { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Receives a broadcast until it ends. Returns the reason.
    async fn receive(&mut self, path: &str) -> PeerText {
        let options = SubscribeOptions { priority: CATALOG_PRIORITY, ..SubscribeOptions::default() };
        let mut catalogs = match timeout(ANSWER, self.link.subscribe(path, CATALOG_TRACK, options)).await {
            Ok(Ok(catalogs)) => catalogs,
            Ok(Err(error)) => return error.to_string().into(),
            Err(_) => return "the relay does not answer the subscription to the catalog".into(),
        };
        let mut is_refused = false;
        let catalog = loop {
            // After a catalog that cannot be used, the next one may take any time.
            let wait = if is_refused { Duration::MAX } else { ANSWER };
            match timeout(wait, catalogs.next_object()).await {
                Ok(Ok(Some(json))) => match self.take_catalog(&json).await {
                    Some(catalog) => break catalog,
                    None => is_refused = true,
                },
                Ok(Ok(None)) => return "the catalog has ended".into(),
                Ok(Err(error)) => return error.to_string().into(),
                Err(_) => return "the relay does not bring the catalog".into(),
            }
        };
        let family = match self.source.wait_for(Option::is_some).await {
            Ok(source) => source.as_ref().map(AppSource::family),
            Err(_) => None,
        };
        let Some(family) = family else { return "the flow has ended".into() };
        if family != catalog.media.family() {
            // The merge has told so. Another catalog may follow.
            return match catalogs.next_object().await {
                Ok(_) => "the broadcast is of another family".into(),
                Err(error) => error.to_string().into(),
            };
        }
        let resume_from = *self.resume_from.borrow();
        let resume = SubscribeOptions { from_group: resume_from, max_age: self.max_age, ..options_of_media() };
        let newest = options_of_media();
        let options = if resume_from.is_some() { resume } else { newest };
        let mut media = match timeout(ANSWER, self.link.subscribe(path, &catalog.media.name, options)).await {
            Ok(Ok(media)) => media,
            Ok(Err(error)) => return error.to_string().into(),
            Err(_) => return "the relay does not answer the subscription to the media".into(),
        };
        let up = LegReport::Up { leg: self.index, path: path.into() };
        if self.reports.send(up).await.is_err() {
            return "the flow has ended".into();
        }
        let mut groups = JoinSet::new();
        let mut is_first = true;
        let mut has_catalog = true;
        let patience = tokio::time::sleep(RESUME_PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                group = media.next_group(), if groups.len() < MAX_GROUPS => match group {
                    Ok(Some(group)) => {
                        if is_first {
                            // From here on, groups that others overtake are wanted too.
                            let from_group = resume_from.or(Some(group.number()));
                            media.update(SubscribeOptions { from_group, ..resume });
                        }
                        is_first = false;
                        groups.spawn(read_group(self.index, group, family, self.reports.clone()));
                    }
                    Ok(None) => return "the track has ended".into(),
                    Err(error) => return error.to_string().into(),
                },
                object = catalogs.next_object(), if has_catalog => match object {
                    Ok(Some(json)) => drop(self.take_catalog(&json).await),
                    Ok(None) => has_catalog = false,
                    Err(error) => return error.to_string().into(),
                },
                Some(end) = groups.join_next() => {
                    // A track may go on over another connection, and the rest of this group be missing.
                    if let Ok(GroupEnd::Interrupted(reason)) = end {
                        return reason;
                    }
                }
                () = &mut patience, if is_first && resume_from.is_some() => {
                    // The numbers may have begun again below the last ones.
                    is_first = false;
                    media.update(SubscribeOptions { from_group: None, ..resume });
                }
            }
        }
    }

    /// Reads a catalog and reports it. `None` if it cannot be used.
    async fn take_catalog(&self, json: &[u8]) -> Option<Catalog> {
        match Catalog::parse(json) {
            Ok(catalog) => {
                let report = LegReport::Catalog { leg: self.index, catalog: catalog.clone() };
                self.reports.send(report).await.ok()?;
                Some(catalog)
            }
            Err(reason) => {
                self.reports.send(LegReport::Refused { leg: self.index, reason }).await.ok()?;
                None
            }
        }
    }
}

fn options_of_media() -> SubscribeOptions {
    SubscribeOptions::default()
}

/// Waits until the leg is to receive another broadcast, or none. Returns the reason.
async fn leave(announcements: &mut Announcements, paths: &mut PathChoice, path: &str) -> PeerText {
    loop {
        let Some(announcement) = announcements.next().await else { return "the link has ended".into() };
        paths.apply(announcement);
        match paths.choice() {
            Some(choice) if choice == path => {}
            Some(_) => return "another ingest node is to be received".into(),
            None => return "the relay no longer has the broadcast".into(),
        }
    }
}

/// End of the reading of a group.
enum GroupEnd {
    /// With its last object, or its rest is not sent.
    Over,
    /// With the connection, so that the rest can be had over another one.
    Interrupted(PeerText),
}

/// Reads the objects of a group and reports them.
async fn read_group(
    leg: usize,
    mut group: GroupReader,
    family: MediaFamily,
    reports: mpsc::Sender<LegReport>,
) -> GroupEnd {
    let number = group.number();
    let mut objects = 0;
    loop {
        let report = match timeout(GROUP_IDLE, group.next()).await {
            Ok(Ok(Some(object))) => {
                objects = object.index.saturating_add(1);
                LegReport::Object {
                    leg,
                    group: number,
                    index: object.index,
                    size: object.payload.len(),
                    object: decode(&object.payload, family),
                }
            }
            Ok(Ok(None)) => {
                let _ = reports.send(LegReport::EndOfGroup { group: number, objects }).await; // the flow has ended
                return GroupEnd::Over;
            }
            Ok(Err(Error::Superseded)) | Err(_) => return GroupEnd::Over,
            Ok(Err(error)) => return GroupEnd::Interrupted(error.to_string().into()),
        };
        if reports.send(report).await.is_err() {
            return GroupEnd::Over;
        }
    }
}
