//! Basic and Digest authentication (RFC 7617, RFC 7616, and RFC 2069 for Digest without `qop`), in both directions.

use crate::{random::Random, secret::Secret};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use zeroize::Zeroizing;

/// Realm of the server's challenges.
const REALM: &str = "StreamLink";
/// Maximum number of parameters read from a header.
const MAX_PARAMETERS: usize = 32;

/// A user name and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: Secret,
}

impl User {
    /// Returns the credentials for Basic authentication (`name:password` in Base64).
    pub(super) fn basic(&self) -> Zeroizing<String> {
        let both = Zeroizing::new(format!("{}:{}", self.name, self.password.reveal()));
        Zeroizing::new(BASE64_STANDARD.encode(both.as_bytes()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    /// Returns the hash of a text in hexadecimal. The text is zeroized.
    fn hash(self, text: String) -> String {
        let text = Zeroizing::new(text);
        match self {
            Algorithm::Md5 => hex(&Md5::digest(text.as_bytes())),
            Algorithm::Sha256 => hex(&Sha256::digest(text.as_bytes())),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Algorithm::Md5 => "MD5",
            Algorithm::Sha256 => "SHA-256",
        }
    }

    fn parse(name: Option<&str>) -> Option<Self> {
        match name.map(str::to_ascii_uppercase).as_deref() {
            None | Some("MD5") => Some(Algorithm::Md5),
            Some("SHA-256") => Some(Algorithm::Sha256),
            _ => None,
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Reads parameters of the form `key=value` or `key="value"`, separated by commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let (mut found, mut rest) = (Vec::new(), text.trim());
    while let Some((key, value)) = rest.split_once('=')
        && found.len() < MAX_PARAMETERS
    {
        let key = key.trim().trim_start_matches(',').trim().to_ascii_lowercase();
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_once(',').unwrap_or((value, "")),
        };
        found.push((key, value.trim().to_owned()));
        rest = after.trim_start().trim_start_matches(',');
    }
    found
}

/// Returns the `response` parameter of Digest, which proves knowledge of the password.
fn proof(algorithm: Algorithm, user: &User, get: &dyn Fn(&str) -> Option<String>, method: &str) -> Option<String> {
    let (realm, nonce, uri) = (get("realm")?, get("nonce")?, get("uri")?);
    let who = Zeroizing::new(algorithm.hash(format!("{}:{realm}:{}", user.name, user.password.reveal())));
    let what = algorithm.hash(format!("{method}:{uri}"));
    let who = who.as_str();
    Some(algorithm.hash(match get("qop") {
        Some(qop) => format!("{who}:{nonce}:{}:{}:{qop}:{what}", get("nc")?, get("cnonce")?),
        None => format!("{who}:{nonce}:{what}"),
    }))
}

/// Compares texts in a time that does not depend on the position of a difference.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Challenges of a server on one connection.
#[derive(Debug)]
pub(crate) struct Challenges {
    nonce: String,
}

impl Challenges {
    /// Creates challenges with a random nonce. The nonce is valid on one connection, so that responses cannot be
    /// replayed on another.
    pub(crate) fn new(random: &Random) -> Self {
        let mut bytes = [0; 16];
        random.fill(&mut bytes);
        Self { nonce: hex(&bytes) }
    }

    /// Returns the header lines of the challenges. `stale`: the response was right, but for another nonce.
    pub(super) fn headers(&self, stale: bool) -> String {
        let stale = if stale { ", stale=true" } else { "" };
        let digest = |algorithm: Algorithm| {
            let (nonce, name) = (&self.nonce, algorithm.name());
            format!("WWW-Authenticate: Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm={name}{stale}\r\n")
        };
        // In the order of preference (RFC 7616 section 3.7). Clients that support only MD5 take the first and ignore
        // its algorithm (live555), or take the last (FFmpeg). In both cases they answer with MD5, which is valid
        // because all challenges have the same nonce.
        format!("{}{}WWW-Authenticate: Basic realm=\"{REALM}\"\r\n", digest(Algorithm::Sha256), digest(Algorithm::Md5))
    }

    /// Checks an `Authorization` header.
    pub(super) fn check(&self, header: Option<&str>, user: &User, method: &str) -> Verdict {
        let Some((scheme, rest)) = header.and_then(|header| header.trim().split_once(' ')) else {
            return Verdict::Refused;
        };
        if scheme.eq_ignore_ascii_case("basic") {
            let expected = user.basic();
            return if same(rest.trim(), &expected) { Verdict::Accepted } else { Verdict::Refused };
        }
        if !scheme.eq_ignore_ascii_case("digest") {
            return Verdict::Refused;
        }
        let parameters = parameters(rest);
        let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let Some(algorithm) = Algorithm::parse(get("algorithm").as_deref()) else { return Verdict::Refused };
        let right = get("username").is_some_and(|name| same(&name, &user.name))
            && get("realm").as_deref() == Some(REALM)
            && matches!((proof(algorithm, user, &get, method), get("response")), (Some(a), Some(b)) if same(&a, &b));
        match (right, get("nonce").is_some_and(|nonce| same(&nonce, &self.nonce))) {
            (true, true) => Verdict::Accepted,
            (true, false) => Verdict::Stale,
            (false, _) => Verdict::Refused,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    /// Valid credentials, but with a nonce of another connection.
    Stale,
    Refused,
}

/// Authentication scheme with which a client answers the challenge of a server.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Basic,
    Digest { realm: String, nonce: String, algorithm: &'static str, qop: bool, opaque: Option<String> },
}

impl Answer {
    /// Chooses the best of a server's challenges: Digest with SHA-256, then Digest with MD5, then Basic.
    pub(super) fn choose<'a>(challenges: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut best: Option<(u8, Self)> = None;
        for challenge in challenges {
            let (scheme, rest) = challenge.trim().split_once(' ').unwrap_or((challenge.trim(), ""));
            let found = if scheme.eq_ignore_ascii_case("basic") {
                (1, Answer::Basic)
            } else if scheme.eq_ignore_ascii_case("digest") {
                let parameters = parameters(rest);
                let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
                let Some(algorithm) = Algorithm::parse(get("algorithm").as_deref()) else { continue };
                let (Some(realm), Some(nonce)) = (get("realm"), get("nonce")) else { continue };
                let qop = get("qop").is_some_and(|qop| qop.split(',').any(|q| q.trim() == "auth"));
                let rank = if algorithm == Algorithm::Sha256 { 3 } else { 2 };
                (rank, Answer::Digest { realm, nonce, algorithm: algorithm.name(), qop, opaque: get("opaque") })
            } else {
                continue;
            };
            if best.as_ref().is_none_or(|(rank, _)| found.0 > *rank) {
                best = Some(found);
            }
        }
        best.map(|(_, answer)| answer)
    }

    /// Returns the `Authorization` header of a request. `count` is the number of requests made with this nonce, and
    /// `cnonce` is the client nonce.
    pub(super) fn header(
        &self,
        user: &User,
        method: &str,
        uri: &str,
        (count, cnonce): (u32, &str),
    ) -> Zeroizing<String> {
        match self {
            Answer::Basic => Zeroizing::new(format!("Authorization: Basic {}\r\n", *user.basic())),
            Answer::Digest { realm, nonce, algorithm, qop, opaque } => {
                let nc = format!("{count:08x}");
                let get = |name: &str| match name {
                    "realm" => Some(realm.clone()),
                    "nonce" => Some(nonce.clone()),
                    "uri" => Some(uri.to_owned()),
                    "qop" => qop.then(|| "auth".to_owned()),
                    "nc" => Some(nc.clone()),
                    "cnonce" => Some(cnonce.to_owned()),
                    _ => None,
                };
                let kind = Algorithm::parse(Some(algorithm)).unwrap_or(Algorithm::Md5);
                let response = proof(kind, user, &get, method).unwrap_or_default();
                let name = &user.name;
                let mut header = format!(
                    "Authorization: Digest username=\"{name}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
                     response=\"{response}\""
                );
                if kind != Algorithm::Md5 {
                    header += &format!(", algorithm={algorithm}");
                }
                if *qop {
                    header += &format!(", qop=auth, nc={nc}, cnonce=\"{cnonce}\"");
                }
                if let Some(opaque) = opaque {
                    header += &format!(", opaque=\"{opaque}\"");
                }
                Zeroizing::new(header + "\r\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(bytes: &mut [u8]) {
        bytes.fill(7);
    }

    fn user() -> User {
        User { name: "me".into(), password: "pass, \"word\"".into() }
    }

    #[test]
    fn clients_and_servers_agree_by_every_scheme() {
        let challenges = Challenges::new(&Random::of(random));
        let text = challenges.headers(false);
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("WWW-Authenticate: ")).collect();
        for offered in [&lines[..], &lines[..1], &lines[2..]] {
            let answer = Answer::choose(offered.iter().copied()).unwrap();
            let header = answer.header(&user(), "DESCRIBE", "rtsp://h/p", (1, "5f3c9a0e"));
            let header = header.trim().strip_prefix("Authorization: ").unwrap();
            assert_eq!(challenges.check(Some(header), &user(), "DESCRIBE"), Verdict::Accepted, "{header}");
            let other = User { password: "other".into(), ..user() };
            assert_eq!(challenges.check(Some(header), &other, "DESCRIBE"), Verdict::Refused);
            if header.starts_with("Digest") {
                assert_eq!(challenges.check(Some(header), &user(), "SETUP"), Verdict::Refused, "another method");
                let elsewhere = Challenges { nonce: "0".repeat(32) };
                assert_eq!(elsewhere.check(Some(header), &user(), "DESCRIBE"), Verdict::Stale, "a replay");
            }
        }
        assert_eq!(challenges.check(None, &user(), "DESCRIBE"), Verdict::Refused);
    }

    #[test]
    fn rtsp_digest_matches_rfc_2617_example() {
        let user = User { name: "Mufasa".into(), password: "Circle Of Life".into() };
        let challenge = "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
            nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        let found = parameters(challenge.strip_prefix("Digest ").unwrap());
        assert_eq!(found[1], ("qop".into(), "auth,auth-int".into()));
        let get = |name: &str| match name {
            "uri" => Some("/dir/index.html".to_owned()),
            "qop" => Some("auth".into()),
            "nc" => Some("00000001".into()),
            "cnonce" => Some("0a4f113b".into()),
            _ => found.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()),
        };
        assert_eq!(proof(Algorithm::Md5, &user, &get, "GET").unwrap(), "6629fae49393a05397450978507c4ef1");
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read(text in ".{0,200}") {
            let challenges = Challenges::new(&Random::of(random));
            challenges.check(Some(&format!("Digest {text}")), &user(), "PLAY");
            Answer::choose([text.as_str(), &format!("Digest {text}")].into_iter());
        }
    }
}
