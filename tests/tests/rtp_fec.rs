//! Forward error correction of RTP (SMPTE ST 2022-1) over sockets that lose packets, with this library, ffmpeg and
//! GStreamer at both ends.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use streamlink_core::{Fec, Output, Source};
use streamlink_tests::{
    clip, eventually,
    peer::Peer,
    rig::{Rig, free_port, text},
    rtp::{self, Sender, Sink, packet, sequence},
};

/// Distances of the ports of a session: media, columns, rows.
const PORTS: [u16; 3] = [0, 2, 4];

/// A port that is free together with the next four, which nobody else is given.
fn free_ports() -> u16 {
    loop {
        let ports = [(); 5].map(|()| free_port());
        if ports.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            return ports[0];
        }
    }
}

/// A network to a session that loses packets of the media, by their numbers from the first one on.
struct Network {
    port: u16,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    fec: Arc<Mutex<[usize; 2]>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    fn to(target: u16, lost: impl Fn(u16) -> bool + Send + 'static) -> Self {
        let port = free_ports();
        let sockets = PORTS.map(|distance| UdpSocket::bind(("127.0.0.1", port + distance)).unwrap());
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
            socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20).unwrap();
        }
        let (sent, fec, stop) = <(Arc<Mutex<Vec<Vec<u8>>>>, Arc<Mutex<[usize; 2]>>, Arc<AtomicBool>)>::default();
        let thread = std::thread::spawn({
            let sent = sent.clone();
            let fec = fec.clone();
            let stop = stop.clone();
            move || {
                let out = UdpSocket::bind("127.0.0.1:0").unwrap();
                let mut buffer = [0; 2048];
                let mut first = None;
                while !stop.load(Ordering::Relaxed) {
                    for (socket, distance) in sockets.iter().zip(PORTS) {
                        while let Ok(length) = socket.recv(&mut buffer) {
                            let bytes = &buffer[..length];
                            if distance == 0 {
                                sent.lock().unwrap().push(bytes.to_vec());
                            } else {
                                fec.lock().unwrap()[usize::from(distance / 4)] += 1;
                            }
                            let is_lost = distance == 0 && {
                                let number = sequence(bytes);
                                lost(number.wrapping_sub(*first.get_or_insert(number)))
                            };
                            if !is_lost {
                                out.send_to(bytes, SocketAddr::from(([127, 0, 0, 1], target + distance))).unwrap();
                            }
                        }
                    }
                    std::thread::sleep(Duration::from_micros(500)); // a turn of the network, not a wait
                }
            }
        });
        Self { port, sent, fec, stop, thread: Some(thread) }
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        self.sent.lock().unwrap().clone()
    }

    /// Numbers of FEC packets of columns and rows.
    fn fec(&self) -> [usize; 2] {
        *self.fec.lock().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A packet whose length follows from its number.
fn numbered(number: u16) -> Vec<u8> {
    packet(96, number, u32::from(number) * 90, 7, &vec![number as u8; 500 + usize::from(number % 40)])
}

fn receiver(sink: &Sink) -> Rig {
    let source = Source::rtp("in", "127.0.0.1:0").fec(true);
    Rig::start(source, vec![Output::rtp("out", &sink.address()).into()])
}

#[test]
fn rtp_fec_recovers_lost_packets_between_flows() {
    // Bursts as long as a row, single packets in other matrices, and with the parity of rows two packets of one column.
    for (fec, lost) in [
        (Fec::new(5, 5).unwrap(), (|n: u16| (60..65).contains(&n) || (n % 25 == 3 && n != 53)) as fn(u16) -> bool),
        (Fec::new(8, 4).unwrap().with_rows(), |n: u16| (64..72).contains(&n) || n == 200 || n == 208 || n == 323),
        (Fec::new(1, 4).unwrap(), |n: u16| n % 4 == 3),
    ] {
        let sink = Sink::new();
        let receiving = receiver(&sink);
        let network = Network::to(receiving.input_port(), lost);
        let output = Output::rtp("out", &format!("127.0.0.1:{}", network.port)).fec(fec);
        let sending = Rig::start(Source::rtp("in", "127.0.0.1:0"), vec![output.into()]);
        let sender = Sender::to(&sending.input());
        let mut received = Vec::new();
        for number in 0..500 {
            sender.send(&numbered(number));
            rtp::pause(); // the pace of a stream
            received.extend(sink.within(Duration::from_micros(100)));
        }
        // The last matrix has no FEC packets yet, and lets nothing through behind a loss.
        while received.len() < 400 {
            received.push(sink.next());
        }
        for (number, bytes) in (0u16..).zip(&received) {
            assert!(*bytes == numbered(number), "{fec}: {number} and not {}", sequence(bytes));
        }
        let (source, output) =
            (receiving.running.stats().sources[0].clone(), sending.running.stats().outputs[0].clone());
        let missing = (0..400).filter(|n| lost(*n)).count() as u64;
        let most = (0..500).filter(|n| lost(*n)).count() as u64;
        assert!((missing..=most).contains(&source.rebuilt), "{fec}: {missing}, {source:?}");
        assert!(source.recovered >= missing && source.duplicates == 0, "{fec}: {source:?}");
        assert_eq!((source.lost, source.unrepaired, source.malformed), (0, 0, 0), "{fec}");
        assert!(source.repairs > 0 && source.repairs <= output.repairs, "{fec}: {source:?} {output:?}");
        eventually(&format!("the FEC packets of {fec}"), || {
            let [columns, rows] = network.fec();
            let repairs = sending.running.stats().outputs[0].repairs;
            (repairs == (columns + rows) as u64 && (rows > 0) == fec.has_rows()).then_some(())
        });
        sending.stop();
        receiving.stop();
    }
}

#[test]
fn rtp_fec_counts_what_it_cannot_recover() {
    let sink = Sink::new();
    let receiving = receiver(&sink);
    // Two rows of one matrix.
    let network = Network::to(receiving.input_port(), |n| (200..210).contains(&n));
    let output = Output::from_url("out", &format!("rtp://127.0.0.1:{}?fec=5,5,row", network.port));
    let sending = Rig::start(Source::rtp("in", "127.0.0.1:0"), vec![output]);
    let sender = Sender::to(&sending.input());
    let mut number = 0;
    let stats = eventually("the end of the wait for the lost packets", || {
        sender.send(&numbered(number));
        number += 1;
        rtp::pause();
        let source = receiving.running.stats().sources[0].clone();
        (source.lost > 0).then_some(source)
    });
    assert_eq!((stats.lost, stats.unrepaired, stats.rebuilt), (10, 10, 0));
    let metrics = receiving.engine.metrics();
    assert!(metrics.contains("streamlink_unrepaired_packets_total{"), "{metrics}");
    sending.stop();
    receiving.stop();
}

#[test]
fn rtp_fec_source_takes_fec_from_the_sender_of_the_media_alone() {
    let sink = Sink::new();
    let receiving = receiver(&sink);
    let port = receiving.input_port();
    let sender = Sender::to(&receiving.input());
    let mut sent = Vec::new();
    for number in 0..50 {
        sender.send(&numbered(number));
        sent.push(numbered(number));
    }
    assert!(sink.take(50) == sent);
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    stranger.send_to(&[0x80; 100], ("127.0.0.1", port + 2)).unwrap();
    sender.socket.send_to(&[0x80; 100], ("127.0.0.1", port + 4)).unwrap();
    eventually("the counters", || {
        let source = &receiving.running.stats().sources[0];
        (source.dropped == 1 && source.malformed == 1).then_some(())
    });
    receiving.stop();
}

/// The media that was sent, and what has come out, are the same up to a packet.
fn same_up_to(network: &Network, received: &[Vec<u8>], count: usize) {
    let sent = network.sent();
    assert!(sent.len() >= count && received.len() >= count, "{} of {}", received.len(), sent.len());
    for (at, (sent, received)) in sent.iter().zip(received).take(count).enumerate() {
        assert!(sent == received, "packet {at}: {} and not {}", sequence(received), sequence(sent));
    }
}

#[test]
fn rtp_fec_of_ffmpeg_is_understood() {
    let sink = Sink::new();
    let receiving = receiver(&sink);
    // Single packets, and rows.
    let network = Network::to(receiving.input_port(), |n| n % 32 == 5 || (n / 8) % 16 == 3);
    let from = clip();
    let url = format!("rtp://127.0.0.1:{}?pkt_size=1328", network.port);
    let mut sender = Peer::start(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-nostdin",
            "-re",
            "-i",
            text(&from),
            "-map",
            "0",
            "-c",
            "copy",
            "-f",
            "rtp_mpegts",
            "-fec",
            "prompeg=l=8:d=4",
            &url,
        ],
    );
    let received = std::iter::once(sink.next()).chain(sink.drain(Duration::from_secs(3))).collect::<Vec<_>>();
    assert!(sender.finish().success(), "{}", sender.output());
    // The last matrices are not complete.
    same_up_to(&network, &received, network.sent().len() - 80);
    let source = receiving.running.stats().sources[0].clone();
    assert!(source.rebuilt > 20 && source.repairs > 100, "{source:?}");
    receiving.stop();
}

#[test]
fn rtp_fec_of_gstreamer_is_understood() {
    let sink = Sink::new();
    let receiving = receiver(&sink);
    let network = Network::to(receiving.input_port(), |n| n % 25 == 7 || (n / 5) % 15 == 3);
    let port = network.port;
    let encoder = "fec-encoders=fec,0=\"rtpst2022-1-fecenc\\ rows\\=5\\ columns\\=5\";";
    let pipeline = format!(
        "filesrc location={} ! tsparse set-timestamps=true ! rtpmp2tpay ssrc=0 ! rtp.send_rtp_sink_0 \
         rtp.send_rtp_src_0 ! udpsink host=127.0.0.1 port={port} \
         rtp.send_fec_src_0_0 ! udpsink host=127.0.0.1 port={} async=false \
         rtp.send_fec_src_0_1 ! udpsink host=127.0.0.1 port={} async=false",
        text(&clip()),
        port + 2,
        port + 4
    );
    let arguments: Vec<&str> =
        ["-q", "rtpbin", "name=rtp", encoder].into_iter().chain(pipeline.split_whitespace()).collect();
    let sender = Peer::start("gst-launch-1.0", &arguments);
    let received = std::iter::once(sink.next()).chain(sink.drain(Duration::from_secs(3))).collect::<Vec<_>>();
    assert!(network.sent().len() > 400, "{}", sender.output());
    same_up_to(&network, &received, network.sent().len() - 80);
    let source = receiving.running.stats().sources[0].clone();
    assert!(source.rebuilt > 20 && source.repairs > 100, "{source:?}");
    receiving.stop();
}

#[test]
fn rtp_fec_is_understood_by_gstreamer() {
    // Bursts as long as a row, and with the parity of rows one packet of each.
    let columns = Fec::new(5, 5).unwrap();
    gstreamer_recovers(columns, |n| n > 50 && n % 50 / 5 == 1);
    gstreamer_recovers(columns.with_rows(), |n| n > 50 && n % 7 == 3);
}

fn gstreamer_recovers(fec: Fec, lost: fn(u16) -> bool) {
    let target = free_ports();
    let network = Network::to(target, lost);
    let output = Output::rtp("out", &format!("127.0.0.1:{}", network.port)).fec(fec);
    let sending = Rig::start(Source::udp("in", "127.0.0.1:0"), vec![output.into()]);
    let file = sending.file("received.ts");
    let caps = "caps=application/x-rtp,media=video,encoding-name=MP2T,clock-rate=90000,payload=33";
    let pipeline = format!(
        "-e rtpst2022-1-fecdec name=dec size-time=3000000000 \
         udpsrc address=127.0.0.1 port={} caps=application/x-rtp,payload=96 ! queue ! dec.fec_0 \
         udpsrc address=127.0.0.1 port={} caps=application/x-rtp,payload=96 ! queue ! dec.fec_1 \
         udpsrc address=127.0.0.1 port={target} {caps} ! queue ! dec.sink \
         dec.src ! rtpjitterbuffer latency=3000 ! rtpmp2tdepay ! filesink buffer-mode=unbuffered location={}",
        target + 2,
        target + 4,
        text(&file)
    );
    let arguments: Vec<&str> = pipeline.split_whitespace().collect();
    let receiver = Peer::start("gst-launch-1.0", &arguments);
    for distance in PORTS {
        receiver.wait_for_udp(target + distance);
    }
    let original = fs::read(clip()).unwrap();
    let sender = Sender::to(&sending.input());
    for datagram in original.chunks(1316) {
        sender.send(datagram);
        std::thread::sleep(Duration::from_millis(5)); // the pace of the clip
    }
    // The last matrices have no FEC packets.
    let whole = original.len() - 80 * 1316;
    eventually("the clip but for its end", || {
        (fs::metadata(&file).map_or(0, |found| found.len() as usize) >= whole).then_some(())
    });
    let received = fs::read(&file).unwrap();
    let off = received.chunks(188).zip(original[..whole].chunks(188)).position(|(a, b)| a != b);
    assert_eq!(off, None, "{fec}: packet of {}, {}", whole / 188, receiver.output());
    sending.stop();
}
