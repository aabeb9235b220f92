//! What the poller promises, asked of real descriptors and of both system calls.
//! Run by `cargo test`; each test makes its own socket pairs.
//! No test waits for another thread, and none bounds how long a wait may take.

#![allow(clippy::unwrap_used)]

use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

const TOKEN: Token = Token { index: 7, generation: 3 };
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

fn both_pollers() -> [Poller; 2] {
    [Poller::new().unwrap(), Poller::new_by_milliseconds().unwrap()]
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

fn ask(poller: &Poller) -> Vec<(Token, bool, bool, bool)> {
    let mut events = Events::default();
    poller.wait(&mut events, AT_ONCE).unwrap();
    let reports: Vec<_> = events
        .iter()
        .map(|ready| (ready.token, ready.readable, ready.writable, ready.hung_up))
        .collect();
    assert_eq!(reports.len(), events.len());
    assert_eq!(reports.is_empty(), events.is_empty());
    reports
}

#[test]
fn readiness_is_reported_until_it_is_gone() {
    for poller in both_pollers() {
        let (mut ours, mut theirs) = pair();
        poller.add(&ours, TOKEN, Interest::READ).unwrap();
        assert_eq!(ask(&poller), []);
        theirs.write_all(b"ab").unwrap();
        assert_eq!(ask(&poller), [(TOKEN, true, false, false)]);
        ours.read_exact(&mut [0]).unwrap();
        assert_eq!(ask(&poller), [(TOKEN, true, false, false)]);
        ours.read_exact(&mut [0]).unwrap();
        assert_eq!(ask(&poller), []);
    }
}

#[test]
fn interest_and_token_can_be_changed_and_removed() {
    for poller in both_pollers() {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"a").unwrap();
        poller.add(&ours, TOKEN, Interest::NONE).unwrap();
        assert_eq!(ask(&poller), []);
        poller.modify(&ours, TOKEN, Interest::WRITE).unwrap();
        assert_eq!(ask(&poller), [(TOKEN, false, true, false)]);
        let successor = Token { generation: TOKEN.generation + 1, ..TOKEN };
        poller.modify(&ours, successor, Interest::READ.with_write(true)).unwrap();
        assert_eq!(ask(&poller), [(successor, true, true, false)]);
        poller.delete(&ours).unwrap();
        assert_eq!(ask(&poller), []);
    }
}

#[test]
fn a_hang_up_makes_both_directions_ready_whatever_the_interest() {
    for poller in both_pollers() {
        let (ours, theirs) = pair();
        poller.add(&ours, TOKEN, Interest::NONE).unwrap();
        drop(theirs);
        assert_eq!(ask(&poller), [(TOKEN, true, true, true)]);
    }
}

#[test]
fn a_half_closed_peer_is_only_readable() {
    for poller in both_pollers() {
        let (ours, theirs) = pair();
        poller.add(&ours, TOKEN, Interest::READ).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(ask(&poller), [(TOKEN, true, false, false)]);
        poller.modify(&ours, TOKEN, Interest::NONE).unwrap();
        assert_eq!(ask(&poller), []);
    }
}

#[test]
fn errors_keep_the_systems_number() {
    let poller = Poller::new().unwrap();
    let (ours, _theirs) = pair();
    let missing = poller.modify(&ours, TOKEN, Interest::READ).unwrap_err();
    assert_eq!(missing.raw_os_error(), Some(Errno::NOENT.raw_os_error()));
    assert_eq!(poller.delete(&ours).unwrap_err().kind(), io::ErrorKind::NotFound);
    poller.add(&ours, TOKEN, Interest::READ).unwrap();
    let twice = poller.add(&ours, TOKEN, Interest::READ).unwrap_err();
    assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn a_wait_is_never_early() {
    for poller in both_pollers() {
        let mut events = Events::default();
        for nanoseconds in [1, 300_000, 999_999, 1_000_001, 2_500_000] {
            let asked = Duration::from_nanos(nanoseconds);
            let start = Instant::now();
            poller.wait(&mut events, Some(asked)).unwrap();
            assert!(events.is_empty());
            assert!(start.elapsed() >= asked, "{asked:?} came early");
        }
    }
}

#[test]
fn timeouts_are_rounded_up_and_clamped() {
    let rounded = |nanoseconds| milliseconds(Duration::from_nanos(nanoseconds));
    assert_eq!(rounded(0), EpollTimeout::ZERO);
    assert_eq!(rounded(1), EpollTimeout::from(1u8));
    assert_eq!(rounded(1_000_000), EpollTimeout::from(1u8));
    assert_eq!(rounded(1_000_001), EpollTimeout::from(2u8));
    assert_eq!(milliseconds(Duration::MAX), EpollTimeout::MAX);
    assert_eq!(timespec(Duration::MAX).tv_sec, i64::from(i32::MAX));
    let short = timespec(Duration::new(3, 4));
    assert_eq!((short.tv_sec, short.tv_nsec), (3, 4));
}

#[test]
fn waits_without_an_end_return_what_is_ready() {
    for poller in both_pollers() {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"a").unwrap();
        poller.add(&ours, TOKEN, Interest::READ).unwrap();
        let mut events = Events::default();
        for timeout in [None, Some(Duration::MAX)] {
            poller.wait(&mut events, timeout).unwrap();
            let ready = events.get(0).unwrap();
            assert_eq!((ready.token, ready.readable), (TOKEN, true));
            assert!(events.get(1).is_none());
        }
    }
}

#[test]
fn waits_reuse_their_memory() {
    for poller in both_pollers() {
        let pairs: Vec<_> = (0..20).map(|_| pair()).collect();
        for (index, (ours, _)) in (0..).zip(&pairs) {
            poller.add(ours, Token { index, generation: 0 }, Interest::WRITE).unwrap();
        }
        let mut events = Events::default();
        poller.wait(&mut events, AT_ONCE).unwrap();
        let place = (events.reported.as_ptr(), events.reported_by_milliseconds.as_ptr());
        for _ in 0..3 {
            poller.wait(&mut events, AT_ONCE).unwrap();
            let mut seen: Vec<u32> = events.iter().map(|ready| ready.token.index).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..20).collect::<Vec<_>>());
        }
        let now = (events.reported.as_ptr(), events.reported_by_milliseconds.as_ptr());
        assert_eq!(now, place);
    }
}

#[test]
fn what_does_not_fit_comes_with_the_next_wait() {
    for poller in both_pollers() {
        let pairs: Vec<_> = (0..5).map(|_| pair()).collect();
        for (index, (ours, _)) in (0..).zip(&pairs) {
            poller.add(ours, Token { index, generation: 0 }, Interest::WRITE).unwrap();
        }
        let mut events = Events::new(2);
        let mut seen = Vec::new();
        for _ in 0..3 {
            poller.wait(&mut events, AT_ONCE).unwrap();
            assert_eq!(events.len(), 2);
            seen.extend(events.iter().map(|ready| ready.token.index));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }
}
