//! `FutureLink`: a concurrent future's outcome reaches a Future of our loop, and a cancelled
//! Future cancels the concurrent one (`asyncio.futures._chain_future`, for this one direction).
//!
//! Made by `run_in_executor` for every executor that is not the default one.

use pyo3::exceptions::PyTypeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, intern};

use crate::cpython::imports::imports;
use crate::futures::delivery::{Delivery, Outcome};
use crate::futures::state::DoneCallback;
use crate::futures::{Future, completion};

/// The done-callback of a concurrent future: called once, by whichever thread completes it.
#[pyclass(frozen, module = "aioxide._aioxide", name = "FutureLink")]
pub struct FutureLink {
    future: Py<Future>,
}

#[pymethods]
impl FutureLink {
    /// Joins `source`, a concurrent future, to `future`.
    #[staticmethod]
    fn join(source: &Bound<'_, PyAny>, future: &Bound<'_, Future>) -> PyResult<()> {
        let py = source.py();
        if !source.is_instance(imports(py).concurrent_future.bind(py))? {
            return Err(PyTypeError::new_err("A future is required for source argument"));
        }
        completion::add_callback(future, DoneCallback::Back(source.clone().unbind()))?;
        let link = Py::new(py, FutureLink { future: future.clone().unbind() })?;
        source.call_method1(intern!(py, "add_done_callback"), (link,)).map(drop)
    }

    fn __call__(&self, source: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = source.py();
        let outcome = outcome_of(source)?;
        if let Some(parked) = Delivery::new(self.future.clone_ref(py), outcome).post(py) {
            parked.wake();
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.future)
    }
}

/// What a concurrent future came to. One of the standard class is read where it keeps it: each of
/// its methods would take its lock.
fn outcome_of(source: &Bound<'_, PyAny>) -> PyResult<Outcome> {
    let py = source.py();
    if !source.get_type().is(imports(py).concurrent_future.bind(py)) {
        return Ok(Outcome::Ask(source.clone().unbind()));
    }
    if source.getattr(intern!(py, "_state"))?.ne(intern!(py, "FINISHED"))? {
        return Ok(Outcome::Cancelled);
    }
    let error = source.getattr(intern!(py, "_exception"))?;
    if !error.is_none() {
        return Ok(Outcome::Error(error.unbind()));
    }
    Ok(Outcome::Result(source.getattr(intern!(py, "_result"))?.unbind()))
}
