//! Basic and Digest authentication (RFC 7617, RFC 7616, and RFC 2069 for Digest without `qop`), in both directions.

use crate::{random::Random, secret::Secret};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Realm of the server's challenges.
const REALM: &str = "StreamLink";
/// Maximum number of parameters read from a header.
const MAX_PARAMETERS: usize = 32;
/// Maximum number of challenges of a server that are considered.
const MAX_CHALLENGES: usize = 16;

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
enum Hash {
    Md5,
    Sha256,
    /// SHA-512/256 (FIPS 180-4).
    Sha512,
}

impl Hash {
    /// Returns the hash of a text in hexadecimal. The text is zeroized.
    fn of(self, text: String) -> String {
        let text = Zeroizing::new(text);
        self.of_bytes(text.as_bytes())
    }

    fn of_bytes(self, bytes: &[u8]) -> String {
        match self {
            Self::Md5 => hex::encode(Md5::digest(bytes)),
            Self::Sha256 => hex::encode(Sha256::digest(bytes)),
            Self::Sha512 => hex::encode(Sha512_256::digest(bytes)),
        }
    }
}

/// Algorithm of Digest (RFC 7616 section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Algorithm {
    hash: Hash,
    /// The nonces enter the hash of the password.
    is_session: bool,
}

impl Algorithm {
    const ALL: [(&'static str, Self); 6] = [
        ("MD5", Self { hash: Hash::Md5, is_session: false }),
        ("MD5-sess", Self { hash: Hash::Md5, is_session: true }),
        ("SHA-256", Self { hash: Hash::Sha256, is_session: false }),
        ("SHA-256-sess", Self { hash: Hash::Sha256, is_session: true }),
        ("SHA-512-256", Self { hash: Hash::Sha512, is_session: false }),
        ("SHA-512-256-sess", Self { hash: Hash::Sha512, is_session: true }),
    ];
    const MD5: Self = Self { hash: Hash::Md5, is_session: false };

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, algorithm)| *algorithm == self).map_or("MD5", |(name, _)| name)
    }

    fn parse(name: Option<&str>) -> Option<Self> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Some(Self::MD5) };
        let found = Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, algorithm)| *algorithm)
    }

    /// Returns the rank among the challenges of a server.
    fn strength(self) -> u8 {
        match self.hash {
            Hash::Md5 => 2,
            Hash::Sha256 => 3,
            Hash::Sha512 => 4,
        }
    }
}

/// Reads parameters of the form `key=value` or `key="value"`, separated by commas. A backslash within quotes stays, as
/// the hashes contain it (RFC 7616 section 3.4).
fn parameters(text: &str) -> Vec<(String, String)> {
    let is_separator = |c: char| c == ',' || c.is_ascii_whitespace();
    let mut found = Vec::new();
    let mut rest = text.trim();
    while let Some((key, value)) = rest.split_once('=')
        && found.len() < MAX_PARAMETERS
    {
        let key = key.trim_matches(is_separator).to_ascii_lowercase();
        let value = value.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, after) = match quote.and_then(|quote| value.strip_prefix(quote).map(|quoted| (quote, quoted))) {
            Some((quote, quoted)) => split_quoted(quoted, quote),
            None => value.split_once(',').unwrap_or((value, "")),
        };
        found.push((key, value.trim().to_owned()));
        rest = after;
    }
    found
}

/// Splits a text at the quote that ends it, which no backslash stands before.
fn split_quoted(text: &str, quote: char) -> (&str, &str) {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        if c == quote && !is_escaped {
            let (value, after) = text.split_at(at);
            return (value, after.get(quote.len_utf8()..).unwrap_or_default());
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    (text, "")
}

/// Splits a header with several challenges. Each begins with the name of a scheme.
fn split_challenges(text: &str) -> Vec<&str> {
    // Commas within quotes separate nothing.
    let mut starts = Vec::new();
    let mut is_quoted = false;
    let mut is_escaped = false;
    let mut begin = true;
    for (at, c) in text.char_indices() {
        if begin && !c.is_ascii_whitespace() && c != ',' {
            begin = false;
            if begins_challenge(text.get(at..).unwrap_or_default()) {
                starts.push(at);
            }
        }
        match c {
            '"' if !is_escaped => is_quoted = !is_quoted,
            ',' if !is_quoted => begin = true,
            _ => {}
        }
        is_escaped = is_quoted && c == '\\' && !is_escaped;
    }
    let ends = starts.iter().copied().skip(1).chain([text.len()]);
    starts.iter().zip(ends).filter_map(|(start, end)| text.get(*start..end)).collect()
}

/// Returns whether a text begins with a scheme, which a space or nothing follows, and not with `name=value`.
fn begins_challenge(text: &str) -> bool {
    let piece = text.split(',').next().unwrap_or_default();
    let (word, rest) = piece.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((piece, ""));
    !word.contains('=') && !rest.trim_start().starts_with('=')
}

/// Returns the `response` parameter of Digest, which proves knowledge of the password.
fn proof(
    algorithm: Algorithm,
    user: &User,
    get: &dyn Fn(&str) -> Option<String>,
    method: &str,
    body: &[u8],
) -> Option<String> {
    let hash = algorithm.hash;
    let realm = get("realm")?;
    let nonce = get("nonce")?;
    let uri = get("uri")?;
    let mut who = Zeroizing::new(hash.of(format!("{}:{realm}:{}", user.name, user.password.reveal())));
    if algorithm.is_session {
        who = Zeroizing::new(hash.of(format!("{}:{nonce}:{}", who.as_str(), get("cnonce")?)));
    }
    let qop = get("qop");
    let what = match qop.as_deref() {
        Some("auth-int") => hash.of(format!("{method}:{uri}:{}", hash.of_bytes(body))),
        _ => hash.of(format!("{method}:{uri}")),
    };
    let who = who.as_str();
    Some(hash.of(match qop {
        Some(qop) => format!("{who}:{nonce}:{}:{}:{qop}:{what}", get("nc")?, get("cnonce")?),
        None => format!("{who}:{nonce}:{what}"),
    }))
}

/// Compares texts in a time that does not depend on the position of a difference.
fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
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
        Self { nonce: hex::encode(bytes) }
    }

    /// Returns the header lines of the challenges. `stale`: the response was right, but for another nonce.
    pub(super) fn headers(&self, stale: bool) -> String {
        let stale = if stale { ", stale=true" } else { "" };
        let digest = |algorithm: Algorithm| {
            let nonce = &self.nonce;
            let name = algorithm.name();
            format!("WWW-Authenticate: Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm={name}{stale}\r\n")
        };
        // In the order of preference (RFC 7616 section 3.7). Clients that support only MD5 take the first and ignore
        // its algorithm (live555), or take the last (FFmpeg). In both cases they answer with MD5, which is valid
        // because all challenges have the same nonce.
        let sha256 = Algorithm { hash: Hash::Sha256, is_session: false };
        format!("{}{}WWW-Authenticate: Basic realm=\"{REALM}\"\r\n", digest(sha256), digest(Algorithm::MD5))
    }

    /// Checks an `Authorization` header.
    pub(super) fn check(&self, header: Option<&str>, user: &User, method: &str, body: &[u8]) -> Verdict {
        let Some((scheme, rest)) = header.and_then(|header| header.trim().split_once([' ', '\t'])) else {
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
        let right = get("username").is_some_and(|name| same(&name, &escaped(&user.name)) || same(&name, &user.name))
            && get("realm").as_deref() == Some(REALM)
            && matches!((proof(algorithm, user, &get, method, body), get("response")), (Some(a), Some(b)) if same(&a, &b));
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

/// Returns a text as it stands within quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Authentication scheme with which a client answers the challenge of a server.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Basic,
    Digest(Digesting),
}

/// A challenge of Digest.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Digesting {
    realm: String,
    nonce: String,
    algorithm: Algorithm,
    /// The server names the algorithm, so that the answer does, too.
    names_algorithm: bool,
    qop: Option<&'static str>,
    opaque: Option<String>,
    /// The server says that only the nonce of the last answer was wrong.
    is_stale: bool,
}

/// A request that is to carry an `Authorization` header.
pub(super) struct Authorizing<'a> {
    pub(super) method: &'a str,
    pub(super) uri: &'a str,
    pub(super) body: &'a [u8],
    /// Number of requests made with the nonce, this one included.
    pub(super) count: u32,
    /// Nonce of the client.
    pub(super) cnonce: &'a str,
}

impl Answer {
    /// Chooses the best of a server's challenges: Digest with the strongest hash, then Basic.
    pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut best: Option<(u8, Self)> = None;
        for challenge in headers.flat_map(split_challenges).take(MAX_CHALLENGES) {
            let challenge = challenge.trim().trim_end_matches([',', ' ']);
            let (scheme, rest) = challenge.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((challenge, ""));
            let found = if scheme.eq_ignore_ascii_case("basic") {
                (1, Self::Basic)
            } else if scheme.eq_ignore_ascii_case("digest") {
                let Some(digest) = Digesting::parse(rest) else { continue };
                (digest.algorithm.strength(), Self::Digest(digest))
            } else {
                continue;
            };
            if best.as_ref().is_none_or(|(rank, _)| found.0 > *rank) {
                best = Some(found);
            }
        }
        best.map(|(_, answer)| answer)
    }

    /// Returns whether this answers the refusal of another answer: the nonce is a new one, or was declared stale.
    pub(super) fn renews(&self, refused: &Self) -> bool {
        match (self, refused) {
            (Self::Digest(new), Self::Digest(old)) => new.nonce != old.nonce || new.is_stale,
            _ => self != refused,
        }
    }

    pub(super) fn is_stale(&self) -> bool {
        matches!(self, Self::Digest(digest) if digest.is_stale)
    }

    /// Adopts the `nextnonce` of an `Authentication-Info` header (RFC 7616 section 3.5). Returns whether there is one.
    pub(super) fn adopt_next(&mut self, header: &str) -> bool {
        let Self::Digest(digest) = self else { return false };
        let next = parameters(header).into_iter().find(|(name, value)| name == "nextnonce" && !value.is_empty());
        // With a session algorithm, the first nonce stays in the hash of the password.
        match next.filter(|(_, next)| !digest.algorithm.is_session && *next != digest.nonce) {
            Some((_, next)) => {
                digest.nonce = next;
                true
            }
            None => false,
        }
    }

    /// Returns the `Authorization` header of a request.
    pub(super) fn header(&self, user: &User, request: &Authorizing<'_>) -> Zeroizing<String> {
        match self {
            Self::Basic => Zeroizing::new(format!("Authorization: Basic {}\r\n", *user.basic())),
            Self::Digest(digest) => digest.header(user, request),
        }
    }
}

impl Digesting {
    fn parse(text: &str) -> Option<Self> {
        let parameters = parameters(text);
        let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let named = get("algorithm");
        let offered = get("qop").unwrap_or_default();
        let offers = |name: &str| offered.split([',', ' ']).any(|qop| qop.trim().eq_ignore_ascii_case(name));
        Some(Self {
            realm: get("realm")?,
            nonce: get("nonce")?,
            algorithm: Algorithm::parse(named.as_deref())?,
            names_algorithm: named.is_some(),
            qop: ["auth", "auth-int"].into_iter().find(|name| offers(name)),
            opaque: get("opaque"),
            is_stale: get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }

    fn header(&self, user: &User, request: &Authorizing<'_>) -> Zeroizing<String> {
        let Self { realm, nonce, algorithm, qop, .. } = self;
        let Authorizing { method, uri, body, count, cnonce } = request;
        let nc = format!("{count:08x}");
        let get = |name: &str| match name {
            "realm" => Some(realm.clone()),
            "nonce" => Some(nonce.clone()),
            "uri" => Some((*uri).to_owned()),
            "qop" => qop.map(str::to_owned),
            "nc" => Some(nc.clone()),
            "cnonce" => Some((*cnonce).to_owned()),
            _ => None,
        };
        let response = proof(*algorithm, user, &get, method, body).unwrap_or_default();
        let name = escaped(&user.name);
        let mut header = format!(
            "Authorization: Digest username=\"{name}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\""
        );
        // Some cameras know only the form without it, which stands for MD5.
        if *algorithm != Algorithm::MD5 || self.names_algorithm && qop.is_some() {
            header += &format!(", algorithm={}", algorithm.name());
        }
        match qop {
            Some(qop) => header += &format!(", qop={qop}, nc={nc}, cnonce=\"{cnonce}\""),
            None if algorithm.is_session => header += &format!(", cnonce=\"{cnonce}\""),
            None => {}
        }
        if let Some(opaque) = &self.opaque {
            header += &format!(", opaque=\"{opaque}\"");
        }
        Zeroizing::new(header + "\r\n")
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

    fn describe() -> Authorizing<'static> {
        Authorizing { method: "DESCRIBE", uri: "rtsp://h/p", body: b"", count: 1, cnonce: "5f3c9a0e" }
    }

    #[test]
    fn clients_and_servers_agree_by_every_scheme() {
        let challenges = Challenges::new(&Random::of(random));
        let text = challenges.headers(false);
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("WWW-Authenticate: ")).collect();
        for offered in [&lines[..], &lines[..1], &lines[2..]] {
            let answer = Answer::choose(offered.iter().copied()).unwrap();
            let header = answer.header(&user(), &describe());
            let header = header.trim().strip_prefix("Authorization: ").unwrap();
            assert_eq!(challenges.check(Some(header), &user(), "DESCRIBE", b""), Verdict::Accepted, "{header}");
            let other = User { password: "other".into(), ..user() };
            assert_eq!(challenges.check(Some(header), &other, "DESCRIBE", b""), Verdict::Refused);
            if header.starts_with("Digest") {
                assert_eq!(challenges.check(Some(header), &user(), "SETUP", b""), Verdict::Refused, "another method");
                let elsewhere = Challenges { nonce: "0".repeat(32) };
                assert_eq!(elsewhere.check(Some(header), &user(), "DESCRIBE", b""), Verdict::Stale, "a replay");
            }
        }
        assert_eq!(challenges.check(None, &user(), "DESCRIBE", b""), Verdict::Refused);
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
        assert_eq!(proof(Algorithm::MD5, &user, &get, "GET", b"").unwrap(), "6629fae49393a05397450978507c4ef1");
    }

    #[test]
    fn rtsp_digest_matches_rfc_7616_examples() {
        let user = User { name: "Mufasa".into(), password: "Circle of Life".into() };
        let request = Authorizing {
            method: "GET",
            uri: "/dir/index.html",
            body: b"",
            count: 1,
            cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        };
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let challenge = format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
                nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
                opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            );
            let header = Answer::choose([challenge.as_str()].into_iter()).unwrap().header(&user, &request);
            assert!(header.contains(&format!("response=\"{response}\"")), "{}", *header);
        }
        // Section 3.9.2, where the user name is hashed by the client; the response is that of the plain name.
        let sha512 = Hash::Sha512.of("abc".into());
        assert_eq!(sha512, "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23");
    }

    #[test]
    fn rtsp_digest_of_session_algorithms_is_answered() {
        let user = User { name: "u".into(), password: "p".into() };
        for (name, hash) in
            [("MD5-sess", Hash::Md5), ("sha-256-SESS", Hash::Sha256), ("SHA-512-256-sess", Hash::Sha512)]
        {
            for qop in ["", ", qop=\"auth\"", ", qop=auth-int"] {
                let challenge = format!("Digest realm=\"R\", nonce=\"n\", algorithm=\"{name}\"{qop}");
                let header = Answer::choose([challenge.as_str()].into_iter()).unwrap().header(&user, &describe());
                let of = |text: &str| hash.of(text.to_owned());
                let who = of(&format!("{}:n:5f3c9a0e", of("u:R:p")));
                let expected = match qop {
                    "" => of(&format!("{who}:n:{}", of("DESCRIBE:rtsp://h/p"))),
                    ", qop=\"auth\"" => of(&format!("{who}:n:00000001:5f3c9a0e:auth:{}", of("DESCRIBE:rtsp://h/p"))),
                    _ => {
                        let what = of(&format!("DESCRIBE:rtsp://h/p:{}", of("")));
                        of(&format!("{who}:n:00000001:5f3c9a0e:auth-int:{what}"))
                    }
                };
                assert!(header.contains(&format!("response=\"{expected}\"")), "{}", *header);
                assert!(header.contains("cnonce=\"5f3c9a0e\""), "{}", *header);
            }
        }
    }

    #[test]
    fn rtsp_strongest_known_challenge_is_answered() {
        let chosen = |headers: &[&str]| match Answer::choose(headers.iter().copied()) {
            None => "none".to_owned(),
            Some(Answer::Basic) => "Basic".to_owned(),
            Some(Answer::Digest(digest)) => format!("{} {}", digest.algorithm.name(), digest.realm),
        };
        let digest = |algorithm: &str| format!("Digest realm=\"R\", nonce=\"n\"{algorithm}");
        let [md5, sha, odd] = ["", ", algorithm=SHA-256", ", algorithm=SHA-3"].map(digest);
        assert_eq!(chosen(&["Basic realm=\"R\"", &md5]), "MD5 R");
        assert_eq!(chosen(&[&md5, &sha, "Basic realm=x"]), "SHA-256 R");
        assert_eq!(chosen(&[&odd, "basic realm=x"]), "Basic");
        assert_eq!(chosen(&[&format!("Basic realm=\"a, Digest b\", {md5}, {sha}, Negotiate")]), "SHA-256 R");
        assert_eq!(chosen(&[&odd, "Bearer", "Negotiate abc="]), "none");
        for text in [
            "digest realm=R,nonce=n",
            "DIGEST  realm = \"R\" , nonce = \"n\",qop=auth",
            "Digest nonce=\"n\" realm=\"R\" stale=FALSE",
            "Digest realm='R', nonce='n'",
            "Digest\trealm=\"R\",,nonce=\"n\",algorithm=\"md5\"",
            "Digest realm=\"R\", nonce=\"n\", algorithm=",
        ] {
            assert_eq!(chosen(&[text]), "MD5 R", "{text}");
        }
        assert_eq!(chosen(&["Digest realm=\"a \\\"quoted\\\" R, x\", nonce=\"n\""]), "MD5 a \\\"quoted\\\" R, x");
        assert_eq!(chosen(&["Digest realm=\"R\""]), "none", "without a nonce");
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read(text in ".{0,200}") {
            let challenges = Challenges::new(&Random::of(random));
            challenges.check(Some(&format!("Digest {text}")), &user(), "PLAY", b"");
            Answer::choose([text.as_str(), &format!("Digest {text}")].into_iter());
        }
    }
}
