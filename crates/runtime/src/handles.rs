//! `Handle` and `TimerHandle`: what `call_soon` and `call_later` give back.
//!
//! They behave as `asyncio.Handle` and `asyncio.TimerHandle` do, and `isinstance` says so.
//!
//! While only its loop holds it, a handle is on no list of the garbage collector: a burst of
//! `call_soon` would otherwise spend a quarter of its time in collections. The loop shows what
//! such a handle refers to on its behalf ([`Handle::traverse_owned`]); a handle that somebody else
//! still holds when it has run or was cancelled is shown itself from then on.

use engine::timers::TimerId;
use pyo3::PyTraverseError;
use pyo3::basic::CompareOp;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyFloat, PyTuple};

use crate::cpython::cell::GilCell;
use crate::cpython::context;
use crate::cpython::imports::imports;
use crate::cpython::{calls, collector, version};
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::callback::Timer;
use crate::event_loop::clock::{self, When};
use crate::event_loop::home::Home;
use crate::event_loop::schedule;

/// What a callback runs in.
pub enum HandleContext {
    /// A copy of this, made when it runs (or when somebody asks for it).
    Snapshot(Py<PyContext>),
    /// This very context.
    Own(Py<PyContext>),
}

impl HandleContext {
    fn object(&self) -> &Py<PyContext> {
        match self {
            HandleContext::Snapshot(context) | HandleContext::Own(context) => context,
        }
    }
}

/// A callback and everything it needs; `callback` is None once cancelled.
#[derive(Default)]
struct HandleState {
    callback: Option<Py<PyAny>>,
    args: Option<Py<PyTuple>>,
    context: Option<HandleContext>,
    home: Option<Home>,
    cancelled: bool,
    debug: Option<Box<DebugState>>,
}

/// What only debug mode knows of a handle.
struct DebugState {
    /// Where it was made.
    source_traceback: Py<PyAny>,
    /// Its representation, taken when it was cancelled.
    remembered: Option<String>,
}

/// A callback that will run; `cancel()` prevents it (`asyncio.Handle`).
#[pyclass(subclass, weakref, frozen, module = "aioxide", name = "Handle")]
pub struct Handle {
    state: GilCell<HandleState>,
}

impl Handle {
    fn build(
        py: Python<'_>,
        home: Home,
        callback: Py<PyAny>,
        args: Option<Py<PyTuple>>,
        context: HandleContext,
        debug: bool,
    ) -> PyResult<Self> {
        let debug = if debug {
            let source_traceback = errors::extract_stack(py)?;
            Some(Box::new(DebugState { source_traceback, remembered: None }))
        } else {
            None
        };
        Ok(Handle {
            state: GilCell::new(HandleState {
                callback: Some(callback),
                args,
                context: Some(context),
                home: Some(home),
                cancelled: false,
                debug,
            }),
        })
    }

    /// A handle of one of our loops; `debug` records where it was made.
    #[inline]
    pub fn new(
        py: Python<'_>,
        event_loop: &Bound<'_, BaseEventLoop>,
        callback: Py<PyAny>,
        args: Option<Py<PyTuple>>,
        context: HandleContext,
        debug: bool,
    ) -> PyResult<Py<Self>> {
        let home = Home::Native(event_loop.clone().unbind());
        Py::new(py, Handle::build(py, home, callback, args, context, debug)?)
    }

    /// Runs the callback in its context; a cancelled handle does nothing.
    pub fn run(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let parts = this.get().state.with(py, |state| {
            let callback = state.callback.as_ref()?.clone_ref(py);
            Some((callback, state.args.as_ref().map(|args| args.clone_ref(py))))
        });
        let Some((callback, args)) = parts else { return Ok(()) };
        let Some(context) = this.get().own_context(py)? else { return Ok(()) };
        context::run_in(context.bind(py), || {
            calls::call(callback.bind(py), args.as_ref().map(|args| args.bind(py))).map(drop)
        })?
    }

    /// As [`Handle::run`], for the last time: the callback is given up, unless it failed and is
    /// about to be reported.
    #[inline]
    pub fn run_once(this: &Bound<'_, Self>, event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let py = this.py();
        let parts = this.get().state.with(py, |state| {
            let context = state.context.take()?;
            Some((state.callback.take()?, state.args.take(), context))
        });
        let Some((callback, args, context)) = parts else { return Ok(()) };
        // Bound objects are dropped without asking again whether this thread is attached.
        let callback = callback.into_bound(py);
        let args = args.map(|args| args.into_bound(py));
        let context = match context {
            HandleContext::Own(own) => own.into_bound(py),
            HandleContext::Snapshot(shared) => runner(event_loop, shared.into_bound(py))?,
        };
        this.get()
            .state
            .with(py, |state| state.context = Some(HandleContext::Own(context.clone().unbind())));
        let outcome = context::run_in(&context, || calls::call(&callback, args.as_ref()).map(drop));
        collector::show_if_shared(this);
        match outcome.flatten() {
            Ok(()) => Ok(()),
            Err(error) => {
                this.get().state.with(py, |state| {
                    state.callback = Some(callback.unbind());
                    state.args = args.map(Bound::unbind);
                });
                Err(error)
            }
        }
    }

    /// The context the callback runs in: from now on this very one.
    fn own_context(&self, py: Python<'_>) -> PyResult<Option<Py<PyContext>>> {
        enum Known {
            Own(Py<PyContext>),
            Snapshot(Py<PyContext>),
        }
        let known = self.state.with(py, |state| match state.context.as_ref()? {
            HandleContext::Own(own) => Some(Known::Own(own.clone_ref(py))),
            HandleContext::Snapshot(shared) => Some(Known::Snapshot(shared.clone_ref(py))),
        });
        match known {
            None => Ok(None),
            Some(Known::Own(own)) => Ok(Some(own)),
            Some(Known::Snapshot(shared)) => {
                let own = context::copy(shared.bind(py))?;
                let old = self
                    .state
                    .with(py, |state| state.context.replace(HandleContext::Own(own.clone_ref(py))));
                drop(old);
                Ok(Some(own))
            }
        }
    }

    /// Shows the collector what a waiting handle refers to, on behalf of the loop that owns it.
    /// A handle that somebody else holds as well is left out: it may be alive through them.
    pub fn traverse_owned(this: &Py<Self>, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if collector::is_shown(this) {
            return visit.call(this);
        }
        if collector::is_shared(this) { Ok(()) } else { this.get().visit_references(visit) }
    }

    fn visit_references(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .peek(|state| {
                visit.call(&state.callback)?;
                visit.call(&state.args)?;
                if let Some(context) = &state.context {
                    visit.call(context.object())?;
                }
                if let Some(debug) = &state.debug {
                    visit.call(&debug.source_traceback)?;
                }
                state.home.as_ref().map_or(Ok(()), |home| home.traverse(visit))
            })
            .unwrap_or(Ok(()))
    }

    /// Whether `cancel()` was called.
    pub fn is_cancelled(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.cancelled)
    }

    /// Marks it cancelled and frees callback and arguments; False when it was cancelled before.
    fn drop_callback(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        collector::show(this);
        let (was, home) = this.get().state.with(py, |state| {
            let was = std::mem::replace(&mut state.cancelled, true);
            (was, state.home.as_ref().map(|home| home.clone_ref(py)))
        });
        if was {
            return Ok(false);
        }
        if let Some(home) = home
            && home.is_debug(py)?
        {
            // Keeps the representation readable in debug mode, as asyncio does.
            let text = this.repr()?.to_string_lossy().into_owned();
            this.get().state.with(py, |state| {
                if let Some(debug) = &mut state.debug {
                    debug.remembered = Some(text);
                }
            });
        }
        let freed = this.get().state.with(py, |state| (state.callback.take(), state.args.take()));
        if let Some(callback) = freed.0 {
            drop(callback.into_bound(py));
        }
        drop(freed.1);
        Ok(true)
    }

    fn describe(this: &Bound<'_, Self>, when: Option<When>) -> PyResult<String> {
        let py = this.py();
        let (remembered, cancelled, callback, args, source) = this.get().state.with(py, |state| {
            (
                state.debug.as_ref().and_then(|debug| debug.remembered.clone()),
                state.cancelled,
                state.callback.as_ref().map(|it| it.clone_ref(py)),
                state.args.as_ref().map(|it| it.clone_ref(py)),
                state.debug.as_ref().map(|debug| debug.source_traceback.clone_ref(py)),
            )
        });
        if let Some(text) = remembered {
            return Ok(text);
        }
        let mut parts = vec![this.get_type().name()?.to_string_lossy().into_owned()];
        if cancelled {
            parts.push("cancelled".to_owned());
        }
        if let Some(when) = when {
            parts.push(format!("when={}", errors::repr(&when.object(py)?)));
        }
        if let Some(callback) = callback {
            parts.push(callback_source(py, callback.bind(py), args, source.is_some())?);
        }
        if let Some(source) = source {
            let frame = source.bind(py).get_item(-1)?;
            let (file, line) = (frame.get_item(0)?.str()?, frame.get_item(1)?.str()?);
            parts.push(format!("created at {file}:{line}"));
        }
        Ok(format!("<{}>", parts.join(" ")))
    }

    /// The callback and its arguments, as asyncio words them in reports.
    pub fn callback_source(this: &Bound<'_, Self>) -> PyResult<String> {
        let py = this.py();
        let (callback, args, debug) = this.get().state.with(py, |state| {
            (
                state.callback.as_ref().map_or_else(|| py.None(), |it| it.clone_ref(py)),
                state.args.as_ref().map(|it| it.clone_ref(py)),
                state.debug.is_some(),
            )
        });
        callback_source(py, callback.bind(py), args, debug)
    }
}

/// A context with the values of a snapshot that nobody else is in or looks at.
#[inline]
fn runner<'py>(
    event_loop: &Bound<'py, BaseEventLoop>,
    snapshot: Bound<'py, PyContext>,
) -> PyResult<Bound<'py, PyContext>> {
    let py = event_loop.py();
    let free = event_loop.get().state.with(py, |state| state.snapshots.runner(&snapshot));
    if let Some(free) = free {
        return Ok(free);
    }
    let fresh = context::copy(&snapshot)?;
    let old =
        event_loop.get().state.with(py, |state| state.snapshots.keep_runner(fresh.clone_ref(py)));
    drop(old);
    Ok(fresh.into_bound(py))
}

fn callback_source(
    py: Python<'_>,
    callback: &Bound<'_, PyAny>,
    args: Option<Py<PyTuple>>,
    debug: bool,
) -> PyResult<String> {
    let args = args.unwrap_or_else(|| PyTuple::empty(py).unbind());
    version::format_callback(callback, args.bind(py), debug)
}

#[pymethods]
impl Handle {
    #[new]
    #[pyo3(signature = (callback, args, r#loop, context = None))]
    fn py_new(
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyAny>,
        r#loop: &Bound<'_, PyAny>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Self> {
        let py = callback.py();
        let context = HandleContext::Own(schedule::context_or_current(py, context)?);
        let args = schedule::arguments(
            &args
                .try_iter()?
                .collect::<PyResult<Vec<_>>>()
                .and_then(|items| PyTuple::new(py, items))?,
        );
        let home = Home::of(py, Some(r#loop))?;
        let debug = home.is_debug(py)?;
        Handle::build(py, home, callback.clone().unbind(), args, context, debug)
    }

    /// Prevents the callback from running; does nothing when it ran or was cancelled already.
    fn cancel(this: &Bound<'_, Self>) -> PyResult<()> {
        Handle::drop_callback(this).map(drop)
    }

    /// True when `cancel()` was called.
    fn cancelled(&self, py: Python<'_>) -> bool {
        self.is_cancelled(py)
    }

    /// The `contextvars.Context` the callback runs in.
    fn get_context(&self, py: Python<'_>) -> PyResult<Option<Py<PyContext>>> {
        self.own_context(py)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        Handle::describe(this, None)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.visit_references(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.state.with(py, std::mem::take)));
    }

    fn _run(this: &Bound<'_, Self>) -> PyResult<()> {
        crate::event_loop::report::run_handle(this)
    }

    /// `asyncio.Handle`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).handle.clone_ref(py)
    }

    #[getter]
    fn _callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.callback.as_ref().map(|it| it.clone_ref(py)))
    }

    #[getter]
    fn _args(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        let (cancelled, args) = self
            .state
            .with(py, |state| (state.cancelled, state.args.as_ref().map(|it| it.clone_ref(py))));
        args.or_else(|| (!cancelled).then(|| PyTuple::empty(py).unbind()))
    }

    #[getter]
    fn _context(&self, py: Python<'_>) -> PyResult<Option<Py<PyContext>>> {
        self.own_context(py)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let home = self.state.with(py, |state| state.home.as_ref().map(|it| it.clone_ref(py)));
        home.map(|home| home.into_any(py))
    }

    #[getter]
    fn _cancelled(&self, py: Python<'_>) -> bool {
        self.cancelled(py)
    }

    #[getter]
    fn _source_traceback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| {
            state.debug.as_ref().map(|debug| debug.source_traceback.clone_ref(py))
        })
    }
}

/// A callback that will run at a time of the loop's clock (`asyncio.TimerHandle`).
#[pyclass(extends = Handle, subclass, frozen, module = "aioxide", name = "TimerHandle")]
pub struct TimerHandle {
    when: When,
    entry: GilCell<Option<TimerId>>,
}

impl TimerHandle {
    /// Puts a new timer into the loop's queue.
    pub fn schedule(
        event_loop: &Bound<'_, BaseEventLoop>,
        when: When,
        callback: Py<PyAny>,
        args: Option<Py<PyTuple>>,
        context: HandleContext,
        debug: bool,
    ) -> PyResult<Py<Self>> {
        let py = event_loop.py();
        let home = Home::Native(event_loop.clone().unbind());
        let handle = Handle::build(py, home, callback, args, context, debug)?;
        let timer = TimerHandle { when, entry: GilCell::new(None) };
        let timer = Py::new(py, PyClassInitializer::from(handle).add_subclass(timer))?;
        let entry = Timer::Call(timer.clone_ref(py));
        let instant = clock::instant(when.seconds);
        let id = event_loop.get().state.with(py, |state| state.timers.insert(instant, entry));
        timer.get().entry.with(py, |entry| *entry = Some(id));
        Ok(timer)
    }

    /// As [`Handle::traverse_owned`].
    pub fn traverse_owned(this: &Py<Self>, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if collector::is_shown(this) {
            return visit.call(this);
        }
        let handle = collector::base(this);
        if collector::is_shared(this) { Ok(()) } else { handle.visit_references(visit) }
    }

    /// The loop took it out of its queue, to run it.
    pub fn mark_due(&self, py: Python<'_>) {
        self.entry.with(py, |entry| *entry = None);
    }
}

#[pymethods]
impl TimerHandle {
    #[new]
    #[pyo3(signature = (when, callback, args, r#loop, context = None))]
    fn py_new(
        when: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyAny>,
        r#loop: &Bound<'_, PyAny>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let handle = Handle::py_new(callback, args, r#loop, context)?;
        let when = When::given(when, "when cannot be None")?;
        let timer = TimerHandle { when, entry: GilCell::new(None) };
        Ok(PyClassInitializer::from(handle).add_subclass(timer))
    }

    /// When the callback runs, in seconds of `loop.time()`.
    fn when<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.when.object(py)
    }

    fn cancel(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        Handle::drop_callback(this.as_super())?;
        let Some(id) = this.get().entry.with(py, Option::take) else { return Ok(()) };
        let home = this
            .as_super()
            .get()
            .state
            .with(py, |state| state.home.as_ref().map(|h| h.clone_ref(py)));
        if let Some(Home::Native(event_loop)) = home {
            drop(event_loop.get().state.with(py, |state| state.timers.cancel(id)));
        }
        Ok(())
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        Handle::describe(this.as_super(), Some(this.get().when))
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        PyFloat::new(py, self.when.seconds).hash()
    }

    fn __richcmp__(
        this: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        operation: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        let py = this.py();
        let Ok(other) = other.cast::<TimerHandle>() else {
            return Ok(py.NotImplemented());
        };
        let (mine, theirs) = (this.get().when.seconds, other.get().when.seconds);
        let equal = || -> PyResult<bool> {
            let parts = |timer: &Bound<'_, TimerHandle>| {
                let handle = timer.as_super().get();
                (handle._callback(py), handle._args(py), handle.cancelled(py))
            };
            let (one, two) = (parts(this), parts(other));
            Ok(mine == theirs
                && one.2 == two.2
                && one.0.into_pyobject(py)?.eq(two.0)?
                && one.1.into_pyobject(py)?.eq(two.1)?)
        };
        let answer = match operation {
            CompareOp::Lt => mine < theirs,
            CompareOp::Gt => mine > theirs,
            CompareOp::Le => mine < theirs || equal()?,
            CompareOp::Ge => mine > theirs || equal()?,
            CompareOp::Eq => equal()?,
            CompareOp::Ne => !equal()?,
        };
        Ok(answer.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    /// `asyncio.TimerHandle`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).timer_handle.clone_ref(py)
    }

    #[getter]
    fn _when<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.when.object(py)
    }

    #[getter]
    fn _scheduled(&self, py: Python<'_>) -> bool {
        self.entry.with(py, |entry| entry.is_some())
    }
}
