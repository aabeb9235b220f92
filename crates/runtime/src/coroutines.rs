//! Coroutines written in Rust: what `lock.acquire()` returns, and every other leaf wait.
//!
//! Such a coroutine waits for our Futures and for nothing else. To Python it is a coroutine like
//! any other (`collections.abc.Coroutine`): it runs nothing before it is awaited, `create_task`
//! takes it, and it warns when nobody ever awaited it. One that never has to wait ends at its first
//! step, without a Future and without a turn of the loop.

use std::sync::atomic::AtomicUsize;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError, PyStopIteration, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::cpython::cell::GilCell;
use crate::cpython::coroutine::Outcome;
use crate::cpython::imports::imports;
use crate::cpython::slots::{Finalize, Resume};
use crate::futures::awaiting;
use crate::futures::{Future, Phase, completion};
use crate::locks::event::Event;
use crate::locks::lock::Lock;
use crate::locks::semaphore::Semaphore;
use crate::queues::Queue;
use crate::queues::passing::{self, Side};
use crate::streams::reading::Reading;
use crate::streams::writing::Writing;
use crate::tasks::timeouts::Timeout;

/// What a coroutine of ours does: a closed list. The work itself is in the file of each class.
pub enum Body {
    /// `Lock.acquire`
    LockAcquire(Py<Lock>),
    /// `Lock.__aenter__`, where it has to wait
    LockEnter(Py<Lock>),
    /// The reads of `StreamReader`
    Reading(Reading),
    /// The waits of `StreamWriter`
    Writing(Writing),
    /// `Event.wait`
    EventWait(Py<Event>),
    /// `Semaphore.acquire`
    SemaphoreAcquire(Py<Semaphore>),
    /// `Semaphore.__aenter__`, where it has to wait
    SemaphoreEnter(Py<Semaphore>),
    /// `Queue.put`
    QueuePut(Py<Queue>, Py<PyAny>),
    /// `Queue.get`
    QueueGet(Py<Queue>),
    /// `Queue.join`
    QueueJoin(Py<Queue>),
    /// `Timeout.__aenter__`
    TimeoutEnter(Py<Timeout>),
}

/// What came of one step.
pub enum Step {
    /// The coroutine returns this.
    Return(Py<PyAny>),
    /// It goes on when this Future is done.
    Wait(Py<Future>),
}

impl Body {
    /// Runs it up to its end or its first wait.
    #[inline]
    fn begin(&self, py: Python<'_>) -> PyResult<Step> {
        match self {
            Body::Reading(reading) => reading.begin(py),
            Body::Writing(writing) => writing.begin(py),
            Body::LockAcquire(lock) => Lock::begin_acquire(lock.bind(py), true),
            Body::LockEnter(lock) => Lock::begin_acquire(lock.bind(py), false),
            Body::EventWait(event) => Event::begin_wait(event.bind(py)),
            Body::SemaphoreAcquire(own) => Semaphore::begin_acquire(own.bind(py), true),
            Body::SemaphoreEnter(own) => Semaphore::begin_acquire(own.bind(py), false),
            Body::QueuePut(queue, item) => passing::begin_put(queue.bind(py), item.bind(py)),
            Body::QueueGet(queue) => passing::begin_get(queue.bind(py)),
            Body::QueueJoin(queue) => passing::begin_join(queue.bind(py)),
            Body::TimeoutEnter(timeout) => Timeout::enter(timeout.bind(py)),
        }
    }

    /// Goes on after a wait: `awaited` is what `await future` gave or raised there.
    fn go_on(
        &self,
        py: Python<'_>,
        future: &Bound<'_, Future>,
        awaited: PyResult<Py<PyAny>>,
    ) -> PyResult<Step> {
        match self {
            Body::LockAcquire(lock) => Lock::end_acquire(lock.bind(py), future, awaited, true),
            Body::LockEnter(lock) => Lock::end_acquire(lock.bind(py), future, awaited, false),
            Body::Reading(reading) => reading.go_on(py, future, awaited),
            Body::Writing(writing) => writing.go_on(py, future, awaited),
            Body::EventWait(event) => Event::end_wait(event.bind(py), future, awaited),
            Body::SemaphoreAcquire(own) => {
                Semaphore::end_acquire(own.bind(py), future, awaited, true)
            }
            Body::SemaphoreEnter(own) => {
                Semaphore::end_acquire(own.bind(py), future, awaited, false)
            }
            Body::QueuePut(queue, item) => match awaited {
                Ok(_) => passing::begin_put(queue.bind(py), item.bind(py)),
                Err(error) => Err(passing::give_up(queue.bind(py), Side::Putters, future, error)),
            },
            Body::QueueGet(queue) => match awaited {
                Ok(_) => passing::begin_get(queue.bind(py)),
                Err(error) => Err(passing::give_up(queue.bind(py), Side::Getters, future, error)),
            },
            Body::QueueJoin(queue) => passing::end_join(queue.bind(py), future, awaited),
            // It waits for nothing.
            Body::TimeoutEnter(_) => awaited.map(Step::Return),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Body::LockAcquire(_) => "Lock.acquire",
            Body::LockEnter(_) => "Lock.__aenter__",
            Body::Reading(reading) => reading.name(),
            Body::Writing(writing) => writing.name(),
            Body::EventWait(_) => "Event.wait",
            Body::SemaphoreAcquire(_) => "Semaphore.acquire",
            Body::SemaphoreEnter(_) => "Semaphore.__aenter__",
            Body::QueuePut(..) => "Queue.put",
            Body::QueueGet(_) => "Queue.get",
            Body::QueueJoin(_) => "Queue.join",
            Body::TimeoutEnter(_) => "Timeout.__aenter__",
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Body::LockAcquire(lock) | Body::LockEnter(lock) => visit.call(lock),
            Body::Reading(reading) => reading.traverse(visit),
            Body::Writing(writing) => writing.traverse(visit),
            Body::EventWait(event) => visit.call(event),
            Body::SemaphoreAcquire(own) | Body::SemaphoreEnter(own) => visit.call(own),
            Body::QueuePut(queue, item) => {
                visit.call(queue)?;
                visit.call(item)
            }
            Body::QueueGet(queue) | Body::QueueJoin(queue) => visit.call(queue),
            Body::TimeoutEnter(timeout) => visit.call(timeout),
        }
    }
}

/// Where a coroutine is in its life.
enum Stage {
    New(Body),
    Waiting(Body, Py<Future>),
    Running,
    Ended,
}

/// A coroutine whose body is Rust.
#[pyclass(frozen, weakref, module = "aioxide", name = "coroutine")]
pub struct Coroutine {
    stage: GilCell<Stage>,
    name: &'static str,
}

impl Coroutine {
    /// A coroutine that has not begun.
    #[inline]
    pub fn create(py: Python<'_>, body: Body) -> PyResult<Bound<'_, Self>> {
        let name = body.name();
        Bound::new(py, Coroutine { stage: GilCell::new(Stage::New(body)), name })
    }

    #[inline]
    fn take(&self, py: Python<'_>) -> PyResult<Stage> {
        let stage = self.stage.with(py, |stage| match stage {
            Stage::Running => Stage::Running,
            Stage::Ended => Stage::Ended,
            _ => std::mem::replace(stage, Stage::Running),
        });
        match stage {
            Stage::Running => Err(PyValueError::new_err("coroutine already executing")),
            Stage::Ended => Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine")),
            stage => Ok(stage),
        }
    }

    fn put(&self, py: Python<'_>, next: Stage) {
        let old = self.stage.with(py, |stage| std::mem::replace(stage, next));
        drop(old);
    }

    /// Acts on what a step of the body gave.
    #[inline]
    fn settle<'py>(&self, py: Python<'py>, body: Body, step: PyResult<Step>) -> Outcome<'py> {
        match step {
            Ok(Step::Return(result)) => {
                self.put(py, Stage::Ended);
                Outcome::Returned(result.into_bound(py))
            }
            Ok(Step::Wait(future)) => {
                let awaited = future.bind(py).as_any().clone();
                awaiting::mark_awaited(future.bind(py));
                self.put(py, Stage::Waiting(body, future));
                Outcome::Yielded(awaited)
            }
            Err(error) => {
                self.put(py, Stage::Ended);
                Outcome::Raised(error)
            }
        }
    }

    /// Raises `error` where the coroutine waits.
    fn raise<'py>(&self, py: Python<'py>, error: PyErr) -> Outcome<'py> {
        match self.take(py) {
            Ok(Stage::Waiting(body, future)) => {
                let step = body.go_on(py, future.bind(py), Err(error));
                self.settle(py, body, step)
            }
            Ok(_) => {
                self.put(py, Stage::Ended);
                Outcome::Raised(error)
            }
            Err(refused) => Outcome::Raised(refused),
        }
    }
}

impl Resume for Coroutine {
    #[inline]
    fn resume<'py>(this: &Bound<'py, Self>) -> Outcome<'py> {
        let py = this.py();
        let own = this.get();
        match own.take(py) {
            Ok(Stage::New(body)) => {
                let step = body.begin(py);
                own.settle(py, body, step)
            }
            Ok(Stage::Waiting(body, future)) => {
                let future = future.into_bound(py);
                let awaited = match future.get().phase(py) {
                    Phase::Pending => Err(PyRuntimeError::new_err("await wasn't used with future")),
                    _ => completion::result(&future),
                };
                let step = body.go_on(py, &future, awaited);
                own.settle(py, body, step)
            }
            Ok(_) => Outcome::Returned(py.None().into_bound(py)),
            Err(refused) => Outcome::Raised(refused),
        }
    }
}

fn as_iteration(outcome: Outcome<'_>) -> PyResult<Py<PyAny>> {
    match outcome {
        Outcome::Yielded(awaited) => Ok(awaited.unbind()),
        Outcome::Returned(result) => Err(PyStopIteration::new_err((result.unbind(),))),
        Outcome::Raised(error) => Err(error),
    }
}

#[pymethods]
impl Coroutine {
    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    /// Replaced by the C-speed slot (`slots::install_resume`), which makes it an iterator.
    fn __next__(this: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        as_iteration(Self::resume(this)).map(Some)
    }

    /// Resumes the coroutine; what is sent is of no use to it.
    #[pyo3(signature = (value, /))]
    fn send(this: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let _ = value;
        as_iteration(Self::resume(this))
    }

    /// Raises an exception where the coroutine waits.
    #[pyo3(signature = (r#type, value = None, traceback = None, /))]
    fn throw(
        this: &Bound<'_, Self>,
        r#type: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let error = awaiting::thrown(r#type, value, traceback)?;
        as_iteration(this.get().raise(this.py(), error))
    }

    /// Ends the coroutine; one that waits is told by GeneratorExit.
    fn close(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let ended = this.get().stage.with(py, |stage| matches!(stage, Stage::Ended));
        if ended {
            return Ok(());
        }
        match this.get().raise(py, PyGeneratorExit::new_err(())) {
            Outcome::Yielded(_) => Err(PyRuntimeError::new_err("coroutine ignored GeneratorExit")),
            Outcome::Returned(_) => Ok(()),
            Outcome::Raised(error) if error.is_instance_of::<PyGeneratorExit>(py) => Ok(()),
            Outcome::Raised(error) => Err(error),
        }
    }

    #[getter]
    fn __name__(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    #[getter]
    fn __qualname__(&self) -> &'static str {
        self.name
    }

    /// What it waits for, or None.
    #[getter]
    fn cr_await(&self, py: Python<'_>) -> Option<Py<Future>> {
        self.stage.with(py, |stage| match stage {
            Stage::Waiting(_, future) => Some(future.clone_ref(py)),
            _ => None,
        })
    }

    /// Whether a step of it is being made.
    #[getter]
    fn cr_running(&self, py: Python<'_>) -> bool {
        self.stage.with(py, |stage| matches!(stage, Stage::Running))
    }

    /// It has no Python frame.
    #[getter]
    fn cr_frame(&self) -> Option<Py<PyAny>> {
        None
    }

    /// Where it was made is not recorded.
    #[getter]
    fn cr_origin(&self) -> Option<Py<PyAny>> {
        None
    }

    fn __repr__(this: &Bound<'_, Self>) -> String {
        format!("<coroutine object {} at {:#x}>", this.get().name, this.as_ptr() as usize)
    }

    /// What the collector calls on an instance in a cycle (`slots::install_finalizer`).
    fn __del__(this: &Bound<'_, Self>) {
        if Coroutine::wants_finalizer(this) {
            Coroutine::finalize(this);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.stage
            .peek(|stage| match stage {
                Stage::New(body) => body.traverse(&visit),
                Stage::Waiting(body, future) => {
                    body.traverse(&visit)?;
                    visit.call(future)
                }
                Stage::Running | Stage::Ended => Ok(()),
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| self.put(py, Stage::Ended));
    }
}

static ORIGINAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for Coroutine {
    #[inline]
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        this.get()
            .stage
            .peek(|stage| matches!(stage, Stage::New(_) | Stage::Waiting(..)))
            .unwrap_or(false)
    }

    /// `_PyGen_Finalize`: one that waits is closed, one that never began is complained of.
    fn finalize(this: &Bound<'_, Self>) {
        let py = this.py();
        let never_begun = this.get().stage.with(py, |stage| matches!(stage, Stage::New(_)));
        let told = if never_begun {
            imports(py).warn_unawaited.bind(py).call1((this,)).map(drop)
        } else {
            Ok(())
        };
        if let Err(error) = told.and_then(|()| Coroutine::close(this)) {
            error.write_unraisable(py, Some(this));
        }
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &ORIGINAL_DEALLOC
    }
}

/// An awaitable that is done already and gives None: `__aexit__`, and `__aenter__` where nothing
/// has to be waited for, have done their work when they return it. One serves all.
#[pyclass(frozen, module = "aioxide", name = "coroutine_done")]
pub struct Settled;

impl Resume for Settled {
    #[inline]
    fn resume<'py>(this: &Bound<'py, Self>) -> Outcome<'py> {
        Outcome::Returned(this.py().None().into_bound(this.py()))
    }
}

#[pymethods]
impl Settled {
    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    /// Replaced by the C-speed slot, as in `Coroutine`.
    fn __next__(this: &Bound<'_, Self>) -> Option<Py<PyAny>> {
        let _ = this;
        None
    }

    #[pyo3(signature = (value, /))]
    fn send(this: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let _ = value;
        as_iteration(Self::resume(this))
    }

    #[pyo3(signature = (r#type, value = None, traceback = None, /))]
    fn throw(
        &self,
        r#type: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Err(awaiting::thrown(r#type, value, traceback)?)
    }

    fn close(&self) {}
}

static SETTLED: pyo3::sync::PyOnceLock<Py<Settled>> = pyo3::sync::PyOnceLock::new();

/// The awaitable that is done.
#[inline]
pub fn settled(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let settled = SETTLED.get_or_try_init(py, || Py::new(py, Settled))?;
    Ok(settled.bind(py).as_any().clone())
}
