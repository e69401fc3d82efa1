//! Protection against loss, for every mechanism and every kind of trouble, in virtual time: nothing is lost where theory
//! allows that, and what is lost is exactly what theory says, and is told.
//!
//! `docs/loss.md` explains the table that the test prints.

mod network;
mod rtp;
mod srt;

use network::{Network, Trouble};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

/// Packets that are judged, and those that follow, so that the receiver knows what is missing.
const JUDGED: u32 = 2000;
const FOLLOWING: u32 = 300;
/// Interval of the packets, and the step of the time.
const INTERVAL: Duration = Duration::from_millis(2);
const STEP: Duration = Duration::from_micros(500);
/// Time in which everything has arrived or is given up.
const REST: Duration = Duration::from_secs(4);

/// A way to carry media, with both of its ends.
trait Mechanism {
    /// Sends a packet of the media.
    fn send(&mut self, number: u32, network: &mut Network);
    /// Handles the arrived datagrams and the timers of both ends, and sends what is due.
    fn turn(&mut self, network: &mut Network);
    /// Returns the numbers of the delivered packets, in the order of delivery.
    fn delivered(&self) -> &[u32];
    /// Checks that the receiver counts what is lost: so many packets, in so many gaps.
    fn check_counted(&self, lost: u64, gaps: u64, cell: &str);
    /// Returns the packets that theory says can be delivered, where that is not all of them.
    fn possible(&self, network: &Network) -> Option<BTreeSet<u32>>;
    /// Returns whether both ends have noticed that the path is dead; `None` if the idle timeout of sources does that.
    fn notices_silence(&self) -> Option<bool> {
        None
    }
}

/// Way to make a mechanism, for each run.
type Make = fn() -> Box<dyn Mechanism>;

/// A row of the table.
struct Row {
    name: &'static str,
    paths: usize,
    make: Make,
    /// Reasons why some columns cannot be without loss, in the order of [`COLUMNS`]; `None`: nothing may be lost.
    limits: [Option<&'static str>; COLUMNS.len()],
}

/// A column of the table.
struct Column {
    name: &'static str,
    /// Trouble of the first path, and of the others.
    trouble: [Trouble; 2],
}

const FAIR: Trouble = Trouble::NONE;
const LOSS: Trouble = Trouble { percent: 5, ..FAIR };
const BURSTS: Trouble = Trouble { bursts: true, ..FAIR };
const DEAD: Trouble = Trouble { dies: true, ..FAIR };
const LATE: Trouble = Trouble { skewed: true, ..FAIR };

const COLUMNS: [Column; 9] = [
    Column { name: "no trouble", trouble: [FAIR; 2] },
    Column { name: "one path dead", trouble: [DEAD, FAIR] },
    Column { name: "5 % loss", trouble: [LOSS; 2] },
    Column { name: "10 % in bursts", trouble: [BURSTS; 2] },
    Column { name: "200 ms skew", trouble: [LATE, FAIR] },
    Column { name: "dead, 5 %", trouble: [Trouble { percent: 5, ..DEAD }, LOSS] },
    Column { name: "dead, bursts", trouble: [Trouble { bursts: true, ..DEAD }, BURSTS] },
    Column { name: "skew, 5 %", trouble: [Trouble { percent: 5, ..LATE }, LOSS] },
    Column { name: "skew, bursts", trouble: [Trouble { bursts: true, ..LATE }, BURSTS] },
];

const ONE: Option<&str> = Some("there is no other path");
const BOTH: Option<&str> = Some("what both paths lose is gone: nothing is sent again");
const NAKED: Option<&str> = Some("nothing is sent again, and nothing is rebuilt");
const MATRIX: Option<&str> = Some("a matrix rebuilds only what is alone missing in a column or row");

const ROWS: [Row; 14] = [
    Row { name: "SRT", paths: 1, make: srt::single, limits: [None, ONE, None, None, None, ONE, ONE, None, None] },
    Row { name: "SRT group broadcast", paths: 2, make: srt::broadcast, limits: [None; 9] },
    Row { name: "SRT group main/backup", paths: 2, make: srt::backup, limits: [None; 9] },
    Row {
        name: "SRT FEC, no retransmission",
        paths: 1,
        make: srt::fec_alone,
        limits: [None, ONE, MATRIX, MATRIX, None, ONE, ONE, MATRIX, MATRIX],
    },
    Row {
        name: "SRT FEC, retransmission",
        paths: 1,
        make: srt::fec_and_retransmission,
        limits: [None, ONE, None, None, None, ONE, ONE, None, None],
    },
    Row { name: "SRT FEC in a broadcast group", paths: 2, make: srt::fec_in_group, limits: [None; 9] },
    Row {
        name: "RTP, ST 2022-7",
        paths: 2,
        make: rtp::merged,
        limits: [None, None, BOTH, BOTH, None, BOTH, BOTH, BOTH, BOTH],
    },
    Row {
        name: "RTP, ST 2022-1 columns",
        paths: 1,
        make: rtp::columns,
        limits: [None, ONE, MATRIX, MATRIX, None, ONE, ONE, MATRIX, MATRIX],
    },
    Row {
        name: "RTP, ST 2022-1 columns and rows",
        paths: 1,
        make: rtp::columns_and_rows,
        limits: [None, ONE, MATRIX, MATRIX, None, ONE, ONE, MATRIX, MATRIX],
    },
    Row {
        name: "RTP, ST 2022-1 on two paths, 2022-7",
        paths: 2,
        make: rtp::columns_and_rows_merged,
        limits: [None, None, MATRIX, MATRIX, None, MATRIX, MATRIX, MATRIX, MATRIX],
    },
    Row { name: "RIST", paths: 1, make: rtp::rist, limits: [None, ONE, None, None, None, ONE, ONE, None, None] },
    Row { name: "RIST on two paths, 2022-7", paths: 2, make: rtp::rist_merged, limits: [None; 9] },
    Row { name: "RTP", paths: 1, make: rtp::plain, limits: [None, ONE, NAKED, NAKED, None, ONE, ONE, NAKED, NAKED] },
    Row { name: "UDP", paths: 1, make: rtp::udp, limits: [None, ONE, NAKED, NAKED, None, ONE, ONE, NAKED, NAKED] },
];

/// Result of one run.
struct Outcome {
    /// Packets lost on the first path and on the second, of those that are judged, repeats not counted.
    troubled: u64,
    lost: BTreeSet<u32>,
}

fn run(row: &Row, column: &Column) -> Outcome {
    let mut network = Network::new(&column.trouble[..row.paths], Instant::now());
    let mut mechanism = (row.make)();
    let cell = format!("{}, {}", row.name, column.name);
    for number in 0..JUDGED + FOLLOWING {
        mechanism.send(number, &mut network);
        for _ in 0..INTERVAL.as_micros() / STEP.as_micros() {
            network.advance(STEP);
            mechanism.turn(&mut network);
        }
    }
    for _ in 0..REST.as_micros() / STEP.as_micros() {
        network.advance(STEP);
        mechanism.turn(&mut network);
    }
    let delivered = mechanism.delivered();
    assert!(delivered.windows(2).all(|pair| pair[0] < pair[1]), "{cell}: once each and in order");
    let arrived: BTreeSet<u32> = delivered.iter().copied().filter(|number| *number < JUDGED).collect();
    let lost: BTreeSet<u32> = (0..JUDGED).filter(|number| !arrived.contains(number)).collect();
    if let Some(possible) = mechanism.possible(&network) {
        let wrong: Vec<u32> = possible.iter().copied().filter(|number| lost.contains(number)).collect();
        assert!(wrong.is_empty(), "{cell}: {wrong:?} could be delivered");
    }
    // What is lost before the last packet that came is counted; a path that is dead is told by its silence.
    let steps = || delivered.windows(2).map(|pair| u64::from(pair[1] - pair[0] - 1)).filter(|gap| *gap > 0);
    mechanism.check_counted(steps().sum(), steps().count() as u64, &cell);
    if column.trouble[0].dies && row.paths == 1 {
        assert_ne!(mechanism.notices_silence(), Some(false), "{cell}: the dead path is noticed");
    }
    Outcome { troubled: network.lost_media(), lost }
}

#[test]
fn loss_table_nothing_is_lost_where_theory_allows() {
    let mut table = String::from("| |");
    for column in &COLUMNS {
        let _ = write!(table, " {} |", column.name);
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(COLUMNS.len()));
    for row in &ROWS {
        let _ = write!(table, "\n| {} |", row.name);
        let mut unproven: BTreeSet<&str> = row.limits.into_iter().flatten().collect();
        for (column, limit) in COLUMNS.iter().zip(row.limits) {
            let Outcome { troubled, lost } = run(row, column);
            let cell = format!("{}, {}", row.name, column.name);
            let is_troubled =
                column.trouble.iter().any(|trouble| trouble.percent > 0 || trouble.bursts || trouble.dies);
            assert_eq!(troubled > 0, is_troubled, "{cell}: {troubled} lost on the way");
            match limit {
                None => assert!(lost.is_empty(), "{cell}: {} lost, the first {:?}", lost.len(), lost.first()),
                Some(why) if !lost.is_empty() => {
                    unproven.remove(why);
                }
                Some(_) => {}
            }
            let _ = write!(table, " {} |", lost.len());
        }
        assert!(unproven.is_empty(), "{}: nothing is lost, although {unproven:?}", row.name);
    }
    println!("Packets lost of {JUDGED}:\n\n{table}\n");
    for (at, row) in ROWS.iter().enumerate() {
        for limit in row.limits.iter().flatten().collect::<BTreeSet<_>>() {
            println!("{}: {limit}", ROWS[at].name);
        }
    }
}
