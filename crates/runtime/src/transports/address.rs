//! Socket addresses as Python writes them, in both directions.
//!
//! Only what needs no resolver is read: numbers for the Internet families, names for Unix sockets.
//! Anything else is left to CPython's own `socket` module, which knows every family.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

/// `(host, port)`, `(host, port, flowinfo, scope_id)`, or a Unix path; None for other families.
pub fn to_python(py: Python<'_>, address: &SocketAddrAny) -> PyResult<Py<PyAny>> {
    if let Ok(internet) = SocketAddr::try_from(address.clone()) {
        let host = host_text(internet.ip());
        return Ok(match internet {
            SocketAddr::V4(v4) => (host, v4.port()).into_pyobject(py)?.into_any().unbind(),
            SocketAddr::V6(v6) => {
                let flow = u32::from_be(v6.flowinfo());
                (host, v6.port(), flow, v6.scope_id()).into_pyobject(py)?.into_any().unbind()
            }
        });
    }
    let Ok(unix) = SocketAddrUnix::try_from(address.clone()) else { return Ok(py.None()) };
    // The kernel's answer to `accept` for a peer without a name reads as an empty abstract one.
    if let Some(name) = unix.abstract_name().filter(|name| !name.is_empty()) {
        let mut bytes = vec![0];
        bytes.extend_from_slice(name);
        return Ok(PyBytes::new(py, &bytes).into_any().unbind());
    }
    let path = unix.path().map(|path| path.to_bytes().to_vec()).unwrap_or_default();
    Ok(OsStr::from_bytes(&path).into_pyobject(py)?.into_any().unbind())
}

/// As the C library's `inet_ntop` writes it, which shows `::a.b.c.d` where Rust shows `::x:y`.
fn host_text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(v6) if v6.segments()[..6] == [0; 6] && v6.segments()[6] != 0 => {
            let [.., a, b, c, d] = v6.octets();
            format!("::{}", Ipv4Addr::new(a, b, c, d))
        }
        other => other.to_string(),
    }
}

/// The address that a program wrote, for a socket of this family; None when reading it takes more
/// than looking at it, or when it is none.
pub fn from_python(family: AddressFamily, address: &Bound<'_, PyAny>) -> Option<SocketAddrAny> {
    if family == AddressFamily::UNIX {
        return unix_from_python(address);
    }
    let parts = address.cast::<PyTuple>().ok()?;
    let host = parts.get_item(0).ok()?;
    let host = host.cast::<PyString>().ok()?.to_str().ok()?;
    let number = |index: usize| parts.get_item(index).ok()?.cast::<PyInt>().ok().cloned();
    let port: u16 = number(1)?.extract().ok()?;
    if family == AddressFamily::INET && parts.len() == 2 {
        let ip: Ipv4Addr = host.parse().ok()?;
        return Some(SocketAddrV4::new(ip, port).into());
    }
    if family == AddressFamily::INET6 && (2..=4).contains(&parts.len()) {
        let ip: Ipv6Addr = host.parse().ok()?;
        let optional = |index: usize| -> Option<u32> {
            if parts.len() > index { number(index)?.extract().ok() } else { Some(0) }
        };
        let (flow, scope) = (optional(2)?, optional(3)?);
        // CPython refuses what does not fit into the 20 bits of a flow label.
        return (flow <= 0xf_ffff).then(|| SocketAddrV6::new(ip, port, flow.to_be(), scope).into());
    }
    None
}

fn unix_from_python(address: &Bound<'_, PyAny>) -> Option<SocketAddrAny> {
    let text;
    let name = if let Ok(bytes) = address.cast::<PyBytes>() {
        bytes.as_bytes()
    } else {
        text = address.cast::<PyString>().ok()?;
        text.to_str().ok()?.as_bytes()
    };
    let unix = match name {
        [] => return None,
        [0, name @ ..] => SocketAddrUnix::new_abstract_name(name).ok()?,
        path => SocketAddrUnix::new(path).ok()?,
    };
    Some(unix.into())
}
