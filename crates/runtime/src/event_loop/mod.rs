//! The loop: its fields, and the face that Python sees of it.
//!
//! Read [`turn`] first. The half of the loop that waits (`create_connection`, executors, running)
//! is Python, in `aioxide/event_loop.py`, and inherits from [`BaseEventLoop`].

pub mod callback;
pub mod clock;
pub mod home;
pub mod mailbox;
pub mod metrics;
pub mod report;
pub mod schedule;
pub mod sockets;
pub mod source;
pub mod state;
pub mod turn;
pub mod watch;

use pyo3::exceptions::PyTypeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, intern};

use crate::cpython::cell::GilCell;
use crate::cpython::version;
use crate::futures::Future;
use crate::handles::{Handle, TimerHandle};
use crate::tasks::{Options, Task};
use home::Home;
pub use state::{Flags, Kernel, LoopState};

/// The native half of an event loop; `aioxide.EventLoop` completes it.
#[pyclass(subclass, weakref, dict, frozen, module = "aioxide._aioxide", name = "BaseEventLoop")]
pub struct BaseEventLoop {
    pub(crate) state: GilCell<LoopState>,
}

#[pymethods]
impl BaseEventLoop {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        class: &Bound<'_, PyType>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let py = class.py();
        let own = py.get_type::<BaseEventLoop>();
        let overrides = |name: &Bound<'_, PyString>| -> PyResult<bool> {
            Ok(!class.getattr(name)?.is(&own.getattr(name)?))
        };
        let mut state = LoopState::open()?;
        state.flags.call_soon_replaced = overrides(intern!(py, "call_soon"))?;
        state.flags.call_at_replaced = overrides(intern!(py, "call_at"))?;
        state.flags.time_replaced = overrides(intern!(py, "time"))?;
        Ok(BaseEventLoop { state: GilCell::new(state) })
    }

    /// Calls `callback(*args)` in the next turn; returns a Handle.
    #[pyo3(signature = (callback, *args, context = None))]
    fn call_soon(
        this: &Bound<'_, Self>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<Handle>> {
        schedule::call_soon(this, callback, schedule::arguments(args), context)
    }

    /// Like `call_soon`, from any thread: wakes the loop when it waits.
    #[pyo3(signature = (callback, *args, context = None))]
    fn call_soon_threadsafe(
        this: &Bound<'_, Self>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<Handle>> {
        schedule::call_soon_threadsafe(this, callback, schedule::arguments(args), context)
    }

    /// Calls `callback(*args)` after `delay` seconds, never earlier; returns a TimerHandle.
    #[pyo3(signature = (delay, callback, *args, context = None))]
    fn call_later(
        this: &Bound<'_, Self>,
        delay: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<PyAny>> {
        let delay = schedule::seconds(delay, "delay must not be None")?;
        let when = clock::seconds(this)? + delay;
        if this.get().flags(this.py()).call_at_replaced {
            return schedule::by_call_at(this, when, callback, args, context);
        }
        let args = schedule::arguments(args);
        let handle = schedule::call_at(this, when.into(), callback, args, context, "call_later")?;
        Ok(handle.into_any())
    }

    /// Calls `callback(*args)` at `when` seconds of `loop.time()`; returns a TimerHandle.
    #[pyo3(signature = (when, callback, *args, context = None))]
    fn call_at(
        this: &Bound<'_, Self>,
        when: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<TimerHandle>> {
        let when = clock::When::given(when, "when cannot be None")?;
        schedule::call_at(this, when, callback, schedule::arguments(args), context, "call_at")
    }

    /// Seconds of the loop's clock: the same as `time.monotonic()`.
    fn time(&self) -> f64 {
        clock::as_seconds(clock::nanoseconds())
    }

    /// A new Future of this loop.
    fn create_future(this: &Bound<'_, Self>) -> PyResult<Py<Future>> {
        let py = this.py();
        Py::new(py, Future::pending(py, Home::Native(this.clone().unbind()))?)
    }

    /// Wraps a coroutine in a Task and queues its first step, or hands it to the task factory.
    #[pyo3(signature = (coro, *, name = None, context = None, eager_start = None, **kwargs))]
    fn create_task<'py>(
        this: &Bound<'py, Self>,
        coro: &Bound<'py, PyAny>,
        name: Option<Py<PyAny>>,
        context: Option<Py<PyContext>>,
        eager_start: Option<bool>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        this.get().check_open(py)?;
        let factory = this
            .get()
            .state
            .with(py, |state| state.task_factory.as_ref().map(|it| it.clone_ref(py)));
        if let Some(factory) = factory {
            return by_factory(this, factory.bind(py), coro, name, context, eager_start, kwargs);
        }
        if let Some(kwargs) = kwargs
            && let Some((key, _)) = kwargs.iter().next()
        {
            return Err(PyTypeError::new_err(format!(
                "create_task() got an unexpected keyword argument '{key}'"
            )));
        }
        let options = Options { name, context, eager_start: eager_start.unwrap_or(false) };
        let task = Task::create(py, Home::Native(this.clone().unbind()), coro, options)?;
        Ok(task.into_any())
    }

    /// Sets `factory(loop, coro, **kwargs)`, which makes the tasks; None restores the default.
    #[pyo3(signature = (factory))]
    fn set_task_factory(&self, factory: &Bound<'_, PyAny>) -> PyResult<()> {
        if !factory.is_none() && !factory.is_callable() {
            return Err(PyTypeError::new_err("task factory must be a callable or None"));
        }
        let new = (!factory.is_none()).then(|| factory.clone().unbind());
        let old =
            self.state.with(factory.py(), |state| std::mem::replace(&mut state.task_factory, new));
        drop(old);
        Ok(())
    }

    /// The task factory, or None.
    fn get_task_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.task_factory.as_ref().map(|it| it.clone_ref(py)))
    }

    /// Leaves `run_forever` after the current turn.
    fn stop(&self, py: Python<'_>) {
        self.state.with(py, |state| state.stopping = true);
    }

    /// Turns until stopped; `run_forever` in Python prepares and cleans up around it.
    fn _turn_until_stopped(this: &Bound<'_, Self>) -> PyResult<()> {
        turn::run(this)
    }

    /// One turn, for those who drive a loop by hand.
    fn _run_once(this: &Bound<'_, Self>) -> PyResult<()> {
        turn::once(this)
    }

    /// Gives up descriptors, timers and queued callbacks; returns the tasks that never finished.
    fn _shut<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        state::shut(this)
    }

    /// Waits for calls that workers are making; no new ones are taken.
    fn _join_workers(&self, py: Python<'_>) -> PyResult<()> {
        let workers = self.state.with(py, |state| state.workers.take());
        match workers {
            Some(workers) if self.flags(py).foreign => {
                std::mem::forget(workers);
                Ok(())
            }
            Some(workers) => crate::blocking::dismiss(py, workers, None),
            None => Ok(()),
        }
    }

    /// The tasks of this loop that are not done.
    fn _tasks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let tasks: Vec<Py<Task>> = self
            .state
            .with(py, |state| state.tasks.iter().map(|(_, task)| task.clone_ref(py)).collect());
        PyList::new(py, tasks)
    }

    /// True while the loop runs.
    fn is_running(&self, py: Python<'_>) -> bool {
        self.flags(py).running
    }

    /// True after `close()`.
    fn is_closed(&self, py: Python<'_>) -> bool {
        self.flags(py).closed
    }

    /// Whether debug mode is on.
    fn get_debug(&self, py: Python<'_>) -> bool {
        self.is_debug(py)
    }

    fn _set_debug_flag(&self, py: Python<'_>, enabled: bool) {
        self.state.with(py, |state| state.flags.debug = enabled);
    }

    /// Turns the counters of tasks off or on; only to measure what they cost.
    fn _set_counting(&self, py: Python<'_>, enabled: bool) {
        self.state.with(py, |state| state.flags.uncounted = !enabled);
    }

    /// Whether the loop measures how long the steps of tasks take; it does unless told otherwise.
    fn get_busy_time(&self, py: Python<'_>) -> bool {
        !self.flags(py).untimed
    }

    /// Turns that measuring on or off: off, a step costs a reading of the clock less, and
    /// `metrics()["busy_seconds"]` stands still.
    #[pyo3(signature = (enabled))]
    fn set_busy_time(&self, py: Python<'_>, enabled: bool) {
        self.state.with(py, |state| state.flags.untimed = !enabled);
    }

    /// How many seconds a step or callback may take before the watchdog reports it, or None.
    fn get_stall_threshold(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        let threshold = self.kernel(py)?.pulse.threshold();
        Ok((!threshold.is_zero()).then_some(threshold.as_secs_f64()))
    }

    /// Sets how many seconds a step or callback may take before the watchdog reports it; None
    /// reports nothing. Raises ValueError unless it is a positive, finite number.
    #[pyo3(signature = (seconds))]
    fn set_stall_threshold(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<()> {
        self.kernel(py)?.pulse.set_threshold(crate::watchdog::threshold(seconds)?);
        Ok(())
    }

    /// What the loop has counted since it was made, and how much it holds: a dict of numbers.
    fn metrics<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        metrics::metrics(this)
    }

    fn _set_reports_soon(&self, py: Python<'_>, enabled: bool) {
        self.state.with(py, |state| state.flags.reports_soon = enabled);
    }

    #[getter]
    fn _reports_soon(&self, py: Python<'_>) -> bool {
        self.flags(py).reports_soon
    }

    /// Reports were made; counted in `metrics()`.
    fn _count_left(&self, py: Python<'_>, tasks: u64, transports: u64) {
        self.state.with(py, |state| {
            state.tally.unfinished += tasks;
            state.tally.unclosed += transports;
        });
    }

    /// The transports that nobody closed, each with the line that opened it, or None.
    fn _open_transports<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        metrics::open_transports(this)
    }

    /// Whether a transport that was closed still has something to send, or a goodbye to hear.
    fn _is_any_closing(this: &Bound<'_, Self>) -> bool {
        source::is_any_closing(this)
    }

    fn _check_closed(&self, py: Python<'_>) -> PyResult<()> {
        self.check_open(py)
    }

    /// Refuses a loop that a forked child inherited.
    fn _check_forked(&self, py: Python<'_>) -> PyResult<()> {
        self.check_not_forked(py)
    }

    /// Whether a forked child inherited this loop.
    fn _is_parents(&self, py: Python<'_>) -> bool {
        self.flags(py).foreign
    }

    #[pyo3(signature = (fd, callback, *args))]
    fn _add_reader(
        this: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<Handle>> {
        watch::add(this, fd, watch::Side::Read, callback, args)
    }

    #[pyo3(signature = (fd, callback, *args))]
    fn _add_writer(
        this: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<Handle>> {
        watch::add(this, fd, watch::Side::Write, callback, args)
    }

    fn _remove_reader(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watch::remove(this, fd, watch::Side::Read)
    }

    fn _remove_writer(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watch::remove(this, fd, watch::Side::Write)
    }

    /// Calls `callback(*args)` whenever `fd` (a number or an object with fileno()) is readable.
    #[pyo3(signature = (fd, callback, *args))]
    fn add_reader(
        this: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        watch::ensure_no_transport(this, fd)?;
        watch::add(this, fd, watch::Side::Read, callback, args).map(drop)
    }

    /// Calls `callback(*args)` whenever `fd` (a number or an object with fileno()) is writable.
    #[pyo3(signature = (fd, callback, *args))]
    fn add_writer(
        this: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        watch::ensure_no_transport(this, fd)?;
        watch::add(this, fd, watch::Side::Write, callback, args).map(drop)
    }

    /// Stops watching `fd` for reading; False when it was not watched.
    fn remove_reader(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watch::ensure_no_transport(this, fd)?;
        watch::remove(this, fd, watch::Side::Read)
    }

    /// Stops watching `fd` for writing; False when it was not watched.
    fn remove_writer(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watch::ensure_no_transport(this, fd)?;
        watch::remove(this, fd, watch::Side::Write)
    }

    /// Calls `function(*args)` on a worker of the loop; returns a Future.
    #[pyo3(signature = (function, *args))]
    fn _call_blocking(
        this: &Bound<'_, Self>,
        function: Py<PyAny>,
        args: Py<PyTuple>,
    ) -> PyResult<Py<Future>> {
        crate::blocking::call(this, function, args)
    }

    fn _receive(this: &Bound<'_, Self>, fd: i32, limit: usize) -> PyResult<Py<PyAny>> {
        sockets::receive_some(this, fd, limit)
    }

    fn _receive_into(
        this: &Bound<'_, Self>,
        fd: i32,
        buffer: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        sockets::receive_into(this, fd, buffer)
    }

    fn _send_all(this: &Bound<'_, Self>, fd: i32, data: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        sockets::send_all(this, fd, data)
    }

    fn _forget(this: &Bound<'_, Self>, fd: i32, future: &Bound<'_, PyAny>) -> PyResult<()> {
        watch::forget(this, fd, future)
    }

    fn _ensure_no_transport(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<()> {
        watch::ensure_no_transport(this, fd)
    }

    /// What runs next: handles, and the tasks that step.
    #[getter]
    fn _ready<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        state::ready_entries(self, py)
    }

    /// The timers that are set, earliest first.
    #[getter]
    fn _scheduled<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        state::timer_entries(self, py)
    }

    /// The handle that runs, in debug mode.
    #[getter]
    fn _current_handle(&self, py: Python<'_>) -> Option<Py<Handle>> {
        self.state.with(py, |state| state.current_handle.as_ref().map(|it| it.clone_ref(py)))
    }

    /// Ends the wait of a loop that waits, from any thread.
    fn _write_to_self(&self, py: Python<'_>) {
        if let Some(kernel) = self.state.with(py, |state| state.kernel.clone()) {
            kernel.mailbox.wake();
        }
    }

    #[getter]
    fn _thread_id(&self, py: Python<'_>) -> Option<u64> {
        self.state.with(py, |state| state.thread)
    }

    #[getter]
    fn _stopping(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.stopping)
    }

    /// Sets an attribute; replacing `call_soon`, `call_at` or `time` on the loop is honoured from
    /// then on.
    fn __setattr__(
        this: &Bound<'_, Self>,
        name: &Bound<'_, PyString>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        crate::cpython::calls::set_attribute(this.as_any(), name, Some(value))?;
        this.get().note_replaced(name, true);
        Ok(())
    }

    fn __delattr__(this: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        crate::cpython::calls::set_attribute(this.as_any(), name, None)?;
        this.get().note_replaced(name, false);
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.peek(|state| state.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.state.with(py, LoopState::take_objects)));
    }
}

/// Makes a task through the user's factory: a keyword is passed on only when the caller gave it.
fn by_factory<'py>(
    event_loop: &Bound<'py, BaseEventLoop>,
    factory: &Bound<'py, PyAny>,
    coroutine: &Bound<'py, PyAny>,
    name: Option<Py<PyAny>>,
    context: Option<Py<PyContext>>,
    eager_start: Option<bool>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let keywords = PyDict::new(py);
    if let Some(kwargs) = kwargs {
        keywords.update(kwargs.as_mapping())?;
    }
    if let Some(context) = context {
        keywords.set_item(intern!(py, "context"), context)?;
    }
    if let Some(eager_start) = eager_start {
        keywords.set_item(intern!(py, "eager_start"), eager_start)?;
    }
    let late_name = match name {
        Some(name) if version::FACTORY_TAKES_NAME || is_ours(factory)? => {
            keywords.set_item(intern!(py, "name"), name)?;
            None
        }
        other => other,
    };
    let keywords = (!keywords.is_empty()).then_some(&keywords);
    let task = factory.call((event_loop, coroutine), keywords)?;
    if let Some(name) = late_name
        && let Some(set_name) = task.getattr_opt(intern!(py, "set_name"))?
    {
        set_name.call1((name,))?;
    }
    Ok(task)
}

/// Whether this is a factory of aioxide itself, which takes `name` on every Python.
fn is_ours(factory: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = factory.py();
    match factory.getattr_opt(intern!(py, "__module__"))? {
        Some(module) => module.eq("aioxide.tasks"),
        None => Ok(false),
    }
}

impl BaseEventLoop {
    fn note_replaced(&self, name: &Bound<'_, PyString>, replaced: bool) {
        if let Some(which) = schedule::replaced_flag(name) {
            self.state.with(name.py(), |state| match which {
                schedule::Replaced::CallSoon => state.flags.call_soon_replaced = replaced,
                schedule::Replaced::CallAt => state.flags.call_at_replaced = replaced,
                schedule::Replaced::Time => state.flags.time_replaced = replaced,
            });
        }
    }

    fn check_not_forked(&self, py: Python<'_>) -> PyResult<()> {
        if self.state.with(py, |state| state.is_foreign_process()) {
            return Err(crate::errors::parents_loop());
        }
        Ok(())
    }
}
