//! The quick check of a target: the recorded seeds, and then random mutations of them.

use super::TestRng;
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::{Duration, Instant},
};

/// Bytes that often cause parser faults.
const ODD: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, 0xfe, b'\r', b'\n', b'$', b'%', b':', b'"'];

/// Mutates an input with one to eight random changes.
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut TestRng) {
    for _ in 0..1 + rng.below(8) {
        let at = rng.below(input.len());
        match rng.below(9) {
            0 if !input.is_empty() => input[at] ^= 1 << rng.below(8),
            1 if !input.is_empty() => input[at] = ODD[rng.below(ODD.len())],
            2 if !input.is_empty() => input[at] = rng.next_u64() as u8,
            3 => {
                let end = (at + 1 + rng.below(64)).min(input.len());
                input.drain(at.min(end)..end);
            }
            4 => {
                let run = vec![ODD[rng.below(ODD.len())]; 1 + rng.below(40)];
                input.splice(at..at, run);
            }
            5 => {
                let end = (at + rng.below(200)).min(input.len());
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            6 => input.truncate(at),
            7 if !others.is_empty() => {
                let other = &others[rng.below(others.len())];
                let from = rng.below(other.len());
                let end = (from + rng.below(2000)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            // Overwrites one to four bytes, so that a number becomes very large or very small.
            _ => {
                let value = if rng.below(2) == 0 { 0xff } else { 0 };
                let end = (at + 1 + rng.below(4)).min(input.len());
                input[at..end].fill(value);
            }
        }
    }
    input.truncate(128 << 10);
}

/// Returns the time that this thread has computed, however busy the machine is with others.
fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Feeds a target with the seeds and then with mutated seeds until the time is over.
pub(super) fn fuzz(name: &str, target: impl Fn(&[u8], &mut TestRng)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let setting = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let time = Duration::from_secs(setting("STREAMLINK_FUZZ_SECONDS", 2));
    let mut rng = TestRng(setting("STREAMLINK_FUZZ_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let start = Instant::now();
    let run = |input: &[u8], rng: &mut TestRng| {
        let state = rng.0;
        let began = thread_time();
        let result = catch_unwind(AssertUnwindSafe(|| target(input, rng)));
        let taken = thread_time() - began;
        let slow = taken > Duration::from_secs(1);
        if result.is_err() || slow {
            let file = std::env::temp_dir().join(format!("streamlink-fuzz-{name}-{state:x}"));
            fs::write(&file, input).unwrap();
            println!("this input is in {}", file.display());
        }
        assert!(!slow, "an input took {taken:?} of computing");
        result.unwrap_or_else(|panic| resume_unwind(panic));
    };
    // Unmodified seeds first, which must pass.
    for seed in &seeds {
        run(seed, &mut rng);
    }
    let mut inputs = 0u64;
    while start.elapsed() < time {
        let mut input = seeds[rng.below(seeds.len())].clone();
        mutate(&mut input, &seeds, &mut rng);
        run(&input, &mut rng);
        inputs += 1;
    }
    println!("{name}: {inputs} inputs");
    assert!(inputs > 0);
}
