//! Minimal RTMP players and publishers for the harness: they send what the protocol needs, read or write, and count.
//! Every program under test has the same ones.

use bytes::Bytes;
use std::{
    io::{Error, Result},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

/// The chunk size that publishers announce.
const CHUNK: usize = 60_000;

/// The header of the first chunk of a message, in bytes.
const HEAD: usize = 12;

/// One message of a file.
#[derive(Clone, Debug)]
pub struct Tag {
    /// The message type.
    pub kind: u8,
    /// Milliseconds.
    pub time: u32,
    /// The message body.
    pub body: Bytes,
}

impl Tag {
    /// The message in chunks, on message stream 1.
    pub fn chunks(&self) -> Vec<u8> {
        let stream = if self.kind == 8 { 4 } else { 6 };
        let mut out = vec![stream];
        out.extend(&self.time.to_be_bytes()[1..]);
        out.extend(&(self.body.len() as u32).to_be_bytes()[1..]);
        out.extend([self.kind, 1, 0, 0, 0]);
        for (i, piece) in self.body.chunks(CHUNK).enumerate() {
            if i > 0 {
                out.push(0xc0 | stream);
            }
            out.extend_from_slice(piece);
        }
        out
    }
}

/// Makes an FLV file of a transport stream, and reads its messages.
///
/// # Errors
/// When ffmpeg is missing or fails.
pub fn tags(media: &Path, arguments: &[&str]) -> Result<(PathBuf, Vec<Tag>)> {
    let file = media.with_extension("flv");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y", "-i"])
        .arg(media)
        .args(arguments)
        .args(["-f", "flv"])
        .arg(&file)
        .status()?;
    if !status.success() {
        return Err(Error::other("ffmpeg could not make an FLV file"));
    }
    let bytes = Bytes::from(std::fs::read(&file)?);
    Ok((file, read_tags(&bytes)))
}

/// The messages of an FLV file.
pub fn read_tags(bytes: &Bytes) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut at = 13;
    while let Some(&[kind, l1, l2, l3, t1, t2, t3, t0, _, _, _]) = bytes.get(at..).and_then(|b| b.first_chunk()) {
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        if bytes.len() < at + 11 + length {
            break;
        }
        let body = bytes.slice(at + 11..at + 11 + length);
        tags.push(Tag { kind, time: u32::from_be_bytes([t0, t1, t2, t3]), body });
        at += 11 + length + 4;
    }
    tags
}

/// Publishes a file in real time with ffmpeg, to its end.
///
/// # Errors
/// When ffmpeg is missing or fails.
pub fn publish_with_ffmpeg(file: &Path, url: &str) -> Result<()> {
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-re", "-i"])
        .arg(file)
        .args(["-c", "copy", "-f", "flv", url])
        .stdout(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(Error::other("ffmpeg could not publish")) }
}

fn string(text: &str) -> Vec<u8> {
    let mut out = vec![2];
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
    out
}

fn number(value: f64) -> Vec<u8> {
    [&[0][..], &value.to_be_bytes()].concat()
}

/// A command of at most 128 bytes.
fn command(stream: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let body = parts.concat();
    [&[3, 0, 0, 0, 0, 0, body.len() as u8, 20, stream, 0, 0, 0][..], &body].concat()
}

/// Connects to `app` on a port, and asks to play or publish a key, without waiting for answers.
async fn ask(port: u16, verb: &str, key: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut hello = vec![3];
    hello.extend([0; 1536]);
    stream.write_all(&hello).await?;
    let mut answer = vec![0; 1 + 2 * 1536];
    stream.read_exact(&mut answer).await?;
    let mut app = vec![3, 0, 3];
    app.extend(b"app");
    app.extend(string("live"));
    app.extend([0, 0, 9]);
    let mut say = answer[1..1537].to_vec();
    say.extend(command(0, &[string("connect"), number(1.0), app]));
    say.extend(command(0, &[string("createStream"), number(2.0), vec![5]]));
    say.extend(command(1, &[string(verb), number(3.0), vec![5], string(key), string("live")]));
    stream.write_all(&say).await?;
    Ok(stream)
}

/// Players that read and count.
pub struct Watchers {
    runtime: Runtime,
    bytes: Arc<Vec<AtomicU64>>,
}

impl Watchers {
    /// Starts `count` players of a key; returns when all have connected.
    ///
    /// # Errors
    /// When one cannot connect.
    pub fn start(count: usize, port: u16, key: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let bytes: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
        for i in 0..count {
            let mut stream = runtime.block_on(ask(port, "play", key))?;
            let counts = bytes.clone();
            runtime.spawn(async move {
                let mut buffer = vec![0; 256 << 10];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    counts[i].fetch_add(length as u64, Relaxed);
                }
            });
        }
        Ok(Self { runtime, bytes })
    }

    /// Bytes that each has read.
    pub fn bytes(&self) -> Vec<u64> {
        self.bytes.iter().map(|b| b.load(Relaxed)).collect()
    }

    /// Ends them.
    pub fn stop(self) {
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// A publisher's way of writing a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// In one write, which leaves at once: as GStreamer's rtmp2sink does.
    Whole,
    /// Header, then body, which the kernel holds back until the header is acknowledged: as ffmpeg does.
    Apart,
}

/// Publishes messages under many keys (`k0`, `k1`, …) in real time; returns the bytes that were written.
///
/// # Errors
/// When one cannot connect, or is cut off.
pub fn publish_many(count: usize, port: u16, tags: &[Tag], how: Writes, begun: impl FnOnce()) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // Everything of one picture leaves at once, as those programs interleave sound and pictures.
    let mut groups: Vec<(u32, Vec<Vec<u8>>)> = Vec::new();
    for tag in tags {
        match groups.last_mut() {
            Some((_, messages)) if tag.kind != 9 => messages.push(tag.chunks()),
            _ => groups.push((tag.time, vec![tag.chunks()])),
        }
    }
    let groups = Arc::new(groups);
    let mut streams = Vec::new();
    for i in 0..count {
        let mut stream = runtime.block_on(ask(port, "publish", &format!("k{i}")))?;
        let size = [&[2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0][..], &(CHUNK as u32).to_be_bytes()].concat();
        runtime.block_on(stream.write_all(&size))?;
        stream.set_nodelay(how == Writes::Whole)?;
        streams.push(stream);
    }
    std::thread::sleep(Duration::from_secs(1)); // all were accepted
    begun();
    let start = Instant::now() + Duration::from_millis(100);
    let mut tasks = Vec::new();
    for (i, stream) in streams.into_iter().enumerate() {
        let groups = groups.clone();
        tasks.push(runtime.spawn(async move {
            let (mut reads, mut writes) = stream.into_split();
            let drain = tokio::spawn(async move { while reads.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} });
            let mut written = 0;
            for (time, messages) in groups.iter() {
                // Publishers are not in step.
                let due = start + Duration::from_millis(u64::from(*time) + (i as u64 * 40 / 300));
                tokio::time::sleep_until(due.into()).await;
                for message in messages {
                    let (head, body) = message.split_at(if how == Writes::Apart { HEAD } else { 0 });
                    if !head.is_empty() {
                        writes.write_all(head).await?;
                    }
                    writes.write_all(body).await?;
                    written += message.len() as u64;
                }
            }
            drain.abort();
            Ok::<u64, Error>(written)
        }));
    }
    let mut total = 0;
    for task in tasks {
        total += runtime.block_on(task)??;
    }
    Ok(total)
}

/// nginx with its RTMP module, one worker, application `live`; writes its configuration into a folder. `more` goes
/// into its server.
///
/// # Errors
/// When the file cannot be written.
pub fn nginx(port: u16, more: &str, folder: &Path) -> Result<Command> {
    let home = folder.display();
    let configuration = format!(
        "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\ndaemon off;\nmaster_process off;\n\
         worker_processes 1;\npid {home}/pid;\nerror_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         rtmp {{ access_log off; server {{ listen 127.0.0.1:{port}; {more} \
         application live {{ live on; }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration)?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(file).arg("-p").arg(folder).args(["-e", "stderr"]);
    Ok(command)
}
