//! Substitute for TLS in builds without the feature `tls`.

use super::tcp::Secured;
use std::io;
use tokio::net::TcpStream;

const MISSING: &str = "this build has no TLS (the feature `tls`)";

/// Cannot be constructed.
#[derive(Clone, Debug)]
pub(crate) struct TlsServer(());

/// Cannot be constructed.
#[derive(Clone, Debug)]
pub(crate) struct TlsClient(());

impl TlsServer {
    pub(crate) fn new(_: &[u8], _: &[u8]) -> Result<Self, String> {
        Err(MISSING.into())
    }

    pub(crate) fn replace(&self, _: &[u8], _: &[u8]) -> Result<(), String> {
        Err(MISSING.into())
    }

    pub(super) async fn accept(&self, _: TcpStream) -> io::Result<Box<dyn Secured>> {
        Err(io::Error::other(MISSING))
    }
}

impl TlsClient {
    pub(crate) fn new(_: &[u8]) -> Result<Self, String> {
        Err(MISSING.into())
    }

    pub(crate) fn pinned(&self, _: &[[u8; 32]]) -> Self {
        self.clone()
    }

    pub(super) async fn connect(&self, _: &str, _: TcpStream) -> io::Result<Box<dyn Secured>> {
        Err(io::Error::other(MISSING))
    }
}
