//! What the workers promise, with channels in place of time.
//! Run by `cargo test`; a job blocks on a channel until its test lets it go.
//! No test sleeps, and the long deadlines only turn a hang into a failure.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

const LONG: Duration = Duration::from_secs(60);

/// Submits a job that reports that it has started and waits to be let go; dropping the sender
/// lets it go as well.
fn blocked_job(workers: &Workers) -> (Receiver<String>, Sender<()>) {
    let (started, has_started) = channel();
    let (let_go, gate) = channel::<()>();
    let job = move || {
        let name = thread::current().name().unwrap_or_default().to_owned();
        started.send(name).unwrap();
        let _ = gate.recv();
    };
    workers.submit(Box::new(job)).unwrap();
    (has_started, let_go)
}

#[test]
fn threads_start_on_demand_up_to_the_limit() {
    let workers = Workers::new("tested", 2);
    assert_eq!(workers.thread_count(), 0);
    let (first_started, first_gate) = blocked_job(&workers);
    assert_eq!(first_started.recv_timeout(LONG).unwrap(), "tested-0");
    let (second_started, second_gate) = blocked_job(&workers);
    assert_eq!(second_started.recv_timeout(LONG).unwrap(), "tested-1");
    let (third_started, third_gate) = blocked_job(&workers);
    assert_eq!((workers.thread_count(), workers.queue_length()), (2, 1));
    drop(first_gate);
    assert_eq!(third_started.recv_timeout(LONG).unwrap(), "tested-0");
    assert_eq!(workers.queue_length(), 0);
    drop((second_gate, third_gate));
    assert!(workers.join(Some(LONG)));
    assert_eq!(workers.thread_count(), 0);
}

#[test]
fn an_idle_thread_is_used_again() {
    let workers = Workers::new("tested", 8);
    for _ in 0..50 {
        let (sender, receiver) = channel();
        workers.submit(Box::new(move || sender.send(()).unwrap())).unwrap();
        receiver.recv_timeout(LONG).unwrap();
        let deadline = Instant::now() + LONG;
        while workers.shared.lock().idle == 0 {
            assert!(Instant::now() < deadline, "the thread did not come back");
            thread::yield_now();
        }
    }
    assert_eq!(workers.thread_count(), 1);
}

#[test]
fn queued_jobs_run_in_their_order() {
    let workers = Workers::new("tested", 1);
    let (started, gate) = blocked_job(&workers);
    started.recv_timeout(LONG).unwrap();
    let (sender, receiver) = channel();
    for number in 0..100 {
        let sender = sender.clone();
        workers.submit(Box::new(move || sender.send(number).unwrap())).unwrap();
    }
    drop((sender, gate));
    assert_eq!(receiver.iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_panicking_job_leaves_the_thread_for_the_next() {
    struct ThrowsAgain;
    impl Drop for ThrowsAgain {
        fn drop(&mut self) {
            panic!("on purpose, while dropped");
        }
    }
    let workers = Workers::new("tested", 1);
    workers.submit(Box::new(|| panic!("on purpose, in a job"))).unwrap();
    workers.submit(Box::new(|| std::panic::panic_any(ThrowsAgain))).unwrap();
    let (sender, receiver) = channel();
    workers.submit(Box::new(move || sender.send(()).unwrap())).unwrap();
    receiver.recv_timeout(LONG).unwrap();
    assert_eq!(workers.thread_count(), 1);
    assert!(workers.join(Some(LONG)));
}

#[test]
fn closing_drops_what_is_queued_and_lets_running_jobs_end() {
    let workers = Workers::new("tested", 1);
    let (started, gate) = blocked_job(&workers);
    started.recv_timeout(LONG).unwrap();
    let (sender, receiver) = channel::<()>();
    workers.submit(Box::new(move || sender.send(()).unwrap())).unwrap();
    workers.close();
    assert!(receiver.recv_timeout(LONG).is_err());
    assert_eq!(workers.queue_length(), 0);
    assert!(matches!(workers.submit(Box::new(|| ())), Err(SubmitError::Closed)));
    assert!(!workers.join(Some(Duration::ZERO)));
    drop(gate);
    assert!(workers.join(None));
    assert!(workers.join(None));
}

#[test]
fn joining_without_closing_runs_what_is_queued() {
    let workers = Workers::new("tested", 1);
    let (started, gate) = blocked_job(&workers);
    started.recv_timeout(LONG).unwrap();
    let (sender, receiver) = channel();
    workers.submit(Box::new(move || sender.send("ran").unwrap())).unwrap();
    drop(gate);
    assert!(workers.join(Some(LONG)));
    assert_eq!(receiver.try_recv(), Ok("ran"));
    assert!(matches!(workers.submit(Box::new(|| ())), Err(SubmitError::Closed)));
}

#[test]
fn a_job_cannot_wait_for_itself() {
    let workers = Arc::new(Workers::new("tested", 1));
    let (sender, receiver) = channel();
    let inside = Arc::clone(&workers);
    workers.submit(Box::new(move || sender.send(inside.join(None)).unwrap())).unwrap();
    assert!(!receiver.recv_timeout(LONG).unwrap());
    assert!(workers.join(Some(LONG)));
}

#[test]
fn dropping_the_pool_ends_idle_threads_and_waits_for_nobody() {
    let workers = Workers::new("tested", 2);
    let shared = Arc::downgrade(&workers.shared);
    let (started, gate) = blocked_job(&workers);
    started.recv_timeout(LONG).unwrap();
    drop(workers);
    let shared = shared.upgrade().unwrap();
    drop(gate);
    let (state, waited) = shared
        .ended
        .wait_timeout_while(shared.lock(), LONG, |state| state.running > 0)
        .unwrap_or_else(PoisonError::into_inner);
    assert!(!waited.timed_out());
    assert!(state.closed);
}
