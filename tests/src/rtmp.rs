//! RTMP by hand, independently of the library.

use crate::{PATIENCE, wire::connect_from};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

/// A client that does as little as it must.
#[derive(Debug)]
pub struct Bare(pub TcpStream);

impl Bare {
    /// Connects from a local address (`127.0.0.2`) to a port of this machine, shakes hands, and names an application.
    ///
    /// # Errors
    /// When the server closes the connection.
    pub fn connect(from: &str, port: u16, app: &str) -> io::Result<Self> {
        let mut stream = connect_from(from, port)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut hello = vec![3];
        hello.extend([0; 1536]);
        stream.write_all(&hello)?;
        let mut answer = vec![0; 1 + 2 * 1536];
        stream.read_exact(&mut answer)?;
        stream.write_all(&answer[1..1537])?;
        let mut client = Self(stream);
        let fields = [&b"\x03\x00\x03app"[..], &text(app), b"\0\0\x09"].concat();
        client.command("connect", 1, &fields)?;
        Ok(client)
    }

    /// Asks to publish (or to `play`) a key, and reads until the answer has come.
    ///
    /// # Errors
    /// When the server closes the connection before.
    pub fn ask(&mut self, what: &str, key: &str, answer: &str) -> io::Result<()> {
        self.command(what, 5, &[&b"\x05"[..], &text(key)].concat())?;
        self.read_until(answer.as_bytes())
    }

    fn command(&mut self, name: &str, transaction: u8, arguments: &[u8]) -> io::Result<()> {
        let number = [&[0][..], &f64::from(transaction).to_be_bytes()].concat();
        self.message(3, 20, 0, &[&text(name)[..], &number, arguments].concat())
    }

    /// Sends a message of at most 128 bytes.
    ///
    /// # Errors
    /// When the server has closed the connection.
    pub fn message(&mut self, chunk_stream: u8, kind: u8, time: u32, body: &[u8]) -> io::Result<()> {
        let mut chunk = vec![chunk_stream];
        chunk.extend(&time.to_be_bytes()[1..]);
        chunk.extend(&u32::try_from(body.len()).unwrap_or_default().to_be_bytes()[1..]);
        chunk.extend([kind, u8::from(kind != 20), 0, 0, 0]);
        chunk.extend(body);
        self.0.write_all(&chunk)
    }

    /// Reads until some bytes have come.
    ///
    /// # Errors
    /// When the server closes the connection before, or they do not come in time.
    pub fn read_until(&mut self, wanted: &[u8]) -> io::Result<()> {
        let mut got: Vec<u8> = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            let length = self.0.read(&mut buffer)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            got.extend(&buffer[..length]);
            if got.windows(wanted.len()).any(|window| window == wanted) {
                return Ok(());
            }
            let keep = got.len().saturating_sub(wanted.len());
            got.drain(..keep);
        }
    }
}

/// A string of AMF0.
fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or_default();
    [&[2][..], &length.to_be_bytes(), text.as_bytes()].concat()
}
