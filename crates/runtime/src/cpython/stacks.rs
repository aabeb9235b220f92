//! Where a thread is, asked from outside and without the interpreter.
//!
//! CPython's `faulthandler` can write a thread's stack from a signal handler, on every version,
//! whoever holds the interpreter. It is told once to do so for a free real-time signal and into a
//! file in memory; to ask is then to send that signal and to read the file. The user's own
//! `faulthandler` (fatal errors, `dump_traceback_later`, other signals) is not touched.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::walking;

/// How often, and how many times, the file is looked at for the answer.
const GLANCE: Duration = Duration::from_millis(1);
const GLANCES: u32 = 40;

/// The last real-time signals are the first that programs take, so the search begins below them.
const LEFT_TO_PROGRAMS: i32 = 4;

struct Channel {
    file: File,
    signal: i32,
    /// A question was not answered in time: its answer must come before another one is asked.
    owed: bool,
    /// How many questions had been declined when this one was given up.
    declined: u32,
    /// Made by the parent of this process, which writes to the same file.
    inherited: bool,
}

static CHANNEL: Mutex<Option<Channel>> = Mutex::new(None);

fn channel() -> MutexGuard<'static, Option<Channel>> {
    CHANNEL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the file and the signal ready, once in each process.
///
/// # Errors
/// `OSError` without a descriptor or memory, `RuntimeError` without a free signal.
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    let inherited = match &*channel() {
        Some(open) if !open.inherited => return Ok(()),
        Some(open) => Some(open.signal),
        None => None,
    };
    let os = py.import("os")?;
    let flags = os.getattr("MFD_CLOEXEC")?;
    let fd: RawFd = os.call_method1("memfd_create", ("aioxide-stacks", flags))?.extract()?;
    // SAFETY: `memfd_create` has just made this descriptor, and nobody else knows it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let signal = match inherited {
        Some(signal) => signal,
        None => free_signal(py)?,
    };
    let keywords = PyDict::new(py);
    keywords.set_item("file", file.as_raw_fd())?;
    keywords.set_item("all_threads", false)?;
    keywords.set_item("chain", false)?;
    py.import("faulthandler")?.call_method("register", (signal,), Some(&keywords))?;
    walking::guard(py, signal)?;
    // Only now may the file that an earlier registration named be closed.
    let old =
        channel().replace(Channel { file, signal, owed: false, declined: 0, inherited: false });
    drop(old);
    Ok(())
}

/// A real-time signal that nobody catches, ignores or blocks.
fn free_signal(py: Python<'_>) -> PyResult<i32> {
    let module = py.import("signal")?;
    let first: i32 = module.getattr("SIGRTMIN")?.extract()?;
    let last: i32 = module.getattr("SIGRTMAX")?.extract()?;
    let taken = ["SigCgt:", "SigIgn:", "SigBlk:"].map(mask).iter().fold(0, |sum, it| sum | it);
    (first + 1..=last - LEFT_TO_PROGRAMS)
        .rev()
        .find(|signal| taken & bit(*signal) == 0)
        .ok_or_else(|| PyRuntimeError::new_err("no real-time signal is free"))
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// A set of signals as `/proc` tells it; empty where it tells nothing.
fn mask(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let digits = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    u64::from_str_radix(digits.trim(), 16).unwrap_or(0)
}

/// The stack of the thread with this number, as `faulthandler` words it, innermost frame first.
///
/// None when it does not answer: it blocks signals, has ended, or is stuck in the kernel.
pub fn ask(thread: i32) -> Option<String> {
    let mut channel = channel();
    let channel = channel.as_mut().filter(|open| !open.inherited)?;
    let answered = length(&channel.file) > 0 || walking::declined() != channel.declined;
    if channel.owed && !answered {
        return None;
    }
    channel.owed = false;
    channel.file.set_len(0).ok()?;
    channel.file.seek(SeekFrom::Start(0)).ok()?;
    let mut declined = walking::declined();
    // Uncaught, the signal would end the process: `faulthandler` may have been told to let go.
    if mask("SigCgt:") & bit(channel.signal) == 0 || !send(thread, channel.signal) {
        return None;
    }
    let mut written = 0;
    for _ in 0..GLANCES {
        thread::sleep(GLANCE);
        let before = std::mem::replace(&mut written, length(&channel.file));
        if written > 0 && written == before {
            break;
        }
        let now = walking::declined();
        if now != declined {
            declined = now;
            if !send(thread, channel.signal) {
                return None;
            }
        }
    }
    channel.declined = declined;
    channel.owed = written == 0 && walking::declined() == declined;
    channel.file.seek(SeekFrom::Start(0)).ok()?;
    let mut text = Vec::new();
    channel.file.read_to_end(&mut text).ok()?;
    (written > 0).then(|| String::from_utf8_lossy(&text).into_owned())
}

fn length(file: &File) -> u64 {
    file.metadata().map_or(0, |it| it.len())
}

/// Sends a signal to one thread of this process; false when there is no such thread.
fn send(thread: i32, signal: i32) -> bool {
    // SAFETY: a system call that takes three numbers and touches no memory of ours. A number that
    // no thread of this process has is refused by the kernel.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) == 0 }
}

/// In a forked child: the file is shared with the parent, so another one is made when needed.
pub fn note_fork() {
    if let Some(open) = &mut *channel() {
        open.inherited = true;
    }
}
