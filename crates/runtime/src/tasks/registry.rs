//! Who is alive and who is running: our slab, seen through asyncio's names.
//!
//! `_register_task` costs about 300 ns a task (a Python WeakSet), so tasks of our loops live in
//! the loop's slab, which owns them until they are done. `asyncio.all_tasks` sees the slab through
//! one object that `aioxide/_compat.py` registers. Tasks on foreign loops register as C tasks do.

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::Task;
use crate::cpython::imports::imports;
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::home::Home;
use crate::futures::{Future, Phase};

/// What the loop counts per task, for whoever wants to know why a program is slow or stuck.
#[derive(Clone, Copy, Default)]
pub struct Counters {
    /// Steps taken.
    pub steps: u64,
    /// Nanoseconds spent inside steps.
    pub busy: u64,
    /// Nanoseconds spent ready, waiting for a turn.
    pub scheduled: u64,
    /// When it became ready last (monotonic nanoseconds); zero when it never was.
    pub ready_at: u64,
}

/// Makes the loop own the task, or tells asyncio of it when the loop is not ours.
pub fn register(task: &Bound<'_, Task>) -> PyResult<()> {
    let py = task.py();
    match task.as_super().get().home(py)? {
        Home::Native(event_loop) => {
            let slot = event_loop
                .get()
                .state
                .with(py, |state| state.tasks.insert(task.clone().unbind()) as u32);
            task.get().state.with(py, |state| state.slot = Some(slot));
            Ok(())
        }
        Home::Foreign(_) => imports(py).register_task.bind(py).call1((task,)).map(drop),
    }
}

/// The task is done: the loop lets go of it.
#[inline]
pub fn unregister(event_loop: &BaseEventLoop, task: &Bound<'_, Task>) {
    let py = task.py();
    let Some(slot) = task.get().state.with(py, |state| state.slot.take()) else { return };
    let owned = event_loop.state.with(py, |state| state.tasks.try_remove(slot as usize));
    drop(owned.map(|task| task.into_bound(py)));
}

/// The task could not be queued: nobody will ever finish it, so nobody owns it.
pub fn forget(task: &Bound<'_, Task>) -> PyResult<()> {
    if let Home::Native(event_loop) = task.as_super().get().home(task.py())? {
        unregister(event_loop.get(), task);
    }
    Ok(())
}

/// Whether the task can start at once: its loop runs, here.
///
/// # Errors
/// `RuntimeError` when the loop runs in another thread.
pub fn may_start_eagerly(task: &Bound<'_, Task>) -> PyResult<bool> {
    let py = task.py();
    let home = task.as_super().get().home(py)?;
    let running = match &home {
        Home::Native(event_loop) => event_loop.get().flags(py).running,
        Home::Foreign(event_loop) => {
            event_loop.bind(py).call_method0(intern!(py, "is_running"))?.is_truthy()?
        }
    };
    if !running {
        return Ok(false);
    }
    let here = imports(py).get_running_loop.bind(py).call0()?;
    if here.is(home.any(py)) {
        return Ok(true);
    }
    Err(PyRuntimeError::new_err(format!(
        "loop {} is not the running loop",
        errors::repr(home.any(py))
    )))
}

/// `Task was destroyed but it is pending!` (`TaskObj_finalize`).
pub fn report_destroyed(task: &Bound<'_, Task>) {
    let py = task.py();
    let report = || -> PyResult<()> {
        let details = PyDict::new(py);
        details.set_item("task", task)?;
        details.set_item("message", "Task was destroyed but it is pending!")?;
        let source = task
            .as_super()
            .get()
            .state
            .with(py, |state| state.source_traceback.as_ref().map(|it| it.clone_ref(py)));
        if let Some(source) = source {
            details.set_item("source_traceback", source)?;
        }
        let home = task.as_super().get().home(py)?;
        home.any(py).call_method1(intern!(py, "call_exception_handler"), (details,))?;
        Ok(())
    };
    if let Err(error) = report() {
        error.write_unraisable(py, Some(task.as_any()));
    }
}

/// `Task._counters()`.
pub fn counters<'py>(task: &Bound<'py, Task>) -> PyResult<Bound<'py, PyDict>> {
    let py = task.py();
    let phase = task.as_super().get().phase(py);
    let (counters, waiter) = task.get().state.with(py, |state| {
        (state.counters, state.waiter.as_ref().map(|waiter| waiter.clone_ref(py)))
    });
    let running = match task.as_super().get().home(py)? {
        Home::Native(event_loop) => event_loop.get().is_stepping(task),
        Home::Foreign(_) => false,
    };
    // What it waited for is done: the wake-up is queued already.
    let waiter = waiter.filter(|waiter| match waiter.bind(py).cast::<Future>() {
        Ok(future) => future.get().phase(py) == Phase::Pending,
        Err(_) => true,
    });
    let state = match phase {
        Phase::Finished => "finished",
        Phase::Cancelled => "cancelled",
        Phase::Pending if running => "running",
        Phase::Pending if waiter.is_some() => "waiting",
        Phase::Pending => "ready",
    };
    let answer = PyDict::new(py);
    answer.set_item("state", state)?;
    answer.set_item("steps", counters.steps)?;
    answer.set_item("busy_ns", counters.busy)?;
    answer.set_item("scheduled_ns", counters.scheduled)?;
    answer.set_item("waiting_on", waiter)?;
    Ok(answer)
}
