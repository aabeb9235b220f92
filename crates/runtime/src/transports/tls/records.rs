//! The `ssl.SSLObject` of a connection and its two buffers: plain bytes on one side, records on
//! the other.
//!
//! Where the object is exactly an `ssl.SSLObject`, the C object behind it is called; a context may
//! make objects of a class of its own (`sslobject_class`), whose methods are called then. Which
//! bytes are decrypted or sent is decided by the callers.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView, PySlice};

use crate::cpython::buffers::Space;
use crate::cpython::imports::tls_imports;
use crate::cpython::openssl::{MemoryBio, SslObject};

/// How much a custom object is asked for in one call (`asyncio.sslproto.SSLProtocol.max_size`).
const CUSTOM_READ: usize = 256 * 1024;

/// One connection's TLS.
pub struct Records {
    object: Py<PyAny>,
    native: Option<SslObject>,
    /// What was received and is not decrypted.
    pub incoming: MemoryBio,
    /// What is encrypted and not sent.
    pub outgoing: MemoryBio,
}

/// Why decrypting stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The rest of a record has to come first.
    Starved,
    /// There is no more room.
    Full,
    /// The peer has said goodbye.
    Goodbye,
}

/// Whether OpenSSL only wants to be asked again later (`asyncio.sslproto.SSLAgainErrors`).
pub fn is_again(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    let imports = tls_imports(py)?;
    Ok(error.get_type(py).is(&imports.wants_to_read)
        || error.is_instance(py, imports.wants_to_read.bind(py))
        || error.is_instance(py, imports.syscall_error.bind(py)))
}

impl Records {
    /// `context.wrap_bio()` with two new buffers.
    pub fn new(
        context: &Bound<'_, PyAny>,
        server_side: bool,
        server_hostname: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = context.py();
        let (incoming, outgoing) = (MemoryBio::new(py)?, MemoryBio::new(py)?);
        let options = PyDict::new(py);
        options.set_item(intern!(py, "server_side"), server_side)?;
        options.set_item(intern!(py, "server_hostname"), server_hostname)?;
        let object = context.call_method(
            intern!(py, "wrap_bio"),
            (incoming.object(py), outgoing.object(py)),
            Some(&options),
        )?;
        let native = SslObject::behind(&object)?;
        Ok(Records { object: object.unbind(), native, incoming, outgoing })
    }

    /// The `ssl.SSLObject`.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.object.bind(py)
    }

    /// Shows the objects to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        self.native.as_ref().map_or(Ok(()), |native| visit.call(native.object()))
    }

    /// Goes on with the handshake.
    pub fn do_handshake(&self, py: Python<'_>) -> PyResult<()> {
        match &self.native {
            Some(native) => native.do_handshake(py),
            None => self.object(py).call_method0(intern!(py, "do_handshake")).map(drop),
        }
    }

    /// Says goodbye, and takes the peer's.
    pub fn unwrap(&self, py: Python<'_>) -> PyResult<()> {
        match &self.native {
            Some(native) => native.shutdown(py),
            None => self.object(py).call_method0(intern!(py, "unwrap")).map(drop),
        }
    }

    /// Encrypts `data` from `written` on, which is moved by what was taken; between two records
    /// `sealed` may take the first away.
    ///
    /// # Errors
    /// Those of `SSLObject.write`; what was taken before stays taken.
    pub fn write(
        &self,
        data: &Bound<'_, PyAny>,
        written: &mut usize,
        sealed: impl FnMut() -> PyResult<()>,
    ) -> PyResult<()> {
        let py = data.py();
        if let Some(native) = &self.native {
            return native.write(data, written, sealed);
        }
        let view = PyMemoryView::from(data)?.call_method1(intern!(py, "cast"), ("B",))?;
        let length = view.len()?;
        while *written < length {
            let rest = view.get_item(PySlice::new(py, *written as isize, length as isize, 1))?;
            let count: usize =
                self.object(py).call_method1(intern!(py, "write"), (rest,))?.extract()?;
            *written += count;
        }
        Ok(())
    }

    /// Decrypted bytes that OpenSSL still holds, because the room for them was too small.
    pub fn held(&self, py: Python<'_>) -> PyResult<usize> {
        match &self.native {
            Some(native) => native.pending(py),
            None => Ok(0),
        }
    }

    /// Decrypts into `space` until it is full or `may_go_on` says that no record is complete.
    /// The error that ended it, if one did, comes beside what was decrypted before.
    pub fn fill(
        native: &SslObject,
        py: Python<'_>,
        space: &mut Space,
        may_go_on: impl Fn() -> PyResult<bool>,
    ) -> (Stop, Option<PyErr>) {
        let mut step = || -> PyResult<Stop> {
            loop {
                if native.read(py, space)? == 0 {
                    return Ok(Stop::Goodbye);
                }
                if space.is_full() {
                    return Ok(Stop::Full);
                }
                if !may_go_on()? {
                    return Ok(Stop::Starved);
                }
            }
        };
        match step() {
            Ok(stop) => (stop, None),
            Err(error) => match is_again(py, &error) {
                Ok(true) => (Stop::Starved, None),
                Ok(false) | Err(_) => (Stop::Starved, Some(error)),
            },
        }
    }

    /// The C object, to read from.
    pub fn native(&self) -> Option<&SslObject> {
        self.native.as_ref()
    }

    /// Everything that a custom object can decrypt, as one `bytes`.
    pub fn read_custom<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyBytes>, Stop, Option<PyErr>)> {
        let mut pieces: Vec<Bound<'py, PyAny>> = Vec::new();
        let (stop, error) = loop {
            match self.object(py).call_method1(intern!(py, "read"), (CUSTOM_READ,)) {
                Ok(piece) if piece.len()? == 0 => break (Stop::Goodbye, None),
                Ok(piece) => pieces.push(piece),
                Err(error) if is_again(py, &error)? => break (Stop::Starved, None),
                Err(error) => break (Stop::Starved, Some(error)),
            }
        };
        let whole = PyBytes::new(py, b"").call_method1(intern!(py, "join"), (pieces,))?;
        Ok((whole.cast_into::<PyBytes>()?, stop, error))
    }

    /// The same into a program's buffer, from its start.
    pub fn read_custom_into(
        &self,
        buffer: &Bound<'_, PyAny>,
    ) -> PyResult<(usize, Stop, Option<PyErr>)> {
        let py = buffer.py();
        let view = PyMemoryView::from(buffer)?;
        let (length, mut filled) = (view.len()?, 0);
        while filled < length {
            let rest = view.get_item(PySlice::new(py, filled as isize, length as isize, 1))?;
            let answer = self.object(py).call_method1(intern!(py, "read"), (length - filled, rest));
            match answer.and_then(|count| count.extract::<usize>()) {
                Ok(0) => return Ok((filled, Stop::Goodbye, None)),
                Ok(count) => filled += count,
                Err(error) if is_again(py, &error)? => return Ok((filled, Stop::Starved, None)),
                Err(error) => return Ok((filled, Stop::Starved, Some(error))),
            }
        }
        Ok((filled, Stop::Full, None))
    }

    /// What is encrypted and not sent, if there is anything.
    pub fn take_outgoing<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if self.outgoing.pending(py)? == 0 {
            return Ok(None);
        }
        self.outgoing.read(py).map(Some)
    }
}
