//! Table of the routes of a port.

use super::Admission;
use crate::endpoint::RefusalReason;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

/// Identifier of a route within its port.
pub(crate) type RouteId = u64;

/// Route with its rules of admission.
pub(in crate::endpoint) trait HasAdmission {
    fn admission(&self) -> &Admission;
}

impl<T: HasAdmission> HasAdmission for Arc<T> {
    fn admission(&self) -> &Admission {
        T::admission(self)
    }
}

/// Routes of a port: the sources and outputs that peers reach through it.
#[derive(Debug)]
pub(in crate::endpoint) struct RouteTable<T>(HashMap<RouteId, T>);

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: HasAdmission> RouteTable<T> {
    pub(in crate::endpoint) fn insert(&mut self, id: RouteId, route: T) {
        self.0.insert(id, route);
    }

    pub(in crate::endpoint) fn remove(&mut self, id: RouteId) -> Option<T> {
        self.0.remove(&id)
    }

    pub(in crate::endpoint) fn get(&self, id: RouteId) -> Option<&T> {
        self.0.get(&id)
    }

    pub(in crate::endpoint) fn get_mut(&mut self, id: RouteId) -> Option<&mut T> {
        self.0.get_mut(&id)
    }

    pub(in crate::endpoint) fn iter(&self) -> impl Iterator<Item = (RouteId, &T)> {
        self.0.iter().map(|(id, route)| (*id, route))
    }

    pub(in crate::endpoint) fn iter_mut(&mut self) -> impl Iterator<Item = (RouteId, &mut T)> {
        self.0.iter_mut().map(|(id, route)| (*id, route))
    }

    /// Removes all routes and returns them.
    pub(in crate::endpoint) fn take_all(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.0).into_values()
    }

    /// Returns whether the allowlist of any route holds an address.
    pub(in crate::endpoint) fn admits(&self, peer: IpAddr) -> bool {
        self.0.values().any(|route| route.admission().admits(peer))
    }

    /// Counts a refused peer at the routes that it may have meant, or at all if none of them exists any more.
    pub(in crate::endpoint) fn refuse(
        &self,
        meant: &[RouteId],
        peer: SocketAddr,
        reason: RefusalReason,
        detail: &str,
        now: Instant,
    ) {
        let any = self.0.keys().any(|id| meant.contains(id));
        for (_, route) in self.iter().filter(|(id, _)| !any || meant.contains(id)) {
            route.admission().refuse(peer, reason, detail, now);
        }
    }
}
