//! The certificate of the page and the API.

use crate::options::{Failure, Options};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;

/// Certificate and key of new connections, which can be replaced.
#[derive(Clone, Debug)]
pub(crate) struct Https(Arc<RwLock<Arc<ServerConfig>>>);

impl Https {
    /// Reads the certificate and the key, if the options name them.
    pub(crate) fn load(options: &Options) -> Result<Option<Self>, Failure> {
        Ok(read(options)?.map(|config| Self(Arc::new(RwLock::new(config)))))
    }

    /// Reads the certificate and the key again. The old ones stay if that fails.
    pub(crate) fn renew(&self, options: &Options) -> Result<(), Failure> {
        if let Some(config) = read(options)? {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
        }
        Ok(())
    }

    /// Returns the acceptor of a new connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn read(options: &Options) -> Result<Option<Arc<ServerConfig>>, Failure> {
    let (Some(certificates), Some(key)) = (&options.https_cert, &options.https_key) else { return Ok(None) };
    let about = |error: &dyn std::fmt::Display| format!("{}: {error}", certificates.display());
    let chain = CertificateDer::pem_file_iter(certificates).map_err(|error| about(&error))?;
    let chain: Vec<CertificateDer<'static>> = chain.collect::<Result<_, _>>().map_err(|error| about(&error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| about(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}
