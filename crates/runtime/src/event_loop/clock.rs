//! The loop's clock: monotonic nanoseconds, the ones `time.monotonic()` counts.

use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};
use rustix::time::{ClockId, clock_gettime};

use super::{BaseEventLoop, schedule};

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

/// A time of the loop's clock as it was given: an integer of seconds is shown as one again.
#[derive(Clone, Copy)]
pub struct When {
    /// Seconds of `loop.time()`.
    pub seconds: f64,
    whole: bool,
}

impl When {
    /// The time that `value` names; `missing` is what is said of None.
    pub fn given(value: &Bound<'_, PyAny>, missing: &'static str) -> PyResult<Self> {
        let seconds = schedule::seconds(value, missing)?;
        let whole = seconds.abs() < MAX_EXACT && value.is_exact_instance_of::<PyInt>();
        Ok(When { seconds, whole })
    }

    /// The object it was given as.
    pub fn object<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.whole {
            return Ok((self.seconds as i64).into_pyobject(py)?.into_any());
        }
        Ok(PyFloat::new(py, self.seconds).into_any())
    }
}

impl From<f64> for When {
    fn from(seconds: f64) -> Self {
        When { seconds, whole: false }
    }
}

/// Below this every integer is a float (2 to the power of 53).
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// What timers are sorted by: a number that grows as `when` does, to the last bit of it, since two
/// timers of the same nanosecond run in the order of their times and not of their making.
#[inline]
pub fn instant(when: f64) -> u64 {
    // The bits of floats above zero are in the order of the floats.
    if when > 0.0 { when.to_bits() } else { 0 }
}

/// The nanosecond of the monotonic clock at which an instant is there: never before.
fn nanosecond_of(instant: u64) -> u64 {
    let when = f64::from_bits(instant);
    // A float of seconds cannot name every nanosecond: round up, and once more where the
    // rounded deadline still reads as earlier than `when`.
    let nanoseconds = (when * 1e9).ceil();
    if nanoseconds >= u64::MAX as f64 {
        return u64::MAX;
    }
    let nanoseconds = nanoseconds as u64;
    if as_seconds(nanoseconds) < when { nanoseconds + 1 } else { nanoseconds }
}

/// How long to wait for an instant.
pub fn time_until(
    event_loop: &Bound<'_, BaseEventLoop>,
    clock: u64,
    instant: u64,
) -> PyResult<Duration> {
    let now = if event_loop.get().flags(event_loop.py()).time_replaced {
        (seconds(event_loop)? * 1e9) as u64
    } else {
        clock
    };
    Ok(Duration::from_nanos(nanosecond_of(instant).saturating_sub(now)))
}

/// The seconds that timers are compared with: the clock's, or those of a replaced `loop.time`.
pub fn timer_now(event_loop: &Bound<'_, BaseEventLoop>, clock: u64) -> PyResult<f64> {
    if event_loop.get().flags(event_loop.py()).time_replaced {
        return seconds(event_loop);
    }
    Ok(as_seconds(clock))
}
