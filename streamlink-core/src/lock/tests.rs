use super::*;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Wake,
};

/// Counts the calls of host code, and asserts that no lock is held during each.
#[derive(Clone, Default)]
struct Host(Arc<AtomicUsize>);

impl Host {
    fn run(&self) {
        assert_unlocked();
        self.0.fetch_add(1, Relaxed);
    }

    fn ran(&self) -> usize {
        self.0.load(Relaxed)
    }
}

struct Lent(Host);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &[]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.run();
    }
}

impl Wake for Lent {
    fn wake(self: Arc<Self>) {} // the drop is counted
}

fn waker(host: &Host) -> Waker {
    Waker::from(Arc::new(Lent(host.clone())))
}

fn lent(host: &Host) -> Bytes {
    Bytes::from_owner(Lent(host.clone()))
}

#[test]
fn host_code_waits_until_the_last_lock_is_free() {
    let host = Host::default();
    let outer = Mutex::new(());
    let inner = Mutex::new(());
    let first = lock(&outer);
    let second = lock(&inner);
    release(lent(&host));
    wake(waker(&host));
    drop_waker(Some(waker(&host)));
    let line = host.clone();
    log_unlocked(move || line.run());
    drop(second);
    assert_eq!(host.ran(), 0);
    drop(first);
    assert_eq!(host.ran(), 4);
    wake(waker(&host));
    drop_waker(Some(waker(&host)));
    let line = host.clone();
    log_unlocked(move || line.run());
    assert_eq!(host.ran(), 7, "without a lock it runs at once");
}

#[test]
fn host_code_that_goes_on_and_on_does_not_exhaust_the_stack() {
    struct Again(Arc<Mutex<()>>, usize, Host);
    impl AsRef<[u8]> for Again {
        fn as_ref(&self) -> &[u8] {
            &[]
        }
    }
    impl Drop for Again {
        fn drop(&mut self) {
            self.2.run();
            if self.1 > 0 {
                let _guard = lock(&self.0);
                release(Bytes::from_owner(Self(self.0.clone(), self.1 - 1, self.2.clone())));
            }
        }
    }
    let host = Host::default();
    let mutex = Arc::new(Mutex::new(()));
    let guard = lock(&mutex);
    release(Bytes::from_owner(Again(mutex.clone(), 200_000, host.clone())));
    drop(guard);
    assert_eq!(host.ran(), 200_001);
}

#[tokio::test]
async fn releases_wait_for_the_end_of_a_future_and_wakers_do_not() {
    let releases = Host::default();
    let wakes = Host::default();
    let mutex = Mutex::new(());
    let seen_releases = releases.clone();
    let seen_wakes = wakes.clone();
    hold_back(async {
        {
            let _guard = lock(&mutex);
            release(lent(&releases));
            wake(waker(&wakes));
        }
        tokio::task::yield_now().await;
        assert_eq!((seen_releases.ran(), seen_wakes.ran()), (0, 1));
        assert!(is_held(), "what comes up in between waits, too");
    })
    .await;
    assert_eq!(releases.ran(), 1);
    assert!(!is_held());
}
