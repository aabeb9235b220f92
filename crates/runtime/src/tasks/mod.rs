//! `Task`: a coroutine driven by the loop, with the semantics of `_asyncio.Task` on every Python.
//!
//! This file is the class as Python sees it; one step is in [`step`], who is running and who is
//! alive in [`registry`]. What is done with tasks: [`gathering`], [`groups`], [`timeouts`].

pub mod cancellation;
pub mod followers;
pub mod gathering;
pub mod groups;
pub mod registry;
pub mod step;
pub mod timeouts;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, intern};

use crate::cpython::cell::GilCell;
use crate::cpython::coroutine;
use crate::cpython::frames;
use crate::cpython::imports::imports;
use crate::cpython::slots::Finalize;
use crate::errors;
use crate::event_loop::home::Home;
use crate::event_loop::schedule;
use crate::futures::{Future, FutureState, Phase, completion};
pub use registry::Counters;

/// A task's name: the default one is put into words only when somebody asks.
enum Name {
    Default(u64),
    Given(Py<PyAny>),
}

/// The mutable part of a `Task`, beside that of its `Future`.
pub struct TaskState {
    coroutine: Option<Py<PyAny>>,
    context: Option<Py<PyContext>>,
    name: Name,
    /// What it waits for; None while it is ready or running.
    waiter: Option<Py<PyAny>>,
    must_cancel: bool,
    cancel_requests: u32,
    log_destroy_pending: bool,
    /// Its place in the loop's registry.
    slot: Option<u32>,
    counters: Counters,
    records: Option<Box<cancellation::Records>>,
}

/// A coroutine wrapped as a future and run by the loop (`asyncio.Task`).
///
/// Task(coro, *, loop=None, name=None, context=None, eager_start=False)
#[pyclass(extends = Future, subclass, frozen, module = "aioxide", name = "Task")]
pub struct Task {
    pub(crate) state: GilCell<TaskState>,
}

static NAMES: AtomicU64 = AtomicU64::new(1);

/// What `create_task` and `Task(...)` accept beside the coroutine.
#[derive(Default)]
pub struct Options {
    /// `name=`
    pub name: Option<Py<PyAny>>,
    /// `context=`
    pub context: Option<Py<PyContext>>,
    /// `eager_start=`
    pub eager_start: bool,
}

impl TaskState {
    fn empty() -> Self {
        TaskState {
            coroutine: None,
            context: None,
            name: Name::Default(0),
            waiter: None,
            must_cancel: false,
            cancel_requests: 0,
            log_destroy_pending: false,
            slot: None,
            counters: Counters::default(),
            records: None,
        }
    }

    /// The state of a task about to start; refuses what is not a coroutine.
    fn starting(coroutine: &Bound<'_, PyAny>, options: Options) -> PyResult<Self> {
        let py = coroutine.py();
        if !coroutine::is_native(coroutine)
            && !imports(py).iscoroutine.bind(py).call1((coroutine,))?.is_truthy()?
        {
            return Err(PyTypeError::new_err(format!(
                "a coroutine was expected, got {}",
                errors::repr(coroutine)
            )));
        }
        let name = match options.name {
            Some(name) if name.bind(py).is_exact_instance_of::<PyString>() => Name::Given(name),
            Some(name) => Name::Given(name.bind(py).str()?.into_any().unbind()),
            None => Name::Default(NAMES.fetch_add(1, Ordering::Relaxed)),
        };
        Ok(TaskState {
            coroutine: Some(coroutine.clone().unbind()),
            context: Some(schedule::context_or_current(py, options.context)?),
            name,
            log_destroy_pending: true,
            ..TaskState::empty()
        })
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.coroutine)?;
        visit.call(&self.context)?;
        visit.call(&self.waiter)?;
        if let Some(records) = &self.records {
            records.traverse(visit)?;
        }
        match &self.name {
            Name::Given(name) => visit.call(name),
            Name::Default(_) => Ok(()),
        }
    }
}

impl Task {
    /// A new task of `home`, registered and queued (or started at once, when eager).
    pub fn create<'py>(
        py: Python<'py>,
        home: Home,
        coroutine: &Bound<'py, PyAny>,
        options: Options,
    ) -> PyResult<Bound<'py, Task>> {
        let eager = options.eager_start;
        let state = TaskState::starting(coroutine, options)?;
        let future = Future::pending(py, home)?;
        let task =
            PyClassInitializer::from(future).add_subclass(Task { state: GilCell::new(state) });
        let task = Bound::new(py, task)?;
        Task::launch(&task, eager)?;
        Ok(task)
    }

    fn launch(this: &Bound<'_, Self>, eager: bool) -> PyResult<()> {
        Task::note_creation(this)?;
        if eager {
            match registry::may_start_eagerly(this) {
                Ok(true) => {
                    registry::register(this)?;
                    return step::start_eagerly(this);
                }
                Ok(false) => {}
                Err(error) => {
                    // The caller is told now; there is nothing to report when the task dies.
                    this.get().state.with(this.py(), |state| state.log_destroy_pending = false);
                    return Err(error);
                }
            }
        }
        registry::register(this)?;
        let queued = schedule::step(this);
        if queued.is_err() {
            registry::forget(this)?;
        }
        queued
    }

    /// Where it is made, if its loop reports soon what nobody retrieves.
    #[inline]
    fn note_creation(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let home = this.as_super().get().home(py)?;
        let wanted = matches!(&home, Home::Native(it) if it.get().flags(py).reports_soon);
        home.release(py);
        if wanted {
            let created = frames::caller(py);
            let records = Box::new(cancellation::Records::created_at(created));
            let old = this.get().state.with(py, |state| state.records.replace(records));
            drop(old);
        }
        Ok(())
    }

    /// The context its steps run in.
    pub fn context(&self, py: Python<'_>) -> PyResult<Py<PyContext>> {
        let own = self.state.with(py, |state| state.context.as_ref().map(|it| it.clone_ref(py)));
        // Only a task whose `__init__` was skipped, or that the collector cleared, has none.
        own.ok_or_else(|| PyRuntimeError::new_err("uninitialized Task object"))
    }

    /// What it waits for.
    pub fn waiter(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.waiter.as_ref().map(|it| it.clone_ref(py)))
    }

    /// How many cancellations are requested of it.
    #[inline]
    pub fn requests(&self, py: Python<'_>) -> u32 {
        self.state.with(py, |state| state.cancel_requests)
    }

    /// It became ready at `now` nanoseconds.
    #[inline]
    pub fn mark_ready(&self, py: Python<'_>, now: u64) {
        self.state.with(py, |state| state.counters.ready_at = now);
    }

    /// An eager task that is done already keeps no coroutine.
    fn forget_coroutine(&self, py: Python<'_>) {
        drop(self.state.with(py, |state| state.coroutine.take()));
    }

    fn live(this: &Bound<'_, Self>) -> PyResult<()> {
        this.as_super().get().home(this.py()).map(drop)
    }
}

#[pymethods]
impl Task {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        let future = Future { state: GilCell::new(FutureState::new()) };
        let task = Task { state: GilCell::new(TaskState::empty()) };
        PyClassInitializer::from(future).add_subclass(task)
    }

    #[pyo3(signature = (coro, *, r#loop = None, name = None, context = None, eager_start = false))]
    fn __init__(
        this: &Bound<'_, Self>,
        coro: &Bound<'_, PyAny>,
        r#loop: Option<&Bound<'_, PyAny>>,
        name: Option<Py<PyAny>>,
        context: Option<Py<PyContext>>,
        eager_start: bool,
    ) -> PyResult<()> {
        completion::initialize(this.as_super(), r#loop)?;
        let state = TaskState::starting(coro, Options { name, context, eager_start })?;
        let old = this.get().state.with(this.py(), |place| std::mem::replace(place, state));
        drop(old);
        Task::launch(this, eager_start)
    }

    /// Requests cancellation: `CancelledError` is raised in the coroutine at its next step.
    /// False when the task is done already.
    #[pyo3(signature = (msg = None))]
    fn cancel(this: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        Task::live(this)?;
        step::request_cancel(this, msg)
    }

    /// How many cancellations are requested and not taken back by `uncancel()`.
    fn cancelling(&self, py: Python<'_>) -> u32 {
        self.requests(py)
    }

    /// Takes one cancellation request back; returns how many remain.
    fn uncancel(&self, py: Python<'_>) -> u32 {
        self.state.with(py, |state| {
            state.cancel_requests = state.cancel_requests.saturating_sub(1);
            if state.cancel_requests == 0 {
                state.must_cancel = false;
            }
            state.cancel_requests
        })
    }

    /// Who asked for each cancellation, when and why, and where the task caught it: a list of
    /// `aioxide.CancelRequest`, oldest first. At most eight are kept.
    fn cancel_info<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        cancellation::requests(this)
    }

    /// Not for tasks: raises RuntimeError.
    #[pyo3(signature = (result, /))]
    fn set_result(&self, result: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = result;
        Err(PyRuntimeError::new_err("Task does not support set_result operation"))
    }

    /// Not for tasks: raises RuntimeError.
    #[pyo3(signature = (exception, /))]
    fn set_exception(&self, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = exception;
        Err(PyRuntimeError::new_err("Task does not support set_exception operation"))
    }

    /// The coroutine the task runs.
    fn get_coro(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.coroutine.as_ref().map(|it| it.clone_ref(py)))
    }

    /// The `contextvars.Context` the task's steps run in.
    fn get_context(&self, py: Python<'_>) -> Option<Py<PyContext>> {
        self.state.with(py, |state| state.context.as_ref().map(|it| it.clone_ref(py)))
    }

    /// The task's name.
    fn get_name(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        enum Known {
            Name(Py<PyAny>),
            Number(u64),
        }
        let known = self.state.with(py, |state| match &state.name {
            Name::Given(name) => Known::Name(name.clone_ref(py)),
            Name::Default(number) => Known::Number(*number),
        });
        match known {
            Known::Name(name) => Ok(name),
            Known::Number(number) => {
                Ok(PyString::new(py, &format!("Task-{number}")).into_any().unbind())
            }
        }
    }

    /// Gives the task a name (any object; `str()` of it is kept).
    #[pyo3(signature = (value, /))]
    fn set_name(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let name = value.str()?.into_any().unbind();
        let old =
            self.state.with(py, |state| std::mem::replace(&mut state.name, Name::Given(name)));
        drop(old);
        Ok(())
    }

    /// The frames of the coroutine, oldest first, at most `limit` (`Task.get_stack`).
    #[pyo3(signature = (*, limit = None))]
    fn get_stack(this: &Bound<'_, Self>, limit: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        let py = this.py();
        if this.get().get_coro(py).is_none() {
            return Ok(PyList::empty(py).into_any().unbind());
        }
        Ok(imports(py).task_get_stack.bind(py).call1((this, limit))?.unbind())
    }

    /// Prints the stack or traceback of the coroutine (`Task.print_stack`).
    #[pyo3(signature = (*, limit = None, file = None))]
    fn print_stack(
        this: &Bound<'_, Self>,
        limit: Option<&Bound<'_, PyAny>>,
        file: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = this.py();
        imports(py).task_print_stack.bind(py).call1((this, limit, file)).map(drop)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let py = this.py();
        Task::live(this)?;
        let information = if this.get().get_coro(py).is_some() {
            imports(py).task_repr_info.bind(py).call1((this,))?
        } else {
            // An eager task that is done has no coroutine, which Pythons before 3.13 do not know.
            let information = imports(py).future_repr_info.bind(py).call1((this,))?;
            let name = errors::repr(this.get().get_name(py)?.bind(py));
            information.call_method1(intern!(py, "insert"), (1, format!("name={name}")))?;
            information
        };
        errors::described(this.get_type().name()?, &information)
    }

    #[classmethod]
    fn __class_getitem__(
        class: &Bound<'_, PyType>,
        item: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        Ok(imports(class.py()).generic_alias.bind(class.py()).call1((class, item))?.unbind())
    }

    /// `asyncio.Task`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).task.clone_ref(py)
    }

    /// What a Python subclass inherits as its finalizer (`slots::install_finalizer`).
    fn __del__(this: &Bound<'_, Self>) {
        if Task::wants_finalizer(this) {
            Task::finalize(this);
        }
    }

    /// What the loop counted for this task: state, steps, nanoseconds busy and scheduled, what it
    /// waits for.
    fn _counters<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        registry::counters(this)
    }

    /// Where the task was made, if its loop wants to know.
    #[getter]
    fn _created_at<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let site = self.state.with(py, |state| {
            let created = state.records.as_ref().and_then(|records| records.created.as_ref());
            created.map(|site| site.clone_ref(py))
        });
        cancellation::described(py, site.as_ref())
    }

    /// Whether it goes on as if it had not been cancelled; true once.
    fn _note_swallowed(this: &Bound<'_, Self>) -> bool {
        cancellation::note_swallowed(this)
    }

    #[getter]
    fn _coro(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_coro(py)
    }

    #[getter]
    fn _fut_waiter(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.waiter(py)
    }

    #[getter]
    fn _must_cancel(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.must_cancel)
    }

    #[getter]
    fn _num_cancels_requested(&self, py: Python<'_>) -> u32 {
        self.requests(py)
    }

    #[getter]
    fn _log_destroy_pending(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.log_destroy_pending)
    }

    #[setter(_log_destroy_pending)]
    fn set_log_destroy_pending(&self, py: Python<'_>, value: bool) {
        self.state.with(py, |state| state.log_destroy_pending = value);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.peek(|state| state.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| std::mem::replace(state, TaskState::empty())));
        });
    }
}

static ORIGINAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for Task {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        let phase = this.as_super().get().state.peek(|state| state.phase);
        let destroyed = phase == Some(Phase::Pending)
            && this.get().state.peek(|state| state.log_destroy_pending).unwrap_or(false);
        destroyed || Future::wants_finalizer(this.as_super())
    }

    fn finalize(this: &Bound<'_, Self>) {
        let py = this.py();
        let future = this.as_super();
        if future.get().phase(py) == Phase::Pending
            && this.get().state.with(py, |state| state.log_destroy_pending)
        {
            registry::report_destroyed(this);
        }
        if Future::wants_finalizer(future) {
            completion::report_unretrieved(future);
        }
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &ORIGINAL_DEALLOC
    }
}

/// Name of the method `cancel` is forwarded to on whatever a task waits for.
pub fn cancel_awaited(awaited: &Bound<'_, PyAny>, message: Option<&Py<PyAny>>) -> PyResult<bool> {
    let py = awaited.py();
    if let Ok(task) = awaited.cast_exact::<Task>() {
        return step::request_cancel(task, message.map(|it| it.clone_ref(py)));
    }
    if let Ok(future) = awaited.cast_exact::<Future>() {
        return completion::cancel(future, message.map(|it| it.clone_ref(py)));
    }
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "msg"), message)?;
    awaited.call_method(intern!(py, "cancel"), (), Some(&keywords))?.is_truthy()
}
