//! What a transport is given to send: which objects it takes, how they are kept until the kernel
//! takes them, and when the protocol is asked to pause.
//!
//! The transports that write use it; the bytes themselves wait in `engine::write_buffer`. Nothing
//! here writes to a descriptor, and nothing calls a protocol.

use engine::write_buffer::WaterMarks;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use rustix::io::Errno;

use crate::cpython::buffers;

/// From the sixth write into a lost connection on, asyncio logs
/// (`asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES`).
pub const LOG_THRESHOLD: u32 = 5;

/// Whether the kernel only wants to be asked again later.
pub fn is_full(error: Errno) -> bool {
    error == Errno::AGAIN || error == Errno::INTR
}

/// Takes bytes, bytearrays and memoryviews, and nothing else.
///
/// # Errors
/// `TypeError`, naming the type that was given.
pub fn check_type(data: &Bound<'_, PyAny>) -> PyResult<()> {
    if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
        return Ok(());
    }
    let name = data.get_type().name()?;
    Err(PyTypeError::new_err(format!("data argument must be a bytes-like object, not '{name}'")))
}

/// What is left of `data` after `sent` bytes, to be kept; None when that is nothing. `bytes` are
/// kept as they are, anything that the program could change afterwards is copied.
pub fn rest(data: &Bound<'_, PyAny>, sent: usize) -> PyResult<Option<PyBackedBytes>> {
    let py = data.py();
    let rest: Bound<'_, PyBytes> = match data.cast_exact::<PyBytes>() {
        Ok(bytes) if sent == 0 => bytes.clone(),
        _ => buffers::read(data, |bytes| PyBytes::new(py, bytes.get(sent..).unwrap_or_default()))?,
    };
    Ok((!rest.as_bytes().is_empty()).then(|| PyBackedBytes::from(rest)))
}

/// The pieces of `writelines`, without the empty ones.
pub fn pieces(list: &Bound<'_, PyAny>) -> PyResult<Vec<PyBackedBytes>> {
    let mut pieces = Vec::new();
    for data in list.try_iter()? {
        let data = data?;
        check_type(&data)?;
        pieces.extend(rest(&data, 0)?);
    }
    Ok(pieces)
}

/// Between which amounts a protocol is asked to pause, and whether it was.
pub struct FlowControl {
    marks: WaterMarks,
    paused: bool,
}

impl FlowControl {
    /// asyncio's marks; nobody is paused.
    pub const DEFAULT: Self = Self { marks: WaterMarks::DEFAULT, paused: false };

    /// `(low, high)`, in bytes.
    pub const fn limits(&self) -> (usize, usize) {
        (self.marks.low(), self.marks.high())
    }

    /// Whether the protocol was asked to pause.
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// `set_write_buffer_limits`.
    ///
    /// # Errors
    /// `ValueError` unless high >= low >= 0, in asyncio's words.
    pub fn set(&mut self, high: Option<isize>, low: Option<isize>) -> PyResult<()> {
        let size = |value: Option<isize>| value.map(usize::try_from).transpose();
        let (Ok(high_size), Ok(low_size)) = (size(high), size(low)) else {
            let low = low.or(high.map(|high| high / 4)).unwrap_or(0);
            let high = high.unwrap_or(low.saturating_mul(4));
            return Err(PyValueError::new_err(format!(
                "high ({high}) must be >= low ({low}) must be >= 0"
            )));
        };
        self.marks
            .set(high_size, low_size)
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// True once when `length` bytes are too many: `pause_writing()` is due.
    pub fn must_pause(&mut self, length: usize) -> bool {
        let pause = !self.paused && self.marks.crossed_high(length);
        self.paused |= pause;
        pause
    }

    /// True once when `length` bytes are few enough: `resume_writing()` is due.
    pub fn may_resume(&mut self, length: usize) -> bool {
        let resume = self.paused && self.marks.drained(length);
        self.paused &= !resume;
        resume
    }
}
