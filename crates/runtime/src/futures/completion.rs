//! What completing a future means: outcomes, callbacks, and the report of what nobody retrieved.
//!
//! Behaviour and messages follow `Modules/_asynciomodule.c` of the newest CPython.

use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyType};

use super::state::{Callbacks, DoneCallback, Phase};
use super::{Future, uninitialized};
use crate::cpython::context;
use crate::errors;
use crate::event_loop::home::Home;
use crate::event_loop::schedule;
use crate::tasks::followers::ChildDone;
use crate::tasks::step::TaskWakeup;

/// `Future.__init__`: binds the future to a loop.
pub fn initialize(this: &Bound<'_, Future>, event_loop: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let py = this.py();
    let home = Home::of(py, event_loop)?;
    let source = if home.is_debug(py)? { Some(errors::extract_stack(py)?) } else { None };
    let old = this.get().state.with(py, |state| {
        let old = std::mem::take(state);
        state.home = Some(home);
        state.source_traceback = source;
        old
    });
    drop(old);
    Ok(())
}

/// `Future.result`.
pub fn result(this: &Bound<'_, Future>) -> PyResult<Py<PyAny>> {
    match outcome(this, "Result is not set.")? {
        Ok(result) => Ok(result),
        Err(exception) => Err(PyErr::from_value(exception.into_bound(this.py()))),
    }
}

/// `Future.exception`.
pub fn exception(this: &Bound<'_, Future>) -> PyResult<Option<Py<PyAny>>> {
    match outcome(this, "Exception is not set.")? {
        Ok(_) => Ok(None),
        Err(exception) => Ok(Some(exception)),
    }
}

/// The result or the exception, which counts as retrieved from then on; a cancelled or pending
/// future is an error.
fn outcome(
    this: &Bound<'_, Future>,
    not_set: &'static str,
) -> PyResult<Result<Py<PyAny>, Py<PyAny>>> {
    let py = this.py();
    match this.get().phase(py) {
        Phase::Finished => Ok(take_outcome(this)),
        Phase::Cancelled => {
            let error = make_cancelled_error(this)?;
            Err(PyErr::from_value(error.into_bound(py)))
        }
        Phase::Pending if this.get().state.with(py, |state| state.home.is_none()) => {
            Err(errors::invalid_state(py, "Future object is not initialized."))
        }
        Phase::Pending => Err(errors::invalid_state(py, not_set)),
    }
}

/// The outcome of a finished future; its exception starts from the traceback it was set with.
pub fn take_outcome(this: &Bound<'_, Future>) -> Result<Py<PyAny>, Py<PyAny>> {
    let py = this.py();
    let (result, exception, traceback) = this.get().state.with(py, |state| {
        state.log_traceback = false;
        (
            state.result.as_ref().map(|it| it.clone_ref(py)),
            state.exception.as_ref().map(|it| it.clone_ref(py)),
            state.exception_traceback.as_ref().map(|it| it.clone_ref(py)),
        )
    });
    match exception {
        None => Ok(result.unwrap_or_else(|| py.None())),
        Some(exception) => {
            let traceback = traceback.unwrap_or_else(|| py.None());
            // Raising adds to the traceback; without this it would grow with every `result()`.
            let _ = exception.bind(py).setattr(intern!(py, "__traceback__"), traceback);
            Err(exception)
        }
    }
}

/// `Future.set_result`.
pub fn set_result(this: &Bound<'_, Future>, result: Py<PyAny>) -> PyResult<()> {
    let py = this.py();
    let refused = this.get().state.with(py, |state| {
        if state.home.is_none() {
            return Some(true);
        }
        if state.phase != Phase::Pending {
            return Some(false);
        }
        state.result = Some(result);
        state.phase = Phase::Finished;
        None
    });
    match refused {
        None => schedule_callbacks(this),
        Some(true) => Err(uninitialized()),
        Some(false) => Err(errors::invalid_state(py, "invalid state")),
    }
}

/// `Future.set_exception`.
pub fn set_exception(this: &Bound<'_, Future>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = this.py();
    this.get().home(py)?;
    if this.get().phase(py) != Phase::Pending {
        return Err(errors::invalid_state(py, "invalid state"));
    }
    let mut instance = match exception.cast::<PyType>() {
        Ok(class) if class.is_subclass_of::<PyBaseException>()? => class.call0()?,
        _ => exception.clone(),
    };
    if !instance.is_instance_of::<PyBaseException>() {
        return Err(PyTypeError::new_err("invalid exception object"));
    }
    if instance.is_instance_of::<PyStopIteration>() {
        let replacement = PyRuntimeError::new_err(
            "StopIteration interacts badly with generators and cannot be raised into a Future",
        )
        .into_value(py)
        .into_bound(py)
        .into_any();
        replacement.setattr(intern!(py, "__cause__"), &instance)?;
        replacement.setattr(intern!(py, "__context__"), &instance)?;
        instance = replacement;
    }
    let traceback = instance.getattr(intern!(py, "__traceback__"))?;
    let stored = this.get().state.with(py, |state| {
        if state.phase != Phase::Pending {
            return false;
        }
        state.exception = Some(instance.unbind());
        state.exception_traceback = (!traceback.is_none()).then(|| traceback.unbind());
        state.phase = Phase::Finished;
        state.log_traceback = true;
        true
    });
    if !stored {
        return Err(errors::invalid_state(py, "invalid state"));
    }
    let home = this.get().home(py)?;
    if let Home::Native(event_loop) = &home
        && event_loop.get().flags(py).reports_soon
    {
        event_loop.bind(py).call_method1(intern!(py, "_note_failure"), (this,))?;
    }
    home.release(py);
    schedule_callbacks(this)
}

/// `Future.cancel`.
pub fn cancel(this: &Bound<'_, Future>, message: Option<Py<PyAny>>) -> PyResult<bool> {
    let py = this.py();
    let old = this.get().state.with(py, |state| {
        state.log_traceback = false;
        if state.phase != Phase::Pending {
            return None;
        }
        state.phase = Phase::Cancelled;
        Some(std::mem::replace(&mut state.cancel_message, message))
    });
    if old.is_none() {
        return Ok(false);
    }
    schedule_callbacks(this)?;
    Ok(true)
}

/// The `CancelledError` to raise: the one that ended the task, or a new one with the message.
pub fn make_cancelled_error(this: &Bound<'_, Future>) -> PyResult<Py<PyAny>> {
    let py = this.py();
    let (ready, message) = this.get().state.with(py, |state| {
        let message = state.cancel_message.as_ref().map(|message| message.clone_ref(py));
        (state.cancelled_error.take(), message)
    });
    match ready {
        Some(error) => Ok(error),
        None => errors::new_cancelled(py, message.as_ref()),
    }
}

/// Adds a callback, or queues it at once when the future is done: never called from here.
pub fn add_callback(this: &Bound<'_, Future>, callback: DoneCallback) -> PyResult<()> {
    let py = this.py();
    let late = this.get().state.with(py, |state| {
        if state.phase == Phase::Pending {
            state.callbacks.push(callback);
            None
        } else {
            Some(callback)
        }
    });
    match late {
        None => Ok(()),
        Some(callback) => schedule_one(this, callback),
    }
}

fn schedule_one(this: &Bound<'_, Future>, callback: DoneCallback) -> PyResult<()> {
    let py = this.py();
    match callback {
        DoneCallback::Wake(task) => schedule::wake(&task.into_bound(py)),
        DoneCallback::Call { callback, context } => {
            let home = this.get().home(py)?;
            schedule::call_with(py, &home, callback, this.as_any(), context)
        }
        DoneCallback::Back(source) if this.get().phase(py) == Phase::Cancelled => {
            let home = this.get().home(py)?;
            let cancel = source.bind(py).getattr(intern!(py, "cancel"))?;
            schedule::call_without(py, &home, &cancel)
        }
        DoneCallback::Back(_) => Ok(()),
        DoneCallback::Follow(follower) => follower.queue(this),
    }
}

/// Queues every callback, in order, and forgets them (`future_schedule_callbacks`).
pub fn schedule_callbacks(this: &Bound<'_, Future>) -> PyResult<()> {
    let py = this.py();
    match this.get().state.with(py, |state| std::mem::take(&mut state.callbacks)) {
        Callbacks::Empty => Ok(()),
        Callbacks::One(callback) => schedule_one(this, callback),
        Callbacks::Many(list) => {
            list.into_iter().try_for_each(|callback| schedule_one(this, callback))
        }
    }
}

/// `Future.remove_done_callback`: comparing may run Python code, so it works on a copy.
pub fn remove_callback(this: &Bound<'_, Future>, callback: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = this.py();
    let copy: Vec<DoneCallback> = this.get().state.with(py, |state| {
        state.callbacks.as_slice().iter().map(|entry| entry.clone_ref(py)).collect()
    });
    let mut doomed = Vec::new();
    for entry in copy {
        if let DoneCallback::Call { callback: candidate, .. } = &entry
            && candidate.bind(py).eq(callback)?
        {
            doomed.push(entry);
        }
    }
    let removed: Vec<DoneCallback> = this.get().state.with(py, |state| {
        let list = match std::mem::take(&mut state.callbacks) {
            Callbacks::Empty => Vec::new(),
            Callbacks::One(one) => vec![one],
            Callbacks::Many(list) => list,
        };
        let (gone, kept): (Vec<_>, Vec<_>) =
            list.into_iter().partition(|entry| doomed.iter().any(|dead| dead.is_same(entry)));
        for entry in kept {
            state.callbacks.push(entry);
        }
        gone
    });
    Ok(removed.len())
}

/// `_callbacks`: a list of (callable, context), or None when there are none.
pub fn callbacks<'py>(this: &Bound<'py, Future>) -> PyResult<Option<Bound<'py, PyList>>> {
    let py = this.py();
    let copy: Vec<DoneCallback> = this.get().state.with(py, |state| {
        state.callbacks.as_slice().iter().map(|entry| entry.clone_ref(py)).collect()
    });
    if copy.is_empty() {
        return Ok(None);
    }
    let list = PyList::empty(py);
    for entry in copy {
        match entry {
            DoneCallback::Wake(task) => {
                let context = task.get().context(py)?;
                list.append((TaskWakeup::callable(py, task)?, context))?;
            }
            DoneCallback::Call { callback, context } => list.append((callback, context))?,
            DoneCallback::Back(source) => {
                let cancel = source.bind(py).getattr(intern!(py, "cancel"))?;
                list.append((cancel, context::copy_current(py)?))?;
            }
            DoneCallback::Follow(follower) => {
                let callable = ChildDone::callable(py, follower)?;
                list.append((callable, context::copy_current(py)?))?;
            }
        }
    }
    Ok(Some(list))
}

/// Tells the loop of an exception nobody looked at (`FutureObj_finalize`).
pub fn report_unretrieved(this: &Bound<'_, Future>) {
    let py = this.py();
    let (exception, home, source) = this.get().state.with(py, |state| {
        state.log_traceback = false;
        (
            state.exception.as_ref().map(|it| it.clone_ref(py)),
            state.home.as_ref().map(|it| it.clone_ref(py)),
            state.source_traceback.as_ref().map(|it| it.clone_ref(py)),
        )
    });
    let (Some(exception), Some(home)) = (exception, home) else { return };
    let report = || -> PyResult<()> {
        let details = PyDict::new(py);
        let name = this.get_type().name()?;
        if let Home::Native(event_loop) = &home {
            event_loop.get().state.with(py, |state| state.tally.unretrieved += 1);
        }
        details.set_item("message", format!("{name} exception was never retrieved"))?;
        details.set_item("exception", exception)?;
        details.set_item("future", this)?;
        if let Some(source) = source {
            details.set_item("source_traceback", source)?;
        }
        // Tasks of a loop that reports soon know the line that made them.
        let created = this.as_any().getattr_opt(intern!(py, "_created_at"))?;
        if let Some(created) = created.filter(|it| !it.is_none()) {
            details.set_item("created_at", created.str()?)?;
        }
        home.any(py).call_method1(intern!(py, "call_exception_handler"), (details,))?;
        Ok(())
    };
    if let Err(error) = report() {
        error.write_unraisable(py, Some(this.as_any()));
    }
}
