//! Minimal RTSP players for the harness, and the peer that they are compared on.

use crate::feed::{BITS_PER_SECOND, wall_nanos};
use std::{
    io::{Error, Read, Result, Write},
    path::Path,
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

/// Sends a request, and reads the answer to its end.
async fn ask(stream: &mut TcpStream, cseq: u32, request: &str, headers: &str) -> Result<String> {
    stream.write_all(format!("{request} RTSP/1.0\r\nCSeq: {cseq}\r\n{headers}\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await?;
        if answer.is_empty() && byte == *b"$" {
            // Some servers send media before they answer.
            let mut head = [0; 3];
            stream.read_exact(&mut head).await?;
            let mut frame = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            stream.read_exact(&mut frame).await?;
            continue;
        }
        answer.push(byte[0]);
        if answer.len() > 65_536 {
            return Err(Error::other("an endless answer"));
        }
    }
    let mut text = String::from_utf8_lossy(&answer).into_owned();
    let length =
        text.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    if let Some(length) = length.and_then(|length| length.trim().parse::<usize>().ok()) {
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        text += &String::from_utf8_lossy(&body);
    }
    if text.starts_with("RTSP/1.0 200") { Ok(text) } else { Err(Error::other(format!("{request}: {text}"))) }
}

/// Plays the first track of an address; `transport` is the value of the Transport header.
async fn play(url: &str, port: u16, transport: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let sdp = ask(&mut stream, 1, &format!("DESCRIBE {url}"), "Accept: application/sdp\r\n").await?;
    let media = sdp.split_once("\r\nm=").map_or("", |(_, media)| media);
    let control = media.lines().find_map(|line| line.strip_prefix("a=control:")).unwrap_or_default();
    let track = if control.contains("://") { control.to_owned() } else { format!("{url}/{control}") };
    let answer = ask(&mut stream, 2, &format!("SETUP {track}"), &format!("Transport: {transport}\r\n")).await?;
    let session = answer.lines().find_map(|line| line.strip_prefix("Session: ")).unwrap_or_default();
    let session = session.split(';').next().unwrap_or_default();
    ask(&mut stream, 3, &format!("PLAY {url}"), &format!("Session: {session}\r\nRange: npt=0.000-\r\n")).await?;
    Ok(stream)
}

/// Players over TCP that read and count, or the control connections of players over UDP.
pub struct Players {
    runtime: Runtime,
    bytes: Arc<Vec<AtomicU64>>,
}

impl Players {
    /// Starts `count` players of an address; returns when all play. `ports`: those of players over UDP.
    ///
    /// # Errors
    /// When one cannot play.
    pub fn start(count: usize, port: u16, path: &str, ports: Option<&[u16]>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let bytes: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
        let url = format!("rtsp://127.0.0.1:{port}/{path}");
        for i in 0..count {
            let transport = match ports.and_then(|ports| ports.get(i)) {
                Some(port) => format!("RTP/AVP;unicast;client_port={port}-{}", port.wrapping_add(1)),
                None => "RTP/AVP/TCP;unicast;interleaved=0-1".to_owned(),
            };
            let mut stream = runtime.block_on(play(&url, port, &transport))?;
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

/// Makes a file of video alone.
///
/// # Errors
/// When ffmpeg is missing or fails.
pub fn video(media: &Path) -> Result<std::path::PathBuf> {
    let file = media.with_extension("video.ts");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y", "-i"])
        .arg(media)
        .args(["-map", "0:v", "-c", "copy"])
        .arg(&file)
        .status()?;
    if status.success() { Ok(file) } else { Err(Error::other("ffmpeg could not make the video")) }
}

/// Records a file in real time with ffmpeg over TCP, until it is ended.
///
/// # Errors
/// When ffmpeg is missing.
pub fn record_with_ffmpeg(file: &Path, url: &str) -> Result<std::process::Child> {
    Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i"])
        .arg(file)
        .args(["-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", url])
        .stdout(Stdio::null())
        .spawn()
}

/// Records packets with the time in their payload over TCP, in bursts of a picture, 25 a second at 6 Mb/s, of an
/// encoding without key frames. Returns their number.
///
/// # Errors
/// When the server refuses.
pub fn record_stamped(url: &str, port: u16, time: Duration) -> Result<u64> {
    const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 STAMP/90000\r\n\
        a=control:track\r\n";
    const SIZE: usize = 12 + 1316;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let requests = [
        format!(
            "ANNOUNCE {url} RTSP/1.0\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
            SDP.len()
        ),
        format!(
            "SETUP {url}/track RTSP/1.0\r\nCSeq: 2\r\n\
            Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n\r\n"
        ),
        format!("RECORD {url} RTSP/1.0\r\nCSeq: 3\r\n\r\n"),
    ];
    for request in requests {
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") && answer.len() < 65_536 {
            stream.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        if !answer.starts_with(b"RTSP/1.0 200") {
            return Err(Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
    }
    let per_picture = BITS_PER_SECOND / 25 / 8 / 1316;
    let start = Instant::now();
    let picture = Duration::from_millis(40);
    let mut sent = 0u64;
    let mut pictures = 0u32;
    while start.elapsed() < time {
        for _ in 0..per_picture {
            let mut frame = vec![0; 4 + SIZE];
            frame[..4].copy_from_slice(&[b'$', 0, (SIZE >> 8) as u8, SIZE as u8]);
            frame[4..6].copy_from_slice(&[0x80, 96]);
            frame[6..8].copy_from_slice(&(sent as u16).to_be_bytes());
            frame[8..12].copy_from_slice(&pictures.wrapping_mul(3600).to_be_bytes());
            frame[16..24].copy_from_slice(&wall_nanos().to_be_bytes());
            stream.write_all(&frame)?;
            sent += 1;
        }
        pictures += 1;
        std::thread::sleep((picture * pictures).saturating_sub(start.elapsed()));
    }
    Ok(sent)
}

/// gst-rtsp-server, which takes RTP at one port, and serves it to all players from one pipeline.
///
/// # Errors
/// When the script cannot be written.
pub fn gst_rtsp_server(port: u16, input: u16, folder: &Path) -> Result<Command> {
    let script = format!(
        "import gi\ngi.require_version('Gst', '1.0')\ngi.require_version('GstRtspServer', '1.0')\n\
         from gi.repository import GLib, Gst, GstRtspServer\nGst.init(None)\n\
         server = GstRtspServer.RTSPServer.new()\nserver.set_address('127.0.0.1')\nserver.set_service('{port}')\n\
         factory = GstRtspServer.RTSPMediaFactory.new()\n\
         factory.set_launch('( udpsrc address=127.0.0.1 port={input} buffer-size=4194304 \
         caps=\"application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96\" ! \
         rtph264depay ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1 )')\n\
         factory.set_shared(True)\nserver.get_mount_points().add_factory('/live', factory)\n\
         server.attach(None)\nprint('ready', flush=True)\nGLib.MainLoop().run()\n"
    );
    let file = folder.join("rtsp_server.py");
    std::fs::write(&file, script)?;
    let mut command = Command::new("/usr/bin/python3");
    command.arg(file);
    Ok(command)
}

/// Sends a file in real time over RTP with ffmpeg, until it is ended.
///
/// # Errors
/// When ffmpeg is missing.
pub fn send_rtp_with_ffmpeg(file: &Path, port: u16) -> Result<std::process::Child> {
    Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i"])
        .arg(file)
        .args(["-c", "copy", "-f", "rtp", &format!("rtp://127.0.0.1:{port}?pkt_size=1400")])
        .stdout(Stdio::null())
        .spawn()
}
