//! A real RTMP server: nginx with its RTMP module.

use crate::{eventually, peer::Peer, rig::free_port};
use std::path::{Path, PathBuf};

const MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";

/// nginx-rtmp with an application `live` that accepts publishers, serves players, and records what is published.
#[derive(Debug)]
pub struct Nginx {
    _peer: Peer,
    port: u16,
    folder: tempfile::TempDir,
}

impl Nginx {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// When it is missing or does not start.
    #[track_caller]
    pub fn start() -> Self {
        Self::on(free_port(), "")
    }

    /// Starts it on a port; `more` is added to its application.
    ///
    /// # Panics
    /// When it is missing or does not start.
    #[track_caller]
    pub fn on(port: u16, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().to_str().expect("UTF-8");
        // Recordings belong to the user of the worker, which is ours: there is no other process.
        let configuration = format!(
            "load_module {MODULE};\ndaemon off;\nmaster_process off;\nworker_processes 1;\npid {home}/pid;\n\
             error_log stderr warn;\nevents {{ worker_connections 2048; }}\n\
             rtmp {{ server {{ listen 127.0.0.1:{port}; chunk_size 4096; application live {{ live on; \
             record all; record_path {home}; record_suffix .flv; {more} }} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration).expect("written");
        let file = file.to_str().expect("UTF-8").to_owned();
        let peer = Peer::start("nginx", &["-c", &file, "-p", home, "-e", "stderr"]);
        eventually(&format!("nginx: {}", peer.output()), || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { _peer: peer, port, folder }
    }

    /// Address of its application.
    pub fn url(&self) -> String {
        format!("rtmp://127.0.0.1:{}/live", self.port)
    }

    /// Port of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the server.
    pub fn id(&self) -> u32 {
        self._peer.id()
    }

    /// Returns its log so far.
    pub fn output(&self) -> String {
        self._peer.output()
    }

    /// Path of its recording of a key.
    pub fn recording(&self, key: &str) -> PathBuf {
        self.folder.path().join(format!("{key}.flv"))
    }

    /// Waits until a recording has grown to a number of bytes.
    #[track_caller]
    pub fn wait_for_bytes(&self, key: &str, bytes: u64) {
        let file = self.recording(key);
        eventually(&format!("{bytes} bytes in {}", file.display()), || (size(&file) >= bytes).then_some(()));
    }
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |m| m.len())
}
