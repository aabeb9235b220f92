//! The addresses of peers as Python objects, kept for those that are heard of again and again.
//!
//! Making the tuple costs more than receiving the datagram, and an endpoint mostly hears from few
//! peers. Never larger than [`SLOTS`] entries; never keeps a name that takes memory (Unix paths).

use std::net::SocketAddr;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use rustix::net::SocketAddrAny;

use crate::transports::address;

/// How many peers are remembered: a power of two.
const SLOTS: usize = 32;

struct Peer {
    address: SocketAddr,
    object: Py<PyAny>,
}

/// A small table of peers, indexed by what differs most between them.
#[derive(Default)]
pub struct Peers {
    slots: Vec<Option<Peer>>,
}

fn slot_of(address: &SocketAddr) -> usize {
    let host = match address {
        SocketAddr::V4(v4) => u32::from(*v4.ip()),
        SocketAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.ip().octets();
            u32::from_be_bytes([a, b, c, d])
        }
    };
    // Neighbouring ports and neighbouring hosts fall into different slots.
    (u32::from(address.port()) ^ host.wrapping_mul(0x9e37_79b1).rotate_left(5)) as usize % SLOTS
}

impl Peers {
    /// The object of an address, if it is remembered.
    pub fn find(&self, py: Python<'_>, address: &SocketAddr) -> Option<Py<PyAny>> {
        let peer = self.slots.get(slot_of(address))?.as_ref()?;
        (peer.address == *address).then(|| peer.object.clone_ref(py))
    }

    /// Remembers an address; what it displaces is returned, to be dropped once no state is open.
    pub fn keep(&mut self, address: SocketAddr, object: Py<PyAny>) -> Option<Py<PyAny>> {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        let slot = self.slots.get_mut(slot_of(&address))?;
        slot.replace(Peer { address, object }).map(|peer| peer.object)
    }

    /// The address behind an object that was made here: an answer goes to the very tuple that
    /// `datagram_received` was given.
    pub fn address_of(&self, object: &Bound<'_, PyAny>) -> Option<SocketAddr> {
        self.slots.iter().flatten().find(|peer| peer.object.is(object)).map(|peer| peer.address)
    }

    /// Shows the objects to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.slots.iter().flatten().try_for_each(|peer| visit.call(&peer.object))
    }
}

/// A sender as Python writes it; None when it has no address.
pub fn to_python(
    transport: &super::DatagramTransport,
    py: Python<'_>,
    from: Option<SocketAddrAny>,
) -> PyResult<Py<PyAny>> {
    let Some(from) = from else { return Ok(py.None()) };
    let Ok(internet) = SocketAddr::try_from(from.clone()) else {
        return address::to_python(py, &from);
    };
    if let Some(known) = transport.state.with(py, |state| state.peers.find(py, &internet)) {
        return Ok(known);
    }
    let object = address::to_python(py, &from)?;
    let kept = object.clone_ref(py);
    drop(transport.state.with(py, |state| state.peers.keep(internet, kept)));
    Ok(object)
}
