//! `gather`: one future for the results of many (`asyncio.tasks.gather`).
//!
//! Semantics are those of the newest CPython, on every Python and on every loop. Children that are
//! coroutines become tasks of the loop; each child costs one entry of the ready queue when it ends.

use std::sync::atomic::AtomicUsize;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyValueError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::followers::{self, Ending, Follower};
use super::{Options, Task, cancel_awaited};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::slots::Finalize;
use crate::cpython::{calls, coroutine};
use crate::event_loop::BaseEventLoop;
use crate::event_loop::home::Home;
use crate::futures::{Future, Phase, completion};

#[derive(Default)]
struct GatheringState {
    /// One for each argument, in their order; the same future several times if it was given so.
    children: Vec<Py<PyAny>>,
    unfinished: usize,
    return_exceptions: bool,
    cancel_requested: bool,
    /// All arguments were taken. Until then, and if one was refused, children only lose their
    /// exceptions (`outer is None`).
    complete: bool,
}

/// The future that `gather` returns: cancelling it cancels the children.
#[pyclass(extends = Future, frozen, module = "aioxide", name = "_GatheringFuture")]
pub struct Gathering {
    state: GilCell<GatheringState>,
}

/// Returns a future of the list of the results of `coros_or_futures`, in their order.
///
/// Coroutines become tasks. The first exception is the future's, at once, and the other children
/// go on; with `return_exceptions=True` exceptions stand in the list like results. Cancelling the
/// future cancels every child that is not done. A future of another loop is a ValueError, what
/// cannot be awaited a TypeError.
#[pyfunction]
#[pyo3(
    signature = (*coros_or_futures, return_exceptions = None),
    text_signature = "(*coros_or_futures, return_exceptions=False)"
)]
pub fn gather<'py>(
    py: Python<'py>,
    coros_or_futures: &Bound<'py, PyTuple>,
    return_exceptions: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let return_exceptions = return_exceptions.map_or(Ok(false), |it| it.is_truthy())?;
    if coros_or_futures.is_empty() {
        let event_loop = imports(py).get_event_loop.bind(py).call0()?;
        let outer = event_loop.call_method0(intern!(py, "create_future"))?;
        outer.call_method1(intern!(py, "set_result"), (PyList::empty(py),))?;
        return Ok(outer);
    }
    Gathering::of(coros_or_futures, return_exceptions).map(Bound::into_any)
}

impl Gathering {
    fn of<'py>(
        arguments: &Bound<'py, PyTuple>,
        return_exceptions: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let py = arguments.py();
        let nursery = Nursery::new(py)?;
        let first = nursery.child(&arguments.get_item(0)?, None)?;
        let event_loop = match followers::native(&first) {
            Some(future) => future.get().home(py)?.into_any(py).into_bound(py),
            None => imports(py).future_loop.bind(py).call1((&first,))?,
        };
        let outer = Gathering::pending(&event_loop, return_exceptions)?;
        let known = PyDict::new(py);
        let mut done = Vec::new();
        for (place, argument) in arguments.iter_borrowed().enumerate() {
            if let Some(child) = known.get_item(argument)? {
                outer.get().state.with(py, |state| state.children.push(child.unbind()));
                continue;
            }
            let child = match place {
                0 => first.clone(),
                _ => nursery.child(&argument, Some(&event_loop))?,
            };
            known.set_item(argument, &child)?;
            outer.get().state.with(py, |state| {
                state.unfinished += 1;
                state.children.push(child.clone().unbind());
            });
            if followers::is_done(&child)? {
                done.push(child);
            } else {
                Follower::Gathering(outer.clone().unbind()).follow(&child)?;
            }
        }
        outer.get().state.with(py, |state| state.complete = true);
        done.iter().try_for_each(|child| Gathering::child_done(&outer, child))?;
        Ok(outer)
    }

    fn pending<'py>(
        event_loop: &Bound<'py, PyAny>,
        return_exceptions: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let py = event_loop.py();
        let future = Future::pending(py, Home::of(py, Some(event_loop))?)?;
        let state = GatheringState { return_exceptions, ..GatheringState::default() };
        let outer = Gathering { state: GilCell::new(state) };
        Bound::new(py, PyClassInitializer::from(future).add_subclass(outer))
    }

    /// A child is done: fails with its exception, or completes with the last of them.
    pub fn child_done(this: &Bound<'_, Self>, child: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        let outer = this.as_super();
        let (complete, returns, last) = this.get().state.with(py, |state| {
            state.unfinished = state.unfinished.saturating_sub(1);
            (state.complete, state.return_exceptions, state.unfinished == 0)
        });
        let ended = followers::ending(child)?;
        if !complete || outer.get().phase(py) != Phase::Pending {
            return Ok(());
        }
        match ended {
            Ending::Cancelled if !returns => {
                return completion::set_exception(outer, &cancelled_error(child)?);
            }
            Ending::Failed(error) if !returns => {
                return completion::set_exception(outer, error.bind(py));
            }
            _ => {}
        }
        if last { Gathering::finish(this) } else { Ok(()) }
    }

    fn finish(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let (children, cancelled) = this.get().state.with(py, |state| {
            let children: Vec<_> = state.children.iter().map(|it| it.clone_ref(py)).collect();
            (children, state.cancel_requested)
        });
        let mut results = Vec::with_capacity(children.len());
        for child in &children {
            results.push(outcome(child.bind(py))?);
        }
        match children.last().filter(|_| cancelled) {
            // Whoever asked for it is told, whatever `return_exceptions` says (bpo-32684).
            Some(last) => {
                completion::set_exception(this.as_super(), &cancelled_error(last.bind(py))?)
            }
            None => {
                let results = PyList::new(py, results)?.into_any().unbind();
                completion::set_result(this.as_super(), results)
            }
        }
    }
}

/// `child._make_cancelled_error()`.
fn cancelled_error<'py>(child: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = child.py();
    match followers::native(child) {
        Some(future) => Ok(completion::make_cancelled_error(&future)?.into_bound(py)),
        None => child.call_method0(intern!(py, "_make_cancelled_error")),
    }
}

/// What stands in the list of results for this child.
fn outcome(child: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let py = child.py();
    if let Some(future) = followers::native(child)
        && future.get().phase(py) == Phase::Finished
    {
        return Ok(match completion::take_outcome(&future) {
            Ok(result) => result,
            Err(exception) => exception,
        });
    }
    match followers::ending(child)? {
        Ending::Failed(error) => Ok(error),
        Ending::Succeeded => Ok(child.call_method0(intern!(py, "result"))?.unbind()),
        Ending::Cancelled => {
            let message = child.getattr(intern!(py, "_cancel_message"))?;
            let class = imports(py).cancelled_error.bind(py);
            let error =
                if message.is_none() { class.call1(("",))? } else { class.call1((message,))? };
            Ok(error.unbind())
        }
    }
}

/// Turns arguments into futures (`asyncio.ensure_future`). Coroutines become tasks without a call
/// into Python where nobody could tell: on a loop of ours that makes its tasks itself.
struct Nursery<'py> {
    py: Python<'py>,
    own: Option<Bound<'py, BaseEventLoop>>,
}

impl<'py> Nursery<'py> {
    fn new(py: Python<'py>) -> PyResult<Self> {
        let running = imports(py).get_running_loop.bind(py).call0()?;
        let own = match running.cast_into::<BaseEventLoop>() {
            Ok(own) if BaseEventLoop::makes_plain_tasks(&own)? => Some(own),
            _ => None,
        };
        Ok(Nursery { py, own })
    }

    fn child(
        &self,
        argument: &Bound<'py, PyAny>,
        event_loop: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        if coroutine::is_native(argument)
            && let Some(own) = self.own.as_ref()
            && event_loop.is_none_or(|it| it.is(own))
        {
            let home = Home::Native(own.clone().unbind());
            let task = match Task::create(py, home, argument, Options::default()) {
                Ok(task) => task,
                Err(error) => {
                    argument.call_method0(intern!(py, "close"))?;
                    return Err(error);
                }
            };
            // The caller cannot reach the task, so a report of it when it is destroyed would be
            // of no use to him.
            task.get().state.with(py, |state| state.log_destroy_pending = false);
            return Ok(task.into_any());
        }
        if let Some(future) = followers::native(argument) {
            if let Some(event_loop) = event_loop
                && !future.get().home(py)?.any(py).is(event_loop)
            {
                return Err(PyValueError::new_err(
                    "The future belongs to a different loop than the one specified as the loop \
                     argument",
                ));
            }
            return Ok(argument.clone());
        }
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "loop"), event_loop)?;
        let child = imports(py).ensure_future.bind(py).call((argument,), Some(&keywords))?;
        if !child.is(argument) {
            child.setattr(intern!(py, "_log_destroy_pending"), false)?;
        }
        Ok(child)
    }
}

#[pymethods]
impl Gathering {
    /// Cancels every child that is not done; False when there was none.
    #[pyo3(signature = (msg = None))]
    fn cancel(this: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = this.py();
        if this.as_super().get().phase(py) != Phase::Pending {
            return Ok(false);
        }
        let children: Vec<_> = this
            .get()
            .state
            .with(py, |state| state.children.iter().map(|it| it.clone_ref(py)).collect());
        let mut any = false;
        for child in children {
            any |= cancel_awaited(child.bind(py), msg.as_ref())?;
        }
        if any {
            this.get().state.with(py, |state| state.cancel_requested = true);
        }
        Ok(any)
    }

    #[getter]
    fn _children<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let children: Vec<_> =
            self.state.with(py, |state| state.children.iter().map(|it| it.clone_ref(py)).collect());
        PyList::new(py, children)
    }

    #[getter]
    fn _cancel_requested(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.cancel_requested)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .peek(|state| state.children.iter().try_for_each(|child| visit.call(child)))
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.state.with(py, |state| std::mem::take(&mut state.children))));
    }
}

static ORIGINAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for Gathering {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        Future::wants_finalizer(this.as_super())
    }

    fn finalize(this: &Bound<'_, Self>) {
        completion::report_unretrieved(this.as_super());
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &ORIGINAL_DEALLOC
    }
}

impl BaseEventLoop {
    /// Whether `create_task` of this loop is the loop's own, and no factory makes its tasks.
    pub fn makes_plain_tasks(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        let by_factory = this.get().state.with(py, |state| state.task_factory.is_some());
        if by_factory {
            return Ok(false);
        }
        Ok(calls::is_own_method(&this.getattr(intern!(py, "create_task"))?, this.as_any()))
    }
}
