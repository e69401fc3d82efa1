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

    /// Sends a command with arguments in AMF0.
    ///
    /// # Errors
    /// When the server has closed the connection.
    pub fn command(&mut self, name: &str, transaction: u8, arguments: &[u8]) -> io::Result<()> {
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
pub fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or_default();
    [&[2][..], &length.to_be_bytes(), text.as_bytes()].concat()
}

/// Serves one connection of a client up to its `connect`: shakes hands, and reads that command. Returns the connection
/// and the text of the command, with what is no text left out.
///
/// # Errors
/// When the client closes the connection.
pub fn accept_connect(listener: &std::net::TcpListener) -> io::Result<(TcpStream, String)> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut hello = vec![0; 1537];
    stream.read_exact(&mut hello)?;
    let own = vec![0; 1536];
    stream.write_all(&[&[3][..], &own, &hello[1..]].concat())?;
    stream.read_exact(&mut hello[1..])?;
    let mut header = [0; 12];
    stream.read_exact(&mut header)?;
    let mut left = u32::from_be_bytes([0, header[4], header[5], header[6]]) as usize;
    let mut body: Vec<u8> = Vec::new();
    while left > 0 {
        let mut piece = vec![0; left.min(128)];
        stream.read_exact(&mut piece)?;
        body.extend(&piece);
        left -= piece.len();
        if left > 0 {
            stream.read_exact(&mut [0])?; // the header of the next chunk
        }
    }
    let text = body.iter().filter(|byte| byte.is_ascii_graphic() || **byte == b' ');
    Ok((stream, text.map(|byte| char::from(*byte)).collect()))
}

/// Sends a command on a connection of a client: its name, transaction and arguments.
///
/// # Errors
/// When the client has closed the connection.
pub fn send_command(stream: &mut TcpStream, name: &str, transaction: u8, arguments: &[u8]) -> io::Result<()> {
    let number = [&[0][..], &f64::from(transaction).to_be_bytes()].concat();
    let body = [&text(name)[..], &number, arguments].concat();
    let mut out = vec![3, 0, 0, 0];
    out.extend(&u32::try_from(body.len()).unwrap_or_default().to_be_bytes()[1..]);
    out.extend([20, 0, 0, 0, 0]);
    for (at, piece) in body.chunks(128).enumerate() {
        if at > 0 {
            out.push(0xc3);
        }
        out.extend(piece);
    }
    stream.write_all(&out)
}

/// An object of AMF0 with text fields; `more` is put behind them.
pub fn object(fields: &[(&str, &str)], more: &[u8]) -> Vec<u8> {
    let mut out = vec![3];
    for (name, value) in fields {
        out.extend(&text(name)[1..]);
        out.extend(text(value));
    }
    out.extend(more);
    out.extend([0, 0, 9]);
    out
}
