//! The client's session: connects to an application of a server, and publishes to it or plays from it.

use super::{
    Link, Message, ProtocolError,
    auth::is_challenge,
    link::WINDOW,
    message::{self, event},
};
use crate::{
    media::flv::amf0::{self, Value},
    random::Random,
    secret::Secret,
    text::without,
};

/// Role of a client's connection.
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
    /// The server has refused, and asks for authentication with this description.
    Challenged(String),
    /// The server has named another one, at an address such as `rtmp://example.com/live`.
    Redirected(Redirect),
    /// The server has said something that is no refusal, such as a warning.
    Told(String),
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

/// Address that a server has named instead of its own.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Redirect {
    /// Address of the application.
    pub(crate) url: Secret,
    /// Address of the stream, which some servers add.
    pub(crate) stream_url: Option<Secret>,
}

impl std::fmt::Debug for Redirect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redirect")
    }
}

/// Address of a stream on a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientTarget {
    /// Application, with its parameters if it has any.
    pub(crate) app: String,
    /// The address of the application, as in `rtmp://example.com/live`.
    pub(crate) url: String,
    pub(crate) key: Secret,
    /// Parameters behind both, which authenticate the client.
    pub(crate) parameters: Secret,
}

/// Maximum length of an address that a server names, in bytes.
const MAX_REDIRECT: usize = 2048;

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
    role: ClientRole,
    target: ClientTarget,
    /// Secrets that servers may repeat, beside those of the target.
    secrets: Vec<Secret>,
}

impl ClientSession {
    /// Creates a session. `random` fills the handshake's packets.
    pub(crate) fn new(role: ClientRole, target: ClientTarget, random: &Random) -> Self {
        Self { link: Link::client(random), state: State::Handshake, role, target, secrets: Vec::new() }
    }

    /// Hides another secret in the texts of the server.
    pub(crate) fn hide(&mut self, secret: Secret) {
        self.secrets.push(secret);
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
        let publishes = self.role != ClientRole::Play;
        let with_parameters = |text: &str| format!("{text}{}", self.target.parameters.reveal());
        let mut arguments = vec![
            ("app".to_owned(), Value::text(with_parameters(&self.target.app))),
            ("type".to_owned(), Value::text("nonprivate")),
            (
                "flashVer".to_owned(),
                Value::text(if publishes { "FMLE/3.0 (compatible; StreamLink)" } else { "LNX 9,0,124,2" }),
            ),
            ("tcUrl".to_owned(), Value::text(with_parameters(&self.target.url))),
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
        let information = || values.iter().skip(2);
        let text = |field: &str| {
            let found = information().find_map(|v| v.field(field)).and_then(Value::as_text);
            found.unwrap_or_default().to_owned()
        };
        if let Some(redirect) = information().find_map(redirect_of)
            && matches!(name, "_error" | "onStatus" | "close")
        {
            self.state = State::Ended;
            return Ok(Some(ClientEvent::Redirected(redirect)));
        }
        match (name, self.state) {
            // Some servers answer with another transaction number; `connect` is the only request so far.
            ("_result", State::Connecting) if text("level") == "error" || is_failure(&text("code")) => {
                return Ok(Some(self.rejected(text("code"), text("description"))));
            }
            ("_result", State::Connecting) => self.create(),
            ("_result", State::Creating) if transaction == CREATE => {
                let stream = values.get(3).and_then(Value::as_number).unwrap_or(1.0);
                self.ask(stream as u32); // a number out of range saturates
            }
            ("_error", State::Connecting | State::Creating | State::Asking)
                if transaction != RELEASE && transaction != FC_PUBLISH =>
            {
                let mut description = text("description");
                if description.is_empty() {
                    // Some servers send a text instead of an object.
                    description = information().find_map(Value::as_text).unwrap_or_default().to_owned();
                }
                return Ok(Some(self.rejected(text("code"), description)));
            }
            ("onStatus", State::Connecting | State::Creating | State::Asking | State::Ready) => {
                return Ok(self.status(&text("code"), &text("level"), text("description")));
            }
            ("close", _) => return Ok(Some(self.rejected(String::new(), "server closed the connection".into()))),
            _ => {}
        }
        Ok(None)
    }

    fn create(&mut self) {
        self.state = State::Creating;
        match self.role {
            ClientRole::Publish { chunk_size } => {
                self.link.announce_chunk_size(chunk_size);
                let key = self.target.key.reveal().to_owned();
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
        let key = Value::text(self.target.key.reveal());
        match self.role {
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
            "NetStream.Play.UnpublishNotify" | "NetStream.Play.Stop" | "NetStream.Play.Complete"
                if matches!(self.state, State::Asking | State::Ready) =>
            {
                self.state = State::Ended;
                Some(ClientEvent::End)
            }
            "NetStream.Unpublish.Success" if self.state == State::Ready => {
                self.state = State::Ended;
                Some(ClientEvent::End)
            }
            _ if level == "error" || is_failure(code) => Some(self.rejected(code.to_owned(), description)),
            _ if level == "warning" => Some(ClientEvent::Told(self.hidden(&said(code, &description)))),
            _ => None,
        }
    }

    /// Returns what the server has left without a response, now that it has closed the connection.
    pub(crate) fn closed(&self) -> String {
        let request = match (self.state, self.role) {
            (State::Handshake, _) => return "closed during the handshake".to_owned(),
            (State::Connecting, _) => "connect",
            (State::Creating, _) => "createStream",
            // Most services say no more about a stream key that they do not know.
            (_, ClientRole::Publish { .. }) => {
                return "closed in answer to publish; is the stream key right?".to_owned();
            }
            (_, ClientRole::Play) => "play",
        };
        format!("closed without a response to {request}")
    }

    fn rejected(&mut self, code: String, description: String) -> ClientEvent<'static> {
        let before = std::mem::replace(&mut self.state, State::Ended);
        if before == State::Connecting && is_challenge(&description) {
            return ClientEvent::Challenged(description);
        }
        let text = match (code.is_empty() && description.is_empty(), before) {
            (false, _) => said(&code, &description),
            (true, State::Connecting) => "refused without a reason".to_owned(),
            (true, _) => "an error without a reason".to_owned(),
        };
        // The key is part of no text.
        let app = self.target.app.split('?').next().unwrap_or_default();
        let asked = match (before, self.role) {
            (State::Connecting, _) => format!(" (asked to connect to {app})"),
            (State::Ready, _) => String::new(),
            (_, ClientRole::Publish { .. }) => format!(" (asked to publish to {app}/…)"),
            (_, ClientRole::Play) => format!(" (asked to play {app}/…)"),
        };
        ClientEvent::Rejected(self.hidden(&text) + &self.hidden(&asked))
    }

    /// Returns a text of the server without the secrets, which some servers repeat.
    pub(crate) fn hidden(&self, text: &str) -> String {
        let ClientTarget { key, parameters, .. } = &self.target;
        let all = self.secrets.iter().chain([key, parameters]);
        all.fold(text.to_owned(), |text, secret| without(&text, secret.reveal()))
    }

    /// Queues the commands that end the stream.
    pub(crate) fn end(&mut self) {
        if self.state == State::Ready {
            let stream = self.link.framing().stream;
            if matches!(self.role, ClientRole::Publish { .. }) {
                let key = Value::text(self.target.key.reveal());
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

/// Returns the words of a server: a code, and a description.
fn said(code: &str, description: &str) -> String {
    let parts = [code, description].into_iter().filter(|text| !text.is_empty());
    parts.collect::<Vec<_>>().join(": ")
}

/// Returns whether a status code is that of a failure, whatever level the server gives it.
fn is_failure(code: &str) -> bool {
    const FAILURES: &[&str] = &[
        "BadName",
        "Denied",
        "Failed",
        "Rejected",
        "NotFound",
        "StreamNotFound",
        "FileNotFound",
        "InvalidApp",
        "AppShutdown",
        "Closed",
        "InvalidArg",
        "NoAccess",
        "NoSupportedTrackFound",
        "FileStructureInvalid",
    ];
    code.rsplit_once('.').is_some_and(|(before, last)| FAILURES.contains(&last) && !before.ends_with(".Seek"))
}

/// Returns the address that an error names in `ex.redirect`, with code 302 if it has any.
fn redirect_of(information: &Value) -> Option<Redirect> {
    let more = information.field("ex")?;
    let code = more.field("code").and_then(Value::as_number);
    let text = |name: &str| more.field(name).and_then(Value::as_text).filter(|url| url.len() <= MAX_REDIRECT);
    let url = text("redirect").filter(|url| !url.is_empty() && code.is_none_or(|code| code == 302.0))?;
    Some(Redirect { url: url.into(), stream_url: text("redirect2").map(Secret::from) })
}
