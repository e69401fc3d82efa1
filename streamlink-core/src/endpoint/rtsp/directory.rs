//! Streams of a port as the session of one client finds them: routes, their access rules, and UDP ports for tracks.

use super::{
    multicast::MulticastGroup,
    reserved_place::ReservedPlace,
    service::{Rtsp, status_of},
    udp::UdpTracks,
};
use crate::{
    endpoint::{
        RefusalReason,
        tcp::{OpenRoute, PortState, wrong_direction},
    },
    flow::RtspTransport,
    proto::rtsp::{ResolvedStream, Status, StreamDirectory},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

/// Directory of a port for the session of one client.
pub(super) struct PortDirectory<'a> {
    pub(super) port: &'a PortState<Rtsp>,
    pub(super) udp: &'a mut UdpTracks,
    pub(super) place: &'a mut Option<ReservedPlace>,
    /// Route whose publisher was told to leave.
    pub(super) taken_over: Option<Arc<OpenRoute<Rtsp>>>,
    pub(super) peer: SocketAddr,
    pub(super) local: IpAddr,
}

impl PortDirectory<'_> {
    fn route(&self, publish: bool, path: &str) -> Option<Arc<OpenRoute<Rtsp>>> {
        self.port.routes().into_iter().find(|route| route.is_source() == publish && route.mount.path == path)
    }

    /// Reserves a place at a route for the client. UDP ports are opened only for clients with a place.
    fn keep_place(&mut self, route: &Arc<OpenRoute<Rtsp>>) -> Result<(), RefusalReason> {
        if self.place.as_ref().is_some_and(|place| Arc::ptr_eq(place.route(), route)) {
            return Ok(());
        }
        // The reserved place belongs to another route, for example one of the same path that was removed since.
        *self.place = None;
        *self.place = Some(ReservedPlace::take(route)?);
        Ok(())
    }

    fn open_ports(
        &mut self,
        route: &Arc<OpenRoute<Rtsp>>,
        publish: bool,
        track: usize,
        client: (u16, u16),
    ) -> Result<(u16, u16), RefusalReason> {
        self.keep_place(route)?;
        let out = RefusalReason::OutOfDescriptors;
        let permit = self.port.places.peers.take_descriptors(self.peer.ip(), 2).ok_or(out);
        let opened = permit.and_then(|permit| {
            let opened = self.udp.open(&self.port.random, track, self.local, publish, Some(permit));
            opened.map_err(|error| {
                log::debug!("RTSP peer {}: no ports: {error}", self.peer);
                out
            })
        });
        if opened.is_err() {
            self.port.note_shortage("no file descriptors or ports for tracks over UDP");
        }
        let ports = opened?;
        self.udp.set_peer(track, self.peer.ip(), client, None);
        Ok(ports)
    }
}

impl StreamDirectory for PortDirectory<'_> {
    fn find(&mut self, publish: bool, path: &str) -> Result<ResolvedStream, Status> {
        let now = Instant::now();
        let route = self.route(publish, path);
        // A refused request may be a guess. The attempts of an address per second are limited.
        if !self.port.places.peers.may_attempt(self.peer.ip(), now) {
            let reason = RefusalReason::TooManyAttempts;
            match &route {
                Some(route) => route.admission.refuse(self.peer, reason, "", now),
                None => self.port.refuse_everywhere(self.peer, reason, now),
            }
            return Err(status_of(reason));
        }
        let Some(route) = route else {
            self.port.places.peers.refused(self.peer.ip(), now);
            for route in self.port.routes_meant(publish) {
                let other = if route.is_source() == publish { "" } else { wrong_direction(publish) };
                route.refuse_request(self.peer, path, other, RefusalReason::NoSuchStream, now);
            }
            return Err(Status::NOT_FOUND);
        };
        if !route.admission.admits(self.peer.ip()) {
            route.refuse_request(self.peer, path, "", RefusalReason::NotAllowed, now);
            return Err(Status::FORBIDDEN);
        }
        self.udp.set_symmetric(route.mount.symmetric);
        self.udp.set_dscp(route.mount.dscp);
        let presentation = if publish { None } else { route.mount.presentation.current() };
        let group = route.mount.multicast.as_ref().map(|multicast| &multicast.group);
        let ports = |group: &MulticastGroup, track| Some((group.ip(), group.ports(track)?, group.ttl));
        let tracks = 0..presentation.as_ref().map_or(0, |presentation| presentation.tracks().len());
        Ok(ResolvedStream {
            groups: group.into_iter().flat_map(|group| tracks.clone().map_while(|track| ports(group, track))).collect(),
            user: route.mount.user.clone(),
            presentation,
            tcp: route.mount.transport != RtspTransport::Udp,
            udp: route.mount.transport != RtspTransport::Tcp,
        })
    }

    fn not_published(&mut self, path: &str) {
        if let Some(route) = self.route(false, path) {
            route.refuse_request(self.peer, path, "", RefusalReason::NotPublished, Instant::now());
        }
    }

    fn wrong_password(&mut self, publish: bool, path: &str) {
        let now = Instant::now();
        self.port.places.peers.refused(self.peer.ip(), now);
        if let Some(route) = self.route(publish, path) {
            route.refuse_request(self.peer, path, "", RefusalReason::WrongPassword, now);
        }
    }

    fn bad_description(&mut self, path: &str, reason: &str) {
        if let Some(route) = self.route(true, path) {
            let detail = format!("we refuse its SDP: {reason}");
            route.admission.refuse(self.peer, RefusalReason::Incompatible, &detail, Instant::now());
        }
    }

    fn may_announce(&mut self, path: &str) -> Result<(), Status> {
        let route = self.route(true, path).ok_or(Status::NOT_FOUND)?;
        if !route.is_source() {
            return Err(Status::NOT_FOUND);
        }
        if route.may_publish(Instant::now()) {
            self.taken_over = Some(route);
            return Ok(());
        }
        route.refuse_request(self.peer, path, "", RefusalReason::InUse, Instant::now());
        Err(status_of(RefusalReason::InUse))
    }

    fn open_udp(&mut self, publish: bool, path: &str, track: usize, client: (u16, u16)) -> Result<(u16, u16), Status> {
        let route = self.route(publish, path).ok_or(Status::NOT_FOUND)?;
        self.open_ports(&route, publish, track, client).map_err(|reason| {
            route.admission.refuse(self.peer, reason, "", Instant::now());
            status_of(reason)
        })
    }

    fn close_udp(&mut self, track: usize) {
        self.udp.close(track);
    }

    fn mixed_transports(&mut self, publish: bool, path: &str) {
        if let Some(route) = self.route(publish, path) {
            let detail = "its tracks over different transports: all have to be over TCP, UDP or multicast";
            route.admission.refuse(self.peer, RefusalReason::Incompatible, detail, Instant::now());
        }
    }
}
