//! Access to the console: passwords, sessions, roles, and the checks of every request.

use crate::{
    options::{Failure, read},
    problem::Problem,
};
use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier, password_hash::SaltString};
use axum::http::{HeaderMap, Method, Uri, header, request::Parts};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// Name of the cookie of a session. The port that the request names follows, because browsers send a cookie to all ports of
/// a host.
pub(crate) const COOKIE: &str = "streamlink_session";
/// Time after which a session ends.
const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Maximum number of sessions; the oldest one ends before there are more.
const MAX_SESSIONS: usize = 1000;
/// Maximum number of passwords of the API that were checked and are remembered.
const MAX_REMEMBERED: usize = 64;
/// Attempts to log in that may fail from one address before it has to wait.
const MAX_FAILURES: u32 = 5;
/// Time that an address waits then, and after which failures are forgotten.
const PENALTY: Duration = Duration::from_secs(60);
/// Maximum number of addresses whose failures are remembered.
const MAX_ADDRESSES: usize = 1024;
/// Maximum number of passwords that are checked at the same time: each takes 19 MiB and some milliseconds.
const MAX_CHECKS: usize = 2;
/// Maximum length of a password, in bytes.
const MAX_PASSWORD: usize = 1024;

/// Permissions of a person or a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// May look at everything but secrets.
    Viewer,
    /// May also change everything, and see secrets.
    Operator,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

/// Passwords of the roles, as argon2 hashes.
#[derive(Default)]
struct Passwords(Vec<(Role, String)>);

impl Passwords {
    /// Reads the passwords of a file and of the environment.
    fn load(file: Option<&Path>) -> Result<Self, Failure> {
        let mut passwords = Self::default();
        for role in [Role::Operator, Role::Viewer] {
            let variable = format!("STREAMLINK_CONSOLE_{}", role.name().to_uppercase());
            if let Ok(text) = std::env::var(&variable) {
                let text = Zeroizing::new(text);
                let hash = if text.starts_with('$') { text.to_string() } else { hash(text.trim())? };
                passwords.add(role, hash).map_err(|error| format!("{variable}: {error}"))?;
            }
        }
        let Some(file) = file else { return Ok(passwords) };
        let text = Zeroizing::new(String::from_utf8(read(file)?)?);
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("{}, line {}", file.display(), at + 1);
            let (role, hash) = line.split_once(':').ok_or_else(|| format!("{place}: is not ROLE:HASH"))?;
            let role = [Role::Operator, Role::Viewer].into_iter().find(|known| known.name() == role);
            let role = role.ok_or_else(|| format!("{place}: the role is not operator or viewer"))?;
            passwords.add(role, hash.to_owned()).map_err(|error| format!("{place}: {error}"))?;
        }
        Ok(passwords)
    }

    fn add(&mut self, role: Role, hash: String) -> Result<(), String> {
        // The text is not quoted: a password may stand there by mistake.
        PasswordHash::new(&hash).map_err(|_| "is not a hash as --hash-password prints it")?;
        self.0.push((role, hash));
        Ok(())
    }

    /// Returns the role of a password.
    fn role(&self, password: &str) -> Option<Role> {
        let matches = |hash: &str| {
            let hash = PasswordHash::new(hash).ok()?;
            Argon2::default().verify_password(password.as_bytes(), &hash).ok()
        };
        self.0.iter().filter(|(_, hash)| matches(hash).is_some()).map(|(role, _)| *role).max()
    }
}

/// Returns the argon2 hash of a password.
///
/// # Errors
/// When it is empty or too long, or the system gives no randomness.
pub(crate) fn hash(password: &str) -> Result<String, Failure> {
    if password.is_empty() || password.len() > MAX_PASSWORD {
        return Err(format!("a password has 1 to {MAX_PASSWORD} bytes").into());
    }
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt)?;
    let salt = SaltString::encode_b64(&salt).map_err(|error| error.to_string())?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|error| error.to_string())?;
    Ok(hash.to_string())
}

/// Hash of a session's token or of a password of the API, under which it is remembered.
type Fingerprint = [u8; 32];

fn fingerprint(text: &str) -> Fingerprint {
    Sha256::digest(text.as_bytes()).into()
}

#[derive(Default)]
struct Known {
    sessions: HashMap<Fingerprint, (Role, Instant)>,
    /// Passwords of the API that were right, the oldest first.
    remembered: VecDeque<(Fingerprint, Role)>,
    failures: HashMap<IpAddr, (u32, Instant)>,
}

/// The guard of the console.
#[derive(Clone)]
pub(crate) struct Access(Arc<Shared>);

struct Shared {
    passwords: Passwords,
    hosts: Vec<String>,
    behind_https: bool,
    known: Mutex<Known>,
    checks: Arc<Semaphore>,
}

impl Access {
    /// Creates the guard from the passwords of a file and of the environment. `hosts` are names under which the console
    /// is reached, beside those of loopback.
    pub(crate) fn load(file: Option<&Path>, hosts: Vec<String>, behind_https: bool) -> Result<Self, Failure> {
        let passwords = Passwords::load(file)?;
        let known = Mutex::default();
        let checks = Arc::new(Semaphore::new(MAX_CHECKS));
        Ok(Self(Arc::new(Shared { passwords, hosts, behind_https, known, checks })))
    }

    /// Returns true if nobody has to log in.
    pub(crate) fn is_open(&self) -> bool {
        self.0.passwords.0.is_empty()
    }

    /// Returns true if somebody can log in as an operator.
    pub(crate) fn has_operator(&self) -> bool {
        self.0.passwords.0.iter().any(|(role, _)| *role == Role::Operator)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the host that a request names: without passwords it is one of loopback or of the configured names, so that
    /// no page of another name that leads here reaches the console (DNS rebinding).
    pub(crate) fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        let host = request_host(headers, uri).unwrap_or_default();
        let name = host_name(host);
        let is_known = self.0.hosts.iter().any(|known| known.eq_ignore_ascii_case(name) || known == host);
        let address = name.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let is_loopback =
            name.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback());
        // Who has to log in has no cookie for another name, and no name can stand for an address.
        if is_known || is_loopback || (!self.is_open() && (self.0.hosts.is_empty() || address.is_some())) {
            return Ok(());
        }
        Err(Problem::forbidden("the console is not reached under this host name; --host adds one"))
    }

    /// Refuses requests that a page of another origin makes in a browser.
    pub(crate) fn check_origin(headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let is_foreign = match text("sec-fetch-site") {
            Some(site) => !matches!(site, "same-origin" | "none"),
            None => false,
        };
        let other = text("origin").is_some_and(|origin| {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_none() || authority != request_host(headers, uri)
        });
        if is_foreign || other {
            return Err(Problem::forbidden("the request comes from a page of another origin"));
        }
        Ok(())
    }

    /// Returns the role of who makes a request.
    pub(crate) async fn role(&self, parts: &Parts, peer: IpAddr) -> Result<Role, Problem> {
        if self.is_open() {
            return Ok(Role::Operator);
        }
        if let Some(token) = cookie(&parts.headers, &parts.uri) {
            let known = self.known();
            let session = known.sessions.get(&fingerprint(token)).filter(|(_, end)| Instant::now() < *end);
            if let Some((role, _)) = session {
                return Ok(*role);
            }
        }
        let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(password) = authorization.and_then(bearer) else {
            return Err(Problem::unauthorized());
        };
        let print = fingerprint(password);
        let remembered = self.known().remembered.iter().find(|(known, _)| *known == print).map(|(_, role)| *role);
        if let Some(role) = remembered {
            return Ok(role);
        }
        let role = self.check_password(password, peer).await?;
        let mut known = self.known();
        if known.remembered.len() >= MAX_REMEMBERED {
            known.remembered.pop_front();
        }
        known.remembered.push_back((print, role));
        Ok(role)
    }

    /// Checks a password, slowly, and not too often from one address.
    async fn check_password(&self, password: &str, peer: IpAddr) -> Result<Role, Problem> {
        let peer = network(peer);
        let now = Instant::now();
        {
            let mut known = self.known();
            known.failures.retain(|_, (_, since)| now.duration_since(*since) < PENALTY);
            let failed = known.failures.get(&peer).map_or(0, |(count, _)| *count);
            if failed >= MAX_FAILURES {
                return Err(Problem::too_many("too many attempts to log in have failed", PENALTY.as_secs()));
            }
            if known.failures.len() >= MAX_ADDRESSES {
                let oldest = known.failures.iter().min_by_key(|(_, (_, since))| *since).map(|(peer, _)| *peer);
                oldest.and_then(|peer| known.failures.remove(&peer));
            }
            // Counted before the check, so that attempts at the same time count, too.
            let entry = known.failures.entry(peer).or_insert((0, now));
            *entry = (entry.0 + 1, now);
        }
        let role = if password.len() <= MAX_PASSWORD { self.verify(password).await? } else { None };
        match role {
            Some(role) => {
                self.known().failures.remove(&peer);
                Ok(role)
            }
            None => {
                log::warn!("an attempt to log in from {peer} has failed");
                Err(Problem::unauthorized())
            }
        }
    }

    async fn verify(&self, password: &str) -> Result<Option<Role>, Problem> {
        let busy = || Problem::unavailable("too many attempts to log in at the same time", 1);
        let permit = tokio::time::timeout(Duration::from_secs(5), self.0.checks.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| busy())?.map_err(|_| busy())?;
        let access = self.clone();
        let password = Zeroizing::new(password.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            access.0.passwords.role(&password)
        });
        checked.await.map_err(|error| Problem::internal(error.to_string()))
    }

    /// Begins a session. Returns the role, and the value of the header `Set-Cookie`.
    pub(crate) async fn log_in(
        &self,
        password: &str,
        peer: IpAddr,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<(Role, String), Problem> {
        if self.is_open() {
            return Err(Problem::conflict("nobody has to log in: the console has no password"));
        }
        let role = self.check_password(password, peer).await?;
        let mut token = Zeroizing::new([0u8; 32]);
        getrandom::fill(&mut *token).map_err(|error| Problem::internal(error.to_string()))?;
        let token = Zeroizing::new(hex::encode(*token));
        let now = Instant::now();
        let mut known = self.known();
        known.sessions.retain(|_, (_, end)| now < *end);
        if known.sessions.len() >= MAX_SESSIONS {
            let oldest = known.sessions.iter().min_by_key(|(_, (_, end))| *end).map(|(print, _)| *print);
            oldest.and_then(|print| known.sessions.remove(&print));
        }
        known.sessions.insert(fingerprint(&token), (role, now + SESSION));
        Ok((role, self.set_cookie(&cookie_name(headers, uri), &token, SESSION)))
    }

    /// Ends the session of a request. Returns the value of the header `Set-Cookie`.
    pub(crate) fn log_out(&self, headers: &HeaderMap, uri: &Uri) -> String {
        if let Some(token) = cookie(headers, uri) {
            self.known().sessions.remove(&fingerprint(token));
        }
        self.set_cookie(&cookie_name(headers, uri), "", Duration::ZERO)
    }

    fn set_cookie(&self, name: &str, token: &str, age: Duration) -> String {
        let secure = if self.0.behind_https { "; Secure" } else { "" };
        format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}", age.as_secs())
    }
}

/// Returns the address for which failures are counted: one peer has all addresses of a network of 64 bits of IPv6.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(peer) => Ipv6Addr::from_bits(peer.to_bits() >> 64 << 64).into(),
        peer => peer,
    }
}

/// Returns true for requests that change nothing.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Returns the token of the header `Authorization`, whose scheme is written in any case (RFC 9110, section 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
}

/// Returns the host and port that a request names.
fn request_host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    host.or_else(|| uri.authority().map(|authority| authority.as_str()))
}

/// Returns a host without its port.
fn host_name(host: &str) -> &str {
    split_port(host).map_or(host, |(name, _)| name)
}

/// Returns the name and the port of a host that is written with a port.
fn split_port(host: &str) -> Option<(&str, &str)> {
    let (name, port) = host.rsplit_once(':')?;
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']'));
    is_port.then_some((name, port))
}

/// Returns the name of the session's cookie at the host and port that a request names.
fn cookie_name(headers: &HeaderMap, uri: &Uri) -> String {
    match request_host(headers, uri).and_then(split_port) {
        Some((_, port)) => format!("{COOKIE}_{port}"),
        None => COOKIE.to_owned(),
    }
}

/// Returns the token of the session's cookie.
fn cookie<'a>(headers: &'a HeaderMap, uri: &Uri) -> Option<&'a str> {
    let wanted = cookie_name(headers, uri);
    let values = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(name, _)| *name == wanted).map(|(_, token)| token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn access(passwords: &[(Role, &str)], hosts: &[&str]) -> Access {
        let passwords = passwords.iter().map(|(role, text)| (*role, hash(text).unwrap())).collect();
        Access(Arc::new(Shared {
            passwords: Passwords(passwords),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            behind_https: false,
            known: Mutex::default(),
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
        }))
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn host_of_another_name_is_refused_without_passwords() {
        let uri = Uri::from_static("/");
        let allows = |access: &Access, host: &str| access.check_host(&headers(&[("host", host)]), &uri).is_ok();
        let open = access(&[], &["studio.example"]);
        for host in
            ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "[::1]", "studio.example:1"]
        {
            assert!(allows(&open, host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "192.0.2.1:8080", "", "localhost.evil"]
        {
            assert!(!allows(&open, host), "{host}");
        }
        let closed = access(&[(Role::Operator, "x")], &[]);
        assert!(allows(&closed, "192.0.2.1:8080") && allows(&closed, "console.example"));
        let named = access(&[(Role::Operator, "x")], &["console.example"]);
        assert!(allows(&named, "console.example") && !allows(&named, "evil.example"));
    }

    #[test]
    fn request_of_another_origin_is_refused() {
        let uri = Uri::from_static("/");
        let allows = |pairs: &[(&'static str, &str)]| Access::check_origin(&headers(pairs), &uri).is_ok();
        let host = ("host", "127.0.0.1:8080");
        assert!(allows(&[host]), "a program that is no browser");
        assert!(allows(&[host, ("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")]));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8081", "http://127.0.0.1"] {
            assert!(!allows(&[host, ("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(!allows(&[host, ("sec-fetch-site", site)]), "{site}");
        }
    }

    #[tokio::test]
    async fn logins_are_bounded_and_sessions_end() {
        let access = access(&[(Role::Operator, "right"), (Role::Viewer, "seer")], &[]);
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let uri = Uri::from_static("/");
        let host = headers(&[("host", "localhost:8080")]);
        let (role, cookie) = access.log_in("seer", peer, &host, &uri).await.unwrap();
        assert_eq!(role, Role::Viewer);
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let request = |pairs: &[(&'static str, &str)]| {
            let (mut parts, ()) = axum::http::Request::new(()).into_parts();
            parts.headers = headers(pairs);
            parts
        };
        let here = request(&[("host", "localhost:8080"), ("cookie", &cookie)]);
        assert_eq!(access.role(&here, peer).await.unwrap(), Role::Viewer);
        let other = request(&[("host", "localhost:8081"), ("cookie", &cookie)]);
        assert!(access.role(&other, peer).await.is_err(), "another console of this host");
        access.log_out(&here.headers, &uri);
        assert!(access.role(&here, peer).await.is_err());
        let bearer = request(&[("authorization", "Bearer right")]);
        assert_eq!(access.role(&bearer, peer).await.unwrap(), Role::Operator);
        let stale = request(&[("host", "localhost:8080"), ("cookie", &cookie), ("authorization", "Bearer right")]);
        assert_eq!(access.role(&stale, peer).await.unwrap(), Role::Operator, "the password counts");
        for _ in 0..MAX_FAILURES {
            assert!(access.log_in("wrong", peer, &host, &uri).await.is_err());
        }
        assert!(access.log_in("right", peer, &host, &uri).await.is_err(), "the address has to wait");
        assert_eq!(access.role(&bearer, peer).await.unwrap(), Role::Operator, "this one is known");
        assert!(access.log_in("right", "192.0.2.2".parse().unwrap(), &host, &uri).await.is_ok());
    }

    #[test]
    fn password_file_is_read_and_errors_quote_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hashed = hash("secret").unwrap();
        std::fs::write(file.path(), format!("# people\noperator:{hashed}\n\nviewer:{hashed}\n")).unwrap();
        let passwords = Passwords::load(Some(file.path())).unwrap();
        assert_eq!(passwords.role("secret"), Some(Role::Operator));
        assert_eq!(passwords.role("other"), None);
        for bad in ["operator:hunter2", "hunter2", "root:hunter2"] {
            std::fs::write(file.path(), bad).unwrap();
            let error = Passwords::load(Some(file.path())).err().unwrap().to_string();
            assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn bearer_scheme_is_written_in_any_case() {
        for text in ["Bearer a b", "bearer a b", "BEARER  a b"] {
            assert_eq!(bearer(text), Some("a b"), "{text}");
        }
        for text in ["Basic a", "Bearer", "a"] {
            assert_eq!(bearer(text), None, "{text}");
        }
    }
}
