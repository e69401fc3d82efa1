//! Place that a client holds at a route, from the opening of its UDP ports until it records or plays.

use super::{inbound::SourceSession, service::Rtsp};
use crate::endpoint::{
    RefusalReason,
    tcp::{OpenMedia, OpenRoute, PlayerPlace},
};
use std::{sync::Arc, time::Instant};
use tokio_util::sync::CancellationToken;

/// Place reserved at a route for a client with open UDP ports, until the client records or plays.
pub(super) enum ReservedPlace {
    Publisher(PublisherPlace),
    Player(Arc<OpenRoute<Rtsp>>, PlayerPlace<Rtsp>),
}

impl ReservedPlace {
    /// Reserves the place of a publisher or a player. Returns the reason if none is free.
    pub(super) fn take(route: &Arc<OpenRoute<Rtsp>>) -> Result<Self, RefusalReason> {
        match &route.media {
            OpenMedia::Source(_) => PublisherPlace::take(route).map(Self::Publisher).ok_or(RefusalReason::InUse),
            OpenMedia::Output(..) => {
                let place = route.reserve().ok_or(RefusalReason::TooManyPeers)?;
                Ok(Self::Player(route.clone(), place))
            }
        }
    }

    /// Returns the token that ends the connection of the client.
    pub(super) fn stop(&self) -> &CancellationToken {
        match self {
            Self::Publisher(place) => &place.stop,
            Self::Player(route, _) => &route.stop,
        }
    }

    pub(super) fn route(&self) -> &Arc<OpenRoute<Rtsp>> {
        match self {
            Self::Publisher(place) => &place.route,
            Self::Player(route, _) => route,
        }
    }
}

/// Place of the only publisher of a source, given back when dropped.
pub(super) struct PublisherPlace {
    route: Arc<OpenRoute<Rtsp>>,
    pub(super) inbound: Option<Box<SourceSession>>,
    /// Ends the connection of the publisher.
    pub(super) stop: CancellationToken,
}

impl PublisherPlace {
    pub(super) fn take(route: &Arc<OpenRoute<Rtsp>>) -> Option<Self> {
        let (inbound, stop) = route.take_source(Instant::now())?;
        Some(Self { route: route.clone(), inbound: Some(inbound), stop })
    }
}

impl Drop for PublisherPlace {
    fn drop(&mut self) {
        if let Some(taken) = self.inbound.take() {
            self.route.give_back_source(taken);
        }
    }
}
