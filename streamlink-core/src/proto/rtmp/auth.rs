//! Authentication of clients, as Adobe's and Limelight's servers ask for it (in no specification; librtmp and ffmpeg
//! implement both). A server refuses `connect` with a description that names the method, then with one that holds a
//! challenge. The client connects anew each time, with its answer as parameters of the application.

use crate::{random::Random, secret::Secret};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest, Md5};

/// Maximum length of the values of a challenge, in bytes.
const MAX_VALUE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Adobe,
    Limelight,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Adobe => "adobe",
            Self::Limelight => "llnw",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Fresh,
    /// The user name was sent.
    Named,
    /// The answer to a challenge was sent.
    Answered,
}

/// Authentication over the connections of one attempt.
#[derive(Debug)]
pub(crate) struct Authentication {
    user: String,
    password: Secret,
    progress: Progress,
    parameters: String,
}

impl Authentication {
    pub(crate) fn new(user: &str, password: Secret) -> Self {
        Self { user: user.to_owned(), password, progress: Progress::Fresh, parameters: String::new() }
    }

    /// Parameters of the application for the next connection. Empty before the first challenge.
    pub(crate) fn parameters(&self) -> &str {
        &self.parameters
    }

    pub(crate) fn password(&self) -> &Secret {
        &self.password
    }

    /// Prepares the next connection from the description with which a server has refused the last one. `app`: the
    /// application without parameters.
    ///
    /// # Errors
    /// With the reason when another connection would not help, as after a wrong password.
    pub(crate) fn answer(&mut self, description: &str, app: &str, random: &Random) -> Result<(), String> {
        let method = method(description)?;
        let fields = description.split_once("?reason=").map(|(_, fields)| fields.trim());
        let reason = fields.map(|fields| fields.split('&').next().unwrap_or_default());
        match (reason, self.progress) {
            (None, Progress::Fresh) => {
                self.parameters = format!("?authmod={}&user={}", method.name(), self.user);
                self.progress = Progress::Named;
                Ok(())
            }
            (Some("needauth"), Progress::Fresh | Progress::Named) => {
                let fields = Fields(fields.unwrap_or_default());
                self.parameters = match method {
                    Method::Adobe => self.adobe(&fields, random)?,
                    Method::Limelight => self.limelight(&fields, app, random)?,
                };
                self.progress = Progress::Answered;
                Ok(())
            }
            _ => Err("the user name or the password is wrong".into()),
        }
    }

    fn adobe(&self, fields: &Fields<'_>, random: &Random) -> Result<String, String> {
        let user = fields.get("user")?.unwrap_or(&self.user);
        let salt = fields.get("salt")?.unwrap_or_default();
        let challenge = fields.get("challenge")?.filter(|text| !text.is_empty());
        let opaque = fields.get("opaque")?.filter(|text| !text.is_empty());
        let own = hex::encode(random.bytes::<4>());
        let hidden = BASE64.encode(digest(&[user, salt, self.password.reveal()]));
        let response = BASE64.encode(digest(&[&hidden, opaque.or(challenge).unwrap_or_default(), &own]));
        let opaque = opaque.map(|opaque| format!("&opaque={opaque}")).unwrap_or_default();
        Ok(format!("?authmod=adobe&user={user}&challenge={own}&response={response}{opaque}"))
    }

    /// Answers in the way of HTTP's digest authentication, with fixed realm, method and quality.
    fn limelight(&self, fields: &Fields<'_>, app: &str, random: &Random) -> Result<String, String> {
        const COUNT: &str = "00000001";
        let user = fields.get("user")?.unwrap_or(&self.user);
        let nonce = fields.get("nonce")?.unwrap_or_default();
        let own = hex::encode(random.bytes::<4>());
        let instance = if app.contains('/') { "" } else { "/_definst_" };
        let hidden = hex::encode(digest(&[user, ":live:", self.password.reveal()]));
        let asked = hex::encode(digest(&["publish:/", app, instance]));
        let response = hex::encode(digest(&[&hidden, ":", nonce, ":", COUNT, ":", &own, ":auth:", &asked]));
        Ok(format!("?authmod=llnw&user={user}&nonce={nonce}&cnonce={own}&nc={COUNT}&response={response}"))
    }
}

/// Returns whether a description asks for authentication.
pub(crate) fn is_challenge(description: &str) -> bool {
    description.contains("authmod=")
}

fn method(description: &str) -> Result<Method, String> {
    let named = |method: &Method| description.contains(&format!("authmod={}", method.name()));
    let found = [Method::Adobe, Method::Limelight].into_iter().find(named);
    found.ok_or_else(|| "the server asks for a method of authentication that is not supported".to_owned())
}

/// Fields of a challenge, as in `needauth&user=me&salt=c2FsdA==`.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    /// Returns a value, without the white space and brackets that servers put behind it. A value may hold `=`.
    fn get(&self, name: &str) -> Result<Option<&'a str>, String> {
        let of_name = |field: &'a str| field.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value);
        let value = self.0.split('&').find_map(of_name);
        let value = value.map(|value| value.split([' ', ']', ';', '\r', '\n']).next().unwrap_or_default());
        match value {
            Some(value) if value.len() > MAX_VALUE => Err(format!("the server's {name} is too long")),
            value => Ok(value),
        }
    }
}

fn digest(parts: &[&str]) -> [u8; 16] {
    let mut digest = Md5::new();
    for part in parts {
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authentication() -> Authentication {
        Authentication::new("pub", "secret".into())
    }

    fn random() -> Random {
        Random::of(|bytes| bytes.fill(0xab))
    }

    #[test]
    fn rtmp_adobe_authentication_answers_challenge() {
        let mut auth = authentication();
        let random = random();
        assert_eq!(auth.parameters(), "");
        auth.answer("[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] : ", "live", &random).unwrap();
        assert_eq!(auth.parameters(), "?authmod=adobe&user=pub");
        let challenge = "[ AccessManager.Reject ] : [ authmod=adobe ] : \
                         ?reason=needauth&user=pub&salt=c2FsdA==&challenge=Y2g=&opaque=b3A= ";
        auth.answer(challenge, "live", &random).unwrap();
        // Computed with Python's hashlib: b64(md5(b64(md5("pub" "c2FsdA==" "secret")) "b3A=" "abababab")).
        assert_eq!(
            auth.parameters(),
            "?authmod=adobe&user=pub&challenge=abababab&response=ZdpMtsNnpLPoOJ/cfnXRcw==&opaque=b3A="
        );
        assert!(auth.answer(challenge, "live", &random).is_err(), "asked a third time");
    }

    #[test]
    fn rtmp_adobe_authentication_uses_challenge_without_opaque() {
        let mut auth = authentication();
        let random = random();
        auth.answer("authmod=adobe ?reason=needauth&user=pub&salt=s&challenge=b3A=", "live", &random).unwrap();
        assert_eq!(auth.parameters(), "?authmod=adobe&user=pub&challenge=abababab&response=AjWg7/ieHrKkadatGEsdHQ==");
    }

    #[test]
    fn rtmp_limelight_authentication_answers_nonce() {
        let mut auth = authentication();
        let random = random();
        auth.answer("[ code=403 need auth; authmod=llnw ] : ", "live", &random).unwrap();
        assert_eq!(auth.parameters(), "?authmod=llnw&user=pub");
        auth.answer("[ authmod=llnw ] : ?reason=needauth&user=pub&nonce=abc", "live", &random).unwrap();
        assert_eq!(
            auth.parameters(),
            "?authmod=llnw&user=pub&nonce=abc&cnonce=abababab&nc=00000001&response=31f98c055964344ec0e65a3924d8492e"
        );
    }

    #[test]
    fn rtmp_authentication_gives_up_on_refusals() {
        for told in [
            "[ authmod=adobe ] : ?reason=authfailed&opaque=x",
            "[ authmod=adobe ] : ?reason=nosuchuser",
            "[ authmod=llnw ] : ?reason=authfail",
            "authmod=kerberos",
        ] {
            assert!(authentication().answer(told, "live", &random()).is_err(), "{told}");
        }
        let mut auth = authentication();
        let asks = "code=403 need auth; authmod=adobe";
        auth.answer(asks, "live", &random()).unwrap();
        assert!(auth.answer(asks, "live", &random()).is_err(), "asked for the user again");
        let long = format!("authmod=adobe ?reason=needauth&salt={}", "x".repeat(257));
        assert!(authentication().answer(&long, "live", &random()).is_err());
        assert!(!format!("{:?}", authentication()).contains("secret"));
    }
}
