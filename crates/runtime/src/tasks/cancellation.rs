//! Who cancelled a task, when and why, and whether the task took notice: `Task.cancel_info`.
//!
//! Called by `Task.cancel` and by the step that raises `CancelledError` in the coroutine. It only
//! takes notes; what a cancellation does is in [`super::step`].

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::Task;
use crate::cpython::frames::{self, Site};
use crate::cpython::imports::report_imports;
use crate::event_loop::clock;
use crate::event_loop::home::Home;

/// How many requests of one task are kept: the first ones and the last.
const KEPT: usize = 8;

/// Where a request came from. One `cancel()` may reach a whole chain of tasks.
pub struct Origin {
    by: Option<Py<PyAny>>,
    when: u64,
    site: Option<Site>,
}

struct Request {
    origin: Origin,
    message: Option<Py<PyAny>>,
    caught: Option<Site>,
    swallowed: bool,
}

/// What is remembered of a task beside its state; most tasks have none of it.
#[derive(Default)]
pub struct Records {
    /// Where the task was made, if its loop wants to know.
    pub created: Option<Site>,
    requests: Vec<Request>,
}

impl Records {
    /// Those of a task that was made there.
    pub fn created_at(created: Option<Site>) -> Self {
        Records { created, requests: Vec::new() }
    }

    /// Shows every Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let requests = self.requests.iter();
        requests.clone().try_for_each(|request| {
            visit.call(&request.origin.by)?;
            visit.call(&request.message)
        })?;
        let sites = requests.flat_map(|it| [it.origin.site.as_ref(), it.caught.as_ref()]);
        sites.chain([self.created.as_ref()]).flatten().try_for_each(|site| site.traverse(visit))
    }
}

impl Origin {
    /// Who asks: the task that runs, and the line of code.
    pub fn here(task: &Bound<'_, Task>) -> Self {
        let py = task.py();
        let by =
            current(task).and_then(|current| current.call_method0(intern!(py, "get_name")).ok());
        Origin { by: by.map(Bound::unbind), when: clock::nanoseconds(), site: frames::caller(py) }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        Origin {
            by: self.by.as_ref().map(|by| by.clone_ref(py)),
            when: self.when,
            site: self.site.as_ref().map(|site| site.clone_ref(py)),
        }
    }
}

/// The task that runs on the loop of `task`.
fn current<'py>(task: &Bound<'py, Task>) -> Option<Bound<'py, PyAny>> {
    let py = task.py();
    match task.as_super().get().home(py).ok()? {
        Home::Native(event_loop) => event_loop.get().stepping(event_loop.bind(py)),
        Home::Foreign(_) => None,
    }
}

/// Notes a request; `cancel_requests` is counted by the caller.
pub fn note(task: &Bound<'_, Task>, origin: &Origin, message: Option<&Py<PyAny>>) {
    let py = task.py();
    let request = Request {
        origin: origin.clone_ref(py),
        message: message.map(|message| message.clone_ref(py)),
        caught: None,
        swallowed: false,
    };
    let surplus = task.get().state.with(py, |state| {
        let requests = &mut state.records.get_or_insert_default().requests;
        let surplus = (requests.len() == KEPT).then(|| requests.remove(KEPT / 2));
        requests.push(request);
        surplus
    });
    drop(surplus);
    if let Ok(Home::Native(event_loop)) = task.as_super().get().home(py) {
        event_loop.get().state.with(py, |state| state.tally.cancellations += 1);
    }
}

/// `CancelledError` was raised in the coroutine, which did not end with it. Clean-up that waits
/// looks the same as a task that does not listen: the loop looks again later.
#[cold]
pub fn note_caught(task: &Bound<'_, Task>, error: &Bound<'_, PyAny>, goes_on: bool) {
    let py = task.py();
    let asked = task.get().state.with(py, |state| {
        let is_recorded = state.records.as_ref().is_some_and(|it| !it.requests.is_empty());
        state.cancel_requests > 0 && is_recorded
    });
    if !asked {
        // What was awaited was cancelled, or whoever asked has taken the request back.
        return;
    }
    let site = frames::caught_at(error);
    let old = task.get().state.with(py, |state| {
        let request = state.records.as_mut().and_then(|it| it.requests.last_mut());
        request.and_then(|request| std::mem::replace(&mut request.caught, site))
    });
    drop(old);
    let Ok(Home::Native(event_loop)) = task.as_super().get().home(py) else { return };
    event_loop.get().state.with(py, |state| state.tally.cancellations_caught += 1);
    if goes_on
        && let Err(error) = event_loop.bind(py).call_method1(intern!(py, "_note_refusal"), (task,))
    {
        // The step goes on: a note is no reason to lose a task.
        error.write_unraisable(py, Some(task.as_any()));
    }
}

/// The task ended, or has gone on for long, as if nobody had cancelled it. Whether that is news.
pub fn note_swallowed(task: &Bound<'_, Task>) -> bool {
    let py = task.py();
    let is_news = task.get().state.with(py, |state| {
        if state.cancel_requests == 0 {
            return false;
        }
        let last = state.records.as_mut().and_then(|records| records.requests.last_mut());
        last.is_some_and(|it| it.caught.is_some() && !std::mem::replace(&mut it.swallowed, true))
    });
    if is_news && let Ok(Home::Native(event_loop)) = task.as_super().get().home(py) {
        event_loop.get().state.with(py, |state| state.tally.cancellations_swallowed += 1);
    }
    is_news
}

/// `Task.cancel_info()`.
pub fn requests<'py>(task: &Bound<'py, Task>) -> PyResult<Bound<'py, PyList>> {
    let py = task.py();
    let copies: Vec<Request> = task.get().state.with(py, |state| {
        let requests = state.records.as_ref().map_or(&[][..], |records| &records.requests);
        let copy = |request: &Request| Request {
            origin: request.origin.clone_ref(py),
            message: request.message.as_ref().map(|message| message.clone_ref(py)),
            caught: request.caught.as_ref().map(|site| site.clone_ref(py)),
            swallowed: request.swallowed,
        };
        requests.iter().map(copy).collect()
    });
    let list = PyList::empty(py);
    let class = report_imports(py)?.cancel_request.bind(py);
    for request in copies {
        let origin = request.origin;
        list.append(class.call1((
            origin.by,
            clock::as_seconds(origin.when),
            request.message,
            described(py, origin.site.as_ref())?,
            described(py, request.caught.as_ref())?,
            request.swallowed,
        ))?)?;
    }
    Ok(list)
}

/// A site as Python shows it, or None.
pub fn described<'py>(py: Python<'py>, site: Option<&Site>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(site) = site else { return Ok(None) };
    report_imports(py)?.site.bind(py).call1(site.describe(py)?).map(Some)
}
