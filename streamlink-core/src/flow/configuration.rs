//! Configuration of a flow as it is read back: with its secrets hidden, for display, or with them.

use super::{
    bandwidth_policy::BandwidthPolicy,
    bitrate::Bitrate,
    build::Flow,
    builder::Common,
    failover::Failover,
    output::Output,
    shown_url::{is_public, shown_url},
    written_url::{self, UrlParts},
};
use std::time::Duration;

/// Text that stands for a secret.
const HIDDEN: &str = "…";

/// Configuration of a flow, with an ellipsis for each secret: passphrases, stream keys, stream ids, users and passwords.
///
/// With the feature `serde`, it has the form of [`Flow::to_json`](crate::Flow), which cannot be read back, since the
/// secrets are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowConfiguration {
    /// Name of the flow.
    pub name: String,
    /// Maximum bandwidth of the flow.
    pub max_bandwidth: Bitrate,
    /// Treatment of media above the maximum bandwidth.
    pub bandwidth_policy: BandwidthPolicy,
    /// Time that packets of RTP and RTSP sources may wait for more.
    pub coalesce: Duration,
    /// Time for which players and backups wait for an entry point.
    pub entry_wait: Duration,
    /// Rules for the change between the sources.
    pub failover: Failover,
    /// Sources, in order.
    pub sources: Vec<EndpointConfiguration>,
    /// Outputs, in order.
    pub outputs: Vec<EndpointConfiguration>,
}

/// Configuration of a source or an output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointConfiguration {
    /// Name of the endpoint.
    pub name: String,
    /// Description of the endpoint.
    pub description: Option<String>,
    /// Region from which an output sends.
    pub region: Option<String>,
    /// False if the endpoint holds its configuration and name only, and no sockets.
    pub enabled: bool,
    /// Name of the protocol, as in the statistics.
    pub protocol: &'static str,
    /// Address of the endpoint: everything of its URL before the settings. Ports are those configured: 0 stands for one
    /// that the system picks, which the statistics show.
    pub url: String,
    /// Settings that differ from their defaults, by their names in URLs.
    pub settings: Vec<(String, String)>,
}

impl Flow {
    /// Returns the configuration with its secrets hidden. [`Flow::to_json`](crate::Flow) includes them.
    pub fn configuration(&self) -> FlowConfiguration {
        FlowConfiguration::of(self, true)
    }
}

impl FlowConfiguration {
    /// `masked`: an ellipsis stands for each secret.
    pub(crate) fn of(flow: &Flow, masked: bool) -> Self {
        let endpoint = |common: &Common, protocol, url| EndpointConfiguration::of(common, protocol, url, masked);
        let sources = flow.sources.iter();
        let sources =
            sources.map(|s| endpoint(&s.common, s.protocol().name(), written_url::source_parts(&s.kind).of(&s.common)));
        let outputs = flow.outputs.iter().map(|output| EndpointConfiguration::of_output(output, masked));
        Self {
            name: flow.name().to_owned(),
            max_bandwidth: flow.max_bandwidth,
            bandwidth_policy: flow.policy,
            coalesce: flow.coalesce,
            entry_wait: flow.entry_wait,
            failover: flow.failover,
            sources: sources.collect(),
            outputs: outputs.collect(),
        }
    }
}

impl EndpointConfiguration {
    /// `masked`: an ellipsis stands for each secret.
    pub(crate) fn of_output(output: &Output, masked: bool) -> Self {
        let url = written_url::output_parts(&output.kind).of(&output.common);
        Self::of(&output.common, output.protocol().name(), url, masked)
    }

    fn of(common: &Common, protocol: &'static str, url: UrlParts, masked: bool) -> Self {
        // A base without an authority, as that of a tap, holds nothing to hide.
        let base = if masked && url.base.contains("://") { shown_url(&url.base) } else { url.base };
        let setting = |(name, value): (&'static str, String)| {
            let value = if masked && !is_public(name) { HIDDEN.to_owned() } else { value };
            (name.to_owned(), value)
        };
        Self {
            name: common.name.clone(),
            description: common.description.clone(),
            region: common.region.clone(),
            enabled: common.enabled,
            protocol,
            url: base,
            settings: url.query.0.into_iter().map(setting).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Output, Source};

    #[test]
    fn flow_configuration_hides_every_secret() {
        let source = |name: &str, url: &str| Source::from_url(name, url);
        let output = |name: &str, url: &str| Output::from_url(name, url);
        let sources = [
            source("a", "srt://:9000?passphrase=hunter2hunter2&pbkeylen=32&streamid=hunter2"),
            source("b", "srt://example.com:9000?latency=200&passphrase=hunter2hunter2"),
        ];
        let [first, second] = sources;
        let flow = Flow::builder("f", Bitrate::mbps(1))
            .source(first)
            .backup(second)
            .output(output("push", "rtmp://example.com/live/hunter2?token=hunter2"))
            .output(output("push2", "rtmp://me:hunter2@example.com/live?key=hunter2"))
            .output(output("tap", "tap:"))
            .build()
            .unwrap();
        let shown = flow.configuration();
        let text = format!("{shown:?}");
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(shown.sources[1].url, "srt://example.com:9000");
        assert_eq!(
            shown.sources[1].settings,
            [("latency".to_owned(), "200".to_owned()), ("passphrase".to_owned(), "…".to_owned())]
        );
        assert_eq!(shown.outputs[2].url, "tap:");
        let rtsp = Flow::builder("r", Bitrate::mbps(1)).source(source("c", "rtsp://me:hunter2@cam:554/d?pw=hunter2"));
        let rtsp = rtsp.build().unwrap().configuration();
        assert!(!format!("{rtsp:?}").contains("hunter2"));
        assert!(rtsp.sources[0].url.starts_with("rtsp://…@cam:554/d"), "{}", rtsp.sources[0].url);
    }
}
