//! The client's session: connects to an application of a server, and publishes to it or plays from it.

use super::{
    Link, Message, ProtocolError,
    link::WINDOW,
    message::{self, event},
};
use crate::{
    media::flv::amf0::{self, Value},
    random::Random,
    secret::Secret,
    text::without,
};

/// The purpose of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientRole {
    Publish {
        /// Size of the chunks that we send, in bytes.
        chunk_size: usize,
    },
    Play,
}

/// An event for the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientEvent<'a> {
    /// The server takes or sends media from now on.
    Ready,
    /// The server has refused, with its message.
    Rejected(String),
    /// A media message to play.
    Media(Message<'a>),
    /// The server has ended the stream.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Handshake,
    Connecting,
    Creating,
    Asking,
    Ready,
    Ended,
}

/// Transaction ids of the commands.
const CONNECT: f64 = 1.0;
const RELEASE: f64 = 2.0;
const FC_PUBLISH: f64 = 3.0;
const CREATE: f64 = 4.0;
const ASK: f64 = 5.0;
/// Buffer length that we announce to the server, in milliseconds.
const BUFFER: u32 = 3000;

/// A client's connection.
pub(crate) struct ClientSession {
    link: Link,
    state: State,
    purpose: ClientRole,
    app: String,
    /// The address of the application, as in `rtmp://example.com/live`.
    url: String,
    key: Secret,
}

impl ClientSession {
    /// Creates a session. `random` fills the handshake's packets.
    pub(crate) fn new(purpose: ClientRole, app: &str, url: &str, key: Secret, random: &Random) -> Self {
        let app = app.to_owned();
        let url = url.to_owned();
        Self { link: Link::client(random), state: State::Handshake, purpose, app, url, key }
    }

    pub(crate) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Takes bytes from `input` up to the next event for the host.
    ///
    /// # Errors
    /// When the server breaks the protocol.
    pub(crate) fn read<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<ClientEvent<'a>>, ProtocolError> {
        loop {
            let message = self.link.read(input)?;
            if self.state == State::Handshake && self.link.is_open() {
                self.connect();
            }
            let Some(message) = message else { return Ok(None) };
            let outcome = match message.kind {
                message::COMMAND => self.command(&message)?,
                _ if self.state == State::Ready || self.state == State::Asking => Some(ClientEvent::Media(message)),
                _ => None,
            };
            if outcome.is_some() {
                return Ok(outcome);
            }
        }
    }

    fn connect(&mut self) {
        self.state = State::Connecting;
        let publishes = self.purpose != ClientRole::Play;
        let mut arguments = vec![
            ("app".to_owned(), Value::text(&*self.app)),
            ("type".to_owned(), Value::text("nonprivate")),
            (
                "flashVer".to_owned(),
                Value::text(if publishes { "FMLE/3.0 (compatible; StreamLink)" } else { "LNX 9,0,124,2" }),
            ),
            ("tcUrl".to_owned(), Value::text(&*self.url)),
        ];
        if !publishes {
            arguments.extend([
                ("fpad".to_owned(), Value::Boolean(false)),
                ("capabilities".to_owned(), Value::Number(15.0)),
                ("audioCodecs".to_owned(), Value::Number(4071.0)),
                ("videoCodecs".to_owned(), Value::Number(252.0)),
                ("videoFunction".to_owned(), Value::Number(1.0)),
            ]);
        }
        // Enhanced RTMP: any codec may be published or played.
        let codecs = ["av01", "vp09", "hvc1", "avc1", "Opus", "ac-3", "ec-3", "fLaC", ".mp3", "mp4a"];
        arguments.push(("fourCcList".to_owned(), Value::StrictArray(codecs.map(Value::text).to_vec())));
        self.command_out("connect", CONNECT, 0, [Value::Object(arguments)]);
    }

    fn command(&mut self, message: &Message<'_>) -> Result<Option<ClientEvent<'static>>, ProtocolError> {
        let values = amf0::read_all(&message.body)?;
        let name = values.first().and_then(Value::as_text).unwrap_or_default();
        let transaction = values.get(1).and_then(Value::as_number).unwrap_or(0.0);
        let text = |field: &str| {
            let found = values.iter().skip(2).find_map(|v| v.field(field)).and_then(Value::as_text);
            found.unwrap_or_default().to_owned()
        };
        match (name, self.state) {
            ("_result", State::Connecting) if transaction == CONNECT => self.create(),
            ("_result", State::Creating) if transaction == CREATE => {
                let stream = values.get(3).and_then(Value::as_number).unwrap_or(1.0);
                self.ask(stream as u32); // a number out of range saturates
            }
            ("_error", State::Connecting | State::Creating | State::Asking)
                if transaction != RELEASE && transaction != FC_PUBLISH =>
            {
                return Ok(Some(self.rejected(text("code"), text("description"))));
            }
            ("onStatus", State::Asking | State::Ready) => {
                return Ok(self.status(&text("code"), &text("level"), text("description")));
            }
            ("close", _) => return Ok(Some(self.rejected(String::new(), "server closed the connection".into()))),
            _ => {}
        }
        Ok(None)
    }

    fn create(&mut self) {
        self.state = State::Creating;
        match self.purpose {
            ClientRole::Publish { chunk_size } => {
                self.link.announce_chunk_size(chunk_size);
                let key = self.key.reveal().to_owned();
                self.command_out("releaseStream", RELEASE, 0, [Value::Null, Value::text(&*key)]);
                self.command_out("FCPublish", FC_PUBLISH, 0, [Value::Null, Value::text(key)]);
            }
            ClientRole::Play => self.link.control(message::WINDOW_ACKNOWLEDGEMENT_SIZE, WINDOW),
        }
        self.command_out("createStream", CREATE, 0, [Value::Null]);
    }

    fn ask(&mut self, stream: u32) {
        self.state = State::Asking;
        self.link.set_stream(stream);
        let key = Value::text(self.key.reveal());
        match self.purpose {
            ClientRole::Publish { .. } => {
                self.command_out("publish", ASK, stream, [Value::Null, key, Value::text("live")])
            }
            ClientRole::Play => {
                self.link.expect_media();
                // -2: live, or recorded if there is nothing live.
                self.command_out("play", ASK, stream, [Value::Null, key, Value::Number(-2000.0)]);
                self.link.event(event::SET_BUFFER_LENGTH, &[stream, BUFFER]);
            }
        }
    }

    fn status(&mut self, code: &str, level: &str, description: String) -> Option<ClientEvent<'static>> {
        match code {
            "NetStream.Publish.Start" | "NetStream.Play.Start" if self.state == State::Asking => {
                self.state = State::Ready;
                Some(ClientEvent::Ready)
            }
            "NetStream.Play.UnpublishNotify" | "NetStream.Play.Stop" | "NetStream.Play.Complete" => {
                self.state = State::Ended;
                Some(ClientEvent::End)
            }
            _ if level == "error" => Some(self.rejected(code.to_owned(), description)),
            _ => None,
        }
    }

    fn rejected(&mut self, code: String, description: String) -> ClientEvent<'static> {
        // Some servers repeat what they were sent: the key is removed.
        let asked = self.asked();
        let text = [code, description].iter().filter(|t| !t.is_empty()).cloned().collect::<Vec<_>>().join(": ");
        self.state = State::Ended;
        ClientEvent::Rejected(without(&text, self.key.reveal()) + asked)
    }

    /// Returns what the server was asked for last.
    fn asked(&self) -> &'static str {
        match (self.state, self.purpose) {
            (State::Handshake | State::Connecting, _) => " (to connect)",
            (State::Creating, _) => " (to createStream)",
            (State::Asking, ClientRole::Publish { .. }) => " (to publish)",
            (State::Asking, ClientRole::Play) => " (to play)",
            (State::Ready | State::Ended, _) => "",
        }
    }

    /// Queues the commands that end the stream.
    pub(crate) fn end(&mut self) {
        if self.state == State::Ready {
            let stream = self.link.framing().stream;
            if matches!(self.purpose, ClientRole::Publish { .. }) {
                let key = Value::text(self.key.reveal());
                self.command_out("FCUnpublish", 6.0, 0, [Value::Null, key]);
            }
            self.command_out("deleteStream", 7.0, 0, [Value::Null, Value::Number(f64::from(stream))]);
            self.state = State::Ended;
        }
    }

    fn command_out<const N: usize>(&mut self, name: &str, transaction: f64, stream: u32, arguments: [Value; N]) {
        let mut values = vec![Value::text(name), Value::Number(transaction)];
        values.extend(arguments);
        self.link.amf(message::COMMAND, stream, &values);
    }
}
