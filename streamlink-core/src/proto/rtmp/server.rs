//! RTMP server session: a publisher or a player connects, names a stream, and is accepted or refused. After the end of
//! its stream it may name another one. One stream is open at a time.

use super::{
    Link, Message, ProtocolError, StreamPath,
    link::{CHUNK_SIZE, WINDOW},
    message::{self, event},
};
use crate::{
    media::flv::amf0::{self, Value},
    random::Random,
};

/// Message stream identifier of a peer's first stream, and so of nearly every one.
pub(super) const STREAM: u32 = 1;
/// Maximum length of the name of an application or a stream, in bytes.
const MAX_NAME: usize = 1024;
/// Maximum number of commands before a peer asks to publish or play.
const MAX_COMMANDS: u32 = 64;

/// Request of a peer for the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// The peer asks to publish. Answer with [`ServerSession::accept`] or [`ServerSession::refuse`].
    Publish(StreamPath),
    /// The peer asks to play. Answer in the same way.
    Play(StreamPath),
    /// Media message of an accepted publisher.
    Media(Message<'a>),
    /// The peer has ended its stream, and may ask for another.
    End,
}

impl Request<'_> {
    /// Converts the request into an owned one.
    pub(crate) fn into_owned(self) -> Request<'static> {
        match self {
            Self::Publish(path) => Request::Publish(path),
            Self::Play(path) => Request::Play(path),
            Self::Media(message) => Request::Media(message.into_owned()),
            Self::End => Request::End,
        }
    }
}

/// Reason to refuse a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The application or the key is unknown.
    NotFound,
    /// The stream has a publisher already.
    InUse,
    /// The peer is not allowed, or the maximum number of players is reached.
    Denied,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for `connect`.
    Fresh,
    /// Waits for `publish` or `play`.
    Connected,
    /// Waits for the answer to `publish` or `play`.
    Asked {
        publish: bool,
    },
    Publishing,
    Playing,
    Ended,
}

/// Session of a server on one connection.
pub(crate) struct ServerSession {
    link: Link,
    state: State,
    app: String,
    commands: u32,
    /// Number of message streams that the peer has created.
    created: u32,
    /// Message stream of the last request.
    stream: u32,
    /// Number of requests so far.
    requests: u32,
    /// Request that has ended the stream before it: whether it is to publish, and the name.
    next: Option<(bool, String)>,
    /// Set if the player has paused.
    paused: bool,
    /// Bytes read after the end of a stream.
    rest: Vec<u8>,
}

impl ServerSession {
    /// Creates a session. `random` fills the handshake packets.
    pub(crate) fn new(random: &Random) -> Self {
        Self {
            link: Link::server(random),
            state: State::Fresh,
            app: String::new(),
            commands: 0,
            created: 0,
            stream: STREAM,
            requests: 0,
            next: None,
            paused: false,
            rest: Vec::new(),
        }
    }

    /// Returns whether the peer has ended its stream and may ask for another.
    pub(crate) fn is_between_streams(&self) -> bool {
        self.state == State::Connected && self.requests > 0
    }

    /// Returns whether the player has paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Keeps the bytes after the end of a stream, which hold the next request.
    pub(crate) fn keep_rest(&mut self, rest: &[u8]) {
        self.rest = rest.to_vec();
    }

    /// Takes the bytes after the end of a stream.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Reads `input` up to the next request for the endpoint.
    ///
    /// # Errors
    /// When the peer breaks the protocol.
    pub(crate) fn read<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Request<'a>>, ProtocolError> {
        if let Some((publish, name)) = self.next.take() {
            return self.ask(publish, &name).map(Some);
        }
        while let Some(message) = self.link.read(input)? {
            let request = match message.kind {
                message::COMMAND => self.command(&message)?,
                _ if self.state == State::Publishing && self.is_of_stream(&message) => Some(Request::Media(message)),
                _ => None, // media before or after publishing is ignored
            };
            if request.is_some() {
                return Ok(request);
            }
        }
        Ok(None)
    }

    /// Returns whether a media message belongs to the open stream. Some encoders name another message stream than that of
    /// their request, which is harmless as long as there was only one.
    fn is_of_stream(&self, message: &Message<'_>) -> bool {
        self.requests <= 1 || message.stream == self.stream
    }

    fn command(&mut self, message: &Message<'_>) -> Result<Option<Request<'static>>, ProtocolError> {
        if matches!(self.state, State::Fresh | State::Connected) {
            self.commands += 1;
            if self.commands > MAX_COMMANDS {
                return Err(ProtocolError::Malformed("too many commands"));
            }
        }
        let values = amf0::read_all(&message.body)?;
        let Some(name) = values.first().and_then(Value::as_text) else {
            return Err(ProtocolError::Malformed("a command without a name"));
        };
        let transaction = values.get(1).and_then(Value::as_number).unwrap_or(0.0);
        let argument = |at: usize| values.get(at).and_then(Value::as_text).unwrap_or_default();
        match (name, self.state) {
            ("connect", State::Fresh) => self.connect(transaction, values.get(2))?,
            ("connect", _) => return Err(ProtocolError::Unexpected("connect")),
            (_, State::Fresh) => return Err(ProtocolError::Unexpected("a command before connect")),
            ("createStream", _) => {
                self.created = self.created.saturating_add(1);
                self.result(transaction, Value::Null, Value::Number(f64::from(self.created)));
            }
            ("getStreamLength", _) => self.result(transaction, Value::Null, Value::Number(0.0)),
            ("releaseStream" | "_checkbw", _) => self.result(transaction, Value::Null, Value::Undefined),
            ("FCPublish", _) => self.notify_key("onFCPublish", "NetStream.Publish.Start", argument(3)),
            ("FCSubscribe", _) => self.notify_key("onFCSubscribe", "NetStream.Play.Start", argument(3)),
            // `publish(false)` and `play(false)` end the stream.
            ("publish" | "play", State::Publishing | State::Playing)
                if values.get(3) == Some(&Value::Boolean(false)) =>
            {
                return Ok(Some(self.end_stream()));
            }
            ("publish" | "play", State::Connected) => {
                self.stream = self.stream_of(message);
                return self.ask(name == "publish", argument(3)).map(Some);
            }
            ("publish" | "play", State::Publishing | State::Playing) => {
                let end = self.end_stream();
                self.stream = self.stream_of(message);
                self.next = Some((name == "publish", bounded(argument(3))?));
                return Ok(Some(end));
            }
            ("publish" | "play", _) => return Err(ProtocolError::Unexpected("publish or play")),
            ("pause" | "pauseRaw", State::Playing) => self.pause(values.get(3) == Some(&Value::Boolean(true))),
            // A warning, as players take an error for the end.
            ("seek", State::Playing) => self.status("warning", "NetStream.Seek.Failed", "This stream is live."),
            ("FCUnpublish", State::Publishing) => {
                self.notify_key("onFCUnpublish", "NetStream.Unpublish.Success", argument(3));
                return Ok(Some(self.end_stream()));
            }
            ("deleteStream" | "closeStream", State::Publishing | State::Playing) => {
                let stream = match name {
                    "deleteStream" => values.get(3).and_then(Value::as_number).unwrap_or_default() as u32, // saturates
                    _ => message.stream,
                };
                // Another message stream that the peer has created, and that is not in use.
                let is_other = stream != self.stream && (1..=self.created).contains(&stream);
                if !is_other {
                    return Ok(Some(self.end_stream()));
                }
            }
            _ => {} // other commands need no response
        }
        Ok(None)
    }

    /// Message stream that the responses to a request go to.
    fn stream_of(&self, request: &Message<'_>) -> u32 {
        if request.stream == 0 { self.created.max(STREAM) } else { request.stream }
    }

    /// Ends the open stream.
    fn end_stream(&mut self) -> Request<'static> {
        if self.state == State::Publishing {
            self.status("status", "NetStream.Unpublish.Success", "The stream has ended.");
        }
        self.state = State::Connected;
        self.paused = false;
        self.commands = 0;
        Request::End
    }

    /// Pauses a live stream: media that comes meanwhile is left out.
    fn pause(&mut self, pause: bool) {
        self.paused = pause;
        if pause {
            self.status("status", "NetStream.Pause.Notify", "Paused.");
            self.link.event(event::STREAM_EOF, &[self.stream]);
        } else {
            self.link.event(event::STREAM_BEGIN, &[self.stream]);
            self.status("status", "NetStream.Unpause.Notify", "The live stream goes on with the next key frame.");
        }
    }

    fn connect(&mut self, transaction: f64, arguments: Option<&Value>) -> Result<(), ProtocolError> {
        let field = |name| arguments.and_then(|a| a.field(name));
        let app =
            field("app").and_then(Value::as_text).ok_or(ProtocolError::Malformed("connect without an application"))?;
        self.app = bounded(app)?;
        self.link.control(message::WINDOW_ACKNOWLEDGEMENT_SIZE, WINDOW);
        self.link.set_peer_bandwidth();
        self.link.announce_chunk_size(CHUNK_SIZE);
        let properties = Value::object([
            ("fmsVer", Value::text("FMS/3,5,7,7009")),
            ("capabilities", Value::Number(31.0)),
            ("mode", Value::Number(1.0)),
        ]);
        let mut information = vec![
            ("level".to_owned(), Value::text("status")),
            ("code".to_owned(), Value::text("NetConnection.Connect.Success")),
            ("description".to_owned(), Value::text("Connection succeeded.")),
            ("objectEncoding".to_owned(), Value::Number(0.0)),
        ];
        if ["fourCcList", "capsEx", "videoFourCcInfoMap", "audioFourCcInfoMap"].iter().any(|n| field(n).is_some()) {
            // Enhanced RTMP v2, "Enhancing NetConnection connect command": any codec is forwarded.
            let everything = || Value::object([("*", Value::Number(4.0))]); // `CanForward`
            information.push(("fourCcList".into(), Value::StrictArray(vec![Value::text("*")])));
            information.push(("videoFourCcInfoMap".into(), everything()));
            information.push(("audioFourCcInfoMap".into(), everything()));
            information.push(("capsEx".into(), Value::Number(f64::from(0x02 | 0x04 | 0x08)))); // multitrack, ModEx
        }
        self.result(transaction, properties, Value::Object(information));
        self.state = State::Connected;
        Ok(())
    }

    fn ask(&mut self, publish: bool, name: &str) -> Result<Request<'static>, ProtocolError> {
        let path = StreamPath::new(&self.app, &bounded(name)?);
        self.state = State::Asked { publish };
        self.requests = self.requests.saturating_add(1);
        Ok(if publish { Request::Publish(path) } else { Request::Play(path) })
    }

    /// Accepts the request of the peer.
    pub(crate) fn accept(&mut self) {
        self.commands = 0;
        match self.state {
            State::Asked { publish: true } => {
                self.link.expect_media();
                self.link.event(event::STREAM_BEGIN, &[self.stream]);
                self.status("status", "NetStream.Publish.Start", "Publishing.");
                self.state = State::Publishing;
            }
            State::Asked { publish: false } => {
                self.link.set_stream(self.stream);
                self.link.event(event::STREAM_BEGIN, &[self.stream]);
                self.status("status", "NetStream.Play.Reset", "Playing.");
                self.status("status", "NetStream.Play.Start", "Playing.");
                let access = [Value::text("|RtmpSampleAccess"), Value::Boolean(true), Value::Boolean(true)];
                self.link.amf(message::DATA, self.stream, &access);
                self.state = State::Playing;
            }
            _ => {}
        }
    }

    /// Refuses the request of the peer. Send the remaining output, then close the connection.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        let publish = matches!(self.state, State::Asked { publish: true });
        let (code, why) = match (publish, refusal) {
            (true, Refusal::InUse) => ("NetStream.Publish.BadName", "Somebody publishes there."),
            (true, Refusal::NotFound) => ("NetStream.Publish.BadName", "No such stream."),
            (true, Refusal::Denied) => ("NetStream.Publish.Denied", "Not allowed."),
            (false, Refusal::Denied | Refusal::InUse) => ("NetStream.Play.Failed", "Not allowed, or too many players."),
            (false, Refusal::NotFound) => ("NetStream.Play.StreamNotFound", "No such stream."),
        };
        self.status("error", code, why);
        self.state = State::Ended;
    }

    /// Notifies a player of the end of the stream.
    pub(crate) fn end(&mut self) {
        if self.state == State::Playing {
            self.link.event(event::STREAM_EOF, &[self.stream]);
            self.status("status", "NetStream.Play.UnpublishNotify", "The stream has ended.");
            self.state = State::Ended;
        }
    }

    fn result(&mut self, transaction: f64, properties: Value, information: Value) {
        let values = [Value::text("_result"), Value::Number(transaction), properties, information];
        self.link.amf(message::COMMAND, 0, &values);
    }

    fn status(&mut self, level: &str, code: &str, description: &str) {
        let information = Value::object([
            ("level", Value::text(level)),
            ("code", Value::text(code)),
            ("description", Value::text(description)),
        ]);
        let values = [Value::text("onStatus"), Value::Number(0.0), Value::Null, information];
        self.link.amf(message::COMMAND, self.stream, &values);
    }

    fn notify_key(&mut self, command: &str, code: &str, key: &str) {
        let information = Value::object([("code", Value::text(code)), ("description", Value::text(key))]);
        self.link.amf(message::COMMAND, 0, &[Value::text(command), Value::Number(0.0), Value::Null, information]);
    }
}

fn bounded(name: &str) -> Result<String, ProtocolError> {
    if name.len() <= MAX_NAME { Ok(name.to_owned()) } else { Err(ProtocolError::Malformed("a name that is too long")) }
}
