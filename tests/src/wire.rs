//! A recorder of TCP connections.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// The bytes of a connection: to the target, and back.
pub type Said = [Vec<u8>; 2];

/// Passes one connection on to a target, and records its bytes.
#[derive(Debug)]
pub struct Wire {
    /// Address to connect to.
    pub address: SocketAddr,
    said: Arc<Mutex<Said>>,
}

impl Wire {
    /// Starts a recorder to an address.
    ///
    /// # Panics
    /// When there is no port.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let said = Arc::new(Mutex::new(Said::default()));
        let kept = said.clone();
        std::thread::spawn(move || {
            let Ok((client, _)) = listener.accept() else { return };
            let server = TcpStream::connect(target).expect("the target listens");
            let both = [client.try_clone().expect("a second handle"), server.try_clone().expect("a second handle")];
            let [client_again, server_again] = both;
            let also = kept.clone();
            let back = std::thread::spawn(move || pass(server_again, client_again, &also, 1));
            pass(client, server, &kept, 0);
            back.join().expect("it has not failed");
        });
        Self { address, said }
    }

    /// Returns the bytes so far.
    ///
    /// # Panics
    /// When a connection has panicked.
    pub fn said(&self) -> Said {
        self.said.lock().expect("whole").clone()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, said: &Mutex<Said>, way: usize) {
    let mut buffer = [0; 65_536];
    while let Ok(length) = from.read(&mut buffer)
        && length > 0
    {
        said.lock().expect("whole")[way].extend(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write); // fails if it is gone
}
