//! Programs of a transport stream: its tables as they are now, the choice of a program, and of the streams that pass.

use crate::media::{
    ProgramChoice,
    ts::{
        codec::{TsCodec, ts_codec},
        sections::{
            ProgramEntry, ProgramMap, SectionReader, StreamEntry, Table, program_association, program_map,
            service_names,
        },
        transport::TransportPacket,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// PIDs of the PAT and of the SDT.
const PAT_PID: u16 = 0;
const SDT_PID: u16 = 0x11;
/// Maximum time, and number of packets, that the choice waits for the maps of all programs.
const WAIT_FOR_MAPS: Duration = Duration::from_secs(1);
const WAIT_PACKETS: u32 = 20_000;
/// Number of scrambled packets in a row of a stream that has been clear, and of clear ones that end it.
const SCRAMBLED_RUN: i8 = 20;
/// Maximum number of streams whose packets are counted.
const MAX_STREAMS: usize = 250;

/// An elementary stream of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) pid: u16,
    pub(super) kind: Result<TsCodec, &'static str>,
}

/// A program and its streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) number: u16,
    pub(super) clock_pid: u16,
    pub(super) streams: Vec<Stream>,
}

/// The packets of one elementary stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) bytes: u64,
    /// Positive while packets are scrambled.
    run: i8,
    seen: bool,
    pub(super) scrambled: bool,
}

/// The tables of a transport stream.
#[derive(Debug)]
pub(super) struct Programs {
    association: (SectionReader, Table<ProgramEntry>),
    services: (SectionReader, Table<(u16, String)>),
    maps: BTreeMap<u16, SectionReader>,
    entries: Vec<ProgramEntry>,
    programs: BTreeMap<u16, (ProgramMap, Program)>,
    names: BTreeMap<u16, String>,
    /// Index of each PID in `traffic`, plus one.
    index: Box<[u8; 8192]>,
    traffic: Vec<(u16, Traffic)>,
    /// Arrival of the first PAT, and number of packets since.
    since: Option<Instant>,
    packets: u32,
    /// Damaged sections of PIDs that are no longer followed.
    damaged: u64,
}

/// The streams that pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) program: Option<u16>,
    pub(super) clock_pid: Option<u16>,
    pub(super) video: Option<(u16, TsCodec)>,
    pub(super) audio: Option<(u16, TsCodec)>,
}

impl Programs {
    pub(super) fn new() -> Self {
        Self {
            association: Default::default(),
            services: Default::default(),
            maps: BTreeMap::new(),
            entries: Vec::new(),
            programs: BTreeMap::new(),
            names: BTreeMap::new(),
            index: Box::new([0; 8192]),
            traffic: Vec::new(),
            since: None,
            packets: 0,
            damaged: 0,
        }
    }

    /// Takes a packet. Returns whether anything has changed that the choice depends on.
    pub(super) fn packet(&mut self, packet: &TransportPacket<'_>, arrival: Instant) -> bool {
        let mut changed = false;
        match packet.pid {
            PAT_PID => {
                let mut found = None;
                let (reader, table) = &mut self.association;
                reader.push(packet, |section| found = program_association(section, table).or(found.take()));
                if let Some(entries) = found {
                    self.since.get_or_insert(arrival);
                    self.associate(entries);
                    changed = true;
                }
            }
            SDT_PID => {
                let mut found = None;
                let (reader, table) = &mut self.services;
                reader.push(packet, |section| found = service_names(section, table).or(found.take()));
                if let Some(names) = found {
                    self.names = names.into_iter().collect();
                    changed = true;
                }
            }
            pid => {
                if let Some(reader) = self.maps.get_mut(&pid) {
                    let mut found = Vec::new();
                    reader.push(packet, |section| found.extend(program_map(section)));
                    for map in found {
                        changed |= self.map(pid, map);
                    }
                } else {
                    changed = self.count(packet);
                }
            }
        }
        if let Some(since) = self.since {
            let before = self.waits(since, arrival);
            self.packets = self.packets.saturating_add(1);
            changed |= before && self.packets > WAIT_PACKETS;
        }
        changed
    }

    fn waits(&self, since: Instant, arrival: Instant) -> bool {
        self.packets <= WAIT_PACKETS && arrival.saturating_duration_since(since) < WAIT_FOR_MAPS
    }

    fn associate(&mut self, entries: Vec<ProgramEntry>) {
        let pids: BTreeSet<u16> = entries.iter().map(|entry| entry.pid).collect();
        for (pid, reader) in &self.maps {
            if !pids.contains(pid) {
                self.damaged = self.damaged.saturating_add(reader.damaged());
            }
        }
        self.maps.retain(|pid, _| pids.contains(pid));
        for pid in pids {
            self.maps.entry(pid).or_default();
        }
        // The map of a program on another PID is another one, until it comes.
        let before = std::mem::replace(&mut self.entries, entries);
        let entries = &self.entries;
        self.programs.retain(|number, _| {
            let of = |list: &[ProgramEntry]| list.iter().find(|entry| entry.number == *number).map(|entry| entry.pid);
            of(entries).is_some() && of(entries) == of(&before)
        });
        self.follow();
    }

    fn map(&mut self, pid: u16, map: ProgramMap) -> bool {
        let named = self.entries.iter().any(|entry| entry.pid == pid && entry.number == map.number);
        if !named || self.programs.get(&map.number).is_some_and(|(known, _)| *known == map) {
            return false;
        }
        let stream = |entry: &StreamEntry| Stream {
            pid: entry.pid,
            kind: ts_codec(&map.descriptors, entry.stream_type, &entry.descriptors),
        };
        let program =
            Program { number: map.number, clock_pid: map.clock_pid, streams: map.streams.iter().map(stream).collect() };
        self.programs.insert(map.number, (map, program));
        self.follow();
        true
    }

    /// Counts the packets of all streams that are named, and of no others.
    fn follow(&mut self) {
        let before = std::mem::take(&mut self.traffic);
        self.index.fill(0);
        for (_, program) in self.programs.values() {
            for stream in &program.streams {
                let Some(index) = self.index.get_mut(usize::from(stream.pid)).filter(|index| **index == 0) else {
                    continue;
                };
                if self.traffic.len() >= MAX_STREAMS {
                    return;
                }
                let known = before.iter().find(|(pid, _)| *pid == stream.pid).map(|(_, traffic)| *traffic);
                self.traffic.push((stream.pid, known.unwrap_or_default()));
                *index = u8::try_from(self.traffic.len()).unwrap_or(0);
            }
        }
    }

    fn count(&mut self, packet: &TransportPacket<'_>) -> bool {
        let index = self.index.get(usize::from(packet.pid)).copied().unwrap_or(0);
        let Some((_, traffic)) = usize::from(index).checked_sub(1).and_then(|at| self.traffic.get_mut(at)) else {
            return false;
        };
        if packet.payload.is_empty() {
            return false;
        }
        traffic.bytes = traffic.bytes.saturating_add(packet.payload.len() as u64);
        let first = !std::mem::replace(&mut traffic.seen, true);
        if packet.scrambled == traffic.scrambled {
            traffic.run = 0;
            return false;
        }
        traffic.run += 1; // at most the run
        if first || traffic.run >= SCRAMBLED_RUN {
            traffic.run = 0;
            traffic.scrambled = packet.scrambled;
            return true;
        }
        false
    }

    /// Returns the packets of a stream.
    pub(super) fn traffic(&self, pid: u16) -> Traffic {
        let found = self.traffic.iter().find(|(known, _)| *known == pid);
        found.map(|(_, traffic)| *traffic).unwrap_or_default()
    }

    /// Returns the programs whose maps are known, in the order of the PAT.
    pub(super) fn all(&self) -> impl Iterator<Item = &Program> {
        self.entries.iter().filter_map(|entry| self.programs.get(&entry.number).map(|(_, program)| program))
    }

    /// Returns the name of a program.
    pub(super) fn name(&self, number: u16) -> Option<&str> {
        self.names.get(&number).map(String::as_str)
    }

    /// Returns the programs that the PAT names.
    pub(super) fn entries(&self) -> &[ProgramEntry] {
        &self.entries
    }

    /// Returns the number of sections with a wrong CRC.
    pub(super) fn damaged(&self) -> u64 {
        let maps = self.maps.values().fold(self.damaged, |sum, reader| sum.saturating_add(reader.damaged()));
        maps.saturating_add(self.association.0.damaged()).saturating_add(self.services.0.damaged())
    }

    /// Chooses the streams that pass. Those that pass already stay, as long as they are named. `unfit` tells streams that
    /// have turned out to be no use.
    pub(super) fn choose(
        &self,
        wanted: &ProgramChoice,
        now: &Choice,
        arrival: Instant,
        unfit: impl Fn(u16) -> bool,
    ) -> Choice {
        let usable = |stream: &Stream| {
            let kind = stream.kind.ok()?;
            (!unfit(stream.pid) && !self.traffic(stream.pid).scrambled).then_some((stream.pid, kind))
        };
        let tracks = |program: &Program| {
            let pick = |is_video: bool, before: Option<(u16, TsCodec)>| {
                let mut fit = program.streams.iter().filter_map(usable).filter(|(_, kind)| kind.is_video() == is_video);
                let first = fit.clone().next();
                before.filter(|before| fit.any(|stream| stream == *before)).or(first)
            };
            (pick(true, now.video), pick(false, now.audio))
        };
        let score = |program: &Program| match tracks(program) {
            (Some(_), _) => 2,
            (None, Some(_)) => 1,
            (None, None) => 0,
        };
        let chosen = match wanted {
            ProgramChoice::Best => {
                let current = self.all().find(|program| Some(program.number) == now.program);
                let complete = self.entries.iter().all(|entry| self.programs.contains_key(&entry.number))
                    || self.since.is_none_or(|since| !self.waits(since, arrival));
                let had_video = now.video.is_some();
                let mut best: Option<&Program> = None;
                for program in self.all() {
                    if best.is_none_or(|best| score(program) > score(best)) {
                        best = Some(program);
                    }
                }
                match (current, best) {
                    (Some(current), Some(best))
                        if score(current) > 0 && (had_video || score(best) <= score(current)) =>
                    {
                        Some(current)
                    }
                    _ if !complete => None,
                    (_, best) => best,
                }
            }
            ProgramChoice::Number(number) => self.all().find(|program| program.number == *number),
            ProgramChoice::Name(name) => self.all().find(|program| {
                self.name(program.number).is_some_and(|known| known.trim().eq_ignore_ascii_case(name.trim()))
            }),
        };
        let Some(program) = chosen else { return Choice::default() };
        let (video, audio) = tracks(program);
        Choice { program: Some(program.number), clock_pid: Some(program.clock_pid), video, audio }
    }
}
