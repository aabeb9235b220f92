//! The loop's clock: monotonic nanoseconds, the ones `time.monotonic()` counts.

use pyo3::intern;
use pyo3::prelude::*;
use rustix::time::{ClockId, clock_gettime};

use super::BaseEventLoop;

/// Nanoseconds of the monotonic clock.
#[inline]
pub fn nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

/// The same clock as of the kernel's last tick (1-4 ms ago at most), for a third of the price.
#[inline]
pub fn coarse_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

/// The same instant in seconds, as `loop.time()` gives it.
#[inline]
pub fn as_seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// What `loop.time()` says: the clock, unless a test replaced the method.
pub fn seconds(event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<f64> {
    let py = event_loop.py();
    if event_loop.get().flags(py).time_replaced {
        return event_loop.call_method0(intern!(py, "time"))?.extract();
    }
    Ok(as_seconds(nanoseconds()))
}

/// The instant that timers are compared with: the clock, or a replaced `loop.time`.
pub fn timer_now(event_loop: &Bound<'_, BaseEventLoop>, clock: u64) -> PyResult<u64> {
    let py = event_loop.py();
    if !event_loop.get().flags(py).time_replaced {
        return Ok(clock);
    }
    let seconds: f64 = event_loop.call_method0(intern!(py, "time"))?.extract()?;
    // Rounded up, so that a fake clock set to exactly `when` finds its timer due.
    Ok((seconds.max(0.0) * 1e9).ceil() as u64 + 1)
}
