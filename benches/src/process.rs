//! Processes under test: started, measured, ended.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A process under test. Ended when it goes out of scope.
#[derive(Debug)]
pub struct Subject(Child);

/// The resources that a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all its threads, user and system.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub memory: u64,
    /// Threads.
    pub threads: usize,
}

impl Subject {
    /// Starts a program. With `says_ready`, waits until it writes `ready` to its standard output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, says_ready: bool) -> std::io::Result<Self> {
        let out = if says_ready { Stdio::piped() } else { Stdio::null() };
        let mut child = command.stdin(Stdio::null()).stdout(out).spawn()?;
        if let Some(stdout) = child.stdout.take() {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line)?;
            if line.trim() != "ready" {
                child.kill()?;
                return Err(std::io::Error::other(format!("{command:?} did not get ready")));
            }
        }
        Ok(Self(child))
    }

    /// Waits until the process listens on a UDP port.
    ///
    /// # Errors
    /// When it does not within ten seconds.
    pub fn wait_for_udp(&self, port: u16) -> std::io::Result<()> {
        let wanted = format!(":{port:04X} ");
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let listening = ["/proc/net/udp", "/proc/net/udp6"].iter().any(|file| {
                let text = fs::read_to_string(file).unwrap_or_default();
                text.lines().filter_map(|line| line.split_once(": ")).any(|(_, rest)| rest.get(8..14) == Some(&wanted))
            });
            if listening {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(std::io::Error::other(format!("nothing listens on port {port}")))
    }

    /// Returns the resources used so far. The CPU time is exact to the nanosecond where the kernel provides it
    /// (`schedstat`), else to its tick.
    pub fn usage(&self) -> Usage {
        let base = format!("/proc/{}", self.0.id());
        let tasks: Vec<_> = fs::read_dir(format!("{base}/task")).into_iter().flatten().flatten().collect();
        let exact = |path: &std::path::Path| -> Option<u64> {
            fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
        };
        let nanos: Option<u64> = tasks.iter().map(|task| exact(&task.path())).sum();
        let ticks = || -> Option<u64> {
            let stat = fs::read_to_string(format!("{base}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            Some((fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?) * 10_000_000)
        };
        let status = fs::read_to_string(format!("{base}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = rss.and_then(|t| t.trim().strip_suffix(" kB")).and_then(|t| t.parse::<u64>().ok());
        Usage {
            cpu: Duration::from_nanos(nanos.or_else(ticks).unwrap_or(0)),
            memory: kilobytes.unwrap_or(0) * 1024,
            threads: tasks.len(),
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Fails if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
