//! `Home`: the loop a future or task belongs to, ours or somebody else's.
//!
//! On our loop a wake-up is a push on the ready queue; on a foreign one (CPython's tests, a
//! monitoring wrapper) it is `loop.call_soon`, as for asyncio's own tasks.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;

use super::BaseEventLoop;
use crate::cpython::imports::imports;

/// The loop of a future.
pub enum Home {
    /// A loop of ours.
    Native(Py<BaseEventLoop>),
    /// Any other object with asyncio's loop interface.
    Foreign(Py<PyAny>),
}

impl Home {
    /// The home that `loop=` names; the current event loop when it is None.
    pub fn of(py: Python<'_>, event_loop: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let event_loop = match event_loop {
            Some(event_loop) if !event_loop.is_none() => event_loop.clone(),
            _ => imports(py).get_event_loop.bind(py).call0()?,
        };
        Ok(match event_loop.cast_into::<BaseEventLoop>() {
            Ok(native) => Home::Native(native.unbind()),
            Err(error) => Home::Foreign(error.into_inner().unbind()),
        })
    }

    /// The loop as an object.
    pub fn any<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        match self {
            Home::Native(native) => native.bind(py).as_any(),
            Home::Foreign(foreign) => foreign.bind(py),
        }
    }

    /// The loop as an object, owned.
    pub fn into_any(self, py: Python<'_>) -> Py<PyAny> {
        match self {
            Home::Native(native) => native.into_bound(py).into_any().unbind(),
            Home::Foreign(foreign) => foreign,
        }
    }

    /// Another reference to the same loop.
    #[inline]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Home::Native(native) => Home::Native(native.clone_ref(py)),
            Home::Foreign(foreign) => Home::Foreign(foreign.clone_ref(py)),
        }
    }

    /// Drops the reference, without asking again whether this thread is attached.
    #[inline]
    pub fn release(self, py: Python<'_>) {
        match self {
            Home::Native(native) => drop(native.into_bound(py)),
            Home::Foreign(foreign) => drop(foreign.into_bound(py)),
        }
    }

    /// Whether both are the same loop.
    #[inline]
    pub fn is_same(&self, other: &Home) -> bool {
        match (self, other) {
            (Home::Native(one), Home::Native(two)) => one.is(two),
            (Home::Foreign(one), Home::Foreign(two)) => one.is(two),
            _ => false,
        }
    }

    /// `loop.get_debug()`.
    #[inline]
    pub fn is_debug(&self, py: Python<'_>) -> PyResult<bool> {
        match self {
            Home::Native(native) => Ok(native.get().is_debug(py)),
            Home::Foreign(foreign) => {
                foreign.bind(py).call_method0(intern!(py, "get_debug"))?.is_truthy()
            }
        }
    }

    /// Shows the loop to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Home::Native(native) => visit.call(native),
            Home::Foreign(foreign) => visit.call(foreign),
        }
    }
}
