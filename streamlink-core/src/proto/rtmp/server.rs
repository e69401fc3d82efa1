//! RTMP server session: a publisher or a player connects, names a stream, and is accepted or refused.

use super::{
    Link, Message, ProtocolError,
    link::{CHUNK_SIZE, WINDOW},
    message::{self, event},
};
use crate::{
    media::flv::amf0::{self, Value},
    random::Random,
    secret::Secret,
};

/// Message stream identifier of every peer. Each connection carries one stream.
pub(super) const STREAM: u32 = 1;
/// Maximum length of the name of an application or a stream, in bytes.
const MAX_NAME: usize = 1024;
/// Maximum number of commands before a peer asks to publish or play.
const MAX_COMMANDS: u32 = 64;

/// Request of a peer for the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// The peer asks to publish. Answer with [`ServerSession::accept`] or [`ServerSession::refuse`].
    Publish { app: String, key: Secret },
    /// The peer asks to play. Answer in the same way.
    Play { app: String, key: Secret },
    /// Media message of an accepted publisher.
    Media(Message<'a>),
    /// The peer has ended its stream.
    End,
}

impl Request<'_> {
    /// Converts the request into an owned one.
    pub(crate) fn into_owned(self) -> Request<'static> {
        match self {
            Self::Publish { app, key } => Request::Publish { app, key },
            Self::Play { app, key } => Request::Play { app, key },
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
    key: Secret,
    commands: u32,
}

impl ServerSession {
    /// Creates a session. `random` fills the handshake packets.
    pub(crate) fn new(random: &Random) -> Self {
        Self {
            link: Link::server(random),
            state: State::Fresh,
            app: String::new(),
            key: Secret::default(),
            commands: 0,
        }
    }

    pub(crate) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Reads `input` up to the next request for the endpoint.
    ///
    /// # Errors
    /// When the peer breaks the protocol.
    pub(crate) fn read<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Request<'a>>, ProtocolError> {
        while let Some(message) = self.link.read(input)? {
            let request = match message.kind {
                message::COMMAND => self.command(&message)?,
                _ if self.state == State::Publishing => Some(Request::Media(message)),
                _ => None, // media before or after publishing is ignored
            };
            if request.is_some() {
                return Ok(request);
            }
        }
        Ok(None)
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
            ("createStream", _) => self.result(transaction, Value::Null, Value::Number(f64::from(STREAM))),
            ("getStreamLength", _) => self.result(transaction, Value::Null, Value::Number(0.0)),
            ("releaseStream" | "_checkbw", _) => self.result(transaction, Value::Null, Value::Undefined),
            ("FCPublish", _) => self.notify_key("onFCPublish", "NetStream.Publish.Start", argument(3)),
            ("FCSubscribe", _) => self.notify_key("onFCSubscribe", "NetStream.Play.Start", argument(3)),
            ("publish" | "play", State::Connected) => return self.ask(name == "publish", argument(3)).map(Some),
            ("publish" | "play", _) => return Err(ProtocolError::Unexpected("publish or play")),
            ("pause", State::Playing) => {
                // A live stream cannot be paused, so the player is told that it goes on.
                self.status("status", "NetStream.Play.Start", "This stream is live.");
            }
            ("FCUnpublish" | "deleteStream" | "closeStream", State::Publishing | State::Playing) => {
                if self.state == State::Publishing {
                    self.status("status", "NetStream.Unpublish.Success", "The stream has ended.");
                }
                self.state = State::Ended;
                return Ok(Some(Request::End));
            }
            _ => {} // other commands need no response
        }
        Ok(None)
    }

    fn connect(&mut self, transaction: f64, arguments: Option<&Value>) -> Result<(), ProtocolError> {
        let field = |name| arguments.and_then(|a| a.field(name));
        let app =
            field("app").and_then(Value::as_text).ok_or(ProtocolError::Malformed("connect without an application"))?;
        // Some clients append parameters or a slash.
        let app = app.split_once('?').map_or(app, |(app, _)| app).trim_matches('/');
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
        self.key = bounded(name)?.into();
        self.state = State::Asked { publish };
        let (app, key) = (self.app.clone(), self.key.clone());
        Ok(if publish { Request::Publish { app, key } } else { Request::Play { app, key } })
    }

    /// Accepts the request of the peer.
    pub(crate) fn accept(&mut self) {
        match self.state {
            State::Asked { publish: true } => {
                self.link.expect_media();
                self.link.event(event::STREAM_BEGIN, &[STREAM]);
                self.status("status", "NetStream.Publish.Start", "Publishing.");
                self.state = State::Publishing;
            }
            State::Asked { publish: false } => {
                self.link.set_stream(STREAM);
                self.link.event(event::STREAM_BEGIN, &[STREAM]);
                self.status("status", "NetStream.Play.Reset", "Playing.");
                self.status("status", "NetStream.Play.Start", "Playing.");
                let access = [Value::text("|RtmpSampleAccess"), Value::Boolean(true), Value::Boolean(true)];
                self.link.amf(message::DATA, STREAM, &access);
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
            self.link.event(event::STREAM_EOF, &[STREAM]);
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
        self.link.amf(message::COMMAND, STREAM, &values);
    }

    fn notify_key(&mut self, command: &str, code: &str, key: &str) {
        let information = Value::object([("code", Value::text(code)), ("description", Value::text(key))]);
        self.link.amf(message::COMMAND, 0, &[Value::text(command), Value::Number(0.0), Value::Null, information]);
    }
}

fn bounded(name: &str) -> Result<String, ProtocolError> {
    match name.len() <= MAX_NAME {
        true => Ok(name.to_owned()),
        false => Err(ProtocolError::Malformed("a name that is too long")),
    }
}
