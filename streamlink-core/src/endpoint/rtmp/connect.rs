//! The way of a caller to a server's consent: connections, redirects to other servers, authentication, and the messages
//! up to the answer to `publish` or `play`.

use super::{
    super::{
        LossReason, Resolver,
        reconnect::ConnectionAttempt,
        resolver::{Target, unreachable},
        tcp::{End, write_all},
    },
    refused,
};
use crate::{
    flow::{Credentials, RtmpAddress, StreamKey, shown_url},
    lock::log_handshake,
    net::{Egress, Stream, TlsClient},
    proto::rtmp::{Authentication, ClientEvent, ClientRole, ClientSession, ClientTarget, Message, Redirect},
    random::Random,
    secret::Secret,
    text::PeerText,
};
use std::{future::poll_fn, io, net::SocketAddr, time::Instant};

/// Maximum number of redirects from the configured server on.
const MAX_REDIRECTS: usize = 5;
/// Maximum number of connections of one attempt, as redirects and challenges each need a new one.
const MAX_CONNECTIONS: usize = 12;
/// Maximum number of media messages kept of those that a server sends before its consent.
const MAX_EARLY: usize = 64;

/// Stream on a server, with all that a connection to it needs.
#[derive(Debug)]
pub(super) struct Destination<'a> {
    /// Name of the source or output, for logs.
    pub(super) endpoint: &'a str,
    pub(super) address: &'a RtmpAddress,
    pub(super) key: Option<&'a StreamKey>,
    pub(super) resolver: &'a Resolver,
    pub(super) tls: Option<&'a TlsClient>,
    pub(super) egress: &'a Egress,
    pub(super) random: &'a Random,
    /// Time at which the attempt ends, with all its connections.
    pub(super) deadline: Instant,
    pub(super) role: ClientRole,
}

/// A connection on which the server has agreed to publish or play.
pub(super) struct ConnectedClient {
    pub(super) stream: Stream,
    pub(super) session: ClientSession,
    pub(super) peer: SocketAddr,
    /// Media messages received before the server's consent.
    pub(super) early: Vec<Message<'static>>,
}

/// Answer of a server.
enum Answer {
    Agreed,
    Challenged(String),
    Redirected(Redirect),
}

impl Destination<'_> {
    /// Connects, and follows redirects and challenges, up to a server's consent.
    pub(super) async fn connect(&self, connection: &mut ConnectionAttempt<'_>) -> Result<ConnectedClient, End> {
        let mut address = self.address.clone();
        let mut key = self.key.map(|key| key.secret().clone()).unwrap_or_default();
        let mut authentication = address.credentials.as_ref().map(authentication);
        let mut redirects = 0;
        let mut challenger = None;
        for _ in 0..MAX_CONNECTIONS {
            let (stream, peer) = self.reach(&address, challenger, connection.avoid).await?;
            connection.reached(peer);
            log_handshake(|| {
                let shown = shown_url(&address.to_string());
                let verb = if matches!(self.role, ClientRole::Play) { "play" } else { "publish" };
                format!("`{}` asks {peer} over RTMP to {verb}: {shown}", self.endpoint)
            });
            let greeting = async {
                let stream = stream.secure_connected(address.remote.host(), self.tls).await?;
                let session = self.session(&address, &key, authentication.as_ref());
                let mut client = ConnectedClient { stream, session, peer, early: Vec::new() };
                let answer = client.greet(self.endpoint).await?;
                Ok::<_, End>((client, answer))
            };
            let client = tokio::time::timeout_at(self.deadline.into(), greeting).await;
            let (client, answer) = client.unwrap_or(Err(End::Lost(LossReason::TimedOut)))?;
            log_handshake(|| {
                let what = match &answer {
                    Answer::Agreed => "agrees".to_owned(),
                    Answer::Challenged(_) => "asks for a user name and password".to_owned(),
                    Answer::Redirected(to) => format!("redirects to {}", shown_url(to.url.reveal())),
                };
                format!("`{}`: {peer} {what}", self.endpoint)
            });
            match answer {
                Answer::Agreed => return Ok(client),
                Answer::Challenged(description) => {
                    let told = client.session.hidden(&description);
                    let unauthorized =
                        |why: &str| End::Lost(LossReason::Unauthorized(format!("{told} ({why})").into()));
                    let Some(authentication) = &mut authentication else {
                        return Err(unauthorized("the address has no user name and password"));
                    };
                    let app = address.app.split('?').next().unwrap_or_default();
                    let answered = authentication.answer(&description, app, self.random);
                    answered.map_err(|reason| unauthorized(&reason))?;
                    challenger = Some(peer);
                }
                Answer::Redirected(redirect) => {
                    redirects += 1;
                    if redirects > MAX_REDIRECTS {
                        return Err(rejected(format!("more than {MAX_REDIRECTS} redirects")));
                    }
                    let (next, next_key) = self.follow(&redirect, &address, &key)?;
                    log::info!(
                        "`{}` is redirected by {} to {}",
                        self.endpoint,
                        address.remote,
                        shown_url(&next.to_string())
                    );
                    authentication = next.credentials.as_ref().map(self::authentication);
                    address = next;
                    key = next_key;
                    challenger = None;
                }
            }
        }
        Err(rejected("more challenges and redirects than one attempt may have".to_owned()))
    }

    /// Connects to a server: the one that has sent a challenge, which others at its host may not know, or any.
    async fn reach(
        &self,
        address: &RtmpAddress,
        challenger: Option<SocketAddr>,
        avoid: Option<SocketAddr>,
    ) -> Result<(Stream, SocketAddr), End> {
        if let Some(peer) = challenger {
            let connected = Stream::connect_first(&[peer], self.egress, self.deadline).await;
            return connected.map_err(|failures| End::Lost(unreachable(&failures)));
        }
        let Self { resolver, egress, deadline, .. } = *self;
        Target { resolver, host: &address.remote, egress, avoid, deadline }.connect().await
    }

    fn session(&self, address: &RtmpAddress, key: &Secret, authentication: Option<&Authentication>) -> ClientSession {
        let target = ClientTarget {
            app: address.app.clone(),
            url: address.to_string(),
            key: key.clone(),
            parameters: authentication.map(|auth| auth.parameters().into()).unwrap_or_default(),
        };
        let mut session = ClientSession::new(self.role, target, self.random);
        if let Some(authentication) = authentication {
            session.hide(authentication.password().clone());
        }
        session
    }

    /// Returns the application and the key that a redirect leads to.
    fn follow(&self, redirect: &Redirect, from: &RtmpAddress, key: &Secret) -> Result<(RtmpAddress, Secret), End> {
        let told = shown_url(redirect.url.reveal());
        let url = redirect.url.reveal().trim_end_matches('/');
        let (url, mut key) = without_key(url, key.reveal());
        let parsed = url.parse::<RtmpAddress>();
        let mut address = parsed.map_err(|problem| rejected(format!("redirected to {told}: {problem}")))?;
        if address.tls != from.tls {
            // In the clear, the key would be readable; and TLS has to be set up before.
            let reason = if from.tls { "is not encrypted" } else { "needs `rtmps` in the address" };
            return Err(rejected(format!("redirected to {told}, which {reason}")));
        }
        // An address of the stream says where the application ends.
        let stream = redirect.stream_url.as_ref().map(Secret::reveal);
        if let Some(name) = stream.and_then(|stream| stream.strip_prefix(url)).and_then(|rest| rest.strip_prefix('/'))
            && !name.is_empty()
        {
            key = name.to_owned();
        }
        if address.credentials.is_none() {
            // The servers of a service share their users. A challenge gets a digest, not the password.
            address.credentials = from.credentials.clone();
        }
        Ok((address, key.into()))
    }
}

/// Splits the stream key from an address that ends with it.
fn without_key<'a>(url: &'a str, key: &str) -> (&'a str, String) {
    let bare = key.split('?').next().unwrap_or_default();
    let found = [key, bare].into_iter().filter(|key| !key.is_empty()).find_map(|key| {
        let app = url.strip_suffix(key)?.strip_suffix('/')?;
        // The host is not part of the application.
        app.split_once("://").is_some_and(|(_, rest)| rest.contains('/')).then_some(app)
    });
    (found.unwrap_or(url), key.to_owned())
}

fn authentication(credentials: &Credentials) -> Authentication {
    Authentication::new(credentials.user(), credentials.password.clone())
}

fn rejected(text: String) -> End {
    End::Lost(LossReason::Rejected(text.into()))
}

impl ConnectedClient {
    /// Exchanges messages until the server has answered.
    async fn greet(&mut self, endpoint: &str) -> Result<Answer, End> {
        let mut told: Option<String> = None;
        loop {
            self.answer().await?;
            let mut answer = None;
            let mut fault = None;
            let Self { stream, session, early, .. } = self;
            let count = poll_fn(|cx| {
                stream.poll_read(cx, |mut bytes| {
                    session.link().received(bytes.len());
                    loop {
                        match session.read(&mut bytes) {
                            Ok(None) => break,
                            Ok(Some(ClientEvent::Ready)) => answer = Some(Answer::Agreed),
                            Ok(Some(ClientEvent::Media(message))) if early.len() < MAX_EARLY => {
                                early.push(message.into_owned());
                            }
                            Ok(Some(ClientEvent::Media(_))) => {}
                            Ok(Some(ClientEvent::Rejected(what))) => fault = Some(refused(what)),
                            Ok(Some(ClientEvent::Challenged(what))) => answer = Some(Answer::Challenged(what)),
                            Ok(Some(ClientEvent::Redirected(to))) => answer = Some(Answer::Redirected(to)),
                            Ok(Some(ClientEvent::Told(what))) => told = Some(what),
                            Ok(Some(ClientEvent::End)) => fault = Some(LossReason::Closed),
                            Err(error) => {
                                fault = Some(LossReason::Protocol(error.to_string().into()));
                                break;
                            }
                        }
                    }
                })
            })
            .await;
            let count = match count {
                // Closed with data of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                count => count?,
            };
            match (answer, fault) {
                (Some(Answer::Agreed), None) => {
                    if let Some(told) = told {
                        log::warn!("`{endpoint}`: the server says: {}", PeerText::new(told));
                    }
                    self.answer().await?;
                    return Ok(Answer::Agreed);
                }
                (_, Some(reason)) => return Err(End::Lost(reason)),
                (Some(answer), None) => return Ok(answer),
                (None, None) if count == 0 => {
                    return Err(match told {
                        Some(told) => End::Lost(refused(format!("closed after: {told}"))),
                        None => rejected(self.session.closed()),
                    });
                }
                (None, None) => {}
            }
        }
    }

    async fn answer(&mut self) -> Result<(), End> {
        let bytes = self.session.link().take_output();
        Ok(write_all(&mut self.stream, &bytes).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtmp_redirect_is_split_from_the_key() {
        for (url, key, app) in [
            ("rtmp://b/live", "KEY", "rtmp://b/live"),
            ("rtmp://b/live/KEY", "KEY", "rtmp://b/live"),
            ("rtmp://b/live/KEY", "KEY?token=1", "rtmp://b/live"),
            ("rtmp://b/live/KEY?token=1", "KEY?token=1", "rtmp://b/live"),
            ("rtmp://b/KEY", "KEY", "rtmp://b/KEY"),
            ("rtmp://b/live", "", "rtmp://b/live"),
        ] {
            assert_eq!(without_key(url, key), (app, key.to_owned()), "{url}");
        }
    }
}
