//! RTSP server session: a client announces and records, or describes and plays.

use super::{Challenges, Item, ProtocolError, Reader, Status, User, auth::Verdict, message, transport::Transport, url};
use crate::{media::rtsp::Presentation, proto::rtp::Reports, random::Random};
use bytes::Bytes;
use std::{fmt::Write, net::IpAddr, sync::Arc};

/// Maximum number of requests before a client plays or records.
const MAX_REQUESTS: u32 = 128;
/// Number of wrong passwords on one connection after which it ends.
const MAX_REFUSED: u32 = 4;
/// Maximum size of the pending responses, in bytes: one with the longest SDP, and some more.
const MAX_PENDING: usize = 128 << 10;
/// Session timeout announced to clients, in seconds.
pub(crate) const SESSION_TIMEOUT: u32 = 60;

/// Request of a client for the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// RECORD of the announced presentation. Answer with [`ServerSession::accept`] or [`ServerSession::refuse`].
    Publish { path: String, presentation: Arc<Presentation> },
    /// PLAY of the tracks that were set up. Answer in the same way.
    Play { path: String },
    /// Interleaved frame.
    Frame { channel: u8, data: Bytes },
    /// TEARDOWN: the client has ended its session.
    End,
}

/// Transport of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetUp {
    /// Interleaved in the connection, on these channels.
    Tcp { rtp: u8, rtcp: u8 },
    /// Unicast over UDP, to and from the ports opened by the directory.
    Udp,
    /// Multicast over UDP, to a group shared with other players.
    Multicast,
}

/// Stream found at a path.
#[derive(Clone)]
pub(crate) struct ResolvedStream {
    /// Required credentials. `None`: everybody may use the stream.
    pub(crate) user: Option<User>,
    /// Presentation that can be played.
    pub(crate) presentation: Option<Arc<Presentation>>,
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
    /// Multicast group of each track: address, RTP and RTCP ports, and TTL. Empty without multicast.
    pub(crate) groups: Vec<(IpAddr, (u16, u16), u8)>,
}

/// Lookups that a session makes at its port.
pub(crate) trait StreamDirectory {
    /// Returns the stream at a path, to publish or to play. The client is not authenticated yet.
    ///
    /// [`Status::SERVICE_UNAVAILABLE`] ends the connection.
    fn find(&mut self, publish: bool, path: &str) -> Result<ResolvedStream, Status>;

    /// Counts a wrong password for a path.
    fn wrong_password(&mut self, _publish: bool, _path: &str) {}

    /// Counts an authenticated client that wants to play from a path without a publisher.
    fn not_published(&mut self, _path: &str) {}

    /// Counts an authenticated client whose SDP cannot be used, for the reason given.
    fn bad_description(&mut self, _path: &str, _reason: &str) {}

    /// Checks that an authenticated client may announce, that is, that the path has no publisher.
    fn may_announce(&mut self, _path: &str) -> Result<(), Status> {
        Ok(())
    }

    /// Opens a pair of UDP ports for a track and returns their numbers. `client`: ports of the client for RTP and RTCP.
    /// The client is authenticated, and the track exists.
    ///
    /// A later SETUP of the track may open other ports, or call [`StreamDirectory::close_udp`].
    fn open_udp(&mut self, publish: bool, path: &str, track: usize, client: (u16, u16)) -> Result<(u16, u16), Status>;

    /// Closes the UDP ports of a track, which uses another transport from now on.
    fn close_udp(&mut self, _track: usize) {}

    /// Counts a client that wants some tracks of a path over one transport, and some over another.
    fn mixed_transports(&mut self, _publish: bool, _path: &str) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    /// Has chosen a path by DESCRIBE, ANNOUNCE or SETUP.
    Chosen,
    /// Waits for the answer to PLAY or RECORD.
    Asked,
    Running,
    Ended,
}

/// Session of a server on one connection.
pub(crate) struct ServerSession {
    reader: Reader,
    out: Vec<u8>,
    challenges: Challenges,
    id: String,
    state: State,
    requests: u32,
    refused: u32,
    publish: bool,
    path: String,
    found: Option<ResolvedStream>,
    tracks: Vec<Option<SetUp>>,
    /// CSeq and URL of the request that waits for an answer.
    asked: Option<(String, String)>,
    /// The player has paused.
    paused: bool,
    reports: Reports,
}

impl ServerSession {
    /// Creates a session. `random` generates its identifier and nonce.
    pub(crate) fn new(random: &Random) -> Self {
        let mut id = [0; 8];
        random.fill(&mut id);
        Self {
            reader: Reader::default(),
            out: Vec::new(),
            challenges: Challenges::new(random),
            id: hex::encode(id),
            state: State::Fresh,
            requests: 0,
            refused: 0,
            publish: false,
            path: String::new(),
            found: None,
            tracks: Vec::new(),
            asked: None,
            paused: false,
            reports: Reports::default(),
        }
    }

    /// Adds received bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// Takes the bytes to be sent, always whole messages.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Returns the transports of the tracks. `None`: the track was not set up.
    pub(crate) fn tracks(&self) -> &[Option<SetUp>] {
        &self.tracks
    }

    /// Returns the next request for the endpoint.
    ///
    /// # Errors
    /// When the client breaks the protocol.
    pub(crate) fn next(&mut self, directory: &mut dyn StreamDirectory) -> Result<Option<Request>, ProtocolError> {
        while let Some(item) = self.reader.next()? {
            if self.out.len() > MAX_PENDING {
                return Err(ProtocolError::Malformed("it does not wait for our answers"));
            }
            let request = match item {
                Item::Request(request) => self.request(&request, directory)?,
                Item::Frame { channel, data } if self.state == State::Running => Some(Request::Frame { channel, data }),
                Item::Frame { .. } | Item::Response(_) => None,
            };
            if request.is_some() {
                return Ok(request);
            }
        }
        Ok(None)
    }

    fn request(
        &mut self,
        request: &message::Request,
        directory: &mut dyn StreamDirectory,
    ) -> Result<Option<Request>, ProtocolError> {
        if self.state != State::Running {
            self.requests += 1;
            if self.requests > MAX_REQUESTS {
                return Err(ProtocolError::TooManyRequests);
            }
        }
        let cseq = request.headers.get("CSeq").unwrap_or("0").to_owned();
        let uri = request.uri.clone();
        let outcome = match request.method.as_str() {
            "OPTIONS" => {
                self.respond(&cseq, Status::OK, PUBLIC, None);
                Ok(())
            }
            "GET_PARAMETER" | "SET_PARAMETER" => {
                let session = self.session();
                self.respond(&cseq, Status::OK, &session, None);
                Ok(())
            }
            "DESCRIBE" => self.describe(&cseq, &uri, request, directory),
            "ANNOUNCE" => self.announce(&cseq, &uri, request, directory)?,
            "SETUP" => self.set_up(&cseq, &uri, request, directory),
            "PLAY" if !self.publish => return Ok(self.ask(cseq, uri)),
            "PAUSE" if !self.publish && self.state == State::Running => {
                self.paused = true;
                let session = self.session();
                self.respond(&cseq, Status::OK, &session, None);
                Ok(())
            }
            "RECORD" if self.publish => return Ok(self.ask(cseq, uri)),
            "PLAY" | "RECORD" | "PAUSE" => Err(Status::NOT_VALID_IN_THIS_STATE),
            // Media of the other tracks would end, too.
            "TEARDOWN" if !self.publish && self.is_one_of_many(&uri) => Err(Status::ONLY_AGGREGATE_OPERATION),
            "TEARDOWN" => {
                let session = self.session();
                self.respond(&cseq, Status::OK, &session, None);
                self.state = State::Ended;
                return Ok(Some(Request::End));
            }
            _ => Err(Status::NOT_IMPLEMENTED),
        };
        if let Err(status) = outcome {
            self.fail(&cseq, status);
            if status == Status::SERVICE_UNAVAILABLE || self.refused >= MAX_REFUSED {
                self.state = State::Ended;
                return Err(ProtocolError::TooManyAttempts);
            }
        }
        Ok(None)
    }

    /// Looks up a path and checks the credentials of the client. `Err` is the status of the response.
    fn admit(
        &mut self,
        publish: bool,
        path: &str,
        request: &message::Request,
        directory: &mut dyn StreamDirectory,
    ) -> Result<ResolvedStream, Status> {
        let found = directory.find(publish, path)?;
        if let Some(user) = &found.user {
            let header = request.headers.get("Authorization");
            match self.challenges.check(header, user, &request.method, &request.body) {
                Verdict::Accepted => {}
                Verdict::Stale => return Err(STALE),
                Verdict::Refused => {
                    // Clients usually send the first request without credentials, which is no wrong password.
                    if header.is_some() {
                        self.refused += 1;
                        directory.wrong_password(publish, path);
                    }
                    return Err(Status::UNAUTHORIZED);
                }
            }
        }
        Ok(found)
    }

    fn describe(
        &mut self,
        cseq: &str,
        uri: &str,
        request: &message::Request,
        directory: &mut dyn StreamDirectory,
    ) -> Result<(), Status> {
        if !matches!(self.state, State::Fresh | State::Chosen) {
            return Err(Status::NOT_VALID_IN_THIS_STATE);
        }
        let path = url::path(&request.uri);
        let found = self.admit(false, &path, request, directory)?;
        let Some(presentation) = found.presentation.clone() else {
            directory.not_published(&path);
            return Err(Status::NOT_FOUND);
        };
        let is_same = self.path == path && self.tracks.len() == presentation.tracks().len();
        if !is_same && self.tracks.iter().any(Option::is_some) {
            return Err(Status::NOT_VALID_IN_THIS_STATE); // the tracks that were set up belong to another presentation
        }
        let sdp = presentation.to_sdp();
        self.choose(false, path, found);
        let base = format!("Content-Base: {}/\r\n", uri.trim_end_matches('/'));
        self.respond(cseq, Status::OK, &base, Some(&sdp));
        Ok(())
    }

    fn announce(
        &mut self,
        cseq: &str,
        _: &str,
        request: &message::Request,
        directory: &mut dyn StreamDirectory,
    ) -> Result<Result<(), Status>, ProtocolError> {
        if self.state != State::Fresh {
            return Ok(Err(Status::NOT_VALID_IN_THIS_STATE));
        }
        let path = url::path(&request.uri);
        let admitted = self.admit(true, &path, request, directory);
        let mut found = match admitted {
            Ok(found) => found,
            Err(status) => return Ok(Err(status)),
        };
        // Checked first, because a publisher that may announce may take the place of another one.
        let presentation = match Presentation::parse(&request.body) {
            Ok(presentation) => presentation,
            Err(what) => {
                directory.bad_description(&path, &what);
                let warning = format!("Warning: 399 StreamLink \"SDP refused: {what}\"\r\n");
                self.respond(cseq, Status::BAD_REQUEST, &warning, None);
                return Ok(Ok(()));
            }
        };
        if let Err(status) = directory.may_announce(&path) {
            return Ok(Err(status));
        }
        found.presentation = Some(Arc::new(presentation));
        self.choose(true, path, found);
        self.respond(cseq, Status::OK, "", None);
        Ok(Ok(()))
    }

    fn choose(&mut self, publish: bool, path: String, found: ResolvedStream) {
        let count = found.presentation.as_ref().map_or(0, |p| p.tracks().len());
        if self.path != path || self.tracks.len() != count {
            self.tracks = vec![None; count];
        }
        self.publish = publish;
        self.path = path;
        self.found = Some(found);
        self.state = State::Chosen;
    }

    fn set_up(
        &mut self,
        cseq: &str,
        uri: &str,
        request: &message::Request,
        directory: &mut dyn StreamDirectory,
    ) -> Result<(), Status> {
        if self.state == State::Fresh {
            // Some clients know the tracks and send no DESCRIBE.
            let (base, _) = url::split_track(uri, TRACK);
            let found = self.admit(false, &base, request, directory)?;
            self.choose(false, base, found);
        }
        if self.state != State::Chosen {
            return Err(Status::NOT_VALID_IN_THIS_STATE);
        }
        let found = self.found.clone().ok_or(Status::SESSION_NOT_FOUND)?;
        let Some(presentation) = &found.presentation else {
            directory.not_published(&self.path);
            return Err(Status::NOT_FOUND);
        };
        let track = self.track(uri, presentation).ok_or(Status::NOT_FOUND)?;
        let offers: Vec<Transport> = request.headers.all("Transport").flat_map(Transport::parse_all).collect();
        let mut is_mixed = false;
        for mut transport in offers {
            let group = found.groups.get(track).copied().filter(|_| !self.publish);
            let offered = match (transport.multicast, transport.tcp) {
                (true, _) => group.is_some(),
                (false, true) => found.tcp,
                (false, false) => found.udp,
            };
            if !offered {
                continue;
            }
            if !self.is_transport_of_others(track, &transport) {
                is_mixed = true;
                continue;
            }
            let set_up = if transport.multicast {
                transport.group = group;
                directory.close_udp(track);
                SetUp::Multicast
            } else if transport.tcp {
                let (rtp, rtcp) = self.free_channels(track, transport.interleaved)?;
                directory.close_udp(track);
                transport.interleaved = Some((rtp, rtcp));
                SetUp::Tcp { rtp, rtcp }
            } else {
                let named = transport.client_port.filter(|(a, b)| *a > 0 && *b > 0);
                // A publisher need not say where it sends from: its address is enough.
                let Some(client) = named.or(self.publish.then_some((0, 0))) else { continue };
                transport.server_port = Some(directory.open_udp(self.publish, &self.path, track, client)?);
                SetUp::Udp
            };
            transport.record = self.publish;
            self.tracks[track] = Some(set_up);
            let headers = format!("Transport: {transport}\r\n{}", self.session());
            self.respond(cseq, Status::OK, &headers, None);
            return Ok(());
        }
        if is_mixed {
            directory.mixed_transports(self.publish, &self.path);
        }
        Err(Status::UNSUPPORTED_TRANSPORT)
    }

    /// Returns whether the tracks besides this one that were set up use the same transport. One session has one, so that
    /// the client can choose another here, and not only learn of the refusal of PLAY.
    fn is_transport_of_others(&self, track: usize, transport: &Transport) -> bool {
        let mut others = self.tracks.iter().enumerate().filter(|(number, _)| *number != track);
        others.all(|(_, other)| match other {
            None => true,
            Some(SetUp::Tcp { .. }) => transport.tcp && !transport.multicast,
            Some(SetUp::Udp) => !transport.tcp && !transport.multicast,
            Some(SetUp::Multicast) => transport.multicast,
        })
    }

    /// Returns whether a URL names one track of several that were set up.
    fn is_one_of_many(&self, uri: &str) -> bool {
        self.tracks.iter().flatten().count() > 1 && url::split_track(uri, TRACK).1.is_some()
    }

    /// Returns the channels of a track: those that were asked for, unless another track has them.
    fn free_channels(&self, track: usize, asked: Option<(u8, u8)>) -> Result<(u8, u8), Status> {
        let others = self.tracks.iter().enumerate().filter(|(number, _)| *number != track);
        let taken: Vec<u8> = others
            .flat_map(|(_, other)| match other {
                Some(SetUp::Tcp { rtp, rtcp }) => vec![*rtp, *rtcp],
                _ => Vec::new(),
            })
            .collect();
        let usual = u8::try_from(2 * track).ok().map(|number| (number, number.saturating_add(1)));
        let pairs = (0..=u8::MAX / 2).map(|number| (2 * number, 2 * number + 1));
        let mut candidates = asked.or(usual).into_iter().chain(pairs);
        let is_free = |(rtp, rtcp): &(u8, u8)| !taken.contains(rtp) && !taken.contains(rtcp);
        candidates.find(is_free).ok_or(Status::UNSUPPORTED_TRANSPORT)
    }

    /// Returns the track that a URL names.
    fn track(&self, uri: &str, presentation: &Presentation) -> Option<usize> {
        let tracks = presentation.tracks();
        if !self.publish {
            return match url::split_track(uri, TRACK).1 {
                Some(Ok(number)) => Some(number).filter(|number| *number < tracks.len()),
                Some(Err(())) => None,
                None => (tracks.len() == 1).then_some(0),
            };
        }
        let named = tracks.iter().position(|track| url::names_track(uri, &track.control));
        // Tracks without a name of their own are set up in their order.
        let next = || {
            let at = self.tracks.iter().position(Option::is_none)?;
            let is_nameless = matches!(tracks.get(at)?.control.as_str(), "" | "*");
            (is_nameless || url::path(uri) == self.path).then_some(at)
        };
        named.or_else(next)
    }

    fn ask(&mut self, cseq: String, uri: String) -> Option<Request> {
        match (self.state, self.found.as_ref().and_then(|found| found.presentation.clone())) {
            (State::Chosen, Some(presentation)) if self.tracks.iter().any(Option::is_some) => {
                self.state = State::Asked;
                self.asked = Some((cseq, uri));
                let path = self.path.clone();
                Some(if self.publish { Request::Publish { path, presentation } } else { Request::Play { path } })
            }
            (State::Running, _) => {
                self.paused = false;
                let session = self.session();
                self.respond(&cseq, Status::OK, &session, None);
                None
            }
            _ => {
                self.fail(&cseq, Status::NOT_VALID_IN_THIS_STATE);
                None
            }
        }
    }

    /// Returns the number of times that bytes belonged to nothing, and were passed over, since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        self.reader.take_skips()
    }

    /// Handles an RTCP packet of a player.
    pub(crate) fn report(&mut self, compound: &[u8]) {
        self.reports.take(compound);
    }

    /// Returns the number of lost packets that the player has reported.
    pub(crate) fn reported_lost(&self) -> u64 {
        self.reports.lost()
    }

    /// Returns whether the player has paused. It resumes with live media; nothing is stored during a pause.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Accepts PLAY or RECORD. `first`: for each track, the sequence number and timestamp of the first packet that the
    /// player will be sent, if known (RFC 2326 section 12.33).
    pub(crate) fn accept(&mut self, first: &[Option<(u16, u32)>]) {
        let Some((cseq, uri)) = self.asked.take() else { return };
        let mut headers = self.session();
        if !self.publish {
            headers.push_str("Range: npt=now-\r\nRTP-Info: ");
            // Some clients send PLAY with the URL of a track.
            let base = uri.rfind(&format!("/{TRACK}")).and_then(|at| uri.get(..at)).unwrap_or(&uri);
            let base = base.trim_end_matches('/');
            let set_up = self.tracks.iter().enumerate().filter(|(_, set_up)| set_up.is_some());
            let names = set_up.map(|(track, _)| {
                let name = format!("url={base}/{}", Presentation::control(track));
                match first.get(track).copied().flatten() {
                    Some((sequence, time)) => format!("{name};seq={sequence};rtptime={time}"),
                    None => name,
                }
            });
            headers.push_str(&names.collect::<Vec<_>>().join(","));
            headers.push_str("\r\n");
        }
        self.state = State::Running;
        self.respond(&cseq, Status::OK, &headers, None);
    }

    /// Refuses PLAY or RECORD. Send the remaining output, then close the connection.
    pub(crate) fn refuse(&mut self, status: Status) {
        if let Some((cseq, _)) = self.asked.take() {
            self.fail(&cseq, status);
        }
        self.state = State::Ended;
    }

    fn session(&self) -> String {
        format!("Session: {};timeout={SESSION_TIMEOUT}\r\n", self.id)
    }

    fn fail(&mut self, cseq: &str, status: Status) {
        match status {
            Status::UNAUTHORIZED => {
                let headers = self.challenges.headers(false);
                self.respond(cseq, status, &headers, None);
            }
            STALE => {
                let headers = self.challenges.headers(true);
                self.respond(cseq, Status::UNAUTHORIZED, &headers, None);
            }
            _ => self.respond(cseq, status, "", None),
        }
    }

    /// Queues a response. Only the digits of `cseq` are returned to the peer, which has sent it.
    fn respond(&mut self, cseq: &str, Status(code, reason): Status, headers: &str, body: Option<&str>) {
        let cseq: String = cseq.chars().filter(char::is_ascii_digit).take(20).collect();
        let mut text = format!("RTSP/1.0 {code} {reason}\r\nCSeq: {cseq}\r\nServer: StreamLink\r\n{headers}");
        // Writing to a String does not fail.
        let _ = match body {
            Some(sdp) => write!(text, "Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len()),
            None => write!(text, "\r\n"),
        };
        self.out.extend(text.into_bytes());
    }
}

/// Beginning of the names of our tracks. See [`Presentation::control`].
const TRACK: &str = "trackID=";
const PUBLIC: &str =
    "Public: OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, PAUSE, RECORD, GET_PARAMETER, SET_PARAMETER, TEARDOWN\r\n";

/// Status for valid credentials with the nonce of another connection. Sent as `401` with `stale=true`.
const STALE: Status = Status(401, "Unauthorized (stale)");
