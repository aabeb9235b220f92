//! The locks of asyncio: which task goes on, and in which order.
//!
//! Semantics and messages are those of `Lib/asyncio/locks.py` of the newest CPython, on every
//! Python. What is free at once is taken without a Future and without a turn of the loop.

pub mod event;
pub mod lock;
pub mod semaphore;
pub mod waiters;

use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{PyTraverseError, intern};

use self::waiters::Waiters;
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::instances::Site;
use crate::errors;
use crate::event_loop::home::Home;

/// The loop in which somebody waited first (`asyncio.mixins._LoopBoundMixin`).
pub struct LoopBound {
    home: GilCell<Option<Home>>,
    site: GilCell<Option<Site>>,
}

impl LoopBound {
    /// Of no loop yet; remembers which line of Python makes its owner.
    #[inline]
    pub fn made_here(py: Python<'_>) -> Self {
        LoopBound { home: GilCell::new(None), site: GilCell::new(Site::here(py)) }
    }

    /// Says that the line where `frame` stands made the owner.
    pub fn note_site(&self, frame: &Bound<'_, PyAny>) {
        let site = Site::of(frame);
        let old = self.site.with(frame.py(), |own| std::mem::replace(own, site));
        drop(old);
    }

    /// The running loop, which becomes the loop of `owner` if it has none.
    ///
    /// # Errors
    /// `RuntimeError` when `owner` was waited for in another loop, and when no loop runs.
    pub fn enter(&self, owner: &Bound<'_, PyAny>) -> PyResult<Home> {
        let py = owner.py();
        let running = imports(py).get_running_loop.bind(py).call0()?;
        if running.is_none() {
            return Err(PyRuntimeError::new_err("no running event loop"));
        }
        let running = Home::of(py, Some(&running))?;
        let other = self.home.with(py, |home| match home {
            Some(home) if home.is_same(&running) => None,
            Some(home) => Some(home.clone_ref(py)),
            None => {
                *home = Some(running.clone_ref(py));
                None
            }
        });
        match other {
            None => Ok(running),
            Some(other) => Err(self.refuse(owner, &other, &running)),
        }
    }

    fn refuse(&self, owner: &Bound<'_, PyAny>, other: &Home, running: &Home) -> PyErr {
        let py = owner.py();
        let mut message = format!(
            "{} is bound to a different event loop: to {}, and this is {}",
            errors::repr(owner),
            errors::repr(other.any(py)),
            errors::repr(running.any(py)),
        );
        let site = self.site.with(py, |site| site.as_ref().map(|site| site.clone_ref(py)));
        if let Some(Ok(place)) = site.map(|site| site.describe(py)) {
            message.push_str(&format!("; it was made at {place}"));
        }
        PyRuntimeError::new_err(message)
    }

    /// The loop, or None: asyncio's `_loop`.
    pub fn any(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.home.with(py, |home| home.as_ref().map(|home| home.clone_ref(py).into_any(py)))
    }

    /// Sets what asyncio calls `_loop`.
    pub fn set(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = event_loop.py();
        let home = if event_loop.is_none() { None } else { Some(Home::of(py, Some(event_loop))?) };
        let old = self.home.with(py, |own| std::mem::replace(own, home));
        drop(old);
        Ok(())
    }

    /// Shows the loop to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home
            .peek(|home| home.as_ref().map_or(Ok(()), |it| it.traverse(visit)))
            .unwrap_or(Ok(()))
    }

    /// Forgets the loop, for the collector.
    pub fn clear(&self, py: Python<'_>) {
        let old = self.home.with(py, Option::take);
        drop(old);
    }
}

static ENTER: PyOnceLock<[Py<PyAny>; 2]> = PyOnceLock::new();

/// `__aenter__` of a lock that is not free, or whose `acquire` may be somebody else's: then that is
/// awaited, otherwise what ours does without a coroutine of its own.
pub fn enter<'py>(lock: &Bound<'py, PyAny>, plain: bool) -> PyResult<Bound<'py, PyAny>> {
    let py = lock.py();
    let [by_name, in_line] = ENTER.get_or_try_init(py, || {
        let module = py.import("aioxide.locks")?;
        let function = |name| Ok::<_, PyErr>(module.getattr(name)?.unbind());
        Ok::<_, PyErr>([function("enter_by_name")?, function("enter_in_line")?])
    })?;
    if plain { in_line } else { by_name }.bind(py).call1((lock,))
}

/// What came of passing a turn on to the next who waits, because of `error`. There may be nobody to
/// tell when a coroutine is closed, because its loop is closed too.
pub fn unless_closing(error: &Bound<'_, PyAny>, passed: PyResult<()>) -> PyResult<()> {
    if error.is_instance_of::<PyGeneratorExit>() { Ok(()) } else { passed }
}

/// `lock.release()`, whatever that is there.
pub fn release_by_name(lock: &Bound<'_, PyAny>) -> PyResult<()> {
    lock.call_method0(intern!(lock.py(), "release")).map(drop)
}

/// `object.__repr__`, with what asyncio adds of a lock: its state, and how many wait.
pub fn shown(lock: &Bound<'_, PyAny>, state: &str, waiters: &Waiters) -> PyResult<String> {
    let class = lock.get_type();
    let (module, name) = (class.module()?, class.qualname()?);
    let waiting = match waiters.count(lock.py())? {
        0 => String::new(),
        count => format!(", waiters:{count}"),
    };
    Ok(format!("<{module}.{name} object at {:#x} [{state}{waiting}]>", lock.as_ptr() as usize))
}
