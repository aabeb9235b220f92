//! One step of a task: enter its context, resume the coroutine, act on what came out.
//!
//! Follows `task_step` and `task_step_handle_result_impl` of `Modules/_asynciomodule.c`. Two entry
//! points: [`run`], from our ready queue, and the callables [`TaskStep`] and [`TaskWakeup`], which
//! foreign loops and foreign futures call.

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PySystemExit};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, intern};

use super::gathering::Gathering;
use super::{Task, cancel_awaited, cancellation, registry};
use crate::cpython::coroutine::{self, Outcome};
use crate::cpython::{context, version};
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::home::Home;
use crate::event_loop::{clock, schedule};
use crate::futures::{DoneCallback, Future, Phase, completion};

/// Runs the step that the ready queue holds for `task`. `Err` is `SystemExit` or
/// `KeyboardInterrupt`: it leaves the loop.
#[inline]
pub fn run(event_loop: &Bound<'_, BaseEventLoop>, task: &Bound<'_, Task>) -> PyResult<()> {
    let py = task.py();
    if task.as_super().get().phase(py) != Phase::Pending {
        return Err(already_done(task, None));
    }
    let flags = event_loop.get().flags(py);
    let (counting, timing) = (!flags.uncounted, !flags.uncounted && !flags.untimed);
    let began = event_loop.get().now(py);
    let awaited = task.get().state.with(py, |state| {
        if counting {
            state.counters.steps += 1;
            state.counters.scheduled += began.saturating_sub(state.counters.ready_at);
        }
        state.waiter.take()
    });
    let error = match awaited {
        None => None,
        Some(awaited) => awaited_error(&awaited.into_bound(py))?,
    };
    event_loop.get().enter(py, event_loop, task)?;
    let context = task.get().context(py)?.into_bound(py);
    let result = context::run_in(&context, || advance(task, error))
        .unwrap_or_else(|error| fail(task, error));
    event_loop.get().leave(py);
    if task.as_super().get().phase(py) != Phase::Pending {
        registry::unregister(event_loop.get(), task);
    }
    if timing {
        // The end of this step is the start of the next: one reading of the clock for both.
        let busy = event_loop.get().tick_after_step(py, began);
        task.get().state.with(py, |state| state.counters.busy += busy);
    } else {
        event_loop.get().tick_sometimes(py);
    }
    result
}

/// The exception with which an awaited native future ended, if it did.
#[inline]
fn awaited_error(awaited: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    let py = awaited.py();
    let Ok(future) = awaited.cast::<Future>() else { return Ok(None) };
    // A result needs no look: the coroutine's own iterator fetches it.
    let plain = future
        .get()
        .state
        .with(py, |state| state.phase == Phase::Finished && state.exception.is_none());
    if plain {
        return Ok(None);
    }
    match completion::result(future) {
        Ok(_) => Ok(None),
        Err(error) => Ok(Some(error.into_value(py).into_any())),
    }
}

/// Somebody completed the task behind its back, through `Future`'s own methods.
fn already_done(task: &Bound<'_, Task>, error: Option<Py<PyAny>>) -> PyErr {
    let py = task.py();
    let error = error.map_or_else(|| "None".to_owned(), |error| errors::repr(error.bind(py)));
    let message = format!("__step(): already done: {} {error}", errors::repr(task.as_any()));
    errors::invalid_state(py, &message)
}

/// A step on behalf of a foreign caller, which has entered the context already.
fn run_foreign(task: &Bound<'_, Task>, error: Option<Py<PyAny>>) -> PyResult<()> {
    let py = task.py();
    let future = task.as_super();
    if future.get().phase(py) != Phase::Pending {
        return Err(already_done(task, error));
    }
    task.get().state.with(py, |state| state.counters.steps += 1);
    match future.get().home(py)? {
        Home::Native(native) => {
            let event_loop = native.bind(py);
            event_loop.get().enter(py, event_loop, task)?;
            let result = advance(task, error);
            event_loop.get().leave(py);
            if future.get().phase(py) != Phase::Pending {
                registry::unregister(event_loop.get(), task);
            }
            result
        }
        Home::Foreign(foreign) => {
            let event_loop = foreign.bind(py);
            enter_foreign(event_loop, task)?;
            let result = advance(task, error);
            version::clear_current_task(event_loop)?;
            result
        }
    }
}

/// `_enter_task` on a loop that is not ours.
fn enter_foreign(event_loop: &Bound<'_, PyAny>, task: &Bound<'_, Task>) -> PyResult<()> {
    if let Some(current) = version::current_task(event_loop)? {
        return Err(PyRuntimeError::new_err(format!(
            "Cannot enter into task {} while another task {} is being executed.",
            errors::repr(task.as_any()),
            errors::repr(&current)
        )));
    }
    version::set_current_task(event_loop, task.as_any())
}

/// Runs the first step inside the constructor (`task_eager_start`). An error is the constructor's:
/// the context cannot be entered, or `SystemExit` and `KeyboardInterrupt` leave the loop.
pub fn start_eagerly(task: &Bound<'_, Task>) -> PyResult<()> {
    let py = task.py();
    let home = task.as_super().get().home(py)?;
    let event_loop = home.any(py);
    let native = match &home {
        Home::Native(native) => Some(native.get()),
        Home::Foreign(_) => None,
    };
    let previous = version::current_task(event_loop)?;
    let began = clock::nanoseconds();
    let saved = native.map(|native| native.suspend_current(py));
    version::set_current_task(event_loop, task.as_any())?;
    let context = task.get().context(py)?;
    let result = context::run_in(context.bind(py), || advance(task, None)).flatten();
    if let (Some(native), Some(saved)) = (native, saved) {
        native.resume_current(py, saved);
    }
    match previous {
        Some(previous) => version::set_current_task(event_loop, &previous)?,
        None => version::clear_current_task(event_loop)?,
    }
    let busy = clock::nanoseconds().saturating_sub(began);
    task.get().state.with(py, |state| {
        state.counters.steps += 1;
        state.counters.busy += busy;
        if result.is_err() {
            state.log_destroy_pending = false;
        }
    });
    let done = task.as_super().get().phase(py) != Phase::Pending;
    if done {
        task.get().forget_coroutine(py);
    }
    if let Some(native) = native.filter(|_| done || result.is_err()) {
        registry::unregister(native, task);
    }
    result
}

/// Resumes the coroutine and acts on the outcome.
#[inline]
fn advance(task: &Bound<'_, Task>, error: Option<Py<PyAny>>) -> PyResult<()> {
    let py = task.py();
    let (must_cancel, coroutine) = task.get().state.with(py, |state| {
        state.waiter = None;
        (
            std::mem::take(&mut state.must_cancel),
            state.coroutine.as_ref().map(|coroutine| coroutine.clone_ref(py)),
        )
    });
    let Some(coroutine) = coroutine else {
        return Err(PyRuntimeError::new_err("uninitialized Task object"));
    };
    let error = match error {
        Some(error) if must_cancel && !errors::is_cancelled(error.bind(py)) => {
            Some(completion::make_cancelled_error(task.as_super())?)
        }
        None if must_cancel => Some(completion::make_cancelled_error(task.as_super())?),
        other => other,
    };
    let coroutine = coroutine.into_bound(py);
    let outcome = match &error {
        None => coroutine::send(&coroutine),
        Some(error) => coroutine::throw(&coroutine, error.bind(py)),
    };
    if let Some(error) = error.filter(|error| errors::is_cancelled(error.bind(py))) {
        let goes_on = matches!(outcome, Outcome::Yielded(_));
        if goes_on || matches!(outcome, Outcome::Returned(_)) {
            cancellation::note_caught(task, error.bind(py), goes_on);
        }
    }
    match outcome {
        Outcome::Yielded(awaited) => suspend(task, &awaited),
        Outcome::Returned(result) => finish(task, result),
        Outcome::Raised(error) => fail(task, error),
    }
}

/// The coroutine returned.
#[inline]
fn finish(task: &Bound<'_, Task>, result: Bound<'_, PyAny>) -> PyResult<()> {
    let py = task.py();
    let future = task.as_super();
    // Cancelled after its last suspension: the request wins over the result.
    let (must_cancel, was_cancelled) = task
        .get()
        .state
        .with(py, |state| (std::mem::take(&mut state.must_cancel), state.cancel_requests > 0));
    if must_cancel {
        let message = future
            .get()
            .state
            .with(py, |state| state.cancel_message.as_ref().map(|message| message.clone_ref(py)));
        return completion::cancel(future, message).map(drop);
    }
    if was_cancelled {
        cancellation::note_swallowed(task);
    }
    completion::set_result(future, result.unbind())
}

/// The coroutine raised.
fn fail(task: &Bound<'_, Task>, error: PyErr) -> PyResult<()> {
    let py = task.py();
    let future = task.as_super();
    // Before 3.12 only `into_value` gives the exception its traceback.
    let value = error.clone_ref(py).into_value(py).into_bound(py).into_any();
    if errors::is_cancelled(&value) {
        let old =
            future.get().state.with(py, |state| state.cancelled_error.replace(value.unbind()));
        drop(old);
        return completion::cancel(future, None).map(drop);
    }
    let told = completion::set_exception(future, &value);
    if error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py) {
        // Also where nobody could be told: in a forked child, whose loop is dead.
        return Err(error);
    }
    told
}

/// The coroutine yielded: find out what it waits for.
#[inline]
fn suspend(task: &Bound<'_, Task>, awaited: &Bound<'_, PyAny>) -> PyResult<()> {
    if awaited.is_none() {
        return schedule::step(task);
    }
    if let Ok(other) = awaited.cast_exact::<Future>() {
        return wait_for_native(task, other);
    }
    if let Ok(other) = awaited.cast_exact::<Task>() {
        if other.is(task) {
            return refuse(task, format!("Task cannot await on itself: {}", shown(task)));
        }
        return wait_for_native(task, other.as_super());
    }
    if let Ok(other) = awaited.cast_exact::<Gathering>() {
        return wait_for_native(task, other.as_super());
    }
    wait_for_foreign(task, awaited)
}

fn shown(object: &Bound<'_, Task>) -> String {
    errors::repr(object.as_any())
}

/// Raises `RuntimeError(message)` in the coroutine, at its next step.
fn refuse(task: &Bound<'_, Task>, message: String) -> PyResult<()> {
    let error = PyRuntimeError::new_err(message).into_value(task.py()).into_any();
    schedule::step_raising(task, error)
}

fn wait_for_native(task: &Bound<'_, Task>, other: &Bound<'_, Future>) -> PyResult<()> {
    enum Answer {
        Waiting,
        Done,
        OtherLoop,
        NotAwaited,
    }
    let py = task.py();
    let home = task.as_super().get().home(py)?;
    let wake = DoneCallback::Wake(task.clone().unbind());
    let answer = other.get().state.with(py, |state| {
        if !state.home.as_ref().is_some_and(|other| other.is_same(&home)) {
            return (Answer::OtherLoop, Some(wake));
        }
        if !std::mem::take(&mut state.blocking) {
            return (Answer::NotAwaited, Some(wake));
        }
        if state.phase != Phase::Pending {
            return (Answer::Done, Some(wake));
        }
        state.callbacks.push(wake);
        (Answer::Waiting, None)
    });
    home.release(py);
    match answer.0 {
        Answer::OtherLoop => {
            let message = format!(
                "Task {} got Future {} attached to a different loop",
                shown(task),
                errors::repr(other.as_any())
            );
            return refuse(task, message);
        }
        Answer::NotAwaited => return refuse(task, not_awaited(task, other.as_any())),
        Answer::Waiting | Answer::Done => {}
    }
    let must_cancel = task.get().state.with(py, |state| {
        state.waiter = Some(other.as_any().clone().unbind());
        state.must_cancel
    });
    if matches!(answer.0, Answer::Done) {
        schedule::wake(task)?;
    }
    if must_cancel { forward_cancel(task, other.as_any()) } else { Ok(()) }
}

fn not_awaited(task: &Bound<'_, Task>, awaited: &Bound<'_, PyAny>) -> String {
    let (task, awaited) = (shown(task), errors::repr(awaited));
    format!("yield was used instead of yield from in task {task} with {awaited}")
}

/// Anything else that was yielded: another library's future, or a mistake.
fn wait_for_foreign(task: &Bound<'_, Task>, awaited: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = task.py();
    let marker = awaited.getattr_opt(intern!(py, "_asyncio_future_blocking"))?;
    let Some(blocking) = marker.filter(|marker| !marker.is_none()) else {
        let message = if coroutine::is_generator(awaited) {
            format!(
                "yield was used instead of yield from for generator in task {} with {}",
                shown(task),
                errors::repr(awaited)
            )
        } else {
            format!("Task got bad yield: {}", errors::repr(awaited))
        };
        return refuse(task, message);
    };
    if awaited.is(task) {
        return refuse(task, format!("Task cannot await on itself: {}", shown(task)));
    }
    let home = task.as_super().get().home(py)?;
    if !future_loop(awaited)?.is(home.any(py)) {
        let message = format!(
            "Task {} got Future {} attached to a different loop",
            shown(task),
            errors::repr(awaited)
        );
        return refuse(task, message);
    }
    if !blocking.is_truthy()? {
        return refuse(task, not_awaited(task, awaited));
    }
    awaited.setattr(intern!(py, "_asyncio_future_blocking"), false)?;
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "context"), task.get().context(py)?)?;
    let wakeup = TaskWakeup::callable(py, task.clone().unbind())?;
    awaited.call_method(intern!(py, "add_done_callback"), (wakeup,), Some(&keywords))?;
    let must_cancel = task.get().state.with(py, |state| {
        state.waiter = Some(awaited.clone().unbind());
        state.must_cancel
    });
    if must_cancel { forward_cancel(task, awaited) } else { Ok(()) }
}

/// The loop of a foreign future: `get_loop()`, or `_loop` for the oldest kind.
fn future_loop<'py>(future: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = future.py();
    match future.getattr_opt(intern!(py, "get_loop"))? {
        Some(get_loop) => get_loop.call0(),
        None => future.getattr(intern!(py, "_loop")),
    }
}

/// A cancellation came during the step: what the task waits for now is what gets cancelled.
fn forward_cancel(task: &Bound<'_, Task>, awaited: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = task.py();
    let message = cancel_message(task);
    if cancel_awaited(awaited, message.as_ref())? {
        task.get().state.with(py, |state| state.must_cancel = false);
    }
    Ok(())
}

fn cancel_message(task: &Bound<'_, Task>) -> Option<Py<PyAny>> {
    let py = task.py();
    task.as_super()
        .get()
        .state
        .with(py, |state| state.cancel_message.as_ref().map(|message| message.clone_ref(py)))
}

/// `Task.cancel`: a task that awaits another passes the request down the chain, however long it
/// is, until somebody can be cancelled at once; else it is raised at that task's next step.
pub fn request_cancel(task: &Bound<'_, Task>, message: Option<Py<PyAny>>) -> PyResult<bool> {
    let py = task.py();
    if !note_request(task) {
        return Ok(false);
    }
    let origin = cancellation::Origin::here(task);
    cancellation::note(task, &origin, message.as_ref());
    let mut last = task.clone();
    let cancelled = loop {
        let Some(waiter) = last.get().waiter(py) else { break false };
        match waiter.into_bound(py).cast_into_exact::<Task>() {
            Ok(awaited) if note_request(&awaited) => {
                cancellation::note(&awaited, &origin, message.as_ref());
                last = awaited;
            }
            Ok(_done) => break false,
            Err(other) => break cancel_awaited(&other.into_inner(), message.as_ref())?,
        }
    };
    if !cancelled {
        last.get().state.with(py, |state| state.must_cancel = true);
        let old = last
            .as_super()
            .get()
            .state
            .with(py, |state| std::mem::replace(&mut state.cancel_message, message));
        drop(old);
    }
    Ok(true)
}

/// Counts a cancellation request; false when the task is done.
fn note_request(task: &Bound<'_, Task>) -> bool {
    let py = task.py();
    let pending = task.as_super().get().state.with(py, |state| {
        state.log_traceback = false;
        state.phase == Phase::Pending
    });
    if pending {
        task.get().state.with(py, |state| {
            state.cancel_requests = state.cancel_requests.saturating_add(1);
        });
    }
    pending
}

/// A queued step, as a callable (`TaskStepMethWrapper`).
#[pyclass(frozen, module = "aioxide")]
pub struct TaskStep {
    task: Py<Task>,
    error: Option<Py<PyAny>>,
}

impl TaskStep {
    /// A callable that steps `task` once, raising `error` in it if there is one.
    pub fn callable(
        py: Python<'_>,
        task: Py<Task>,
        error: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, TaskStep { task, error })?.into_any())
    }
}

#[pymethods]
impl TaskStep {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        run_foreign(self.task.bind(py), self.error.as_ref().map(|error| error.clone_ref(py)))
    }

    /// The task, as a bound method would show it.
    #[getter]
    fn __self__(&self, py: Python<'_>) -> Py<Task> {
        self.task.clone_ref(py)
    }

    #[getter]
    fn __qualname__(&self) -> &'static str {
        "TaskStepMethWrapper"
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.task)?;
        visit.call(&self.error)
    }
}

/// What a task adds to a foreign future it awaits (`task_wakeup`).
#[pyclass(frozen, module = "aioxide")]
pub struct TaskWakeup {
    task: Py<Task>,
}

impl TaskWakeup {
    /// A callable that steps `task` with the outcome of the future it is called with.
    pub fn callable(py: Python<'_>, task: Py<Task>) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, TaskWakeup { task })?.into_any())
    }
}

#[pymethods]
impl TaskWakeup {
    #[pyo3(signature = (future, /))]
    fn __call__(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = future.py();
        let error = match future.call_method0(intern!(py, "result")) {
            Ok(_) => None,
            Err(error) => Some(error.into_value(py).into_any()),
        };
        run_foreign(self.task.bind(py), error)
    }

    /// The task, as a bound method would show it.
    #[getter]
    fn __self__(&self, py: Python<'_>) -> Py<Task> {
        self.task.clone_ref(py)
    }

    #[getter]
    fn __qualname__(&self) -> &'static str {
        "Task.task_wakeup"
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.task)
    }
}
