//! The reads of a `StreamReader`: `read`, `readline`, `readuntil`, `readexactly`, `async for`.
//!
//! What is there is taken at once, without a Future and without a turn. Whoever waits takes nothing
//! before it goes on, so a wait that is cancelled loses no byte; and it is woken only when there is
//! enough, so that the pieces of one large message cost one wake-up. The coroutines are Python's
//! (`python/aioxide/streams.py`); each asks [`begin`] first and [`go_on`] after each wait.

use engine::read_buffer::{Found, ReadBuffer};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use super::reader::StreamReader;
use super::separators::Separators;
use super::unread::{LARGE, ReaderState};
use crate::cpython::imports::imports;
use crate::errors;
use crate::futures::Future;

/// What is to be read.
pub enum Wish {
    /// `read(n)`
    Some(usize),
    /// `read()`
    All,
    /// `readexactly(n)`
    Exactly(usize),
    /// `readline()`
    Line,
    /// `readuntil(...)`
    Until(Separators),
}

impl Wish {
    /// What asyncio calls it where two tasks read at once.
    fn waits_as(&self) -> &'static str {
        match self {
            Wish::Some(_) | Wish::All => "read",
            Wish::Exactly(_) => "readexactly",
            Wish::Line | Wish::Until(_) => "readuntil",
        }
    }

    /// Fewer bytes than these, unless they are the last, are of no use.
    fn least(&self) -> usize {
        match self {
            Wish::All => usize::MAX,
            Wish::Exactly(count) => *count,
            _ => 0,
        }
    }

    /// More bytes than these are left to whoever reads next.
    fn most(&self) -> usize {
        match self {
            Wish::Some(count) => *count,
            _ => usize::MAX,
        }
    }
}

/// What was read, or the Future that is done when there is more.
pub type Progress<'py> = Bound<'py, PyAny>;

/// Takes what is there, or begins to wait.
#[inline]
pub fn begin<'py>(reader: &Bound<'py, StreamReader>, wish: &Wish) -> PyResult<Progress<'py>> {
    if let Some(error) = reader.get().failure(reader.py()) {
        return Err(PyErr::from_value(error.into_bound(reader.py())));
    }
    take_or_wait(reader, wish, 0)
}

/// Goes on after a wait for `waiter`.
#[inline]
pub fn go_on<'py>(
    reader: &Bound<'py, StreamReader>,
    wish: &Wish,
    waiter: &Bound<'py, Future>,
) -> PyResult<Progress<'py>> {
    let scanned = leave(reader, waiter);
    take_or_wait(reader, wish, scanned)
}

/// Waits no more; up to where it had found no separator. Whoever began to wait after this one was
/// woken goes on waiting.
pub fn leave(reader: &Bound<'_, StreamReader>, waiter: &Bound<'_, Future>) -> usize {
    let (scanned, old) = reader.get().state.with(reader.py(), |state| {
        let scanned = match state.scanned {
            (by, scanned) if by == waiter.as_ptr() as usize => scanned,
            _ => 0,
        };
        if state.waiter.as_ref().is_some_and(|other| !other.is(waiter)) {
            return (scanned, None);
        }
        (state.wanted, state.at_most) = (0, usize::MAX);
        (scanned, state.waiter.take())
    });
    drop(old);
    scanned
}

fn take_or_wait<'py>(
    reader: &Bound<'py, StreamReader>,
    wish: &Wish,
    scanned: usize,
) -> PyResult<Progress<'py>> {
    reader.get().state.with(reader.py(), |state| state.settle(reader.py()))?;
    let mut scanned = scanned;
    let taken = match wish {
        Wish::Some(count) => read_some(reader, *count)?,
        Wish::All => read_all(reader)?,
        Wish::Exactly(count) => read_exactly(reader, *count)?,
        Wish::Line => read_line(reader, &mut scanned)?,
        Wish::Until(separators) => read_until(reader, separators, &mut scanned)?,
    };
    match taken {
        Some(bytes) => Ok(bytes.into_any()),
        None => {
            let sizes = (wish.least(), wish.most());
            Ok(wait(reader, wish.waits_as(), sizes, scanned)?.into_any())
        }
    }
}

/// `_wait_for_data`: begins to wait for `sizes` bytes, at least and at most.
pub fn wait<'py>(
    reader: &Bound<'py, StreamReader>,
    name: &str,
    (least, most): (usize, usize),
    scanned: usize,
) -> PyResult<Bound<'py, Future>> {
    let py = reader.py();
    let (taken, paused, home) = reader.get().state.with(py, |state| {
        let home = state.home.as_ref().map(|home| home.clone_ref(py));
        (state.waiter.is_some(), state.paused, home)
    });
    if taken {
        return Err(PyRuntimeError::new_err(format!(
            "{name}() called while another coroutine is already waiting for incoming data"
        )));
    }
    if paused {
        // Otherwise nothing would ever come.
        StreamReader::resume(reader)?;
    }
    let home = home.ok_or_else(|| errors::uninitialized("StreamReader"))?;
    let waiter = Bound::new(py, Future::pending(py, home)?)?;
    let old = reader.get().state.with(py, |state| {
        (state.wanted, state.at_most) = (least, most);
        state.scanned = (waiter.as_ptr() as usize, scanned);
        // Of `read()` nobody knows yet how much it will be.
        let large = least != usize::MAX && least.saturating_sub(state.len()) >= LARGE;
        if large && state.shown.is_none() {
            state.grow(py)?;
        }
        Ok::<_, PyErr>(state.waiter.replace(waiter.clone().into_any().unbind()))
    })?;
    drop(old);
    Ok(waiter)
}

type Taken<'py> = Option<Bound<'py, PyBytes>>;

/// The first `count` bytes, or all if there are fewer; without a copy if they came as they are.
#[inline]
fn take<'py>(
    py: Python<'py>,
    buffer: &mut ReadBuffer<PyBackedBytes>,
    count: usize,
) -> Bound<'py, PyBytes> {
    let count = count.min(buffer.len());
    if count == buffer.len()
        && let Some(whole) = buffer.take_whole()
        && let Ok(bytes) = whole.into_pyobject(py)
    {
        return bytes;
    }
    let bytes = PyBytes::new(py, buffer.as_slice().get(..count).unwrap_or_default());
    buffer.advance(count);
    bytes
}

#[inline]
fn read_some<'py>(reader: &Bound<'py, StreamReader>, count: usize) -> PyResult<Taken<'py>> {
    let py = reader.py();
    if count == 0 {
        return Ok(Some(PyBytes::new(py, b"")));
    }
    let taken = reader.get().state.with(py, |state| {
        let ready = state.eof || !state.buffer.is_empty();
        ready.then(|| take(py, &mut state.buffer, count))
    });
    StreamReader::resume_if_drained(reader)?;
    Ok(taken)
}

fn read_all<'py>(reader: &Bound<'py, StreamReader>) -> PyResult<Taken<'py>> {
    let py = reader.py();
    if let Some(error) = reader.get().failure(py) {
        return Err(PyErr::from_value(error.into_bound(py)));
    }
    let taken = reader
        .get()
        .state
        .with(py, |state| state.eof.then(|| take(py, &mut state.buffer, usize::MAX)));
    if taken.is_some() {
        StreamReader::resume_if_drained(reader)?;
    }
    Ok(taken)
}

#[inline]
fn read_exactly<'py>(reader: &Bound<'py, StreamReader>, count: usize) -> PyResult<Taken<'py>> {
    let py = reader.py();
    let (enough, taken) = reader.get().state.with(py, |state| {
        let enough = state.buffer.len() >= count;
        let ends = enough || state.eof;
        (enough, ends.then(|| take(py, &mut state.buffer, count)))
    });
    match taken {
        Some(bytes) if enough => {
            StreamReader::resume_if_drained(reader)?;
            Ok(Some(bytes))
        }
        Some(partial) => Err(incomplete(&partial, Some(count))),
        None => Ok(None),
    }
}

/// What a search for a separator came to.
enum Search {
    Found(Found),
    /// There is none in these bytes, and they are more than the limit.
    TooLong(usize),
    /// There is none, and nothing more will come.
    Over,
    GoOn,
}

#[inline]
fn search(
    state: &ReaderState,
    (shortest, longest): (usize, usize),
    scanned: &mut usize,
    find: impl FnOnce(&ReadBuffer<PyBackedBytes>, usize) -> Option<Found>,
) -> Search {
    let length = state.buffer.len();
    let from = (*scanned).min(length);
    if length - from >= shortest {
        if let Some(found) = find(&state.buffer, from) {
            return Search::Found(found);
        }
        // The last bytes may be the beginning of a separator.
        let from = (length + 1).saturating_sub(longest);
        *scanned = from;
        if from > state.limit {
            return Search::TooLong(from);
        }
    }
    if state.eof { Search::Over } else { Search::GoOn }
}

const TOO_LONG: &str = "Separator is not found, and chunk exceed the limit";
const FOUND_TOO_LATE: &str = "Separator is found, but chunk is longer than limit";

/// asyncio's message, and what to do.
fn overrun(message: &str, limit: usize) -> String {
    format!(
        "{message} of {limit} bytes: give open_connection(), start_server() or StreamReader() a \
         larger limit="
    )
}

/// A line, in the words of `StreamReader.readline`: one that is too long is dropped.
#[inline]
fn read_line<'py>(reader: &Bound<'py, StreamReader>, scanned: &mut usize) -> PyResult<Taken<'py>> {
    let py = reader.py();
    let taken = reader.get().state.with(py, |state| {
        let limit = state.limit;
        match search(state, (1, 1), scanned, |buffer, from| buffer.find(b"\n", from)) {
            Search::Found(found) if found.start <= limit => {
                Ok(Some(take(py, &mut state.buffer, found.end)))
            }
            Search::Found(found) => {
                state.buffer.advance(found.end);
                Err(overrun(FOUND_TOO_LATE, limit))
            }
            Search::TooLong(_) => {
                state.buffer.clear();
                Err(overrun(TOO_LONG, limit))
            }
            Search::Over => Ok(Some(take(py, &mut state.buffer, usize::MAX))),
            Search::GoOn => Ok(None),
        }
    });
    StreamReader::resume_if_drained(reader)?;
    taken.map_err(PyValueError::new_err)
}

enum Until<'py> {
    Taken(Bound<'py, PyBytes>),
    Incomplete(Bound<'py, PyBytes>),
    Overrun(&'static str, usize, usize),
    GoOn,
}

fn read_until<'py>(
    reader: &Bound<'py, StreamReader>,
    separators: &Separators,
    scanned: &mut usize,
) -> PyResult<Taken<'py>> {
    let py = reader.py();
    let until = reader.get().state.with(py, |state| {
        let limit = state.limit;
        let find = |buffer: &ReadBuffer<PyBackedBytes>, from| separators.find(buffer, from);
        match search(state, separators.lengths(), scanned, find) {
            Search::Found(found) if found.start <= limit => {
                Until::Taken(take(py, &mut state.buffer, found.end))
            }
            Search::Found(found) => Until::Overrun(FOUND_TOO_LATE, limit, found.start),
            Search::TooLong(length) => Until::Overrun(TOO_LONG, limit, length),
            Search::Over => Until::Incomplete(take(py, &mut state.buffer, usize::MAX)),
            Search::GoOn => Until::GoOn,
        }
    });
    match until {
        Until::Taken(bytes) => {
            StreamReader::resume_if_drained(reader)?;
            Ok(Some(bytes))
        }
        Until::Incomplete(partial) => Err(incomplete(&partial, None)),
        Until::Overrun(message, limit, consumed) => {
            let class = imports(py).limit_overrun_error.bind(py);
            Err(PyErr::from_value(class.call1((overrun(message, limit), consumed))?))
        }
        Until::GoOn => Ok(None),
    }
}

/// `asyncio.IncompleteReadError(partial, expected)`
fn incomplete(partial: &Bound<'_, PyBytes>, expected: Option<usize>) -> PyErr {
    let py = partial.py();
    match imports(py).incomplete_read_error.bind(py).call1((partial, expected)) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}
