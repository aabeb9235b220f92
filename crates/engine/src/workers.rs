//! Threads for calls that block, started when there is work and no idle thread to take it.
//! The loop submits a job and learns its outcome through whatever the job itself posts back.
//! A job that panics ends alone: it never takes a thread or the pool with it.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// Why a job was not accepted. The job has been dropped.
#[derive(Debug)]
pub enum SubmitError {
    /// The workers were closed before.
    Closed,
    /// There is no thread to run it, and the system refused to start one.
    NoThread(io::Error),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => formatter.write_str("the workers are closed"),
            Self::NoThread(error) => write!(formatter, "can't start a worker thread: {error}"),
        }
    }
}

impl Error for SubmitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Closed => None,
            Self::NoThread(error) => Some(error),
        }
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    handles: Vec<JoinHandle<()>>,
    /// Threads that have been started and have not come to their end.
    running: usize,
    /// Threads that wait for a job, those included that were called and have not woken yet.
    idle: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    ended: Condvar,
}

impl Shared {
    /// No job runs with the lock held, so a poisoned lock has nothing broken behind it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread does: jobs in their order, until the queue is empty after closing.
    fn run(&self) {
        while let Some(job) = self.next_job() {
            let outcome = catch_unwind(AssertUnwindSafe(job));
            // The panic hook has reported it. What was thrown may panic again when dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(outcome)));
        }
        self.lock().running -= 1;
        self.ended.notify_all();
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

/// A pool of at most `limit` threads over one queue, first in, first out.
///
/// Dropping it closes it and does not wait for the jobs that run.
pub struct Workers {
    shared: Arc<Shared>,
    name: String,
    limit: usize,
}

impl Workers {
    /// A pool without threads yet. They will be called `{name}-0`, `{name}-1` and so on; a limit
    /// of zero counts as one.
    pub fn new(name: &str, limit: usize) -> Self {
        Self { shared: Arc::default(), name: name.to_owned(), limit: limit.max(1) }
    }

    /// Queues a job, and starts a thread for it if none is idle and the limit allows.
    pub fn submit(&self, job: Job) -> Result<(), SubmitError> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(SubmitError::Closed);
        }
        state.queue.push_back(job);
        if state.queue.len() <= state.idle {
            drop(state);
            self.shared.work.notify_one();
            return Ok(());
        }
        if state.running >= self.limit {
            return Ok(());
        }
        match self.start_thread(state.handles.len()) {
            Ok(handle) => {
                state.handles.push(handle);
                state.running += 1;
                Ok(())
            }
            Err(_) if state.running > 0 => Ok(()),
            Err(error) => {
                // With no thread and the lock held ever since, the last job is the one above.
                let job = state.queue.pop_back();
                drop(state);
                drop(job);
                Err(SubmitError::NoThread(error))
            }
        }
    }

    /// Accepts no more jobs; those that are queued still run, then the threads end.
    pub fn stop_accepting(&self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }

    /// Accepts no more jobs and drops those that are queued; the threads end after the jobs
    /// they are running.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let queued = std::mem::take(&mut state.queue);
        drop(state);
        self.shared.work.notify_all();
        drop(queued);
    }

    /// Waits until all threads have ended, for ever or for `timeout`, and says whether they have.
    ///
    /// Without a `close` before it, `join` stops accepting and waits for the queued jobs too.
    /// Called by a job, which would wait for itself, it answers `false` at once.
    pub fn join(&self, timeout: Option<Duration>) -> bool {
        self.stop_accepting();
        let state = self.shared.lock();
        let myself = thread::current().id();
        if state.handles.iter().any(|handle| handle.thread().id() == myself) {
            return false;
        }
        let mut state = self.wait_for_the_end(state, timeout);
        if state.running > 0 {
            return false;
        }
        let handles = std::mem::take(&mut state.handles);
        drop(state);
        for handle in handles {
            // The thread has said goodbye under the lock, so this takes no time worth counting.
            // It cannot have panicked: its jobs' panics were caught.
            let _ = handle.join();
        }
        true
    }

    /// How many threads there are, idle ones included.
    pub fn thread_count(&self) -> usize {
        self.shared.lock().running
    }

    /// How many jobs wait for a thread.
    pub fn queue_length(&self) -> usize {
        self.shared.lock().queue.len()
    }

    fn start_thread(&self, number: usize) -> io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name(format!("{}-{number}", self.name)).spawn(move || shared.run())
    }

    fn wait_for_the_end<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let ended = &self.shared.ended;
        let unfinished = |state: &mut State| state.running > 0;
        match timeout {
            None => ended.wait_while(state, unfinished).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                ended
                    .wait_timeout_while(state, timeout, unfinished)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Workers")
            .field("name", &self.name)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
