//! `BaseTaskGroup`: what `TaskGroup` does for each of its children.
//!
//! Making a task, noticing its end, cancelling the others; `python/aioxide/taskgroups.py` completes
//! it with what awaits: entering and leaving. Semantics and messages are those of
//! `Lib/asyncio/taskgroups.py` of the newest CPython, on every Python and on every loop.

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PySystemExit};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySet};
use slab::Slab;

use super::followers::{self, Ending, Follower};
use super::{Options, Task};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::{calls, coroutine, version};
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::home::Home;
use crate::event_loop::report;

#[derive(Default)]
struct GroupState {
    entered: bool,
    exiting: bool,
    aborting: bool,
    parent_cancel_requested: bool,
    cancel_on_enter: bool,
    event_loop: Option<Py<PyAny>>,
    parent: Option<Py<PyAny>>,
    /// The children that are not done, each under the number its follower has.
    tasks: Slab<Py<PyAny>>,
    /// None once the group was left.
    errors: Option<Py<PyList>>,
    base_error: Option<Py<PyAny>>,
    on_completed: Option<Py<PyAny>>,
    /// A subclass has an `_on_task_done` of its own, which is to be called.
    has_own_callback: bool,
}

/// What a task group does once per child; `TaskGroup` adds what awaits.
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide._aioxide", name = "BaseTaskGroup")]
pub struct BaseTaskGroup {
    state: GilCell<GroupState>,
}

impl BaseTaskGroup {
    /// The loop and the parent, which a group has from `__aenter__` on.
    fn surroundings<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Py<PyAny>)> {
        self.state
            .with(py, |state| {
                let event_loop = state.event_loop.as_ref()?.clone_ref(py).into_bound(py);
                Some((event_loop, state.parent.as_ref()?.clone_ref(py)))
            })
            .ok_or_else(|| PyRuntimeError::new_err("TaskGroup has not been entered"))
    }

    /// Why no task can be made in this group, if so.
    fn refusal(this: &Bound<'_, Self>) -> Option<PyErr> {
        let why = this.get().state.with(this.py(), |state| {
            if !state.entered {
                Some("has not been entered")
            } else if state.exiting && state.tasks.is_empty() {
                Some("is finished")
            } else if state.aborting {
                Some("is shutting down")
            } else {
                None
            }
        })?;
        let shown = errors::repr(this.as_any());
        Some(PyRuntimeError::new_err(format!("TaskGroup {shown} {why}")))
    }

    fn make_task<'py>(
        event_loop: &Bound<'py, PyAny>,
        coro: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = coro.py();
        if kwargs.is_none_or(|kwargs| kwargs.is_empty())
            && coroutine::is_native(coro)
            && let Ok(own) = event_loop.cast::<BaseEventLoop>()
            && BaseEventLoop::makes_plain_tasks(own)?
        {
            own.get().check_open(py)?;
            let home = Home::Native(own.clone().unbind());
            return Ok(Task::create(py, home, coro, Options::default())?.into_any());
        }
        event_loop.call_method(intern!(py, "create_task"), (coro,), kwargs)
    }

    fn add<'py>(this: &Bound<'py, Self>, task: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = this.py();
        let number =
            this.get().state.with(py, |state| state.tasks.insert(task.clone().unbind()) as u32);
        if this.get().state.with(py, |state| state.has_own_callback) {
            let callback = this.getattr(intern!(py, "_on_task_done"))?;
            task.call_method1(intern!(py, "add_done_callback"), (callback,))?;
        } else {
            Follower::Group(this.clone().unbind(), number).follow(task)?;
        }
        // gh-155418: an eager task can cancel the group before it is one of its tasks.
        let aborting = this.get().state.with(py, |state| state.aborting);
        if aborting && !followers::is_done(task)? {
            cancel(task)?;
        }
        Ok(())
    }

    /// A child is done (`TaskGroup._on_task_done`).
    pub fn child_done(
        this: &Bound<'_, Self>,
        number: u32,
        child: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = this.py();
        let (owned, completed) = this.get().state.with(py, |state| {
            let owned = state.tasks.try_remove(number as usize);
            let completed = state.on_completed.as_ref().filter(|_| state.tasks.is_empty());
            (owned, completed.map(|future| future.clone_ref(py)))
        });
        drop(owned.map(|task| task.into_bound(py)));
        if let Some(completed) = completed {
            let completed = completed.into_bound(py);
            if !followers::is_done(&completed)? {
                completed.call_method1(intern!(py, "set_result"), (true,))?;
            }
        }
        match followers::ending(child)? {
            Ending::Cancelled | Ending::Succeeded => Ok(()),
            Ending::Failed(error) => BaseTaskGroup::child_failed(this, child, error.bind(py)),
        }
    }

    fn child_failed(
        this: &Bound<'_, Self>,
        child: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = this.py();
        let (event_loop, parent) = this.get().surroundings(py)?;
        let parent = parent.bind(py);
        if let Some(errors) = errors_of(this) {
            errors.append(error)?;
        }
        note_base_error(this, error);
        if followers::is_done(parent)? {
            let details = PyDict::new(py);
            let (task, owner) = (errors::repr(child), errors::repr(parent));
            details.set_item(
                "message",
                format!(
                    "Task {task} has errored out but its parent task {owner} is already completed"
                ),
            )?;
            details.set_item("exception", error)?;
            details.set_item("task", child)?;
            return report::call_exception_handler(&event_loop, &details);
        }
        // The parent is cancelled so that whatever it awaits in the body ends; `__aexit__` takes
        // the request back.
        let quiet =
            this.get().state.with(py, |state| state.aborting || state.parent_cancel_requested);
        if quiet { Ok(()) } else { cancel_all(this) }
    }
}

/// Cancels the children and the parent, once.
fn cancel_all(this: &Bound<'_, BaseTaskGroup>) -> PyResult<()> {
    let py = this.py();
    this.call_method0(intern!(py, "_abort"))?;
    let parent = this.get().state.with(py, |state| {
        let requested = std::mem::replace(&mut state.parent_cancel_requested, true);
        state.parent.as_ref().filter(|_| !requested).map(|parent| parent.clone_ref(py))
    });
    match parent {
        Some(parent) => cancel(parent.bind(py)).map(drop),
        None => Ok(()),
    }
}

fn cancel(task: &Bound<'_, PyAny>) -> PyResult<bool> {
    match task.cast_exact::<Task>() {
        Ok(task) => super::step::request_cancel(task, None),
        Err(_) => task.call_method0(intern!(task.py(), "cancel"))?.is_truthy(),
    }
}

/// SystemExit and KeyboardInterrupt leave the group as they are, not in an exception group.
fn note_base_error(this: &Bound<'_, BaseTaskGroup>, error: &Bound<'_, PyAny>) {
    if error.is_instance_of::<PySystemExit>() || error.is_instance_of::<PyKeyboardInterrupt>() {
        this.get().state.with(this.py(), |state| {
            if state.base_error.is_none() {
                state.base_error = Some(error.clone().unbind());
            }
        });
    }
}

fn errors_of<'py>(this: &Bound<'py, BaseTaskGroup>) -> Option<Bound<'py, PyList>> {
    let py = this.py();
    let errors =
        this.get().state.with(py, |state| state.errors.as_ref().map(|it| it.clone_ref(py)));
    errors.map(|errors| errors.into_bound(py))
}

#[pymethods]
impl BaseTaskGroup {
    #[new]
    fn new() -> Self {
        BaseTaskGroup { state: GilCell::default() }
    }

    /// Makes a task of `coro` in this group; keywords are `loop.create_task`'s. RuntimeError when
    /// the group was not entered, is shutting down or is finished.
    #[pyo3(signature = (coro, **kwargs))]
    fn create_task<'py>(
        this: &Bound<'py, Self>,
        coro: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        if let Some(refusal) = BaseTaskGroup::refusal(this) {
            coro.call_method0(intern!(py, "close"))?;
            return Err(refusal);
        }
        let (event_loop, _) = this.get().surroundings(py)?;
        let task = BaseTaskGroup::make_task(&event_loop, coro, kwargs)?;
        BaseTaskGroup::add(this, &task)?;
        Ok(task)
    }

    /// Ends the group early, without an exception: cancels its tasks and its body. Before the
    /// group is entered: upon entering. Any number of times, and after the group was left.
    fn cancel(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let running = this.get().state.with(py, |state| {
            state.cancel_on_enter |= !state.entered;
            state.entered && !state.aborting && !(state.exiting && state.tasks.is_empty())
        });
        if running { cancel_all(this) } else { Ok(()) }
    }

    /// `__aenter__`, which never waits.
    fn _enter(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        if this.get().state.with(py, |state| state.entered) {
            let shown = errors::repr(this.as_any());
            let message = format!("TaskGroup {shown} has already been entered");
            return Err(PyRuntimeError::new_err(message));
        }
        let event_loop = version::running_loop(py)?;
        let Some(parent) = version::current_task(&event_loop)? else {
            let shown = errors::repr(this.as_any());
            let message = format!("TaskGroup {shown} cannot determine the parent task");
            return Err(PyRuntimeError::new_err(message));
        };
        let callback = this.getattr(intern!(py, "_on_task_done"))?;
        let errors = PyList::empty(py).unbind();
        let (old, cancelled) = this.get().state.with(py, |state| {
            state.entered = true;
            state.has_own_callback = !calls::is_own_method(&callback, this.as_any());
            let old = (
                state.event_loop.replace(event_loop.unbind()),
                state.parent.replace(parent.unbind()),
                state.errors.replace(errors),
            );
            (old, state.cancel_on_enter)
        });
        drop(old);
        if cancelled { this.call_method0(intern!(py, "cancel")).map(drop) } else { Ok(()) }
    }

    /// `__aexit__` begins: no new tasks once the last is done, and none is left running if the
    /// body raised `error`.
    #[pyo3(signature = (error, /))]
    fn _begin_exit(this: &Bound<'_, Self>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = this.py();
        this.get().state.with(py, |state| state.exiting = true);
        let Some(error) = error else { return Ok(()) };
        note_base_error(this, error);
        if this.get().state.with(py, |state| state.aborting) {
            return Ok(());
        }
        this.call_method0(intern!(py, "_abort")).map(drop)
    }

    /// A new future for the end of the last task; None when none is left.
    fn _completion(this: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        let py = this.py();
        let next = if this.get().state.with(py, |state| state.tasks.is_empty()) {
            None
        } else {
            let (event_loop, _) = this.get().surroundings(py)?;
            Some(event_loop.call_method0(intern!(py, "create_future"))?.unbind())
        };
        let kept = next.as_ref().map(|future| future.clone_ref(py));
        let old =
            this.get().state.with(py, |state| std::mem::replace(&mut state.on_completed, kept));
        drop(old);
        Ok(next)
    }

    /// The group was left: it keeps neither its parent nor exceptions, which refer to frames.
    fn _forget(&self, py: Python<'_>) {
        let old = self
            .state
            .with(py, |state| (state.parent.take(), state.errors.take(), state.base_error.take()));
        drop(old);
    }

    /// Cancels the tasks that are not done; the group makes no new ones.
    fn _abort(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let tasks: Vec<_> = this.get().state.with(py, |state| {
            state.aborting = true;
            state.tasks.iter().map(|(_, task)| task.clone_ref(py)).collect()
        });
        for task in tasks {
            let task = task.bind(py);
            if !followers::is_done(task)? {
                cancel(task)?;
            }
        }
        Ok(())
    }

    /// What happens when a task of the group is done; for subclasses, which may put their own in
    /// its place and call this one.
    #[pyo3(signature = (task, /))]
    fn _on_task_done(this: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let number = this.get().state.with(this.py(), |state| {
            state.tasks.iter().find(|(_, known)| known.is(task)).map(|(number, _)| number)
        });
        let number = number.and_then(|number| u32::try_from(number).ok());
        BaseTaskGroup::child_done(this, number.unwrap_or(u32::MAX), task)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let mut shown = "<TaskGroup".to_owned();
        let (tasks, aborting, entered, errors) = self.state.with(py, |state| {
            let errors = state.errors.as_ref().map(|errors| errors.clone_ref(py));
            (state.tasks.len(), state.aborting, state.entered, errors)
        });
        if tasks > 0 {
            shown.push_str(&format!(" tasks={tasks}"));
        }
        let errors = errors.map_or(0, |errors| errors.bind(py).len());
        if errors > 0 {
            shown.push_str(&format!(" errors={errors}"));
        }
        if aborting {
            shown.push_str(" cancelling");
        } else if entered {
            shown.push_str(" entered");
        }
        shown.push('>');
        shown
    }

    /// `asyncio.TaskGroup`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).task_group.clone_ref(py)
    }

    #[getter]
    fn _entered(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.entered)
    }

    #[getter]
    fn _exiting(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.exiting)
    }

    #[getter]
    fn _aborting(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.aborting)
    }

    #[getter]
    fn _parent_cancel_requested(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.parent_cancel_requested)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.event_loop.as_ref().map(|it| it.clone_ref(py)))
    }

    #[getter]
    fn _parent_task(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.parent.as_ref().map(|it| it.clone_ref(py)))
    }

    #[getter]
    fn _tasks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PySet>> {
        let tasks: Vec<_> = self
            .state
            .with(py, |state| state.tasks.iter().map(|(_, task)| task.clone_ref(py)).collect());
        PySet::new(py, tasks)
    }

    #[getter]
    fn _errors<'py>(this: &Bound<'py, Self>) -> Option<Bound<'py, PyList>> {
        errors_of(this)
    }

    #[getter]
    fn _base_error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.base_error.as_ref().map(|it| it.clone_ref(py)))
    }

    #[getter]
    fn _on_completed_fut(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.on_completed.as_ref().map(|it| it.clone_ref(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .peek(|state| {
                state.tasks.iter().try_for_each(|(_, task)| visit.call(task))?;
                visit.call(&state.event_loop)?;
                visit.call(&state.parent)?;
                visit.call(&state.errors)?;
                visit.call(&state.base_error)?;
                visit.call(&state.on_completed)
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.state.with(py, std::mem::take)));
    }
}
