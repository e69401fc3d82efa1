//! Trust in the certificates of servers: by an authority, by the certificate itself, or by its fingerprint; and the words
//! for a refusal.

use crate::{lock::lock, text::colon_hex};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

/// Maximum number of names of a certificate that an error repeats.
const MAX_NAMES: usize = 4;
/// Maximum length of such a name, in characters.
const MAX_NAME: usize = 64;

/// SHA-256 of a certificate.
pub(super) fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// Certificates that the callers of an engine trust.
#[derive(Debug)]
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    /// `None`: there are no roots.
    roots: Option<Arc<WebPkiServerVerifier>>,
    /// Fingerprints of the roots. A server may show one of them as its own certificate.
    exact: HashSet<[u8; 32]>,
}

impl Trust {
    pub(super) fn new(
        roots: RootCertStore,
        exact: HashSet<[u8; 32]>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let verifier = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Some(builder.build().map_err(|e| e.to_string())?)
        };
        Ok(Self { provider, roots: verifier, exact })
    }

    /// Checks a chain by the roots.
    fn check(
        &self,
        chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Err(CertificateError::UnknownIssuer.into()) };
        let (own, others) = chain;
        let verdict = roots.verify_server_cert(own, others, name, &[], now);
        match verdict {
            // A certificate may be trusted itself, whether it may sign others, is signed by itself or by another. Its
            // dates and its encoding were checked first.
            Err(Error::InvalidCertificate(error)) if self.exact.contains(&fingerprint(own)) && !is_final(&error) => {
                verify_server_name(&ParsedCertificate::try_from(own)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }
}

/// Returns whether a certificate is refused for this even if it is trusted itself.
fn is_final(error: &CertificateError) -> bool {
    use CertificateError as E;
    matches!(
        error,
        E::BadEncoding
            | E::Expired
            | E::ExpiredContext { .. }
            | E::NotValidYet
            | E::NotValidYetContext { .. }
            | E::NotValidForName
            | E::NotValidForNameContext { .. }
            | E::Revoked
    )
}

/// Verifier of one connection, which remembers why it has refused a certificate.
#[derive(Debug)]
pub(super) struct ConnectionVerifier {
    pub(super) trust: Arc<Trust>,
    /// Fingerprints of the only certificates that are accepted; empty: the roots decide.
    pub(super) pins: Arc<[[u8; 32]]>,
    refusal: Mutex<Option<String>>,
}

impl ConnectionVerifier {
    pub(super) fn new(trust: Arc<Trust>, pins: Arc<[[u8; 32]]>) -> Self {
        Self { trust, pins, refusal: Mutex::new(None) }
    }

    /// Returns the reason for the refusal of the certificate, if it was refused.
    pub(super) fn refusal(&self) -> Option<String> {
        lock(&self.refusal).clone()
    }

    fn refuse(&self, own: &CertificateDer<'_>, words: &str) {
        let fingerprint = colon_hex(&fingerprint(own));
        *lock(&self.refusal) = Some(format!("the certificate {words}; its SHA-256 fingerprint is {fingerprint}"));
    }
}

impl ServerCertVerifier for ConnectionVerifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pins.is_empty() {
            if self.pins.contains(&fingerprint(own)) {
                return Ok(ServerCertVerified::assertion());
            }
            self.refuse(own, "is not the one that `tls_fingerprint` names");
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        let verdict = self.trust.check((own, others), name, now);
        if let Err(error) = &verdict {
            self.refuse(own, &words(error, name));
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns what is wrong with a certificate, as the end of a sentence that begins with it.
fn words(error: &Error, name: &ServerName<'_>) -> String {
    use CertificateError as E;
    let Error::InvalidCertificate(error) = error else { return format!("cannot be used: {error}") };
    match error {
        E::ExpiredContext { not_after, .. } => format!("has expired on {}", date(*not_after)),
        E::Expired => "has expired".into(),
        E::NotValidYetContext { not_before, .. } => format!("is not valid before {}", date(*not_before)),
        E::NotValidYet => "is not valid yet".into(),
        E::NotValidForNameContext { presented, .. } => {
            format!("is not valid for `{}`; it names {}", name.to_str(), names(presented))
        }
        E::NotValidForName => format!("is not valid for `{}`", name.to_str()),
        E::UnknownIssuer => {
            "is signed by an unknown issuer: trust it, or its issuer, by file (`tls_roots`) or by `tls_fingerprint`"
                .into()
        }
        E::BadEncoding => "cannot be read".into(),
        E::Revoked => "was revoked".into(),
        E::BadSignature => {
            "is not signed by the trusted issuer of that name: trust it by file (`tls_roots`) or by `tls_fingerprint`"
                .into()
        }
        // An error of the verifier that rustls has no name for; the verifier's own name of it is its text.
        E::Other(cause) if cause.to_string() == "CaUsedAsEndEntity" => {
            "is that of an authority, which may sign others, and not that of a server: trust it by file (`tls_roots`) or \
             by `tls_fingerprint`"
                .into()
        }
        E::Other(cause) => format!("is refused ({cause}): trust it by file (`tls_roots`) or by `tls_fingerprint`"),
        error => format!("is refused ({error}): trust it by file (`tls_roots`) or by `tls_fingerprint`"),
    }
}

/// Returns the names of a certificate, of which there may be many.
fn names(presented: &[String]) -> String {
    // As in `DnsName("example.com")` and `IpAddress(192.0.2.1)`.
    let bare = |name: &String| -> String {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').chars().take(MAX_NAME).collect()
    };
    let shown: Vec<String> = presented.iter().take(MAX_NAMES).map(bare).collect();
    match presented.len().saturating_sub(MAX_NAMES) {
        _ if shown.is_empty() => "no host".into(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Returns a time as a date in UTC. One that no calendar has is shown in seconds.
fn date(time: UnixTime) -> String {
    let seconds = time.as_secs();
    let known = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    known.map_or_else(|| format!("second {seconds}"), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tls_dates_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(date(UnixTime::since_unix_epoch(Duration::from_secs(seconds))), shown);
        }
    }

    #[test]
    fn tls_names_of_a_certificate_are_shown_in_part() {
        let presented: Vec<String> = (0..6).map(|i| format!("DnsName(\"host{i}\")")).collect();
        assert_eq!(names(&presented[..1]), "host0");
        assert_eq!(names(&presented), "host0, host1, host2, host3 and 2 more");
        assert_eq!(names(&[]), "no host");
        assert!(names(&["x".repeat(10_000)]).len() < 100);
    }
}
