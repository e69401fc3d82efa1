//! TLS (rustls with ring): the certificate of listeners, and the trust of callers.

use super::{
    tcp::Secured,
    tls_error::{TlsError, TlsErrorKind},
    tls_trust::{ConnectionVerifier, Trust, fingerprint},
};
use arc_swap::ArcSwap;
use rustls::{
    AlertDescription, ClientConfig, Error, InconsistentKeys, InvalidMessage, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::{collections::HashSet, fmt, io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroize;

/// The certificate and key of listeners. Clones share them, also after they were replaced.
#[derive(Clone)]
pub(crate) struct TlsServer(Arc<ArcSwap<ServerConfig>>);

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsServer(hidden)")
    }
}

/// The certificates that a caller trusts.
#[derive(Clone, Debug)]
pub(crate) struct TlsClient {
    config: Arc<ClientConfig>,
    trust: Arc<Trust>,
    /// Fingerprints of the only certificates that are accepted; empty: the roots decide.
    pins: Arc<[[u8; 32]]>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err("no certificate in the PEM text".into()),
        Err(error) => Err(format!("the certificates cannot be read: {error}")),
    }
}

/// Returns the configuration of listeners with a certificate chain and its key, as PEM.
fn server_config(chain: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, String> {
    let mut key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the private key cannot be read")?;
    let signer = ring::sign::any_supported_type(&key);
    key.zeroize();
    let certified = CertifiedKey::new(certificates(chain)?, signer.map_err(|e| e.to_string())?);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(error) => return Err(error.to_string()),
    }
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| e.to_string())?.with_no_client_auth();
    Ok(Arc::new(builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))))
}

/// Returns the reason for a failed handshake in words, unless the connection itself has failed.
fn explained(error: io::Error, peer: &str) -> io::Error {
    let Some(reason) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else { return error };
    let (kind, words) = match reason {
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            (TlsErrorKind::Plain, format!("the {peer} does not speak TLS"))
        }
        Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown),
        ) => (TlsErrorKind::Handshake, format!("the {peer} does not trust our certificate (alert {alert:?})")),
        Error::AlertReceived(alert) => {
            (TlsErrorKind::Handshake, format!("the {peer} has ended the TLS handshake (alert {alert:?})"))
        }
        reason => (TlsErrorKind::Handshake, format!("the TLS handshake with the {peer} has failed: {reason}")),
    };
    TlsError { kind, words }.into()
}

impl TlsServer {
    /// Takes a certificate chain, the listener's own first, and its private key, as PEM.
    pub(crate) fn new(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        Ok(Self(Arc::new(ArcSwap::new(server_config(chain, key)?))))
    }

    /// Replaces the certificate chain and the key, for the handshakes that follow. No session that was made with the ones
    /// before is resumed.
    pub(crate) fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), String> {
        self.0.store(server_config(chain, key)?);
        Ok(())
    }

    /// Performs the handshake with a caller.
    pub(super) async fn accept(&self, socket: TcpStream) -> io::Result<Box<dyn Secured>> {
        let accepted = TlsAcceptor::from(self.0.load_full()).accept(socket).await;
        Ok(Box::new(accepted.map_err(|error| explained(error, "peer"))?))
    }
}

impl TlsClient {
    /// Trusts the system's certificates and those in `more`, as PEM.
    pub(crate) fn new(more: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let mut exact = HashSet::new();
        // System certificates that cannot be read are not trusted; a peer that needs one is refused.
        for certificate in rustls_native_certs::load_native_certs().certs {
            let print = fingerprint(&certificate);
            if roots.add(certificate).is_ok() {
                exact.insert(print);
            }
        }
        if !more.is_empty() {
            for certificate in certificates(more)? {
                exact.insert(fingerprint(&certificate));
                roots.add(certificate).map_err(|e| e.to_string())?;
            }
        }
        let trust = Arc::new(Trust::new(roots, exact, provider())?);
        let pins: Arc<[[u8; 32]]> = Arc::default();
        let verifier = Arc::new(ConnectionVerifier::new(trust.clone(), pins.clone()));
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| e.to_string())?.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = builder.with_no_client_auth();
        // Every connection checks the certificate, by the trust of its own caller.
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), trust, pins })
    }

    /// Accepts only certificates with these SHA-256 fingerprints, whoever has signed them and whatever host and time they
    /// are for. No fingerprints: the roots decide.
    pub(crate) fn pinned(&self, pins: &[[u8; 32]]) -> Self {
        Self { pins: pins.into(), ..self.clone() }
    }

    /// Performs the handshake with a listener whose certificate must be valid for `host`.
    pub(super) async fn connect(&self, host: &str, socket: TcpStream) -> io::Result<Box<dyn Secured>> {
        // The zone of an IPv6 address is known to this machine only.
        let host = host.split('%').next().unwrap_or_default();
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let verifier = Arc::new(ConnectionVerifier::new(self.trust.clone(), self.pins.clone()));
        let mut config = ClientConfig::clone(&self.config);
        config.dangerous().set_certificate_verifier(verifier.clone());
        match TlsConnector::from(Arc::new(config)).connect(name, socket).await {
            Ok(connection) => Ok(Box::new(connection)),
            Err(error) => Err(match verifier.refusal() {
                Some(words) => TlsError { kind: TlsErrorKind::Untrusted, words }.into(),
                None => explained(error, "server"),
            }),
        }
    }
}

impl Secured for tokio_rustls::server::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Secured for tokio_rustls::client::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}
