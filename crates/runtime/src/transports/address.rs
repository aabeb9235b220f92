//! Socket addresses as Python writes them.

use std::net::SocketAddr;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use rustix::net::{SocketAddrAny, SocketAddrUnix};

/// `(host, port)`, `(host, port, flowinfo, scope_id)`, or a Unix path; None for other families.
pub fn to_python(py: Python<'_>, address: &SocketAddrAny) -> PyResult<Py<PyAny>> {
    if let Ok(internet) = SocketAddr::try_from(address.clone()) {
        return Ok(match internet {
            SocketAddr::V4(v4) => {
                (v4.ip().to_string(), v4.port()).into_pyobject(py)?.into_any().unbind()
            }
            SocketAddr::V6(v6) => (v6.ip().to_string(), v6.port(), v6.flowinfo(), v6.scope_id())
                .into_pyobject(py)?
                .into_any()
                .unbind(),
        });
    }
    let Ok(unix) = SocketAddrUnix::try_from(address.clone()) else { return Ok(py.None()) };
    if let Some(name) = unix.abstract_name() {
        let mut bytes = vec![0];
        bytes.extend_from_slice(name);
        return Ok(PyBytes::new(py, &bytes).into_any().unbind());
    }
    let path = unix.path().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(PyString::new(py, &path).into_any().unbind())
}
