//! TLS (rustls with ring): the certificate of listeners, and the trust anchors of callers.

use super::tcp::Secured;
use rustls::{
    ClientConfig, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::{fmt, io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroize;

/// The certificate and key of listeners.
#[derive(Clone)]
pub(crate) struct TlsServer(Arc<ServerConfig>);

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsServer(hidden)")
    }
}

/// The certificates that callers trust.
#[derive(Clone, Debug)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

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

impl TlsServer {
    /// Takes a certificate chain, the listener's own first, and its private key, as PEM.
    pub(crate) fn new(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let mut key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the private key cannot be read")?;
        let signer = ring::sign::any_supported_type(&key);
        key.zeroize();
        let certified = CertifiedKey::new(certificates(chain)?, signer.map_err(|e| e.to_string())?);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(error.to_string()),
        }
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| e.to_string())?.with_no_client_auth();
        Ok(Self(Arc::new(builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified))))))
    }

    /// Performs the handshake with a caller.
    pub(super) async fn accept(&self, socket: TcpStream) -> io::Result<Box<dyn Secured>> {
        Ok(Box::new(TlsAcceptor::from(self.0.clone()).accept(socket).await?))
    }
}

impl TlsClient {
    /// Trusts the system's certificates and those in `more`, as PEM.
    pub(crate) fn new(more: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // System certificates that cannot be read are not trusted; a peer that needs one is refused.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if !more.is_empty() {
            for certificate in certificates(more)? {
                roots.add(certificate).map_err(|e| e.to_string())?;
            }
        }
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = builder.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Performs the handshake with a listener whose certificate must be valid for `host`.
    pub(super) async fn connect(&self, host: &str, socket: TcpStream) -> io::Result<Box<dyn Secured>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(self.0.clone()).connect(name, socket).await?))
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
