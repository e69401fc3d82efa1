//! RTSP client session: describes and plays, or announces and records.

mod set_up;

use super::{
    Item, ProtocolError, Reader, SetUp, User,
    auth::{Answer, Authorizing},
    message::{Request, Response},
    url,
};
use crate::{
    media::{LeftOut, rtsp::Presentation},
    random::Random,
    secret::Secret,
    text::without,
};
use bytes::Bytes;
use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// Session timeout in seconds if the server names none (RFC 2326 section 12.37).
const DEFAULT_TIMEOUT: u64 = 60;
/// Maximum number of consecutive `401` responses that are answered with credentials. The second only if the nonce was
/// stale (RFC 7616 section 3.3): otherwise the password is wrong, and repeating it may lock the account.
const MAX_REFUSED: u32 = 2;
/// Maximum size of the media that arrives before the response to PLAY and is kept for it, in bytes.
const MAX_EARLY: usize = 1 << 20;
/// Maximum size of the pending answers to requests of the server, in bytes.
const MAX_PENDING: usize = 64 << 10;
/// Header of PLAY and RECORD: from the beginning, which is now for a live source.
const RANGE: &str = "Range: npt=0.000-\r\n";
/// Requests that a server may send.
const PUBLIC: &str = "Public: OPTIONS, GET_PARAMETER, SET_PARAMETER, ANNOUNCE, REDIRECT, TEARDOWN\r\n";

/// Purpose of a client session.
#[derive(Clone, Debug)]
pub(crate) enum ClientRole {
    Play,
    Record(Arc<Presentation>),
}

/// Event of a client session for the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientEvent {
    /// A track was set up over UDP, with these ports of the server. Zero: the server has named no ports. `source` is
    /// the address that the server says to send from.
    ServerPorts { track: usize, ports: (u16, u16), source: Option<IpAddr> },
    /// The server has accepted PLAY or RECORD.
    Ready,
    /// The server refuses, with this status and reason and the method of the request, or has ended the session.
    Rejected(String),
    /// The server does not support UDP; it refuses with this status and reason.
    NoUdp(String),
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

/// A request that was sent, to be repeated with credentials.
#[derive(Clone)]
struct Sent {
    method: &'static str,
    url: String,
    headers: String,
    body: Option<String>,
}

/// Answer to a challenge that a server has made before it closed the connection, for the next connection.
#[derive(Clone)]
pub(crate) struct CarriedAnswer(Answer);

/// Session of a client on one connection.
pub(crate) struct ClientSession {
    reader: Reader,
    out: Vec<u8>,
    role: ClientRole,
    udp: bool,
    /// Sets up tracks that the server is to receive, too.
    wants_back_channel: bool,
    user: Option<User>,
    answer: Option<Answer>,
    /// Number of requests sent with `answer`.
    answered: u32,
    /// Client nonce of `answer`.
    cnonce: String,
    /// The server has accepted the credentials, so that a later refusal is about the nonce.
    is_proven: bool,
    /// The first request already carries credentials, with the nonce of another connection.
    is_carried: bool,
    /// The last response was `401`, and was answered. The words of that response.
    challenged: Option<String>,
    /// Time for which the server asks to stay away, in its last response.
    retry_after: Option<Duration>,
    refused: u32,
    /// URL of the presentation, as requested. `base` is the URL to which track URLs are relative.
    url: String,
    base: String,
    /// URLs that control all tracks together, in the order in which they are tried. The last one is always left.
    aggregates: VecDeque<String>,
    state: State,
    wants_ports: Option<usize>,
    cseq: u32,
    last: Option<Sent>,
    /// The server supports GET_PARAMETER.
    knows_get_parameter: bool,
    session: Option<String>,
    timeout: Duration,
    presentation: Option<Arc<Presentation>>,
    tracks: Vec<Option<SetUp>>,
    /// Reason of the last refusal of a track.
    track_refusal: String,
    /// Frames that arrived before the response to PLAY.
    early: VecDeque<(u8, Bytes)>,
    early_bytes: usize,
    /// Target of the last redirection.
    moved: Option<Secret>,
    /// Number of frames that were dropped before the response to PLAY.
    dropped: u64,
}

impl ClientSession {
    /// Creates a session and queues its first request. `url` contains no password.
    pub(crate) fn new(role: ClientRole, url: &str, user: Option<User>, udp: bool, random: &Random) -> Self {
        let mut cnonce = [0; 8];
        random.fill(&mut cnonce);
        let mut session = Self {
            reader: Reader::default(),
            out: Vec::new(),
            role,
            udp,
            wants_back_channel: false,
            user,
            answer: None,
            answered: 0,
            cnonce: format!("{:016x}", u64::from_be_bytes(cnonce)),
            is_proven: false,
            is_carried: false,
            challenged: None,
            retry_after: None,
            refused: 0,
            url: url.to_owned(),
            base: url.to_owned(),
            aggregates: VecDeque::from([url.to_owned()]),
            state: State::Options,
            wants_ports: None,
            cseq: 0,
            last: None,
            knows_get_parameter: false,
            session: None,
            timeout: Duration::from_secs(DEFAULT_TIMEOUT),
            presentation: None,
            tracks: Vec::new(),
            track_refusal: String::new(),
            early: VecDeque::new(),
            early_bytes: 0,
            moved: None,
            dropped: 0,
        };
        session.send("OPTIONS", url.to_owned(), String::new(), None);
        session
    }

    /// Sends the first request with credentials, which answer the challenge of a connection before.
    pub(crate) fn carry(&mut self, CarriedAnswer(answer): CarriedAnswer) {
        let Some(Sent { method, url, headers, body }) = self.last.take() else { return };
        self.answer = Some(answer);
        self.is_carried = true;
        self.out.clear();
        self.cseq = 0;
        self.send(method, url, headers, body);
    }

    /// Handles the end of the connection, at which a response is due. Some servers close it after each `401`, and want
    /// the credentials on the next connection: returns the answer for it, or the reason of the end.
    pub(crate) fn closed(&mut self) -> Result<CarriedAnswer, String> {
        self.state = State::Ended;
        let method = self.last.as_ref().map_or("", |sent| sent.method);
        match (self.challenged.take(), self.answer.take()) {
            (Some(_), Some(answer)) if !self.is_carried && !self.is_proven => Ok(CarriedAnswer(answer)),
            (Some(words), _) => Err(format!("{words}, then closed")),
            (None, _) => Err(format!("closed without a response to {method}")),
        }
    }

    /// Sets whether tracks that the server is to receive (`a=sendonly`) are set up, too.
    pub(crate) fn set_back_channel(&mut self, on: bool) {
        self.wants_back_channel = on;
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

    /// Returns the presentation that is played or recorded, once known. Tracks that were left out are not part of it.
    pub(crate) fn presentation(&self) -> Option<&Arc<Presentation>> {
        self.presentation.as_ref()
    }

    /// Returns the interval between keep-alive requests: half the session timeout, 1 s to 30 s.
    pub(crate) fn keep_alive_interval(&self) -> Duration {
        (self.timeout / 2).clamp(Duration::from_secs(1), Duration::from_secs(30))
    }

    /// Returns the number of runs of bytes and of frames that were dropped since the last call, because they belonged to
    /// nothing.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        self.reader.take_skips() + std::mem::take(&mut self.dropped)
    }

    /// Returns the time for which the server asks to stay away, in its last response (`Retry-After`).
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Takes the target of the redirection that has ended the session, if there was one.
    pub(crate) fn take_moved(&mut self) -> Option<Secret> {
        self.moved.take()
    }

    /// Returns the next event for the endpoint.
    ///
    /// # Errors
    /// When the server breaks the protocol.
    pub(crate) fn next(&mut self) -> Result<Option<ClientEvent>, ProtocolError> {
        if self.state == State::Running
            && let Some((channel, data)) = self.early.pop_front()
        {
            return Ok(Some(ClientEvent::Frame { channel, data }));
        }
        while let Some(item) = self.reader.next()? {
            let outcome = match item {
                Item::Response(response) => self.response(&response)?,
                Item::Frame { channel, data } => self.frame(channel, data),
                Item::Request(request) => self.request(&request)?,
            };
            if let Some(ClientEvent::Redirect(url)) = &outcome {
                self.moved = Some(url.clone());
            }
            if outcome.is_some() {
                return Ok(outcome);
            }
        }
        Ok(None)
    }

    /// Handles a frame. Some servers send the first before their response to PLAY.
    fn frame(&mut self, channel: u8, data: Bytes) -> Option<ClientEvent> {
        match self.state {
            State::Running => return Some(ClientEvent::Frame { channel, data }),
            State::Starting if self.early_bytes + data.len() <= MAX_EARLY => {
                self.early_bytes += data.len().max(64); // the room that an empty frame takes counts, too
                self.early.push_back((channel, data));
            }
            _ => self.dropped += 1,
        }
        None
    }

    /// Answers a request of the server.
    fn request(&mut self, request: &Request) -> Result<Option<ClientEvent>, ProtocolError> {
        let cseq = request.headers.get("CSeq").unwrap_or("0");
        let cseq: String = cseq.chars().filter(char::is_ascii_digit).take(20).collect();
        let (status, headers, event) = match request.method.as_str() {
            "OPTIONS" => ("200 OK", PUBLIC, None),
            "GET_PARAMETER" | "SET_PARAMETER" | "ANNOUNCE" => ("200 OK", "", None),
            "REDIRECT" => {
                let location = request.headers.get("Location").filter(|location| !location.is_empty());
                let event = match location {
                    Some(location) => ClientEvent::Redirect(url::resolve(&self.url, location).into()),
                    None => ClientEvent::Rejected("the server asks to connect again (REDIRECT)".into()),
                };
                ("200 OK", "", Some(event))
            }
            "TEARDOWN" => {
                self.state = State::Ended;
                ("200 OK", "", Some(ClientEvent::Rejected("the server has ended the session (TEARDOWN)".into())))
            }
            _ => ("501 Not Implemented", "", None),
        };
        self.out.extend(format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{headers}\r\n").into_bytes());
        if self.out.len() > MAX_PENDING + self.announced() {
            return Err(ProtocolError::Malformed("it does not wait for our answers"));
        }
        Ok(event)
    }

    /// Returns the size of the request that may be pending, in bytes.
    fn announced(&self) -> usize {
        self.last.as_ref().and_then(|sent| sent.body.as_ref()).map_or(0, String::len)
    }

    fn send(&mut self, method: &'static str, url: String, headers: String, body: Option<String>) {
        self.cseq = self.cseq.wrapping_add(1);
        let start = format!("{method} {url} RTSP/1.0\r\nCSeq: {}\r\nUser-Agent: StreamLink\r\n{headers}", self.cseq);
        let mut text = Zeroizing::new(start);
        if let Some(session) = &self.session {
            *text += &format!("Session: {session}\r\n");
        }
        if let (Some(answer), Some(user)) = (&self.answer, &self.user) {
            self.answered = self.answered.wrapping_add(1);
            let content = body.as_deref().unwrap_or_default().as_bytes();
            let count = self.answered;
            let cnonce = self.cnonce.as_str();
            *text += &answer.header(user, &Authorizing { method, uri: &url, body: content, count, cnonce });
        }
        match &body {
            Some(sdp) => {
                *text += &format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
            }
            None => *text += "\r\n",
        }
        self.out.extend_from_slice(text.as_bytes());
        self.last = Some(Sent { method, url, headers, body });
    }

    fn response(&mut self, response: &Response) -> Result<Option<ClientEvent>, ProtocolError> {
        let status = response.status;
        self.challenged = None;
        // The other form is a date, by a clock that cameras seldom set.
        let seconds = response.headers.get("Retry-After").and_then(|text| text.parse().ok());
        self.retry_after = seconds.filter(|_| status >= 400).map(Duration::from_secs);
        if status != 401 {
            self.refused = 0;
        }
        match status {
            100..=199 => return Ok(None), // the final response follows
            200..=299 => self.learn(response),
            _ => {}
        }
        Ok(match (status, self.state) {
            (401, _) => self.unauthorized(response),
            (_, State::Ended) => None,
            (300..=308, _) => match response.headers.get("Location").filter(|location| !location.is_empty()) {
                Some(location) => Some(ClientEvent::Redirect(url::resolve(&self.url, location).into())),
                None if self.state == State::Running => None,
                None => Some(self.rejected(response)),
            },
            (_, State::Running) => {
                // A response to a keep-alive request. Servers that name GET_PARAMETER do not always have it.
                if status >= 400 {
                    self.knows_get_parameter = false;
                }
                None
            }
            (200..=299, _) => return self.step(response),
            // Some servers do not support OPTIONS. The next request decides.
            (_, State::Options) => return self.step(response),
            (551, State::Describing) if self.wants_back_channel => {
                // It knows no back channels.
                self.wants_back_channel = false;
                self.describe();
                None
            }
            (_, State::SettingUp(track)) => self.track_refused(track, self.words(response)),
            (_, State::Starting) => self.start_refused(response),
            _ => Some(self.rejected(response)),
        })
    }

    /// Adopts what the headers of a successful response say about the session and the credentials.
    fn learn(&mut self, response: &Response) {
        self.is_proven |= self.answer.is_some();
        if let Some(answer) = &mut self.answer {
            for header in response.headers.all("Authentication-Info") {
                if answer.adopt_next(header) {
                    self.answered = 0;
                }
            }
        }
        let Some(value) = response.headers.get("Session") else { return };
        let (id, parameters) = value.split_once(';').unwrap_or((value, ""));
        let id: String = id.trim().chars().filter(|c| !c.is_control()).collect();
        if !id.is_empty() {
            self.session = Some(id);
        }
        let named = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
        let timeout = named.filter(|(name, _)| name.trim().eq_ignore_ascii_case("timeout")).find_map(|(_, value)| {
            let value = value.trim().trim_matches('"');
            let digits = value.bytes().take_while(u8::is_ascii_digit).count();
            value.get(..digits)?.parse::<u64>().ok()
        });
        if let Some(seconds) = timeout.filter(|seconds| *seconds > 0) {
            self.timeout = Duration::from_secs(seconds.clamp(2, 3600));
        }
    }

    /// Answers a challenge. A nonce that has expired is no wrong password, so that the session goes on.
    fn unauthorized(&mut self, response: &Response) -> Option<ClientEvent> {
        let new = Answer::choose(response.headers.all("WWW-Authenticate"));
        self.refused += 1;
        let may_answer = match (&self.answer, &new) {
            (None, Some(_)) => true,
            (Some(old), Some(new)) => new.renews(old) && (self.is_proven || self.is_carried || new.is_stale()),
            (_, None) => false,
        };
        if may_answer
            && self.user.is_some()
            && self.refused <= MAX_REFUSED
            && let Some(Sent { method, url, headers, body }) = self.last.clone()
        {
            self.challenged = Some(self.words(response));
            self.answer = new;
            self.answered = 0;
            self.send(method, url, headers, body);
            return None;
        }
        match self.state {
            // The next keep-alive request tries again.
            State::Running | State::Ended => None,
            _ => Some(self.rejected(response)),
        }
    }

    /// Handles a successful response and sends the next request.
    fn step(&mut self, response: &Response) -> Result<Option<ClientEvent>, ProtocolError> {
        Ok(match self.state {
            State::Options => {
                let public = response.headers.all("Public").flat_map(|methods| methods.split(','));
                self.knows_get_parameter =
                    public.map(str::trim).any(|method| method.eq_ignore_ascii_case("GET_PARAMETER"));
                match self.role.clone() {
                    ClientRole::Play => self.describe(),
                    ClientRole::Record(presentation) => {
                        self.state = State::Announcing;
                        self.tracks = vec![None; presentation.tracks().len()];
                        let sdp = presentation.to_sdp();
                        self.presentation = Some(presentation);
                        self.send("ANNOUNCE", self.url.clone(), String::new(), Some(sdp));
                    }
                }
                None
            }
            State::Describing => {
                let presentation = Presentation::parse(&response.body).map_err(|what| {
                    self.state = State::Ended;
                    ProtocolError::Description(what)
                })?;
                self.described(response, presentation);
                self.set_up(0)
            }
            State::Announcing => self.set_up(0),
            State::SettingUp(track) => self.was_set_up(track, response),
            State::Starting => {
                self.state = State::Running;
                Some(ClientEvent::Ready)
            }
            State::Running | State::Ended => None,
        })
    }

    fn describe(&mut self) {
        self.state = State::Describing;
        let require = if self.wants_back_channel { "Require: www.onvif.org/ver20/backchannel\r\n" } else { "" };
        self.send("DESCRIBE", self.url.clone(), format!("Accept: application/sdp\r\n{require}"), None);
    }

    /// Adopts a presentation, and the URLs by which its tracks are named.
    fn described(&mut self, response: &Response, mut presentation: Presentation) {
        let is_url = |url: &str| url.starts_with('/') || url::split_scheme(url).is_some();
        let mut bases = ["Content-Base", "Content-Location"].into_iter().flat_map(|name| response.headers.all(name));
        if let Some(base) = bases.find(|base| is_url(base)) {
            self.base = url::resolve(&self.url, base);
        }
        let control = presentation.session_control();
        if url::split_scheme(control).is_some() {
            self.base = control.to_owned();
            self.aggregates = VecDeque::from([self.base.clone()]);
        } else {
            // A relative one is often wrong: players send PLAY to the base.
            self.aggregates = VecDeque::from([url::control(&self.base, control), self.base.clone()]);
            if self.aggregates.front() == self.aggregates.back() {
                self.aggregates.pop_front();
            }
        }
        // A server that marks everything means its own direction.
        let is_usual = !presentation.tracks().iter().all(|track| track.is_back_channel);
        if is_usual && !self.wants_back_channel {
            while let Some(track) = presentation.tracks().iter().position(|track| track.is_back_channel) {
                presentation = presentation.without(track, LeftOut::BackChannel, "back channel, a=sendonly");
            }
        }
        self.tracks = vec![None; presentation.tracks().len()];
        self.presentation = Some(Arc::new(presentation));
    }

    /// Sends PLAY or RECORD.
    fn start(&mut self) {
        let method = match self.role {
            ClientRole::Play => "PLAY",
            ClientRole::Record(_) => "RECORD",
        };
        self.send(method, self.aggregate(), RANGE.into(), None);
    }

    /// Handles the refusal of PLAY or RECORD: tries the next URL, or another transport.
    fn start_refused(&mut self, response: &Response) -> Option<ClientEvent> {
        // A live source has no position to start from: some servers take PLAY only without one.
        if response.status == 457
            && let Some(Sent { method, url, .. }) = self.last.take_if(|sent| sent.headers == RANGE)
        {
            self.send(method, url, String::new(), None);
            return None;
        }
        if self.aggregates.len() > 1 {
            self.aggregates.pop_front();
            self.start();
            return None;
        }
        if self.udp {
            let words = self.words(response);
            return Some(self.no_udp(words));
        }
        Some(self.rejected(response))
    }

    /// Queues a keep-alive request.
    pub(crate) fn keep_alive(&mut self) {
        if self.state == State::Running {
            let method = if self.knows_get_parameter { "GET_PARAMETER" } else { "OPTIONS" };
            self.refused = 0;
            self.send(method, self.aggregate(), String::new(), None);
        }
    }

    /// Queues TEARDOWN, if the server has opened a session.
    pub(crate) fn end(&mut self) {
        if self.session.is_some() && self.state != State::Ended {
            self.send("TEARDOWN", self.aggregate(), String::new(), None);
        }
        self.state = State::Ended;
    }

    /// Returns the URL that controls all tracks together.
    fn aggregate(&self) -> String {
        match (&self.role, self.aggregates.front()) {
            (ClientRole::Play, Some(url)) => url.clone(),
            _ => self.url.clone(),
        }
    }

    fn rejected(&mut self, response: &Response) -> ClientEvent {
        let words = self.words(response);
        self.reject(words)
    }

    fn reject(&mut self, words: String) -> ClientEvent {
        self.state = State::Ended;
        ClientEvent::Rejected(words)
    }

    fn no_udp(&mut self, words: String) -> ClientEvent {
        self.state = State::Ended;
        ClientEvent::NoUdp(words)
    }

    /// Returns the status and the reason of a response, and the method of the request.
    fn words(&self, response: &Response) -> String {
        let mut reason = response.reason.clone();
        if let Some(user) = &self.user {
            // Some servers echo the request, which may include credentials.
            reason = without(&without(&reason, user.password.reveal()), &user.basic());
        }
        let status = format!("{} {reason}", response.status);
        let method = self.last.as_ref().map_or("", |sent| sent.method);
        format!("{} (to {method})", status.trim_end())
    }
}
