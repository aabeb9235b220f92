//! What goes wrong in a callback never escapes the turn: it is handed to the loop's exception
//! handler, with the contexts and messages asyncio uses.

use engine::pulse::Pulse;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::callback::Callback;
use super::{BaseEventLoop, clock, source, turn};
use crate::cpython::imports::imports;
use crate::errors;
use crate::handles::Handle;
use crate::tasks::Task;

/// Passes `SystemExit` and `KeyboardInterrupt` on; has anything else reported.
pub fn unless_exit(
    event_loop: &Bound<'_, BaseEventLoop>,
    error: PyErr,
    report: impl FnOnce(PyErr) -> PyResult<()>,
) -> PyResult<()> {
    if turn::is_exit(event_loop.py(), &error) { Err(error) } else { report(error) }
}

/// `loop.call_exception_handler({...})`.
pub fn call_exception_handler(
    event_loop: &Bound<'_, PyAny>,
    details: &Bound<'_, PyDict>,
) -> PyResult<()> {
    event_loop
        .call_method1(intern!(event_loop.py(), "call_exception_handler"), (details,))
        .map(drop)
}

/// `Exception in callback …` (`asyncio.Handle._run`).
pub fn handle_failed(
    event_loop: &Bound<'_, PyAny>,
    handle: &Bound<'_, Handle>,
    error: PyErr,
) -> PyResult<()> {
    let py = handle.py();
    let details = PyDict::new(py);
    let callback = Handle::callback_source(handle)?;
    details.set_item("message", format!("Exception in callback {callback}"))?;
    details.set_item("exception", error.into_value(py))?;
    details.set_item("handle", handle)?;
    let source = handle.getattr(intern!(py, "_source_traceback"))?;
    if !source.is_none() {
        details.set_item("source_traceback", source)?;
    }
    call_exception_handler(event_loop, &details)
}

/// A step that could not even be made, such as entering a task twice.
pub fn step_failed(
    event_loop: &Bound<'_, BaseEventLoop>,
    task: &Bound<'_, Task>,
    error: PyErr,
) -> PyResult<()> {
    let details = PyDict::new(task.py());
    let shown = errors::repr(task.as_any());
    details.set_item("message", format!("Exception in a step of {shown}"))?;
    details.set_item("exception", error.into_value(task.py()))?;
    details.set_item("task", task)?;
    call_exception_handler(event_loop.as_any(), &details)
}

/// A callback of ours that has no handle went wrong; `about` is what it was told of.
pub fn callback_failed(
    event_loop: &Bound<'_, BaseEventLoop>,
    callback: &'static str,
    about: (&'static str, &Bound<'_, PyAny>),
    error: PyErr,
) -> PyResult<()> {
    let py = event_loop.py();
    let details = PyDict::new(py);
    details.set_item("message", format!("Exception in callback {callback}()"))?;
    details.set_item("exception", error.into_value(py))?;
    details.set_item(about.0, about.1)?;
    call_exception_handler(event_loop.as_any(), &details)
}

/// A step or callback held the loop for too long, as the watchdog saw: told once it is over.
#[cold]
pub fn stalled(event_loop: &Bound<'_, BaseEventLoop>, pulse: &Pulse) -> PyResult<()> {
    let py = event_loop.py();
    let Some(stall) = pulse.take_stall() else { return Ok(()) };
    event_loop.get().state.with(py, |state| {
        state.tally.stalls += 1;
        state.tally.stalled += stall.lasted;
        state.tally.longest_stall = state.tally.longest_stall.max(stall.lasted);
    });
    let samples: Vec<_> = stall
        .samples
        .into_iter()
        .map(|sample| {
            let places = sample.stack.into_iter().rev();
            let stack: Vec<_> = places.map(|it| (it.file, it.line, it.function)).collect();
            (sample.after.as_secs_f64(), stack)
        })
        .collect();
    let name = intern!(py, "_report_stall");
    event_loop.call_method1(name, (stall.lasted.as_secs_f64(), samples)).map(drop)
}

/// `Handle._run`, for those who call it themselves.
pub fn run_handle(handle: &Bound<'_, Handle>) -> PyResult<()> {
    let py = handle.py();
    match Handle::run(handle) {
        Ok(()) => Ok(()),
        Err(error) if turn::is_exit(py, &error) => Err(error),
        Err(error) => {
            let event_loop = handle.getattr(intern!(py, "_loop"))?;
            handle_failed(&event_loop, handle, error)
        }
    }
}

/// Debug mode: runs an entry and warns when it held the loop for `slow_callback_duration`.
pub fn timed(event_loop: &Bound<'_, BaseEventLoop>, callback: Callback) -> PyResult<()> {
    let py = event_loop.py();
    let mut handle = None;
    let shown: Option<Bound<'_, PyAny>> = match &callback {
        Callback::Call(it) | Callback::Fire(it) => {
            handle = Some(it.clone_ref(py));
            Some(it.bind(py).as_any().clone())
        }
        Callback::Step(task) => Some(task.bind(py).as_any().clone()),
        Callback::Begin(transport) | Callback::End(transport) => Some(transport.object(py).clone()),
        Callback::Ready(readiness) => source::transport(event_loop, readiness.token),
        Callback::Deliver(_) | Callback::Follow(_) | Callback::Expire(_) => None,
    };
    // `Fire` keeps the callback in its handle, so that the warning can still name it.
    let callback = match callback {
        Callback::Call(handle) => Callback::Fire(handle),
        other => other,
    };
    set_current_handle(event_loop, handle);
    let result = measured(event_loop, shown.as_ref(), || turn::run_call(event_loop, callback));
    set_current_handle(event_loop, None);
    result
}

/// `_current_handle`: whose origin a report shows that is made while it runs.
fn set_current_handle(event_loop: &Bound<'_, BaseEventLoop>, handle: Option<Py<Handle>>) {
    let old = event_loop
        .get()
        .state
        .with(event_loop.py(), |state| std::mem::replace(&mut state.current_handle, handle));
    drop(old);
}

/// Debug mode: makes a call on behalf of `shown` and warns when it took long.
fn measured(
    event_loop: &Bound<'_, BaseEventLoop>,
    shown: Option<&Bound<'_, PyAny>>,
    call: impl FnOnce() -> PyResult<()>,
) -> PyResult<()> {
    let py = event_loop.py();
    let began = clock::nanoseconds();
    let result = call();
    let seconds = clock::as_seconds(clock::nanoseconds().saturating_sub(began));
    let limit: f64 =
        event_loop.getattr(intern!(py, "slow_callback_duration"))?.extract().unwrap_or(0.1);
    if seconds >= limit
        && let Some(shown) = shown
    {
        let text = format_entry(shown)?;
        imports(py).base_events.bind(py).getattr(intern!(py, "logger"))?.call_method1(
            intern!(py, "warning"),
            ("Executing %s took %.3f seconds", text, seconds),
        )?;
    }
    result
}

/// Debug mode: tells the "asyncio" logger what happens; `arguments` begins with the format.
pub fn note<'py>(py: Python<'py>, arguments: impl pyo3::call::PyCallArgs<'py>) -> PyResult<()> {
    imports(py).logger.bind(py).call_method1(intern!(py, "debug"), arguments).map(drop)
}

/// As `asyncio.base_events._format_handle`: a step is shown as its task.
fn format_entry(entry: &Bound<'_, PyAny>) -> PyResult<String> {
    let py = entry.py();
    if let Ok(handle) = entry.cast::<Handle>() {
        let callback = handle.getattr(intern!(py, "_callback"))?;
        if let Some(owner) = callback.getattr_opt(intern!(py, "__self__"))?
            && owner.is_instance(imports(py).task.bind(py))?
        {
            return Ok(errors::repr(&owner));
        }
        return Ok(entry.str()?.to_string_lossy().into_owned());
    }
    Ok(errors::repr(entry))
}
