//! `call_soon`, `call_soon_threadsafe`, `call_later`, `call_at`, and the wake-up of tasks.
//!
//! Where `call_soon` was replaced on the loop (monitoring tools do that) nothing takes the short
//! way: every wake-up goes through the replacement, so that the tool sees it.

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict, PyString, PyTuple};

use super::BaseEventLoop;
use super::callback::Callback;
use super::clock::When;
use super::home::Home;
use crate::cpython::context;
use crate::cpython::imports::imports;
use crate::errors;
use crate::handles::{Handle, HandleContext, TimerHandle};
use crate::tasks::Task;
use crate::tasks::step::{TaskStep, TaskWakeup};

/// Non-empty arguments, or nothing: most callbacks have none, and keep no tuple then.
pub fn arguments(args: &Bound<'_, PyTuple>) -> Option<Py<PyTuple>> {
    (!args.is_empty()).then(|| args.clone().unbind())
}

/// The context of a callback: the one given, or what is as good as a copy of the current one.
#[inline]
pub fn callback_context(
    event_loop: &Bound<'_, BaseEventLoop>,
    given: Option<Py<PyContext>>,
) -> PyResult<HandleContext> {
    if let Some(given) = given {
        return Ok(HandleContext::Own(given));
    }
    let py = event_loop.py();
    let current = context::copy_current(py)?.into_bound(py);
    let (shared, spare) = event_loop.get().state.with(py, |state| state.snapshots.share(current));
    drop(spare);
    Ok(HandleContext::Snapshot(shared))
}

/// The context to run in: the one given, or a copy of the current one.
#[inline]
pub fn context_or_current(py: Python<'_>, given: Option<Py<PyContext>>) -> PyResult<Py<PyContext>> {
    match given {
        Some(context) => Ok(context),
        None => context::copy_current(py),
    }
}

/// `loop.call_soon`.
#[inline]
pub fn call_soon(
    event_loop: &Bound<'_, BaseEventLoop>,
    callback: &Bound<'_, PyAny>,
    args: Option<Py<PyTuple>>,
    context: Option<Py<PyContext>>,
) -> PyResult<Py<Handle>> {
    let py = event_loop.py();
    let flags = event_loop.get().flags(py);
    flags.check()?;
    if flags.debug {
        check_thread(event_loop)?;
        check_callback(callback, "call_soon")?;
    }
    let context = callback_context(event_loop, context)?;
    let callback = callback.clone().unbind();
    let handle = Handle::new(py, event_loop, callback, args, context, flags.debug)?;
    event_loop.get().push(py, Callback::Call(handle.clone_ref(py)));
    Ok(handle)
}

/// `loop.call_soon_threadsafe`, from any thread.
pub fn call_soon_threadsafe(
    event_loop: &Bound<'_, BaseEventLoop>,
    callback: &Bound<'_, PyAny>,
    args: Option<Py<PyTuple>>,
    context: Option<Py<PyContext>>,
) -> PyResult<Py<Handle>> {
    let py = event_loop.py();
    let flags = event_loop.get().flags(py);
    flags.check()?;
    if flags.debug {
        check_callback(callback, "call_soon_threadsafe")?;
    }
    let context = callback_context(event_loop, context)?;
    let callback = callback.clone().unbind();
    let handle = Handle::new(py, event_loop, callback, args, context, flags.debug)?;
    // Whoever calls holds the interpreter, so the ready queue is open to it: the order between
    // `call_soon` and `call_soon_threadsafe` is that of the calls. Only the wake-up is foreign,
    // and needed only when the loop has parked, which it too does with the interpreter held.
    let parked = event_loop.get().state.with(py, |state| {
        state.ready.push_back(Callback::Call(handle.clone_ref(py)));
        state.kernel.as_ref().filter(|kernel| kernel.mailbox.is_parked()).cloned()
    });
    if let Some(kernel) = parked {
        kernel.mailbox.wake();
    }
    Ok(handle)
}

/// `loop.call_at`.
pub fn call_at(
    event_loop: &Bound<'_, BaseEventLoop>,
    when: When,
    callback: &Bound<'_, PyAny>,
    args: Option<Py<PyTuple>>,
    context: Option<Py<PyContext>>,
    name: &'static str,
) -> PyResult<Py<TimerHandle>> {
    let py = event_loop.py();
    let flags = event_loop.get().flags(py);
    flags.check()?;
    if flags.debug {
        check_thread(event_loop)?;
        check_callback(callback, name)?;
    }
    let context = callback_context(event_loop, context)?;
    TimerHandle::schedule(event_loop, when, callback.clone().unbind(), args, context, flags.debug)
}

/// `loop.call_later` where somebody put another `call_at` on the loop: it is to see this timer too.
pub fn by_call_at(
    event_loop: &Bound<'_, BaseEventLoop>,
    when: f64,
    callback: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    context: Option<Py<PyContext>>,
) -> PyResult<Py<PyAny>> {
    let py = event_loop.py();
    let first = PyTuple::new(py, [when.into_pyobject(py)?.as_any(), callback])?;
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "context"), context)?;
    let all = first.as_sequence().concat(args.as_sequence())?.to_tuple()?;
    let call_at = event_loop.getattr(intern!(py, "call_at"))?;
    Ok(call_at.call(all, Some(&keywords))?.unbind())
}

/// Debug mode: only the loop's own thread may schedule without the mailbox.
pub fn check_thread(event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
    let py = event_loop.py();
    let Some(owner) = event_loop.get().state.with(py, |state| state.thread) else {
        return Ok(());
    };
    let here: u64 = imports(py).get_ident.bind(py).call0()?.extract()?;
    if here == owner {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(
        "Non-thread-safe operation invoked on an event loop other than the current one",
    ))
}

/// Debug mode: a coroutine or something that cannot be called is refused at once.
pub fn check_callback(callback: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
    let py = callback.py();
    let is_coroutine = imports(py).iscoroutine.bind(py).call1((callback,))?.is_truthy()?
        || py
            .import("asyncio.coroutines")?
            .call_method1("_iscoroutinefunction", (callback,))
            .or_else(|_| py.import("inspect")?.call_method1("iscoroutinefunction", (callback,)))?
            .is_truthy()?;
    if is_coroutine {
        return Err(PyTypeError::new_err(format!("coroutines cannot be used with {method}()")));
    }
    if !callback.is_callable() {
        return Err(PyTypeError::new_err(format!(
            "a callable object was expected by {method}(), got {}",
            errors::repr(callback)
        )));
    }
    Ok(())
}

/// Queues `callback(argument)` on whatever loop `home` is.
pub fn call_with(
    py: Python<'_>,
    home: &Home,
    callback: Py<PyAny>,
    argument: &Bound<'_, PyAny>,
    context: Py<PyContext>,
) -> PyResult<()> {
    if let Home::Native(native) = home {
        let native = native.bind(py);
        if !native.get().flags(py).call_soon_replaced {
            let args = PyTuple::new(py, [argument])?.unbind();
            return call_soon(native, callback.bind(py), Some(args), Some(context)).map(drop);
        }
    }
    foreign(home.any(py), (callback, argument), context)
}

/// Queues `callback()` on whatever loop `home` is.
pub fn call_without(py: Python<'_>, home: &Home, callback: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Home::Native(native) = home
        && !native.get().flags(py).call_soon_replaced
    {
        return call_soon(native.bind(py), callback, None, None).map(drop);
    }
    foreign(home.any(py), (callback,), context::copy_current(py)?)
}

fn foreign<'py>(
    event_loop: &Bound<'py, PyAny>,
    call: impl pyo3::call::PyCallArgs<'py>,
    context: Py<PyContext>,
) -> PyResult<()> {
    let py = event_loop.py();
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "context"), context)?;
    event_loop.call_method(intern!(py, "call_soon"), call, Some(&keywords)).map(drop)
}

/// Queues the next step of `task`, which is not waiting for anything (its first, or after a bare
/// yield).
#[inline]
pub fn step(task: &Bound<'_, Task>) -> PyResult<()> {
    if push_step(task)? {
        return Ok(());
    }
    let py = task.py();
    let home = task.as_super().get().home(py)?;
    let context = task.get().context(py)?;
    foreign(home.any(py), (TaskStep::callable(py, task.clone().unbind(), None)?,), context)
}

/// Queues a step of `task` that begins by raising `error` in its coroutine.
pub fn step_raising(task: &Bound<'_, Task>, error: Py<PyAny>) -> PyResult<()> {
    let py = task.py();
    let home = task.as_super().get().home(py)?;
    let context = task.get().context(py)?;
    let step = TaskStep::callable(py, task.clone().unbind(), Some(error))?;
    if let Home::Native(native) = &home
        && !native.get().flags(py).call_soon_replaced
    {
        return call_soon(native.bind(py), step.bind(py), None, Some(context)).map(drop);
    }
    foreign(home.any(py), (step,), context)
}

/// Queues the step of `task` that looks at the native future it awaited, which is done.
#[inline]
pub fn wake(task: &Bound<'_, Task>) -> PyResult<()> {
    if push_step(task)? {
        return Ok(());
    }
    let py = task.py();
    let home = task.as_super().get().home(py)?;
    let context = task.get().context(py)?;
    let awaited = task.get().waiter(py);
    let wakeup = TaskWakeup::callable(py, task.clone().unbind())?;
    foreign(home.any(py), (wakeup, awaited), context)
}

/// The short way: no Handle, no callable. False when the task's loop is not ours to push on.
#[inline]
fn push_step(task: &Bound<'_, Task>) -> PyResult<bool> {
    let py = task.py();
    let native = task.as_super().get().state.with(py, |state| match &state.home {
        Some(Home::Native(native)) => Some(native.clone_ref(py)),
        _ => None,
    });
    let Some(native) = native else { return Ok(false) };
    // Bound objects are dropped without asking again whether this thread is attached.
    let event_loop = &native.into_bound(py);
    let flags = event_loop.get().flags(py);
    if flags.call_soon_replaced {
        return Ok(false);
    }
    flags.check()?;
    if flags.debug {
        check_thread(event_loop)?;
    }
    let now = event_loop.get().push(py, Callback::Step(task.clone().unbind()));
    task.get().mark_ready(py, now);
    Ok(true)
}

/// `call_later`'s argument: a number of seconds.
pub fn seconds(value: &Bound<'_, PyAny>, missing: &'static str) -> PyResult<f64> {
    if value.is_none() {
        return Err(PyTypeError::new_err(missing));
    }
    value.extract()
}

/// The name under which a method was replaced, if replacing it matters to the runtime.
pub fn replaced_flag(name: &Bound<'_, PyString>) -> Option<Replaced> {
    match name.to_str().ok()? {
        "call_soon" => Some(Replaced::CallSoon),
        "call_at" => Some(Replaced::CallAt),
        "time" => Some(Replaced::Time),
        _ => None,
    }
}

/// Methods whose replacement on a loop the runtime honours.
#[derive(Clone, Copy)]
pub enum Replaced {
    /// `loop.call_soon = …`
    CallSoon,
    /// `loop.call_at = …`
    CallAt,
    /// `loop.time = …`
    Time,
}
