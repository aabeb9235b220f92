//! `timeout`, `timeout_at` and their `Timeout`: the body of an `async with` is cancelled when its
//! time is over.
//!
//! Semantics and messages are those of `Lib/asyncio/timeouts.py` of the newest CPython, on every
//! Python and on every loop. Entering and leaving never wait.

use engine::timers::TimerId;
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyTuple};

use super::Task;
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::version;
use crate::errors;
use crate::event_loop::callback::{Callback, Timer};
use crate::event_loop::{BaseEventLoop, clock, report};
use crate::handles::TimerHandle;
use crate::settled::settled;

/// Where a timeout is in its life; the words are asyncio's.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Created,
    Active,
    Expiring,
    Expired,
    Finished,
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Stage::Created => "created",
            Stage::Active => "active",
            Stage::Expiring => "expiring",
            Stage::Expired => "expired",
            Stage::Finished => "finished",
        }
    }
}

/// What will tell that the time is over.
#[derive(Default)]
enum Alarm {
    #[default]
    None,
    /// An entry of our loop's timers.
    Set(Py<BaseEventLoop>, TimerId),
    /// An entry of our loop's ready queue.
    Due,
    /// Where somebody looks at the loop's callbacks: a handle, as asyncio has it.
    Handle(Py<PyAny>),
}

#[derive(Default)]
struct TimeoutState {
    stage: Stage,
    when: Option<Py<PyAny>>,
    alarm: Alarm,
    /// Entries of the ready queue that were overtaken by `reschedule()`.
    overtaken: u32,
    task: Option<Py<PyAny>>,
    /// How many cancellations were requested of the task when it entered.
    cancelling: u32,
}

/// A deadline for the body of an `async with`; made by `timeout()` and `timeout_at()`.
///
/// Timeout(when): `when` is in seconds of `loop.time()`; None means never.
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide", name = "Timeout")]
pub struct Timeout {
    state: GilCell<TimeoutState>,
}

/// A context manager that cancels its body after `delay` seconds and then raises TimeoutError.
///
/// None means never. RuntimeError when no loop runs.
#[pyfunction]
#[pyo3(signature = (delay))]
pub fn timeout<'py>(py: Python<'py>, delay: &Bound<'py, PyAny>) -> PyResult<Timeout> {
    let event_loop = version::running_loop(py)?;
    if delay.is_none() {
        return Ok(Timeout::until(None));
    }
    let when = match event_loop.cast::<BaseEventLoop>() {
        Ok(own) => clock::seconds(own)?,
        Err(_) => event_loop.call_method0(intern!(py, "time"))?.extract()?,
    };
    let when = match delay.cast_exact::<PyFloat>() {
        Ok(delay) => PyFloat::new(py, when + delay.value()).into_any(),
        Err(_) => PyFloat::new(py, when).add(delay)?,
    };
    Ok(Timeout::until(Some(when.unbind())))
}

/// As `timeout()`, with a deadline in seconds of `loop.time()`.
#[pyfunction]
#[pyo3(signature = (when))]
pub fn timeout_at(when: Option<Py<PyAny>>) -> Timeout {
    Timeout::until(when)
}

impl Timeout {
    fn until(when: Option<Py<PyAny>>) -> Self {
        let state = TimeoutState { when, ..TimeoutState::default() };
        Timeout { state: GilCell::new(state) }
    }

    /// `Timeout.__aenter__`.
    fn enter(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        if this.get().stage(py) != Stage::Created {
            return Err(PyRuntimeError::new_err("Timeout has already been entered"));
        }
        let event_loop = version::running_loop(py)?;
        let Some(task) = version::current_task(&event_loop)? else {
            return Err(PyRuntimeError::new_err("Timeout should be used inside a task"));
        };
        let cancelling = match task.cast_exact::<Task>() {
            Ok(task) => task.get().requests(py),
            Err(_) => task.call_method0(intern!(py, "cancelling"))?.extract()?,
        };
        let when = this.get().state.with(py, |state| {
            state.stage = Stage::Active;
            state.task = Some(task.unbind());
            state.cancelling = cancelling;
            state.when.as_ref().map(|when| when.clone_ref(py))
        });
        if let Some(when) = when {
            Timeout::arm(this, &event_loop, when.bind(py))?;
        }
        Ok(())
    }

    /// Schedules the expiry, at once if its time has come.
    fn arm(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, PyAny>,
        when: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = this.py();
        let alarm = match event_loop.cast::<BaseEventLoop>() {
            Ok(own) if !own.get().flags(py).is_watched() => {
                own.get().check_open(py)?;
                let seconds: f64 = when.extract()?;
                if seconds <= clock::seconds(own)? {
                    own.get().push(py, Callback::Expire(this.clone().unbind()));
                    Alarm::Due
                } else {
                    let timer = Timer::Expire(this.clone().unbind());
                    let instant = clock::instant(seconds);
                    let id = own.get().state.with(py, |state| state.timers.insert(instant, timer));
                    Alarm::Set(own.clone().unbind(), id)
                }
            }
            _ => {
                let expire = this.getattr(intern!(py, "_on_timeout"))?;
                let now = event_loop.call_method0(intern!(py, "time"))?;
                Alarm::Handle(if when.le(now)? {
                    event_loop.call_method1(intern!(py, "call_soon"), (expire,))?.unbind()
                } else {
                    event_loop.call_method1(intern!(py, "call_at"), (when, expire))?.unbind()
                })
            }
        };
        let old = this.get().state.with(py, |state| std::mem::replace(&mut state.alarm, alarm));
        drop(old);
        Ok(())
    }

    fn disarm(&self, py: Python<'_>) -> PyResult<()> {
        match self.state.with(py, |state| std::mem::take(&mut state.alarm)) {
            Alarm::None => Ok(()),
            Alarm::Set(event_loop, id) => {
                let event_loop = event_loop.into_bound(py);
                let entry = event_loop.get().state.with(py, |state| state.timers.cancel(id));
                if let Some(Timer::Expire(timeout)) = entry {
                    drop(timeout.into_bound(py));
                }
                Ok(())
            }
            Alarm::Due => {
                self.state.with(py, |state| state.overtaken += 1);
                Ok(())
            }
            Alarm::Handle(handle) => handle.bind(py).call_method0(intern!(py, "cancel")).map(drop),
        }
    }

    /// The loop took it out of its timers.
    pub fn mark_due(&self, py: Python<'_>) {
        let old = self.state.with(py, |state| std::mem::replace(&mut state.alarm, Alarm::Due));
        drop(old);
    }

    /// Its turn has come in the ready queue.
    pub fn run_due(this: &Bound<'_, Self>, event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let py = this.py();
        let overtaken = this.get().state.with(py, |state| {
            let overtaken = state.overtaken > 0;
            state.overtaken = state.overtaken.saturating_sub(1);
            overtaken
        });
        if overtaken {
            return Ok(());
        }
        match this.call_method0(intern!(py, "_on_timeout")) {
            Ok(_) => Ok(()),
            Err(error) => report::unless_exit(event_loop, error, |error| {
                let about = ("timeout", this.as_any());
                report::callback_failed(event_loop, "Timeout._on_timeout", about, error)
            }),
        }
    }

    /// A handle like the one that asyncio would have in its queue; cancelling it changes nothing.
    pub fn handle(this: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = this.py();
        let expire = this.getattr(intern!(py, "_on_timeout"))?;
        let (when, event_loop) = this.get().state.with(py, |state| {
            let event_loop = match &state.alarm {
                Alarm::Set(event_loop, _) => Some(event_loop.clone_ref(py)),
                _ => None,
            };
            (state.when.as_ref().map(|when| when.clone_ref(py)), event_loop)
        });
        let class = py.get_type::<TimerHandle>();
        Ok(class.call1((when, expire, PyTuple::empty(py), event_loop))?.unbind())
    }

    /// `Timeout.__aexit__`: the cancellation of the body becomes a TimeoutError, if it is ours.
    fn leave(this: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        this.get().disarm(py)?;
        let (expired, task, cancelling) = this.get().state.with(py, |state| {
            let expired = state.stage == Stage::Expiring;
            state.stage = match state.stage {
                Stage::Expiring => Stage::Expired,
                Stage::Active => Stage::Finished,
                other => other,
            };
            (expired, state.task.as_ref().map(|task| task.clone_ref(py)), state.cancelling)
        });
        let Some(task) = task.filter(|_| expired) else { return Ok(()) };
        let left: u32 = task.bind(py).call_method0(intern!(py, "uncancel"))?.extract()?;
        if left > cancelling || error.is_none() {
            return Ok(());
        }
        if errors::is_cancelled(error) {
            let timed_out = PyTimeoutError::new_err(()).into_value(py).into_bound(py).into_any();
            timed_out.setattr(intern!(py, "__cause__"), error)?;
            timed_out.setattr(intern!(py, "__context__"), error)?;
            return Err(PyErr::from_value(timed_out));
        }
        insert_timeout_error(error)?;
        let group = py.import("builtins")?.getattr("ExceptionGroup")?;
        if error.is_instance(&group)? {
            for inner in error.getattr(intern!(py, "exceptions"))?.try_iter()? {
                insert_timeout_error(&inner?)?;
            }
        }
        Ok(())
    }

    fn stage(&self, py: Python<'_>) -> Stage {
        self.state.with(py, |state| state.stage)
    }
}

/// An exception that was raised while the cancellation was on its way names it as its context: a
/// TimeoutError takes that place.
fn insert_timeout_error(error: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = error.py();
    let mut error = error.clone();
    loop {
        let context = error.getattr(intern!(py, "__context__"))?;
        if context.is_none() {
            return Ok(());
        }
        if errors::is_cancelled(&context) {
            let timed_out = PyTimeoutError::new_err(()).into_value(py).into_bound(py).into_any();
            timed_out.setattr(intern!(py, "__cause__"), &context)?;
            timed_out.setattr(intern!(py, "__context__"), &context)?;
            return error.setattr(intern!(py, "__context__"), timed_out);
        }
        error = context;
    }
}

#[pymethods]
impl Timeout {
    #[new]
    #[pyo3(signature = (when))]
    fn new(when: Option<Py<PyAny>>) -> Self {
        Timeout::until(when)
    }

    /// The deadline, in seconds of `loop.time()`, or None.
    fn when(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.when.as_ref().map(|when| when.clone_ref(py)))
    }

    /// Moves the deadline; RuntimeError outside of the `async with`, and once it has expired.
    #[pyo3(signature = (when))]
    fn reschedule(this: &Bound<'_, Self>, when: Option<Py<PyAny>>) -> PyResult<()> {
        let py = this.py();
        match this.get().stage(py) {
            Stage::Active => {}
            Stage::Created => {
                return Err(PyRuntimeError::new_err("Timeout has not been entered"));
            }
            other => {
                let message = format!("Cannot change state of {} Timeout", other.word());
                return Err(PyRuntimeError::new_err(message));
            }
        }
        let again = when.as_ref().map(|when| when.clone_ref(py));
        let old = this.get().state.with(py, |state| std::mem::replace(&mut state.when, again));
        drop(old);
        this.get().disarm(py)?;
        match when {
            Some(when) => Timeout::arm(this, &version::running_loop(py)?, when.bind(py)),
            None => Ok(()),
        }
    }

    /// Whether the deadline passed during the `async with`.
    fn expired(&self, py: Python<'_>) -> bool {
        matches!(self.stage(py), Stage::Expiring | Stage::Expired)
    }

    /// What `__aenter__` does.
    fn _enter(this: &Bound<'_, Self>) -> PyResult<()> {
        Timeout::enter(this)
    }

    #[pyo3(signature = (exc_type, exc_val, exc_tb, /))]
    fn __aexit__<'py>(
        this: &Bound<'py, Self>,
        exc_type: &Bound<'py, PyAny>,
        exc_val: &Bound<'py, PyAny>,
        exc_tb: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = (exc_type, exc_tb);
        Timeout::leave(this, exc_val)?;
        settled(this.py())
    }

    /// The time is over: cancels the task.
    fn _on_timeout(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let task = this.get().state.with(py, |state| {
            state.task.as_ref().filter(|_| state.stage == Stage::Active).map(|it| it.clone_ref(py))
        });
        let Some(task) = task else { return Ok(()) };
        task.bind(py).call_method0(intern!(py, "cancel"))?;
        let alarm = this.get().state.with(py, |state| {
            state.stage = Stage::Expiring;
            std::mem::take(&mut state.alarm)
        });
        drop(alarm);
        Ok(())
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let py = this.py();
        let stage = this.get().stage(py);
        let mut shown = format!("<Timeout [{}]", stage.word());
        if stage == Stage::Active {
            let when = match this.get().when(py) {
                Some(when) => py.import("builtins")?.getattr("round")?.call1((when, 3))?,
                None => py.None().into_bound(py),
            };
            shown.push_str(&format!(" when={}", when.str()?));
        }
        shown.push('>');
        Ok(shown)
    }

    /// `asyncio.Timeout`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).timeout.clone_ref(py)
    }

    #[getter]
    fn _task(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.task.as_ref().map(|it| it.clone_ref(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .peek(|state| {
                visit.call(&state.when)?;
                visit.call(&state.task)?;
                match &state.alarm {
                    Alarm::Set(event_loop, _) => visit.call(event_loop),
                    Alarm::Handle(handle) => visit.call(handle),
                    Alarm::None | Alarm::Due => Ok(()),
                }
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.state.with(py, std::mem::take)));
    }
}
