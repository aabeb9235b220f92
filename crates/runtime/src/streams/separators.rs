//! What `readuntil` looks for: one separator or several.

use engine::read_buffer::{Found, ReadBuffer};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyTuple};

use crate::cpython::buffers;

/// One separator or several, none of them empty.
pub enum Separators {
    /// This one.
    One(PyBackedBytes),
    /// Whichever ends first; the shortest comes first, at least one is there.
    Several(Vec<PyBackedBytes>),
}

impl Separators {
    /// What the argument of `readuntil` means.
    ///
    /// # Errors
    /// `ValueError` when one is empty or there is none, `TypeError` for what has no bytes.
    pub fn of(given: &Bound<'_, PyAny>) -> PyResult<Self> {
        let Ok(several) = given.cast::<PyTuple>() else {
            return Ok(Separators::One(checked(given)?));
        };
        let mut separators =
            several.iter().map(|separator| checked(&separator)).collect::<PyResult<Vec<_>>>()?;
        if separators.is_empty() {
            return Err(PyValueError::new_err("Separator should contain at least one element"));
        }
        separators.sort_by_key(|separator| separator.len());
        Ok(Separators::Several(separators))
    }

    /// The lengths of the shortest and of the longest.
    pub fn lengths(&self) -> (usize, usize) {
        match self {
            Separators::One(one) => (one.len(), one.len()),
            Separators::Several(several) => {
                (several.first().map_or(1, |it| it.len()), several.last().map_or(1, |it| it.len()))
            }
        }
    }

    /// The first to end, not looking before `from`.
    pub fn find(&self, buffer: &ReadBuffer<PyBackedBytes>, from: usize) -> Option<Found> {
        match self {
            Separators::One(one) => buffer.find(one, from),
            Separators::Several(several) => {
                buffer.find_any(several.iter().map(|separator| &**separator), from)
            }
        }
    }
}

fn checked(separator: &Bound<'_, PyAny>) -> PyResult<PyBackedBytes> {
    let bytes = match separator.cast_exact::<PyBytes>() {
        Ok(bytes) => bytes.clone(),
        Err(_) => buffers::read(separator, |bytes| PyBytes::new(separator.py(), bytes))?,
    };
    if bytes.as_bytes().is_empty() {
        return Err(PyValueError::new_err("Separator should be at least one-byte string"));
    }
    Ok(PyBackedBytes::from(bytes))
}
