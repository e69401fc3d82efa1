//! Three regions on one machine: an ingest engine, two relays, nodes in `eu`, `us` and `asia`, and an SRT and an RTMP
//! output in each. Relays and nodes are killed by hand, or by themselves with `--kill-every`; the table shows what the
//! destinations see.
//!
//! ```text
//! cargo run --release -p streamlink-regions -- --seconds 60 --kill-every 10
//! ```

mod destination;
mod relay;

use clap::Parser;
use destination::Destination;
use relay::{Certificate, Relay};
use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};
use streamlink_core::{AppSource, Bitrate, Engine, Flow, FlowHandle, Packet, Source};
use streamlink_moq::{
    Cluster, MoqAddress, Node, NodeEvent, NodeOptions,
    seal::{RegionKeys, RegionSecretKey},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    runtime::Handle,
    task::JoinHandle,
};

/// Regions, each with two nodes.
const REGIONS: [&str; 3] = ["eu", "us", "asia"];
/// Five seconds of H.264 and AAC, which is played in a loop without `--input`.
const CLIP: &[u8] = include_bytes!("../../media/clip.ts");
const CLIP_LENGTH: Duration = Duration::from_secs(5);
/// Name of the flow.
const FLOW: &str = "match-day";

/// Runs three regions on one machine, and shows what the destinations of their outputs see.
#[derive(Parser)]
struct Arguments {
    /// Source of the flow, as in `srt://:9000` for an encoder. A clip is played without it.
    #[arg(long)]
    input: Option<String>,
    /// Seconds after which the program ends. Without it, `q` ends it.
    #[arg(long)]
    seconds: Option<u64>,
    /// Kills a relay or a node, in turn, every so many seconds, and starts it again 3 s later.
    #[arg(long)]
    kill_every: Option<u64>,
    /// Runs this process as a relay on a port. For the program's own use.
    #[arg(long, hide = true, requires = "relay_certificate")]
    relay: Option<u16>,
    #[arg(long, hide = true)]
    relay_certificate: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    if let (Some(port), Some(certificate)) = (arguments.relay, &arguments.relay_certificate) {
        return relay::run(port, certificate).await;
    }
    let mut stage = Stage::start(&arguments).await?;
    stage.run(&arguments).await?;
    stage.flow.stop().await;
    Ok(())
}

/// Region with its key, its nodes and its destinations.
struct Region {
    name: &'static str,
    key: RegionSecretKey,
    nodes: Vec<Slot>,
    destinations: Vec<Destination>,
}

/// Place of a node, which may be down.
struct Slot {
    id: String,
    node: Option<Node>,
}

struct Stage {
    certificate: Certificate,
    address: MoqAddress,
    relays: Vec<Relay>,
    regions: Vec<Region>,
    flow: FlowHandle,
    began: Instant,
    /// Engines of the flow and of the destinations, whose flows end with them.
    _engines: [Engine; 2],
    _player: Option<JoinHandle<()>>,
}

impl Stage {
    async fn start(arguments: &Arguments) -> Result<Self, Box<dyn Error>> {
        let certificate = Certificate::new()?;
        let relays = vec![Relay::start(&certificate)?, Relay::start(&certificate)?];
        let addresses = relays.iter().map(Relay::address).collect::<Result<Vec<_>, _>>()?;
        let address = MoqAddress::new(addresses, "live")?;
        let cluster = Cluster::new(address.clone(), certificate.settings())?;
        let destinations = Engine::on(Handle::current())?;
        let mut engine = Engine::builder();
        let mut regions = Vec::new();
        for name in REGIONS {
            let key = RegionSecretKey::generate();
            engine = engine.remote_region(name, cluster.region(key.public_key()));
            let slots = (1..=2).map(|n| Slot { id: format!("{name}{n}"), node: None }).collect();
            let servers = vec![
                Destination::srt(&destinations, &format!("{name}-srt")).await?,
                Destination::rtmp(&destinations, &format!("{name}-rtmp")).await?,
            ];
            regions.push(Region { name, key, nodes: slots, destinations: servers });
        }
        let engine = engine.on(Handle::current())?;
        let source: Source = match &arguments.input {
            Some(url) => Source::from_url("input", url),
            None => Source::app_datagrams("clip").into(),
        };
        let mut flow = Flow::builder(FLOW, Bitrate::mbps(50)).source(source);
        for region in &regions {
            for destination in &region.destinations {
                flow = flow.output(destination.output(region.name)?);
            }
        }
        let flow = engine.start(flow.build()?).await?;
        for address in flow.input_addresses() {
            println!("point the encoder at {address}");
        }
        let player = match &arguments.input {
            Some(_) => None,
            None => Some(tokio::spawn(play(flow.app_source("clip")?))),
        };
        let mut stage = Self {
            certificate,
            address,
            relays,
            regions,
            flow,
            began: Instant::now(),
            _engines: [engine, destinations],
            _player: player,
        };
        let ids: Vec<String> =
            stage.regions.iter().flat_map(|region| &region.nodes).map(|slot| slot.id.clone()).collect();
        for id in ids {
            stage.toggle_node(&id)?;
        }
        Ok(stage)
    }

    async fn run(&mut self, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
        println!("keys, each with Enter: r1 r2 kill or start a relay; eu1 eu2 us1 us2 asia1 asia2 a node; q ends");
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut is_open = true;
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let mut buttons = ["r1", "eu1", "r2", "us2", "r1", "asia1", "r2", "eu2"].into_iter().cycle();
        let mut second = 0_u64;
        let mut down: Option<(u64, &str)> = None;
        loop {
            tokio::select! {
                line = lines.next_line(), if is_open => match line? {
                    Some(line) if line.trim() == "q" => return Ok(()),
                    Some(line) => self.press(line.trim())?,
                    None => is_open = false,
                },
                _ = seconds.tick() => {
                    second += 1;
                    self.tell();
                    self.print();
                    if arguments.seconds.is_some_and(|end| second >= end) {
                        return Ok(());
                    }
                    if let Some((_, button)) = down.take_if(|(at, _)| second >= *at) {
                        self.press(button)?;
                    }
                    let is_due = arguments.kill_every.is_some_and(|every| every > 0 && second.is_multiple_of(every));
                    if is_due && down.is_none() && let Some(button) = buttons.next() {
                        self.press(button)?;
                        down = Some((second + 3, button));
                    }
                }
            }
        }
    }

    /// Kills what a button names, or starts it again.
    fn press(&mut self, button: &str) -> Result<(), Box<dyn Error>> {
        let number = button.strip_prefix('r').and_then(|number| number.parse::<usize>().ok());
        let relay = number.and_then(|number| self.relays.get_mut(number.checked_sub(1)?));
        if let Some(relay) = relay {
            if relay.is_running() {
                relay.kill();
                self.say(&format!("relay {button} killed"));
            } else {
                relay.restart()?;
                self.say(&format!("relay {button} started"));
            }
            return Ok(());
        }
        self.toggle_node(button)
    }

    fn toggle_node(&mut self, id: &str) -> Result<(), Box<dyn Error>> {
        let slots = self.regions.iter_mut().flat_map(|region| {
            let name = region.name;
            let key = &region.key;
            region.nodes.iter_mut().map(move |slot| (name, key.clone(), slot))
        });
        let Some((region, key, slot)) = slots.into_iter().find(|(.., slot)| slot.id == id) else {
            println!("there is no relay or node `{id}`");
            return Ok(());
        };
        let said = if slot.node.take().is_some() {
            format!("node {id} killed")
        } else {
            let options = NodeOptions::new(region, id, self.address.clone(), RegionKeys::new(key));
            let options = options.settings(self.certificate.settings());
            slot.node = Some(Node::start(&Engine::on(Handle::current())?, options)?);
            format!("node {id} started")
        };
        self.say(&said);
        Ok(())
    }

    fn say(&self, text: &str) {
        println!("{:7.1} s  {text}", self.began.elapsed().as_secs_f64());
    }

    /// Prints the events of the nodes about outputs.
    fn tell(&mut self) {
        let began = self.began.elapsed().as_secs_f64();
        for slot in self.regions.iter_mut().flat_map(|region| &mut region.nodes) {
            let Some(node) = &mut slot.node else { continue };
            while let Some(event) = node.try_next_event() {
                let is_shown = !matches!(event, NodeEvent::RelayLost { .. } | NodeEvent::RelayConnected(_));
                if is_shown {
                    println!("{began:7.1} s  {}: {event}", slot.id);
                }
            }
        }
    }

    /// Prints what the destinations see.
    fn print(&self) {
        let stats = self.flow.stats();
        println!("{:<12} {:>6} {:>9} {:>12} {:>16}", "destination", "node", "kb/s", "silent for", "longest silence");
        for destination in self.regions.iter().flat_map(|region| &region.destinations) {
            let look = destination.look();
            let output = stats.outputs.iter().find(|output| output.name == destination.name);
            let node = output.and_then(|output| output.node.as_ref()).map_or("-", |node| node.as_str());
            let silence = look.silence.map_or("-".to_owned(), |silence| format!("{} ms", silence.as_millis()));
            let longest = format!("{} ms", look.longest.as_millis());
            println!("{:<12} {node:>6} {:>9} {silence:>12} {longest:>16}", destination.name, look.kbps);
        }
    }
}

/// Plays the clip in a loop, at its own pace.
async fn play(source: AppSource) {
    let datagrams = CLIP.chunks(1316);
    let count = u32::try_from(datagrams.len()).unwrap_or(u32::MAX).max(1);
    let began = tokio::time::Instant::now();
    for (number, datagram) in (0_u32..).zip(datagrams.cycle()) {
        let due = began + CLIP_LENGTH * (number / count) + CLIP_LENGTH * (number % count) / count;
        tokio::time::sleep_until(due).await;
        // A full flow loses the packet, and counts it.
        let _ = source.push(Packet::datagram(datagram, Instant::now()));
    }
}
