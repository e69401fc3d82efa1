//! Description of a flow's outputs in a region, as the flow's publisher seals it for the region's nodes.

use crate::{
    SrtTarget,
    seal::{RegionKeys, RegionPublicKey, SealError},
};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, fmt, net::SocketAddr, time::Duration};
use streamlink_core::{Bitrate, ConfigErrors, MediaFamily, Output, PeerText};
use zeroize::Zeroizing;

/// Version of the description.
const VERSION: u32 = 1;
/// Version of the description of a flow whose media goes over SRT. Nodes that do not know of that refuse it.
const VERSION_OF_SRT: u32 = 2;
/// Maximum number of players to be disconnected.
const MAX_KICKS: usize = 64;
/// Maximum length of an SDP, in bytes.
const MAX_SDP: usize = 64 * 1024;
/// Maximum number of outputs of a flow in one region.
pub const MAX_OUTPUTS: usize = 256;
/// Interval in which a publisher repeats a description.
pub(crate) const REPETITION: Duration = Duration::from_secs(4);
/// Maximum length of a flow's name, in bytes.
const MAX_FLOW_NAME: usize = 128;

/// State of one flow in one region. It replaces the state before.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowOutputs {
    /// Name of the region for which it is sealed.
    pub region: String,
    /// Name of the flow.
    pub flow: String,
    /// Random number of the publisher's run. A flow that is started again has another one.
    pub publisher: u64,
    /// Number of the state, which grows with each change of one publisher.
    pub revision: u64,
    /// Media family of the flow.
    pub family: MediaFamily,
    /// Maximum bandwidth of the flow.
    pub max_bandwidth: Bitrate,
    /// Outputs, in the order in which they came.
    pub outputs: Vec<DescribedOutput>,
    /// Addresses and keys by which nodes call for the media, if it goes over SRT. `None`: over the relays.
    pub srt: Option<SrtTarget>,
    /// SDP of a flow of family RTSP whose media goes over SRT. Over relays it is part of the catalog.
    pub sdp: Option<String>,
    /// Players to be disconnected once, oldest first: at most 64.
    pub kicks: Vec<DescribedKick>,
}

/// Player of an output that is to be disconnected once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedKick {
    /// Number of the request, which grows with each one of a publisher.
    pub number: u64,
    /// Number of the output.
    pub output: u64,
    /// Address of the player.
    pub peer: SocketAddr,
}

/// Output of a flow.
#[derive(Clone)]
pub struct DescribedOutput {
    /// Number by which the output is reported.
    pub id: u64,
    /// Settings of the output, with its secrets. `Debug` hides them.
    pub output: Output,
}

impl PartialEq for DescribedOutput {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && *secret_json(&self.output) == *secret_json(&other.output)
    }
}

impl fmt::Debug for DescribedOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DescribedOutput")
            .field("id", &self.id)
            .field("name", &self.output.name())
            .finish_non_exhaustive()
    }
}

/// Returns the output as JSON with its secrets, wiped from memory when it is dropped.
pub(crate) fn secret_json(output: &Output) -> Zeroizing<String> {
    Zeroizing::new(output.to_json())
}

/// Reason why a description is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputsError {
    /// The message cannot be sealed, or not be opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Not JSON of the expected form. The text is not quoted, as it holds secrets.
    #[error("not a description of outputs: line {line}, column {column}")]
    Malformed {
        /// Line of the fault.
        line: usize,
        /// Column of the fault.
        column: usize,
    },
    /// Version of another release.
    #[error("a description of version {0}; versions {VERSION} and {VERSION_OF_SRT} are read")]
    Version(u32),
    /// The description was made for another region or flow than that under whose name it came.
    #[error("a description of flow `{flow}` for region `{region}` under the name of another")]
    Misplaced {
        /// Name of the flow in it.
        flow: PeerText,
        /// Name of the region in it.
        region: PeerText,
    },
    /// A list or a text is longer than its bound.
    #[error("a description with {0}")]
    OutOfBounds(&'static str),
    /// An output is not understood.
    #[error("output {index}: {errors}")]
    Output {
        /// Number of the output in the list, from 0.
        index: usize,
        /// Reasons; none repeats a secret.
        errors: ConfigErrors,
    },
}

#[derive(Serialize, Deserialize)]
struct Description {
    version: u32,
    region: String,
    flow: String,
    publisher: u64,
    revision: u64,
    family: String,
    max_bandwidth: u64,
    outputs: Vec<OutputText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    srt: Option<TargetText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sdp: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kicks: Vec<DescribedKick>,
}

#[derive(Serialize, Deserialize)]
struct TargetText {
    addresses: Vec<String>,
    stream_id: String,
    passphrase: SecretText,
    latency_ms: u16,
}

#[derive(Serialize, Deserialize)]
struct OutputText {
    id: u64,
    json: SecretText,
}

/// Text that is wiped from memory when it is dropped.
struct SecretText(Zeroizing<String>);

impl Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl FlowOutputs {
    /// Seals the description for the region.
    ///
    /// # Errors
    /// When there are more outputs than [`MAX_OUTPUTS`], or it is too long.
    pub fn seal(&self, key: &RegionPublicKey) -> Result<Vec<u8>, OutputsError> {
        if self.outputs.len() > MAX_OUTPUTS {
            return Err(OutputsError::OutOfBounds("more than 256 outputs"));
        }
        let text = |described: &DescribedOutput| OutputText {
            id: described.id,
            json: SecretText(secret_json(&described.output)),
        };
        let target = |target: &SrtTarget| TargetText {
            addresses: target.addresses.iter().map(ToString::to_string).collect(),
            stream_id: target.stream_id.clone(),
            passphrase: SecretText(Zeroizing::new(target.passphrase.reveal().to_owned())),
            latency_ms: target.latency.as_millis(),
        };
        let description = Description {
            version: if self.srt.is_some() { VERSION_OF_SRT } else { VERSION },
            region: self.region.clone(),
            flow: self.flow.clone(),
            publisher: self.publisher,
            revision: self.revision,
            family: self.family.to_string(),
            max_bandwidth: self.max_bandwidth.as_bps(),
            outputs: self.outputs.iter().map(text).collect(),
            srt: self.srt.as_ref().map(target),
            sdp: self.sdp.clone(),
            kicks: self.kicks.clone(),
        };
        // Room for all of it at first, so that no piece of a secret is left behind where the buffer grew.
        let texts: usize = description.outputs.iter().map(|output| 2 * output.json.0.len() + 64).sum();
        let sdp = description.sdp.as_ref().map_or(0, String::len);
        let room = 16_384 + 2 * (texts + sdp);
        let mut message = Zeroizing::new(Vec::with_capacity(room));
        serde_json::to_writer(&mut *message, &description).map_err(|error| malformed(&error))?;
        Ok(key.seal(&message)?)
    }

    /// Opens a description that came under the names of a region and a flow.
    ///
    /// # Errors
    /// When it is sealed for another region, altered, misplaced, or not understood.
    pub fn open(envelope: &[u8], keys: &RegionKeys, region: &str, flow: &str) -> Result<Self, OutputsError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let message = keys.open(envelope)?;
        let Versioned { version } = serde_json::from_slice(&message).map_err(|error| malformed(&error))?;
        if version != VERSION && version != VERSION_OF_SRT {
            return Err(OutputsError::Version(version));
        }
        let description: Description = serde_json::from_slice(&message).map_err(|error| malformed(&error))?;
        if description.region != region || description.flow != flow {
            let flow = PeerText::new(description.flow);
            let region = PeerText::new(description.region);
            return Err(OutputsError::Misplaced { flow, region });
        }
        if description.outputs.len() > MAX_OUTPUTS {
            return Err(OutputsError::OutOfBounds("more than 256 outputs"));
        }
        if flow.is_empty() || flow.len() > MAX_FLOW_NAME || flow.chars().any(char::is_control) {
            return Err(OutputsError::OutOfBounds("a flow name that is empty, too long or holds control characters"));
        }
        let family = MediaFamily::ALL.iter().find(|family| family.to_string() == description.family);
        let family = *family.ok_or(OutputsError::OutOfBounds("a media family that is not known"))?;
        if description.max_bandwidth == 0 {
            return Err(OutputsError::OutOfBounds("the maximum bandwidth 0"));
        }
        let target = |text: TargetText| {
            let passphrase = text.passphrase.0;
            SrtTarget::checked(&text.addresses, text.stream_id, &passphrase, text.latency_ms)
        };
        let srt = description.srt.map(target).transpose().map_err(OutputsError::OutOfBounds)?;
        if srt.is_some() != (version == VERSION_OF_SRT) {
            return Err(OutputsError::OutOfBounds("media over SRT under the version of another kind"));
        }
        if description.kicks.len() > MAX_KICKS {
            return Err(OutputsError::OutOfBounds("more than 64 players to be disconnected"));
        }
        if description.sdp.as_ref().is_some_and(|sdp| sdp.len() > MAX_SDP) {
            return Err(OutputsError::OutOfBounds("an SDP of more than 64 KiB"));
        }
        let mut ids = HashSet::new();
        let mut names = HashSet::new();
        let mut outputs = Vec::with_capacity(description.outputs.len());
        for (index, text) in description.outputs.iter().enumerate() {
            let output = Output::from_json(&text.json.0).map_err(|errors| OutputsError::Output { index, errors })?;
            if !ids.insert(text.id) || !names.insert(output.name().to_owned()) {
                return Err(OutputsError::OutOfBounds("two outputs of one name or number"));
            }
            outputs.push(DescribedOutput { id: text.id, output });
        }
        Ok(Self {
            region: description.region,
            flow: description.flow,
            publisher: description.publisher,
            revision: description.revision,
            family,
            max_bandwidth: Bitrate::bps(description.max_bandwidth),
            outputs,
            srt,
            sdp: description.sdp,
            kicks: description.kicks,
        })
    }
}

fn malformed(error: &serde_json::Error) -> OutputsError {
    OutputsError::Malformed { line: error.line(), column: error.column() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::RegionSecretKey;

    fn outputs() -> FlowOutputs {
        let urls = ["rtmp://example.com/live?key=hunter2", "srt://:9001?passphrase=correct-horse&pbkeylen=32"];
        let described = |(n, url): (usize, &&str)| DescribedOutput {
            id: n as u64,
            output: Output::from_url(format!("output-{n}"), url).description("for people"),
        };
        FlowOutputs {
            region: "eu".into(),
            flow: "match-day".into(),
            publisher: u64::MAX,
            revision: 3,
            family: MediaFamily::Datagrams,
            max_bandwidth: Bitrate::mbps(20),
            outputs: urls.iter().enumerate().map(described).collect(),
            srt: None,
            sdp: None,
            kicks: vec![DescribedKick { number: 1, output: 0, peer: ([192, 0, 2, 1], 5000).into() }],
        }
    }

    #[test]
    fn outputs_are_read_back_with_their_secrets() {
        let key = RegionSecretKey::generate();
        let sealed = outputs().seal(&key.public_key()).expect("sealed");
        let opened = FlowOutputs::open(&sealed, &RegionKeys::new(key), "eu", "match-day").expect("opened");
        assert_eq!(opened, outputs());
        assert!(opened.outputs[0].output.to_url().contains("hunter2"));
        for secret in ["hunter2", "correct-horse"] {
            assert!(!format!("{opened:?}").contains(secret), "{opened:?}");
            assert!(!sealed.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()));
        }
    }

    #[test]
    fn outputs_say_where_media_goes_over_srt() {
        let target =
            |address: &str| SrtTarget::checked(&[address.to_owned()], "0123".to_owned(), "correct-horse-battery", 1200);
        let sent = FlowOutputs { srt: target("a.example.com:7000").ok(), sdp: Some("v=0".into()), ..outputs() };
        assert!(sent.srt.is_some());
        let key = RegionSecretKey::generate();
        let sealed = sent.seal(&key.public_key()).expect("sealed");
        let opened = FlowOutputs::open(&sealed, &RegionKeys::new(key.clone()), "eu", "match-day").expect("opened");
        assert_eq!(opened, sent);
        assert_ne!(opened, FlowOutputs { srt: target("b.example.com:7000").ok(), ..sent });
        assert!(!format!("{opened:?}").contains("horse"), "{opened:?}");
        // A node that does not know of it refuses the version, and does not wait for media on the relays.
        let text = RegionKeys::new(key.clone()).open(&sealed).expect("opened");
        let text = String::from_utf8(text.to_vec()).expect("text");
        assert!(text.starts_with(r#"{"version":2,"#), "{text}");
        for (from, to) in [
            (r#""version":2"#, r#""version":1"#),
            (r#"["a.example.com:7000"]"#, "[]"),
            (r#"["a.example.com:7000"]"#, r#"["0.0.0.0:7000"]"#),
            (r#""0123""#, r#""a b""#),
            ("correct-horse-battery", "short"),
            ("1200", "10001"),
        ] {
            let altered = text.replace(from, to);
            assert_ne!(altered, text, "{from}");
            let sealed = key.public_key().seal(altered.as_bytes()).expect("sealed");
            let keys = RegionKeys::new(key.clone());
            let error = FlowOutputs::open(&sealed, &keys, "eu", "match-day").expect_err(to).to_string();
            assert!(error.contains("media over SRT") && !error.contains("horse"), "{error}");
        }
    }

    #[test]
    fn outputs_of_another_flow_or_region_are_refused() {
        let key = RegionSecretKey::generate();
        let sealed = outputs().seal(&key.public_key()).expect("sealed");
        let keys = RegionKeys::new(key);
        for (region, flow) in [("us", "match-day"), ("eu", "news")] {
            let error = FlowOutputs::open(&sealed, &keys, region, flow).expect_err("misplaced");
            assert!(matches!(error, OutputsError::Misplaced { .. }), "{error}");
        }
        let other = RegionKeys::new(RegionSecretKey::generate());
        let error = FlowOutputs::open(&sealed, &other, "eu", "match-day").expect_err("another key");
        assert!(matches!(error, OutputsError::Seal(SealError::WrongKey { .. })), "{error}");
    }

    #[test]
    fn outputs_refuse_hostile_descriptions_without_quoting_them() {
        let key = RegionSecretKey::generate();
        let public = key.public_key();
        let keys = RegionKeys::new(key);
        let open = |text: &str| {
            let sealed = public.seal(text.as_bytes()).expect("sealed");
            FlowOutputs::open(&sealed, &keys, "eu", "f").expect_err(text).to_string()
        };
        let with = |outputs: &str| {
            format!(
                r#"{{"version":1,"region":"eu","flow":"f","publisher":1,"revision":1,"family":"{}","max_bandwidth":1000,"outputs":[{outputs}]}}"#,
                MediaFamily::Datagrams
            )
        };
        open("");
        open(&"[".repeat(100_000));
        assert!(open(r#"{"version":9}"#).contains("version 9"));
        assert!(open(&with("").replace("1000", "0")).contains("bandwidth"));
        let output = |id: u64, name: &str, url: &str| {
            let json = format!(r#"{{"name":"{name}","url":"{url}"}}"#);
            format!(r#"{{"id":{id},"json":{}}}"#, serde_json::to_string(&json).expect("text"))
        };
        let good = output(1, "a", "srt://example.com:9000?passphrase=hunter2hunter2");
        assert!(open(&with(&format!("{good},{good}"))).contains("two outputs"));
        let many: Vec<String> = (0..257).map(|n| output(n, &format!("o{n}"), "srt://example.com:9000")).collect();
        assert!(open(&with(&many.join(","))).contains("256"));
        let shown = open(&with(r#"{"id":1,"json":"{\"hunter2hunter2\":1}"}"#));
        assert!(shown.starts_with("output 0"), "{shown}");
        let shown = open(&with(r#"{"id":"hunter2hunter2"}"#));
        assert!(!shown.contains("hunter2hunter2"), "{shown}");
    }
}
