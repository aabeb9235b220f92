//! What a `StreamReader` holds: the bytes that are unread, who waits for more, and how it may end.
//!
//! Nothing here wakes anybody or calls Python.

use engine::read_buffer::ReadBuffer;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes};

use crate::cpython::buffers::Growing;
use crate::event_loop::home::Home;

/// The limit of a reader that was given none, in bytes (`asyncio.streams._DEFAULT_LIMIT`).
pub const DEFAULT_LIMIT: usize = 64 * 1024;

/// From how many bytes on a read receives into the object that it will return.
pub(super) const LARGE: usize = 64 * 1024;
/// How much a large read receives at once: others are served in between.
pub(super) const MOST_AT_ONCE: usize = 1024 * 1024;

/// The mutable part of a `StreamReader`.
pub(super) struct ReaderState {
    pub(super) home: Option<Home>,
    pub(super) buffer: ReadBuffer<PyBackedBytes>,
    /// What a large read will return. While there is one, it holds all that is unread.
    pub(super) growing: Option<Box<Growing>>,
    /// What somebody was given as `_buffer`: all that is unread, which may be changed there.
    pub(super) shown: Option<Py<PyByteArray>>,
    pub(super) limit: usize,
    /// Whoever waits is of no use to be woken for fewer bytes than these.
    pub(super) wanted: usize,
    /// Nor does it take more than these.
    pub(super) at_most: usize,
    pub(super) waiter: Option<Py<PyAny>>,
    /// Up to where whoever waits (its address) has found that no separator begins.
    pub(super) scanned: (usize, usize),
    pub(super) exception: Option<Py<PyAny>>,
    pub(super) transport: Option<Py<PyAny>>,
    pub(super) source_traceback: Option<Py<PyAny>>,
    pub(super) eof: bool,
    /// The transport was asked to read no more.
    pub(super) paused: bool,
}

impl ReaderState {
    /// Of a reader that was not initialized.
    pub(super) const fn empty() -> Self {
        ReaderState {
            home: None,
            buffer: ReadBuffer::new(),
            growing: None,
            shown: None,
            limit: DEFAULT_LIMIT,
            wanted: 0,
            at_most: usize::MAX,
            waiter: None,
            scanned: (0, 0),
            exception: None,
            transport: None,
            source_traceback: None,
            eof: false,
            paused: false,
        }
    }

    /// How much is unread.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.growing.as_ref().map_or_else(|| self.buffer.len(), |growing| growing.len())
    }

    /// Begins to make what a large read will return.
    pub(super) fn grow(&mut self, py: Python<'_>) -> PyResult<()> {
        let most = self.wanted.min(isize::MAX as usize);
        let mut growing =
            Growing::new(py, self.buffer.len().saturating_mul(2).max(4 * LARGE), most)?;
        growing.extend(py, self.buffer.as_slice())?;
        self.buffer.clear();
        self.growing = Some(Box::new(growing));
        Ok(())
    }

    /// What is unread is this, and nothing else.
    pub(super) fn replace(&mut self, unread: Bound<'_, PyBytes>) {
        self.growing = None;
        self.buffer.clear();
        self.buffer.push(PyBackedBytes::from(unread));
    }

    /// Puts what is unread where every read looks for it.
    #[inline]
    pub(super) fn settle(&mut self, py: Python<'_>) -> PyResult<()> {
        if let Some(growing) = self.growing.take() {
            self.buffer.push(PyBackedBytes::from(growing.finish(py)?));
        }
        Ok(())
    }

    /// Adds bytes to what is unread: the object itself, if that can be kept.
    #[inline]
    pub(super) fn add(
        &mut self,
        py: Python<'_>,
        bytes: &[u8],
        object: Option<Bound<'_, PyBytes>>,
    ) -> PyResult<()> {
        let mut bytes = bytes;
        if let Some(growing) = &mut self.growing {
            bytes = bytes.get(growing.extend(py, bytes)?..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            self.settle(py)?;
            self.buffer.extend(bytes);
            return Ok(());
        }
        let total = self.buffer.len() + bytes.len();
        if total >= LARGE && total < self.wanted && self.shown.is_none() {
            self.grow(py)?;
            return self.add(py, bytes, object);
        }
        if !self.buffer.is_empty() {
            self.buffer.extend(bytes);
        } else {
            let piece = object.unwrap_or_else(|| PyBytes::new(py, bytes));
            self.buffer.push(PyBackedBytes::from(piece));
        }
        Ok(())
    }

    /// More than whoever waits, if anybody does, has to be spared.
    pub(super) fn is_too_full(&self) -> bool {
        let length = self.len();
        length >= self.wanted && length > self.limit.saturating_mul(2)
    }

    /// Shows every Python object to the collector.
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.waiter)?;
        visit.call(&self.shown)?;
        visit.call(&self.exception)?;
        visit.call(&self.transport)?;
        visit.call(&self.source_traceback)?;
        self.home.as_ref().map_or(Ok(()), |home| home.traverse(visit))
    }
}
