//! RTSP client session: describes and plays, or announces and records.

use super::{Item, ProtocolError, Reader, SetUp, User, auth::Answer, message::Response, transport::Transport};
use crate::{media::rtsp::Presentation, random::Random, secret::Secret, text::without};
use bytes::Bytes;
use rtsp_types::headers;
use std::{sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// Session timeout in seconds if the server names none (RFC 2326 section 12.37).
const DEFAULT_TIMEOUT: u64 = 60;
/// Maximum number of consecutive `401` responses that are answered with credentials. The second only if it says that the
/// nonce was stale (RFC 7616 section 3.3): otherwise the password is wrong, and repeating it may lock the account.
const MAX_REFUSED: u32 = 2;

/// Purpose of a client session.
#[derive(Clone, Debug)]
pub(crate) enum ClientRole {
    Play,
    Record(Arc<Presentation>),
}

/// Event of a client session for the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientEvent {
    /// A track was set up over UDP, with these ports of the server. Zero: the server has named no ports.
    ServerPorts { track: usize, ports: (u16, u16) },
    /// The server has accepted PLAY or RECORD.
    Ready,
    /// The server refuses, with this status and reason, and the method of the request.
    Rejected(String),
    /// The server does not support UDP.
    NoUdp,
    /// The server redirects to this URL, which may contain a password.
    Redirect(Secret),
    /// An interleaved frame was received.
    Frame { channel: u8, data: Bytes },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Options,
    Describing,
    Announcing,
    /// Waits for the response to SETUP of this track.
    SettingUp(usize),
    Starting,
    Running,
    Ended,
}

/// Session of a client on one connection.
pub(crate) struct ClientSession {
    reader: Reader,
    out: Vec<u8>,
    purpose: ClientRole,
    udp: bool,
    user: Option<User>,
    answer: Option<Answer>,
    /// Number of requests sent with `answer`.
    answered: u32,
    /// Client nonce of `answer`.
    cnonce: String,
    refused: u32,
    /// URL of the presentation, as requested. `base` is the URL to which track URLs are relative.
    url: String,
    base: String,
    state: State,
    wants_ports: Option<usize>,
    cseq: u32,
    /// Last request, to be repeated with credentials: method, URL, headers and body.
    last: Option<(&'static str, String, String, Option<String>)>,
    /// The server supports GET_PARAMETER.
    knows_get_parameter: bool,
    /// Method of the last request.
    asked: &'static str,
    session: Option<String>,
    timeout: Duration,
    presentation: Option<Arc<Presentation>>,
    tracks: Vec<Option<SetUp>>,
}

impl ClientSession {
    /// Creates a session and queues its first request. `url` contains no password.
    pub(crate) fn new(purpose: ClientRole, url: &str, user: Option<User>, udp: bool, random: &Random) -> Self {
        let mut cnonce = [0; 8];
        random.fill(&mut cnonce);
        let mut session = Self {
            reader: Reader::default(),
            out: Vec::new(),
            purpose,
            udp,
            user,
            answer: None,
            answered: 0,
            cnonce: format!("{:016x}", u64::from_be_bytes(cnonce)),
            refused: 0,
            url: url.to_owned(),
            base: url.to_owned(),
            state: State::Options,
            wants_ports: None,
            cseq: 0,
            last: None,
            knows_get_parameter: false,
            asked: "",
            session: None,
            timeout: Duration::from_secs(DEFAULT_TIMEOUT),
            presentation: None,
            tracks: Vec::new(),
        };
        session.send("OPTIONS", url.to_owned(), String::new(), None);
        session
    }

    /// Adds received bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// Takes the bytes to be sent, always whole messages.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Returns the transports of the tracks.
    pub(crate) fn tracks(&self) -> &[Option<SetUp>] {
        &self.tracks
    }

    /// Returns the presentation that is played or recorded, once known.
    pub(crate) fn presentation(&self) -> Option<&Arc<Presentation>> {
        self.presentation.as_ref()
    }

    /// Returns the interval between keep-alive requests: half the session timeout, 1 s to 30 s.
    pub(crate) fn keep_alive_interval(&self) -> Duration {
        (self.timeout / 2).clamp(Duration::from_secs(1), Duration::from_secs(30))
    }

    /// Returns the next event for the endpoint.
    ///
    /// # Errors
    /// When the server breaks the protocol.
    pub(crate) fn next(&mut self) -> Result<Option<ClientEvent>, ProtocolError> {
        while let Some(item) = self.reader.next()? {
            let outcome = match item {
                Item::Response(response) => self.response(&response),
                Item::Frame { channel, data } => Some(ClientEvent::Frame { channel, data }),
                Item::Request(request) => {
                    // A server may send a request, such as OPTIONS, to check that the client is alive.
                    let cseq = request.header(&headers::CSEQ).map_or("0", |v| v.as_str());
                    let cseq: String = cseq.chars().filter(char::is_ascii_digit).take(20).collect();
                    self.out.extend(format!("RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n\r\n").into_bytes());
                    None
                }
            };
            if outcome.is_some() {
                return Ok(outcome);
            }
        }
        Ok(None)
    }

    fn send(&mut self, method: &'static str, url: String, headers: String, body: Option<String>) {
        self.cseq += 1;
        let start = format!("{method} {url} RTSP/1.0\r\nCSeq: {}\r\nUser-Agent: StreamLink\r\n{headers}", self.cseq);
        let mut text = Zeroizing::new(start);
        if let Some(session) = &self.session {
            *text += &format!("Session: {session}\r\n");
        }
        if let (Some(answer), Some(user)) = (&self.answer, &self.user) {
            self.answered += 1;
            *text += &answer.header(user, method, &url, (self.answered, &self.cnonce));
        }
        match &body {
            Some(sdp) => {
                *text += &format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
            }
            None => *text += "\r\n",
        }
        self.out.extend_from_slice(text.as_bytes());
        self.asked = method;
        self.last = Some((method, url, headers, body));
    }

    fn response(&mut self, response: &Response) -> Option<ClientEvent> {
        let status = u16::from(response.status());
        if let Some(id) = response.header(&headers::SESSION).map(|value| value.as_str()) {
            let (id, parameters) = id.split_once(';').unwrap_or((id, ""));
            self.session = Some(id.trim().chars().filter(|c| c.is_ascii_graphic()).take(128).collect());
            let timeout = parameters.split(';').find_map(|p| p.trim().strip_prefix("timeout="));
            if let Some(seconds) = timeout.and_then(|t| t.trim().parse::<u64>().ok()) {
                self.timeout = Duration::from_secs(seconds.clamp(2, 3600));
            }
        }
        if matches!(self.state, State::Running | State::Ended) {
            return None; // a response to a keep-alive request
        }
        match status {
            200..=299 => self.step(response),
            301..=308 => match response.header(&headers::LOCATION) {
                Some(location) => Some(ClientEvent::Redirect(location.as_str().into())),
                None => Some(self.rejected(response)),
            },
            401 => self.unauthorized(response),
            461 if self.udp => Some(ClientEvent::NoUdp),
            // Some servers do not support OPTIONS. The next request decides.
            _ if self.state == State::Options && status != 404 => self.step(response),
            _ => Some(self.rejected(response)),
        }
    }

    fn unauthorized(&mut self, response: &Response) -> Option<ClientEvent> {
        // Several headers of this name are joined into one, separated by commas.
        let all = response.header(&headers::WWW_AUTHENTICATE).map(|v| v.as_str().to_owned()).unwrap_or_default();
        let answer = Answer::choose(split_challenges(&all).into_iter());
        self.refused += 1;
        let is_stale = all.to_ascii_lowercase().replace([' ', '"'], "").contains("stale=true");
        let most = if is_stale { MAX_REFUSED } else { 1 };
        match (answer, self.last.take()) {
            (Some(answer), Some((method, url, headers, body))) if self.user.is_some() && self.refused <= most => {
                (self.answer, self.answered) = (Some(answer), 0);
                self.send(method, url, headers, body);
                None
            }
            _ => Some(self.rejected(response)),
        }
    }

    /// Handles a successful response and sends the next request.
    fn step(&mut self, response: &Response) -> Option<ClientEvent> {
        self.refused = 0;
        match self.state {
            State::Options => {
                let public = response.header(&headers::PUBLIC).map_or("", |v| v.as_str());
                self.knows_get_parameter = public.contains("GET_PARAMETER");
                let url = self.url.clone();
                match self.purpose.clone() {
                    ClientRole::Play => {
                        self.state = State::Describing;
                        self.send("DESCRIBE", url, "Accept: application/sdp\r\n".into(), None);
                    }
                    ClientRole::Record(presentation) => {
                        self.state = State::Announcing;
                        self.tracks = vec![None; presentation.tracks().len()];
                        let sdp = presentation.to_sdp();
                        self.presentation = Some(presentation);
                        self.send("ANNOUNCE", url, String::new(), Some(sdp));
                    }
                }
                None
            }
            State::Describing => {
                let base = response.header(&headers::CONTENT_BASE).map(|v| v.as_str());
                let base = base.or_else(|| response.header(&headers::CONTENT_LOCATION).map(|v| v.as_str()));
                if let Some(base) = base.filter(|base| base.contains("://")) {
                    self.base = base.trim().to_owned();
                }
                match Presentation::parse(response.body()) {
                    Ok(presentation) => {
                        self.tracks = vec![None; presentation.tracks().len()];
                        self.presentation = Some(Arc::new(presentation));
                        self.set_up(0)
                    }
                    Err(what) => {
                        self.state = State::Ended;
                        Some(ClientEvent::Rejected(what.into()))
                    }
                }
            }
            State::Announcing => self.set_up(0),
            State::SettingUp(track) => self.was_set_up(track, response),
            State::Starting => {
                self.state = State::Running;
                Some(ClientEvent::Ready)
            }
            State::Running | State::Ended => None,
        }
    }

    fn set_up(&mut self, track: usize) -> Option<ClientEvent> {
        if track >= self.tracks.len() {
            self.state = State::Starting;
            let (method, url) = match self.purpose {
                ClientRole::Play => ("PLAY", self.aggregate()),
                ClientRole::Record(_) => ("RECORD", self.url.clone()),
            };
            self.send(method, url, "Range: npt=0.000-\r\n".into(), None);
            return None;
        }
        self.state = State::SettingUp(track);
        if self.udp {
            self.wants_ports = Some(track);
            return None;
        }
        let number = u8::try_from(2 * track).unwrap_or(0); // the number of tracks is small
        let transport = Transport { tcp: true, interleaved: Some((number, number + 1)), ..Transport::default() };
        self.send_set_up(track, transport);
        None
    }

    /// Sends SETUP for a track over UDP, with these ports of the client.
    pub(crate) fn offer_ports(&mut self, track: usize, ports: (u16, u16)) {
        self.wants_ports = None;
        self.send_set_up(track, Transport { client_port: Some(ports), ..Transport::default() });
    }

    fn send_set_up(&mut self, track: usize, mut transport: Transport) {
        transport.record = matches!(self.purpose, ClientRole::Record(_));
        let url = self.track_url(track);
        self.send("SETUP", url, format!("Transport: {transport}\r\n"), None);
    }

    fn was_set_up(&mut self, track: usize, response: &Response) -> Option<ClientEvent> {
        let header = response.header(&headers::TRANSPORT).map_or("", |v| v.as_str());
        let transport = Transport::parse_all(header).into_iter().next();
        let Some(transport) = transport.filter(|transport| transport.tcp != self.udp) else {
            return Some(if self.udp { ClientEvent::NoUdp } else { self.rejected(response) });
        };
        if self.udp {
            self.tracks[track] = Some(SetUp::Udp);
            let ports = transport.server_port;
            self.set_up(track + 1);
            return match ports {
                Some(ports) => Some(ClientEvent::ServerPorts { track, ports }),
                None if matches!(self.purpose, ClientRole::Play) => {
                    Some(ClientEvent::ServerPorts { track, ports: (0, 0) })
                }
                None => Some(self.rejected(response)),
            };
        }
        let number = u8::try_from(2 * track).unwrap_or(0);
        let (rtp, rtcp) = transport.interleaved.unwrap_or((number, number + 1));
        self.tracks[track] = Some(SetUp::Tcp { rtp, rtcp });
        self.set_up(track + 1)
    }

    /// Returns the track that waits for a pair of UDP ports, if there is one. See [`ClientSession::offer_ports`].
    pub(crate) fn wants_ports(&self) -> Option<usize> {
        self.wants_ports
    }

    /// Queues a keep-alive request.
    pub(crate) fn keep_alive(&mut self) {
        if self.state == State::Running {
            let url = self.aggregate();
            self.send(if self.knows_get_parameter { "GET_PARAMETER" } else { "OPTIONS" }, url, String::new(), None);
        }
    }

    /// Queues TEARDOWN, if the server has opened a session.
    pub(crate) fn end(&mut self) {
        if self.session.is_some() && self.state != State::Ended {
            let url = self.aggregate();
            self.send("TEARDOWN", url, String::new(), None);
        }
        self.state = State::Ended;
    }

    /// Returns the URL that controls all tracks together.
    fn aggregate(&self) -> String {
        match self.purpose {
            ClientRole::Play => self.base.clone(),
            ClientRole::Record(_) => self.url.clone(),
        }
    }

    /// Returns the URL of a track. Its control attribute is absolute, or relative to the base.
    fn track_url(&self, track: usize) -> String {
        let own = Presentation::control(track);
        let control = match (&self.purpose, &self.presentation) {
            (ClientRole::Play, Some(presentation)) => {
                presentation.tracks().get(track).map_or("", |t| t.control.as_str())
            }
            _ => own.as_str(),
        };
        match control {
            "" | "*" => self.base.clone(),
            absolute if absolute.contains("://") => absolute.to_owned(),
            relative => format!("{}/{}", self.base.trim_end_matches('/'), relative.trim_start_matches('/')),
        }
    }

    fn rejected(&mut self, response: &Response) -> ClientEvent {
        self.state = State::Ended;
        let mut reason = response.reason_phrase().to_owned();
        if let Some(user) = &self.user {
            // Some servers echo the request, which may include credentials.
            reason = without(&without(&reason, user.password.reveal()), &user.basic());
        }
        ClientEvent::Rejected(format!("{} {reason} (to {})", u16::from(response.status()), self.asked))
    }
}

/// Splits a header with several challenges. Each begins with the name of a scheme.
fn split_challenges(text: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = Vec::new();
    let lower = text.to_ascii_lowercase();
    for scheme in ["basic ", "digest "] {
        starts.extend(lower.match_indices(scheme).map(|(at, _)| at).filter(|at| {
            let before = lower.get(..*at).unwrap_or_default().trim_end();
            before.is_empty() || before.ends_with(',')
        }));
    }
    starts.sort_unstable();
    let ends = starts.iter().copied().skip(1).chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .filter_map(|(start, end)| text.get(*start..end))
        .map(|t| t.trim_end_matches([',', ' ']))
        .collect()
}
