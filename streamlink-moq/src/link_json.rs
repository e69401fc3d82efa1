//! Settings of a region's link as JSON, for hosts that take them from a file or over the C ABI.

use crate::{Error, LinkSettings, RegionLinkOptions, SrtLink, Token};
use serde::Deserialize;
use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};
use streamlink_core::{Latency, PeerText};

/// Range of the interval of keep-alive packets, in milliseconds.
const KEEP_ALIVE: RangeInclusive<u64> = 10..=10_000;
/// Range of the times after which a relay is given up, in milliseconds.
const TIMEOUT: RangeInclusive<u64> = 100..=60_000;

/// Form of the settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    key: String,
    #[serde(default)]
    roots: Vec<PathBuf>,
    #[serde(default)]
    fingerprints: Vec<String>,
    certificate: Option<PathBuf>,
    certificate_key: Option<PathBuf>,
    server_name: Option<String>,
    token: Option<String>,
    bind: Option<SocketAddr>,
    keep_alive_ms: Option<u64>,
    idle_timeout_ms: Option<u64>,
    connect_timeout_ms: Option<u64>,
    cost: Option<u64>,
    srt: Option<SrtForm>,
}

/// Form of the settings of media over SRT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SrtForm {
    bind: SocketAddr,
    addresses: Vec<String>,
    latency_ms: Option<u16>,
    allow: Option<String>,
}

impl SrtForm {
    fn read(self) -> Result<SrtLink, Error> {
        let mut link = SrtLink::new(self.bind, self.addresses)?;
        if let Some(millis) = self.latency_ms {
            let latency = Latency::from_millis(millis);
            link = link.latency(latency.map_err(|_| settings("`srt.latency_ms` is outside 0 to 10000 ms"))?);
        }
        if let Some(text) = self.allow {
            let allow = text.parse();
            link = link.allow(allow.map_err(|_| settings("`srt.allow` is not a list of CIDR blocks"))?);
        }
        Ok(link)
    }
}

impl RegionLinkOptions {
    /// Reads the settings from a JSON object.
    ///
    /// | member | value |
    /// |---|---|
    /// | `key` | public key of the region, as text; required |
    /// | `roots` | list of PEM files with the root certificates of relays |
    /// | `fingerprints` | list of SHA-256 fingerprints of relays |
    /// | `certificate`, `certificate_key` | PEM files of the client certificate and its key |
    /// | `server_name` | name in the certificates of relays |
    /// | `token` | token for the relays |
    /// | `bind` | local address, as in `192.0.2.5:0` |
    /// | `keep_alive_ms` | interval of keep-alive packets (200; 10–10 000) |
    /// | `idle_timeout_ms`, `connect_timeout_ms` | times after which a relay is given up (1000 and 5000; 100–60 000) |
    /// | `cost` | cost of routes over these links (0) |
    /// | `srt` | object, if the media goes over SRT: see below |
    ///
    /// | member of `srt` | value |
    /// |---|---|
    /// | `bind` | local address at which nodes call, as in `0.0.0.0:7000`; required |
    /// | `addresses` | list of 1 to 8 addresses that the nodes call, as in `ingest-a.example.com:7000`; required |
    /// | `latency_ms` | latency (1200; 0–10 000) |
    /// | `allow` | addresses from which nodes may call, as in `203.0.113.0/24;198.51.100.7` (any) |
    ///
    /// # Errors
    /// [`Error::Settings`] when the text is not such an object, or a value is out of its range. The error repeats no
    /// value.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        let form: Form = serde_json::from_str(json).map_err(|error| malformed(&error))?;
        let key = form.key.parse().map_err(|_| settings("`key` is not the public key of a region"))?;
        let mut link = LinkSettings::new();
        for root in form.roots {
            link = link.root(root);
        }
        for fingerprint in form.fingerprints {
            link = link.fingerprint(fingerprint);
        }
        match (form.certificate, form.certificate_key) {
            (Some(certificate), Some(key)) => link = link.client_certificate(certificate, key),
            (None, None) => {}
            _ => return Err(settings("`certificate` and `certificate_key` belong together")),
        }
        if let Some(name) = form.server_name {
            link = link.server_name(name);
        }
        if let Some(token) = form.token {
            link = link.token(Token::new(token));
        }
        if let Some(address) = form.bind {
            link = link.bind(address);
        }
        if let Some(interval) = millis("keep_alive_ms", form.keep_alive_ms, KEEP_ALIVE)? {
            link = link.keep_alive(interval);
        }
        if let Some(timeout) = millis("idle_timeout_ms", form.idle_timeout_ms, TIMEOUT)? {
            link = link.idle_timeout(timeout);
        }
        if let Some(timeout) = millis("connect_timeout_ms", form.connect_timeout_ms, TIMEOUT)? {
            link = link.connect_timeout(timeout);
        }
        if let Some(cost) = form.cost {
            link = link.cost(cost);
        }
        let options = Self::new(key).settings(link);
        match form.srt {
            Some(srt) => Ok(options.srt(srt.read()?)),
            None => Ok(options),
        }
    }
}

fn settings(text: &str) -> Error {
    Error::Settings(PeerText::new(text))
}

/// Returns the error of a text that has another form. A value is not quoted, as it may be a secret.
fn malformed(error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let names_a_field = text.starts_with("unknown field") || text.starts_with("missing field");
    if names_a_field {
        return settings(&text);
    }
    let line = error.line();
    let column = error.column();
    settings(&format!("the options are no JSON object of the expected form: line {line}, column {column}"))
}

/// Returns a time, if it is given and within its range.
fn millis(name: &str, value: Option<u64>, range: RangeInclusive<u64>) -> Result<Option<Duration>, Error> {
    let Some(value) = value else { return Ok(None) };
    if !range.contains(&value) {
        return Err(settings(&format!("`{name}` is outside {} to {} ms", range.start(), range.end())));
    }
    Ok(Some(Duration::from_millis(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::RegionSecretKey;

    #[test]
    fn link_options_are_read_from_json() {
        let key = RegionSecretKey::generate().public_key();
        let all = format!(
            r#"{{"key":"{key}","roots":["a.pem"],"fingerprints":["AA:BB"],"certificate":"c.pem","certificate_key":"k.pem",
                "server_name":"relay","token":"hunter2","bind":"127.0.0.1:0","keep_alive_ms":100,"idle_timeout_ms":2000,
                "connect_timeout_ms":3000,"cost":7}}"#
        );
        let shown = format!("{:?}", RegionLinkOptions::from_json(&all).unwrap());
        assert!(shown.contains("a.pem") && shown.contains("100ms") && shown.contains("AABB"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(RegionLinkOptions::from_json(&format!(r#"{{"key":"{key}"}}"#)).is_ok());
    }

    #[test]
    fn link_options_of_media_over_srt_are_read_from_json() {
        let key = RegionSecretKey::generate().public_key();
        let with = |srt: &str| RegionLinkOptions::from_json(&format!(r#"{{"key":"{key}","srt":{srt}}}"#));
        let all = r#"{"bind":"0.0.0.0:7000","addresses":["a.example.com:7000","192.0.2.1:7001"],"latency_ms":1800,
            "allow":"203.0.113.0/24"}"#;
        let shown = format!("{:?}", with(all).unwrap());
        assert!(shown.contains("a.example.com") && shown.contains("7001") && shown.contains("1800"), "{shown}");
        assert!(with(r#"{"bind":"[::]:7000","addresses":["a.example.com:7000"]}"#).is_ok());
        for (json, said) in [
            (r#"{"bind":"0.0.0.0:0","addresses":["a.example.com:7000"]}"#, "port"),
            (r#"{"bind":"0.0.0.0:7000","addresses":[]}"#, "1 to 8 addresses"),
            (r#"{"bind":"0.0.0.0:7000","addresses":["a.example.com"]}"#, "an address for media over SRT"),
            (r#"{"bind":"0.0.0.0:7000"}"#, "missing field `addresses`"),
            (r#"{"bind":"0.0.0.0:7000","addresses":["a:1"],"latency_ms":10001}"#, "`srt.latency_ms`"),
            (r#"{"bind":"0.0.0.0:7000","addresses":["a:1"],"allow":"x"}"#, "`srt.allow`"),
            (r#"{"bind":"0.0.0.0:7000","addresses":["a:1"],"latency":1}"#, "unknown field `latency`"),
        ] {
            let error = with(json).unwrap_err().to_string();
            assert!(error.contains(said), "{json}: {error}");
        }
    }

    #[test]
    fn link_options_errors_name_the_member_and_no_value() {
        let key = RegionSecretKey::generate().public_key();
        let with = |more: &str| format!(r#"{{"key":"{key}",{more}}}"#);
        for (json, said) in [
            ("hunter2".to_owned(), "line 1, column 1"),
            ("{}".to_owned(), "missing field `key`"),
            (r#"{"key":"hunter2"}"#.to_owned(), "`key` is not the public key"),
            (with(r#""certificate":"c.pem""#), "belong together"),
            (with(r#""idle_timeout_ms":1"#), "`idle_timeout_ms` is outside 100 to 60000 ms"),
            (with(r#""keep_alive_ms":99999999999"#), "`keep_alive_ms` is outside"),
            (with(r#""cost":"hunter2""#), "line 1"),
            (with(r#""colour":1"#), "unknown field `colour`"),
        ] {
            let error = RegionLinkOptions::from_json(&json).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("hunter2"), "{json}: {error}");
        }
    }
}
