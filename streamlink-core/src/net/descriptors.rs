//! Budget of file descriptors for peers: accepted connections, and the UDP ports of their tracks.
//!
//! The budget is below the process's limit (`RLIMIT_NOFILE`), so that peers cannot use up the descriptors of the host,
//! its files and its outgoing connections. One address gets at most three quarters of the budget, so that some remain
//! for other addresses.

use crate::lock::lock;
use std::{
    collections::HashMap,
    fs::File,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock},
};

/// Maximum number of descriptors reserved for the host, out of the process's limit.
const MAX_RESERVE: usize = 256;
/// Divisor of the process's limit for the share reserved for the host, if that is less than [`MAX_RESERVE`].
const RESERVED_PART: usize = 4;
/// Limit assumed if the system returns none.
const DEFAULT_LIMIT: usize = 1024;

/// Budget of file descriptors for peers.
#[derive(Debug)]
pub(crate) struct DescriptorBudget {
    most: usize,
    /// Descriptors in use, in total and by address. The caller chooses the granularity of addresses. An address without
    /// descriptors has no entry.
    used: Mutex<Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    total: usize,
    addresses: HashMap<IpAddr, usize>,
}

/// Descriptors taken from a budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct DescriptorPermit {
    budget: Arc<DescriptorBudget>,
    address: IpAddr,
    count: usize,
}

impl DescriptorBudget {
    /// Returns the budget of this process. The first call reads the limit.
    pub(crate) fn of_process() -> &'static Arc<Self> {
        static BUDGET: OnceLock<Arc<DescriptorBudget>> = OnceLock::new();
        BUDGET.get_or_init(|| Self::below(limit()))
    }

    /// Returns a budget below the given limit of the process.
    fn below(limit: usize) -> Arc<Self> {
        let most = limit - (limit / RESERVED_PART).min(MAX_RESERVE);
        Arc::new(Self { most, used: Mutex::default() })
    }

    /// Takes descriptors for a peer's address. Returns `None` if the share of the address or the budget is used up.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr, count: usize) -> Option<DescriptorPermit> {
        let mut used = lock(&self.used);
        let own = used.addresses.get(&address).copied().unwrap_or(0);
        if used.total.saturating_add(count) > self.most || own.saturating_add(count) > self.most - self.most / 4 {
            return None;
        }
        used.total += count;
        used.addresses.insert(address, own + count);
        Some(DescriptorPermit { budget: self.clone(), address, count })
    }
}

impl Drop for DescriptorPermit {
    fn drop(&mut self) {
        let mut used = lock(&self.budget.used);
        used.total = used.total.saturating_sub(self.count);
        if let Some(own) = used.addresses.get_mut(&self.address) {
            *own = own.saturating_sub(self.count);
            if *own == 0 {
                used.addresses.remove(&self.address);
            }
        }
    }
}

/// Returns the maximum number of open descriptors of the process.
#[allow(unsafe_code)]
fn limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value of the right type, which lives longer than the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 { usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX) } else { DEFAULT_LIMIT }
}

/// Returns whether an error says that the process or the system has no descriptors left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// A spare descriptor, with which a listener can accept and close a connection when the process has no other. Otherwise
/// the peer would wait, and its address would stay unknown.
#[derive(Debug)]
pub(crate) struct SpareDescriptor(Option<File>);

impl SpareDescriptor {
    /// Opens a spare descriptor, if the system has one left.
    pub(crate) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Closes the spare descriptor, so that one can be opened in its place. Returns whether there was one.
    pub(crate) fn lend(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Opens a spare descriptor again, if none is held.
    pub(crate) fn restore(&mut self) {
        if self.0.is_none() {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn descriptor_budget_leaves_some_to_the_host_and_to_other_addresses() {
        let budget = DescriptorBudget::below(64);
        let first = budget.take(address(1), 30).expect("within three quarters of 48");
        let second = budget.take(address(1), 6).expect("three quarters of 48");
        assert!(budget.take(address(1), 1).is_none());
        let other = budget.take(address(2), 12).expect("a quarter");
        assert!(budget.take(address(3), 1).is_none(), "the rest is the host's");
        drop(first);
        assert!(budget.take(address(1), 31).is_none());
        assert!(budget.take(address(1), 30).is_some());
        drop((second, other));
        let used = lock(&budget.used);
        assert_eq!((used.total, used.addresses.len()), (0, 0));
    }

    #[test]
    fn descriptor_budget_of_the_process_is_below_its_limit() {
        let limit = limit();
        assert!(limit > 0);
        assert!(DescriptorBudget::of_process().most < limit);
        assert_eq!(DescriptorBudget::below(20_000).most, 19_744);
    }
}
