//! SETUP of the tracks of a client session, one after another: their transports, and tracks that the server refuses.

use super::{ClientEvent, ClientRole, ClientSession, State};
use crate::{
    media::{LeftOut, rtsp::Presentation},
    proto::rtsp::{SetUp, message::Response, transport::Transport, url},
};
use std::{net::IpAddr, sync::Arc};

impl ClientSession {
    /// Sends SETUP for a track, or PLAY or RECORD after the last one.
    pub(super) fn set_up(&mut self, track: usize) -> Option<ClientEvent> {
        if track >= self.tracks.len() {
            self.state = State::Starting;
            self.start();
            return None;
        }
        self.state = State::SettingUp(track);
        if self.udp {
            self.wants_ports = Some(track);
            return None;
        }
        let interleaved = Some(Self::usual_channels(track));
        self.send_set_up(track, Transport { tcp: true, interleaved, ..Transport::default() });
        None
    }

    /// Returns the channels that are asked for: 0 and 1 for the first track, 2 and 3 for the second.
    fn usual_channels(track: usize) -> (u8, u8) {
        let number = u8::try_from(2 * track).unwrap_or(0); // the number of tracks is small
        (number, number.saturating_add(1))
    }

    /// Sends SETUP for a track over UDP, with these ports of the client.
    pub(crate) fn offer_ports(&mut self, track: usize, ports: (u16, u16)) {
        self.wants_ports = None;
        self.send_set_up(track, Transport { client_port: Some(ports), ..Transport::default() });
    }

    fn send_set_up(&mut self, track: usize, mut transport: Transport) {
        transport.record = matches!(self.role, ClientRole::Record(_));
        let url = self.track_url(track);
        self.send("SETUP", url, format!("Transport: {transport}\r\n"), None);
    }

    /// Handles the response to a SETUP.
    pub(super) fn was_set_up(&mut self, track: usize, response: &Response) -> Option<ClientEvent> {
        let headers = response.headers.all("Transport");
        let transport = headers.flat_map(Transport::parse_all).next();
        let is_playing = matches!(self.role, ClientRole::Play);
        if let Some(other) = transport.filter(|transport| transport.tcp == self.udp || transport.multicast) {
            return self.track_refused(track, format!("SETUP answered with `{other}`"));
        }
        if self.udp {
            let ports =
                transport.and_then(|transport| transport.server_port).filter(|(rtp, rtcp)| *rtp > 0 && *rtcp > 0);
            if !is_playing && ports.is_none() {
                return self.track_refused(track, "SETUP answered without ports of the server".into());
            }
            let source = transport.and_then(|transport| transport.source).filter(|ip| is_unicast(*ip));
            self.set_track(track, SetUp::Udp);
            self.set_up(track + 1);
            return Some(ClientEvent::ServerPorts { track, ports: ports.unwrap_or((0, 0)), source });
        }
        let asked = Self::usual_channels(track);
        let named = transport.and_then(|transport| transport.interleaved);
        // Some servers name the same channels for all tracks, and use those that they were asked for.
        let is_taken = |(rtp, _): &(u8, u8)| {
            self.tracks.iter().flatten().any(|other| matches!(other, SetUp::Tcp { rtp: taken, .. } if taken == rtp))
        };
        let (rtp, rtcp) = named.filter(|channels| !is_taken(channels)).unwrap_or(asked);
        self.set_track(track, SetUp::Tcp { rtp, rtcp });
        self.set_up(track + 1)
    }

    fn set_track(&mut self, track: usize, set_up: SetUp) {
        if let Some(place) = self.tracks.get_mut(track) {
            *place = Some(set_up);
        }
    }

    /// Handles the refusal of a track. It is left out, unless it is the first one that matters.
    pub(super) fn track_refused(&mut self, track: usize, words: String) -> Option<ClientEvent> {
        let Some(presentation) = self.presentation.clone() else { return Some(self.reject(words)) };
        if matches!(self.role, ClientRole::Record(_)) {
            return Some(if self.udp { self.no_udp(words) } else { self.reject(words) });
        }
        let tracks = presentation.tracks();
        let is_extra = |track: usize| tracks.get(track).is_some_and(|track| track.is_data() || track.is_back_channel);
        let has_any = self.tracks.iter().any(Option::is_some);
        let is_optional = has_any || (is_extra(track) && !(0..tracks.len()).all(is_extra));
        if self.udp && !is_optional {
            return Some(self.no_udp(words));
        }
        let rest = presentation.without(track, LeftOut::Refused, &format!("refused: {words}"));
        self.tracks.remove(track.min(self.tracks.len().saturating_sub(1)));
        self.track_refusal = words;
        if self.tracks.is_empty() {
            let words = std::mem::take(&mut self.track_refusal);
            return Some(self.reject(words));
        }
        self.presentation = Some(Arc::new(rest));
        self.set_up(track)
    }

    /// Returns the track that waits for a pair of UDP ports, if there is one. See [`ClientSession::offer_ports`].
    pub(crate) fn wants_ports(&self) -> Option<usize> {
        self.wants_ports
    }

    /// Returns the URL of a track. Its control attribute is absolute, or relative to the base.
    fn track_url(&self, track: usize) -> String {
        let own = Presentation::control(track);
        let control = match (&self.role, &self.presentation) {
            (ClientRole::Play, Some(presentation)) => {
                presentation.tracks().get(track).map_or("", |t| t.control.as_str())
            }
            _ => own.as_str(),
        };
        url::control(&self.base, control)
    }
}

/// Returns whether an address can be that of a sender.
fn is_unicast(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast()
}
