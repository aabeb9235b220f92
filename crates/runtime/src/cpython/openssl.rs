//! The C objects of the `ssl` module that TLS records go through: `ssl.MemoryBIO`, and what stands
//! behind an `ssl.SSLObject`.
//!
//! Called by the TLS layer. They use a buffer for the time of one call only, so memory of ours is
//! lent to them by a `Window`, which is used again for every call. No Python method of `ssl` runs.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffers::{self, Space};
use super::calls;
use super::cell::GilCell;
use super::imports::tls_imports;

/// What a window shows at the moment.
struct Place {
    start: usize,
    length: usize,
    writable: bool,
}

impl Place {
    const NOTHING: Place = Place { start: 0, length: 0, writable: false };
}

/// Memory of ours as a Python buffer.
#[pyclass(frozen, module = "aioxide._aioxide")]
struct Window {
    place: GilCell<Place>,
}

#[pymethods]
impl Window {
    /// Called by the C function that the window was given to.
    unsafe fn __getbuffer__(
        this: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let py = this.py();
        let (start, length, writable) =
            this.get().place.with(py, |place| (place.start, place.length, place.writable));
        // SAFETY: the interpreter passes a valid view. The memory is alive for as long as the
        // window shows it, which is the call that asks; afterwards it shows an empty place.
        let refused = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                this.as_ptr(),
                start as *mut std::ffi::c_void,
                length as ffi::Py_ssize_t,
                c_int::from(!writable),
                flags,
            )
        };
        if refused == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
    }
}

/// The window that nobody uses at the moment.
static SPARE: GilCell<Option<Py<Window>>> = GilCell::new(None);

/// Shows a place to `call`, which hands the window to one of the C objects below. Those release
/// the buffer before they return; they alone are given a window, which no program can reach.
fn show<R>(
    py: Python<'_>,
    place: Place,
    call: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<R>,
) -> PyResult<R> {
    // OpenSSL runs without the interpreter: another thread's loop takes a window of its own.
    let window = match SPARE.with(py, Option::take) {
        Some(spare) => spare.into_bound(py),
        None => Bound::new(py, Window { place: GilCell::new(Place::NOTHING) })?,
    };
    window.get().place.with(py, |shown| *shown = place);
    let answer = call(window.as_any());
    window.get().place.with(py, |shown| *shown = Place::NOTHING);
    drop(SPARE.with(py, |spare| spare.replace(window.unbind())));
    answer
}

/// An `ssl.MemoryBIO`.
pub struct MemoryBio(Py<PyAny>);

impl MemoryBio {
    /// A new one, empty.
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(MemoryBio(tls_imports(py)?.memory_bio.bind(py).call0()?.unbind()))
    }

    /// The Python object.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.0.bind(py)
    }

    /// Adds bytes at its end.
    pub fn write(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<()> {
        let place = Place { start: bytes.as_ptr() as usize, length: bytes.len(), writable: false };
        show(py, place, |window| {
            calls::method1(self.0.bind(py), intern!(py, "write"), window).map(drop)
        })
    }

    /// Takes everything that is in it.
    pub fn read<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = calls::method0(self.0.bind(py), intern!(py, "read"))?;
        Ok(bytes.cast_into::<PyBytes>()?)
    }

    /// How many bytes are in it.
    pub fn pending(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.bind(py).getattr(intern!(py, "pending"))?.extract()
    }
}

/// What does the work of an `ssl.SSLObject`.
pub struct SslObject(Py<PyAny>);

impl SslObject {
    /// What stands behind exactly an `ssl.SSLObject`; None for subclasses and anything else.
    pub fn behind(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let imports = tls_imports(object.py())?;
        if !object.get_type().is(&imports.ssl_object) {
            return Ok(None);
        }
        let inner = object.getattr(intern!(object.py(), "_sslobj"))?;
        Ok(inner.get_type().is(&imports.native).then(|| SslObject(inner.unbind())))
    }

    /// Shows the object to the collector.
    pub fn object(&self) -> &Py<PyAny> {
        &self.0
    }

    /// Decrypts at most one record to the end of `space`; says how many bytes, 0 at the end.
    pub fn read(&self, py: Python<'_>, space: &mut Space) -> PyResult<usize> {
        let (start, length) = space.rest();
        let place = Place { start: start as usize, length, writable: true };
        let count: usize = show(py, place, |window| {
            let length = length.into_pyobject(py)?.into_any();
            calls::method2(self.0.bind(py), intern!(py, "read"), &length, window)?.extract()
        })?;
        space.advance(count);
        Ok(count)
    }

    /// Encrypts `data` from `written` on, which is moved by what was taken, also before an error.
    /// Between two records `sealed` may take the first away.
    pub fn write(
        &self,
        data: &Bound<'_, PyAny>,
        written: &mut usize,
        mut sealed: impl FnMut() -> PyResult<()>,
    ) -> PyResult<()> {
        let py = data.py();
        let inner = self.0.bind(py);
        if *written == 0 {
            *written = calls::method1(inner, intern!(py, "write"), data)?.extract()?;
        }
        buffers::hold(data, |start, length| {
            while *written < length {
                sealed()?;
                let place =
                    Place { start: start + *written, length: length - *written, writable: false };
                let count: usize = show(py, place, |window| {
                    calls::method1(inner, intern!(py, "write"), window)?.extract()
                })?;
                *written += count;
            }
            Ok(())
        })?
    }

    /// Goes on with the handshake.
    pub fn do_handshake(&self, py: Python<'_>) -> PyResult<()> {
        calls::method0(self.0.bind(py), intern!(py, "do_handshake")).map(drop)
    }

    /// Says goodbye, and waits for the peer's.
    pub fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        calls::method0(self.0.bind(py), intern!(py, "shutdown")).map(drop)
    }

    /// How many decrypted bytes wait to be read.
    pub fn pending(&self, py: Python<'_>) -> PyResult<usize> {
        calls::method0(self.0.bind(py), intern!(py, "pending"))?.extract()
    }
}
