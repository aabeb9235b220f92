//! `Semaphore` and `BoundedSemaphore`: so many tasks at a time, in the order they came
//! (`asyncio.locks.Semaphore`).
//!
//! A permit that is given to a waiter is taken off the count when it is woken, and put back when
//! the waiter gives up before it runs.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyTuple};
use pyo3::{IntoPyObjectExt, PyTraverseError};

use super::LoopBound;
use super::waiters::{self, Waiters};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::instances;
use crate::errors;
use crate::futures::{Future, Phase};
use crate::settled::settled;

/// How many permits are left.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Permits {
    Counted(i64),
    /// `Semaphore(math.inf)`: a limit that is switched off.
    Unlimited,
}

impl Permits {
    fn of(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(number) = value.cast::<PyFloat>() {
            let number = number.value();
            return match number {
                f64::INFINITY => Ok(Permits::Unlimited),
                whole if whole.fract() == 0.0 && whole.abs() < 9e15 => {
                    Ok(Permits::Counted(whole as i64))
                }
                _ => Err(PyValueError::new_err(format!(
                    "a semaphore counts whole permits, not {}",
                    errors::repr(value)
                ))),
            };
        }
        match value.extract::<i64>() {
            Ok(count) => Ok(Permits::Counted(count)),
            Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => Err(error),
            // More permits than can ever be counted.
            Err(_) if value.gt(0)? => Ok(Permits::Unlimited),
            Err(_) => Ok(Permits::Counted(i64::MIN)),
        }
    }

    fn object(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self {
            Permits::Counted(count) => count.into_bound_py_any(py),
            Permits::Unlimited => f64::INFINITY.into_bound_py_any(py),
        }
    }

    #[inline]
    fn are_left(self) -> bool {
        self > Permits::Counted(0)
    }

    #[inline]
    fn changed(self, by: i64) -> Self {
        match self {
            Permits::Counted(count) => Permits::Counted(count.saturating_add(by)),
            Permits::Unlimited => Permits::Unlimited,
        }
    }
}

/// Lets so many tasks pass at a time (`asyncio.Semaphore`).
///
/// Semaphore(value=1): `value` permits, `math.inf` for no limit. ValueError when it is negative.
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide", name = "Semaphore")]
pub struct Semaphore {
    bound: LoopBound,
    waiters: Waiters,
    permits: GilCell<Permits>,
}

impl Semaphore {
    fn make(py: Python<'_>) -> Self {
        Semaphore {
            bound: LoopBound::made_here(py),
            waiters: Waiters::default(),
            permits: GilCell::new(Permits::Counted(1)),
        }
    }

    fn begin(&self, value: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let Some(value) = value else { return Ok(()) };
        let permits = Permits::of(value)?;
        if permits < Permits::Counted(0) {
            return Err(PyValueError::new_err("Semaphore initial value must be >= 0"));
        }
        self.permits.with(value.py(), |own| *own = permits);
        Ok(())
    }

    #[inline]
    fn permits(&self, py: Python<'_>) -> Permits {
        self.permits.with(py, |permits| *permits)
    }

    #[inline]
    fn change(&self, py: Python<'_>, by: i64) {
        self.permits.with(py, |permits| *permits = permits.changed(by));
    }

    /// Takes a permit if one is left and nobody is before us.
    #[inline]
    fn try_acquire(&self, py: Python<'_>) -> PyResult<bool> {
        let locked = self.locked(py)?;
        if !locked {
            self.change(py, -1);
        }
        Ok(!locked)
    }

    #[inline]
    fn give_back(&self, py: Python<'_>) -> PyResult<()> {
        self.change(py, 1);
        self._wake_up_next(py).map(drop)
    }

    /// Wakes as many as there are permits.
    #[inline]
    fn hand_out(&self, py: Python<'_>) -> PyResult<()> {
        while self.permits(py).are_left() && self._wake_up_next(py)? {}
        Ok(())
    }
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "(value=1)")]
    fn new(args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Semaphore::make(args.py())
    }

    #[pyo3(signature = (value = None))]
    fn __init__(&self, value: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        self.begin(value)
    }

    /// `acquire` up to its `await`: None when we have a permit, otherwise the Future to wait for.
    fn _line_up<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, Future>>> {
        if this.get().try_acquire(this.py())? {
            return Ok(None);
        }
        this.get().waiters.line_up(&this.get().bound, this.as_any()).map(Some)
    }

    /// `acquire` after its `await`: the permit is ours.
    fn _take_turn(&self, waiter: &Bound<'_, Future>) -> PyResult<()> {
        self.waiters.remove(waiter)?;
        // Who came meanwhile had to wait behind us, even if there were permits left.
        self.hand_out(waiter.py())
    }

    /// `acquire` after its `await` raised `error`: a permit that was given to us goes back.
    fn _give_up(&self, waiter: &Bound<'_, Future>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = waiter.py();
        self.waiters.remove(waiter)?;
        if waiter.get().phase(py) == Phase::Finished {
            self.change(py, 1);
        }
        super::unless_closing(error, self.hand_out(py))
    }

    /// Gives a permit back; the first who waits gets it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.give_back(py)
    }

    /// Whether `acquire` would wait: no permit is left, or somebody is before us.
    #[inline]
    fn locked(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.permits(py) == Permits::Counted(0) || self.waiters.are_alive(py)?)
    }

    fn __aenter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let plain = instances::is_plain::<Semaphore>(this.as_any())
            || instances::is_plain::<BoundedSemaphore>(this.as_any());
        if plain && this.get().try_acquire(py)? {
            return settled(py);
        }
        super::enter(this.as_any(), plain)
    }

    #[pyo3(signature = (exc_type, exc, tb, /))]
    fn __aexit__<'py>(
        this: &Bound<'py, Self>,
        exc_type: &Bound<'py, PyAny>,
        exc: &Bound<'py, PyAny>,
        tb: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = (exc_type, exc, tb);
        let py = this.py();
        if instances::is_plain::<Semaphore>(this.as_any()) {
            this.get().give_back(py)?;
        } else if instances::is_plain::<BoundedSemaphore>(this.as_any()) {
            BoundedSemaphore::release(this.cast::<BoundedSemaphore>()?)?;
        } else {
            super::release_by_name(this.as_any())?;
        }
        settled(py)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let py = this.py();
        let state = if this.get().locked(py)? {
            "locked".to_owned()
        } else {
            format!("unlocked, value:{}", this.get().permits(py).object(py)?.str()?)
        };
        super::shown(this.as_any(), &state, &this.get().waiters)
    }

    /// `asyncio.Semaphore`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).semaphore.clone_ref(py)
    }

    /// Gives a permit to the first who waits; False when nobody does.
    fn _wake_up_next(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(next) = self.waiters.next_pending(py)? else { return Ok(false) };
        self.change(py, -1);
        waiters::wake(&next)?;
        Ok(true)
    }

    #[getter]
    fn _value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.permits(py).object(py)
    }

    #[setter(_value)]
    fn set_value(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let permits = Permits::of(value)?;
        self.permits.with(value.py(), |own| *own = permits);
        Ok(())
    }

    #[getter]
    fn _waiters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.waiters.show(py)
    }

    #[setter(_waiters)]
    fn set_waiters(&self, value: &Bound<'_, PyAny>) {
        self.waiters.replace(value);
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.bound.any(py)
    }

    #[setter(_loop)]
    fn set_loop(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.bound.set(value)
    }

    /// The loop that runs, which is the semaphore's from then on; RuntimeError when it has another.
    fn _get_loop(this: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Ok(this.get().bound.enter(this.as_any())?.into_any(this.py()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.bound.traverse(&visit)?;
        self.waiters.traverse(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            self.bound.clear(py);
            self.waiters.clear(py);
        });
    }
}

/// A semaphore that refuses to be released more often than it was acquired
/// (`asyncio.BoundedSemaphore`).
///
/// BoundedSemaphore(value=1). ValueError when `value` is negative.
#[pyclass(frozen, extends = Semaphore, subclass, module = "aioxide", name = "BoundedSemaphore")]
pub struct BoundedSemaphore {
    bound: GilCell<Permits>,
}

#[pymethods]
impl BoundedSemaphore {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "(value=1)")]
    fn new(
        args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        let bound = GilCell::new(Permits::Counted(1));
        PyClassInitializer::from(Semaphore::make(args.py()))
            .add_subclass(BoundedSemaphore { bound })
    }

    #[pyo3(signature = (value = None))]
    fn __init__(this: &Bound<'_, Self>, value: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let semaphore = this.as_super().get();
        semaphore.begin(value)?;
        let permits = semaphore.permits(this.py());
        this.get().bound.with(this.py(), |bound| *bound = permits);
        Ok(())
    }

    /// Gives a permit back; ValueError when all of them are there already.
    fn release(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let semaphore = this.as_super().get();
        let permits = semaphore.permits(py);
        if permits >= this.get().bound.with(py, |bound| *bound) {
            return Err(PyValueError::new_err("BoundedSemaphore released too many times"));
        }
        semaphore.give_back(py)
    }

    /// `asyncio.BoundedSemaphore`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).bounded_semaphore.clone_ref(py)
    }

    #[getter]
    fn _bound_value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.bound.with(py, |bound| *bound).object(py)
    }

    #[setter(_bound_value)]
    fn set_bound_value(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let permits = Permits::of(value)?;
        self.bound.with(value.py(), |bound| *bound = permits);
        Ok(())
    }
}
