//! `Queue`, `LifoQueue`, `PriorityQueue`: items passed between tasks (`asyncio.queues`).
//!
//! Semantics and messages are those of the newest CPython, on every Python, `shutdown` included.
//! This file is the classes as Python sees them; what a put and a get do is in [`passing`], what a
//! queue holds in [`items`].

pub mod items;
pub mod passing;

use pyo3::exceptions::PyTypeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyTuple, PyType};
use pyo3::{PyTraverseError, intern};

use self::items::{Items, Order};
use self::passing::{By, Side};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::futures::Future;
use crate::locks::LoopBound;
use crate::locks::event::Event;
use crate::locks::waiters::Waiters;

static NOTHING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// `_aioxide.NOTHING`: says that there is no item, and is none.
pub fn nothing(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let nothing = NOTHING.get_or_try_init(py, || {
        Ok::<_, PyErr>(py.import("builtins")?.getattr("object")?.call0()?.unbind())
    })?;
    Ok(nothing.bind(py).clone())
}

/// The numbers of a queue.
#[derive(Default)]
struct QueueState {
    /// What the program gave; None is 0.
    maxsize: Option<Py<PyAny>>,
    /// How many items make it full; 0 is no limit.
    limit: usize,
    unfinished: i64,
    /// What `join` waits for: made when somebody asks.
    finished: Option<Py<Event>>,
    shut: bool,
}

/// Items passed between tasks, in the order they came (`asyncio.Queue`).
///
/// Queue(maxsize=0): holds any number of items, or `maxsize` of them if that is above 0.
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide", name = "Queue")]
pub struct Queue {
    bound: LoopBound,
    items: Items,
    getters: Waiters,
    putters: Waiters,
    state: GilCell<QueueState>,
}

/// From how many items on a queue of this size is full; 0 is never.
fn limit_of(maxsize: &Bound<'_, PyAny>) -> PyResult<usize> {
    if let Ok(size) = maxsize.extract::<i64>() {
        return Ok(usize::try_from(size).unwrap_or(0));
    }
    let size = match maxsize.cast::<PyFloat>() {
        Ok(size) => size.value(),
        Err(_) => maxsize.extract::<f64>().map_err(|_| {
            PyTypeError::new_err(format!(
                "the maxsize of a queue is a number, not {}",
                crate::errors::repr(maxsize)
            ))
        })?,
    };
    // Infinity, and whatever is beyond all memory, saturates.
    Ok(if size > 0.0 { size.ceil() as usize } else { 0 })
}

impl Queue {
    fn make(py: Python<'_>, order: Order) -> Self {
        let items = Items::new(order);
        items.reset(py);
        Queue {
            bound: LoopBound::made_here(py),
            items,
            getters: Waiters::default(),
            putters: Waiters::default(),
            state: GilCell::default(),
        }
    }

    #[inline]
    fn line(&self, side: Side) -> &Waiters {
        match side {
            Side::Getters => &self.getters,
            Side::Putters => &self.putters,
        }
    }

    #[inline]
    fn is_full(&self, py: Python<'_>) -> PyResult<bool> {
        let limit = self.state.with(py, |state| state.limit);
        Ok(limit > 0 && self.items.count(py)? >= limit)
    }

    #[inline]
    fn is_shut(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.shut)
    }

    #[inline]
    fn unfinished(&self, py: Python<'_>) -> i64 {
        self.state.with(py, |state| state.unfinished)
    }

    /// One more is to be done.
    #[inline]
    fn count_put(&self, py: Python<'_>) {
        let finished = self.state.with(py, |state| {
            state.unfinished += 1;
            state.finished.as_ref().map(|event| event.clone_ref(py))
        });
        if let Some(finished) = finished {
            finished.bind(py).get().clear(py);
        }
    }

    /// One less is to be done: so many are left. None when none was.
    fn count_done(&self, py: Python<'_>) -> Option<i64> {
        self.state.with(py, |state| {
            if state.unfinished <= 0 {
                return None;
            }
            state.unfinished -= 1;
            Some(state.unfinished)
        })
    }

    fn finished_if_asked(&self, py: Python<'_>) -> Option<Py<Event>> {
        self.state.with(py, |state| state.finished.as_ref().map(|event| event.clone_ref(py)))
    }

    /// `_finished`: set while nothing is left to be done.
    fn finished<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Event>> {
        if let Some(event) = self.finished_if_asked(py) {
            return Ok(event.into_bound(py));
        }
        let event = Event::make(py, self.unfinished(py) == 0)?;
        self.state.with(py, |state| state.finished = Some(event.clone().unbind()));
        Ok(event)
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "(maxsize=0)")]
    fn new(args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Queue::make(args.py(), Order::First)
    }

    #[pyo3(signature = (maxsize = None))]
    fn __init__(this: &Bound<'_, Self>, maxsize: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = this.py();
        if let Some(maxsize) = maxsize {
            this.get().set_maxsize(maxsize)?;
        }
        // What `new` made of one that is exactly ours is right already.
        if By::of(this) == By::Name {
            this.call_method1(intern!(py, "_init"), (this.get().maxsize(py),))?;
        }
        Ok(())
    }

    /// `put` up to its next `await`: None when the item is put, otherwise the Future to wait for.
    fn _begin_put<'py>(
        this: &Bound<'py, Self>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Future>>> {
        passing::begin_put(this, item)
    }

    /// Puts an item at once; QueueFull when there is no free slot, QueueShutDown when the queue was
    /// shut down.
    fn put_nowait(this: &Bound<'_, Self>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        By::of(this).put_now(this, item)
    }

    /// `get` up to its next `await`: the item, or NOTHING.
    fn _begin_get<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        match passing::begin_get(this)? {
            Some(item) => Ok(item),
            None => nothing(this.py()),
        }
    }

    /// The Future that `get` waits for.
    fn _line_up_to_get<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, Future>> {
        passing::line_up(this, Side::Getters)
    }

    /// `put` after its `await` raised `error`.
    fn _give_up_to_put(
        this: &Bound<'_, Self>,
        waiter: &Bound<'_, Future>,
        error: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        passing::give_up(this, Side::Putters, waiter, error)
    }

    /// `get` after its `await` raised `error`.
    fn _give_up_to_get(
        this: &Bound<'_, Self>,
        waiter: &Bound<'_, Future>,
        error: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        passing::give_up(this, Side::Getters, waiter, error)
    }

    /// Takes an item at once; QueueEmpty when there is none, QueueShutDown when there will be none.
    fn get_nowait<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        By::of(this).get_now(this)
    }

    /// Says that the work on an item that was taken is done. ValueError when it is said of more
    /// items than were put.
    fn task_done(this: &Bound<'_, Self>) -> PyResult<()> {
        passing::task_done(this)
    }

    /// Ends the queue: `put` raises QueueShutDown from now on, and `get` once the queue is empty;
    /// with `immediate` the items that are left are dropped, and count as done.
    #[pyo3(signature = (immediate = false))]
    fn shutdown(this: &Bound<'_, Self>, immediate: bool) -> PyResult<()> {
        passing::shut(this, immediate)
    }

    /// How many items there are.
    fn qsize(&self, py: Python<'_>) -> PyResult<usize> {
        self.items.count(py)
    }

    /// Whether there is no item.
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        self.items.is_empty(py)
    }

    /// Whether there are `maxsize` items; never when that is 0 or less.
    fn full(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        if By::of(this) == By::Us {
            return this.get().is_full(py);
        }
        let limit = this.get().state.with(py, |state| state.limit);
        Ok(limit > 0 && this.call_method0(intern!(py, "qsize"))?.ge(this.get().maxsize(py))?)
    }

    /// How many items make the queue full; any number if it is 0 or less.
    #[getter]
    fn maxsize(&self, py: Python<'_>) -> Py<PyAny> {
        let given = self.state.with(py, |state| state.maxsize.as_ref().map(|it| it.clone_ref(py)));
        given.unwrap_or_else(|| pyo3::types::PyInt::new(py, 0).into_any().unbind())
    }

    #[getter(_maxsize)]
    fn own_maxsize(&self, py: Python<'_>) -> Py<PyAny> {
        self.maxsize(py)
    }

    #[setter(_maxsize)]
    fn set_maxsize(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let limit = limit_of(value)?;
        let old = self.state.with(value.py(), |state| {
            state.limit = limit;
            state.maxsize.replace(value.clone().unbind())
        });
        drop(old);
        Ok(())
    }

    /// Makes what holds the items; for subclasses, as the next two.
    fn _init(&self, maxsize: &Bound<'_, PyAny>) {
        self.items.reset(maxsize.py());
    }

    fn _put(&self, item: &Bound<'_, PyAny>) -> PyResult<()> {
        self.items.put(item)
    }

    fn _get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.items.get(py)
    }

    #[staticmethod]
    fn _wakeup_next(waiters: &Bound<'_, PyAny>) -> PyResult<()> {
        passing::wake_next_in(waiters)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let name = this.get_type().name()?;
        let format = this.call_method0(intern!(this.py(), "_format"))?;
        Ok(format!("<{name} at {:#x} {format}>", this.as_ptr() as usize))
    }

    fn __str__(this: &Bound<'_, Self>) -> PyResult<String> {
        let name = this.get_type().name()?;
        Ok(format!("<{name} {}>", this.call_method0(intern!(this.py(), "_format"))?))
    }

    fn _format(this: &Bound<'_, Self>) -> PyResult<String> {
        let (py, own) = (this.py(), this.get());
        let mut text = format!("maxsize={}", own.maxsize(py).bind(py).repr()?);
        if !own.items.is_empty(py)? {
            let items = own.items.copy(py)?;
            text.push_str(&format!(" _queue={}", items.repr()?));
        }
        for (name, line) in [("_getters", &own.getters), ("_putters", &own.putters)] {
            match line.count(py)? {
                0 => {}
                count => text.push_str(&format!(" {name}[{count}]")),
            }
        }
        match own.unfinished(py) {
            0 => {}
            count => text.push_str(&format!(" tasks={count}")),
        }
        if own.is_shut(py) {
            text.push_str(" shutdown");
        }
        Ok(text)
    }

    #[classmethod]
    fn __class_getitem__(
        class: &Bound<'_, PyType>,
        item: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        Ok(imports(class.py()).generic_alias.bind(class.py()).call1((class, item))?.unbind())
    }

    /// `asyncio.Queue`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).queue.clone_ref(py)
    }

    #[getter]
    fn _queue<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.items.show(py)
    }

    #[setter(_queue)]
    fn set_items(&self, value: &Bound<'_, PyAny>) {
        self.items.replace(value);
    }

    #[getter]
    fn _getters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.getters.show(py)
    }

    #[setter(_getters)]
    fn set_getters(&self, value: &Bound<'_, PyAny>) {
        self.getters.replace(value);
    }

    #[getter]
    fn _putters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.putters.show(py)
    }

    #[setter(_putters)]
    fn set_putters(&self, value: &Bound<'_, PyAny>) {
        self.putters.replace(value);
    }

    #[getter]
    fn _unfinished_tasks(&self, py: Python<'_>) -> i64 {
        self.unfinished(py)
    }

    #[setter(_unfinished_tasks)]
    fn set_unfinished(&self, py: Python<'_>, value: i64) {
        self.state.with(py, |state| state.unfinished = value);
    }

    #[getter]
    fn _finished<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Event>> {
        self.finished(py)
    }

    #[getter]
    fn _is_shutdown(&self, py: Python<'_>) -> bool {
        self.is_shut(py)
    }

    #[setter(_is_shutdown)]
    fn set_shut(&self, py: Python<'_>, value: bool) {
        self.state.with(py, |state| state.shut = value);
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.bound.any(py)
    }

    #[setter(_loop)]
    fn set_loop(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.bound.set(value)
    }

    /// The loop that runs, which is the queue's from then on; RuntimeError when it has another.
    fn _get_loop(this: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Ok(this.get().bound.enter(this.as_any())?.into_any(this.py()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.bound.traverse(&visit)?;
        self.items.traverse(&visit)?;
        self.getters.traverse(&visit)?;
        self.putters.traverse(&visit)?;
        self.state
            .peek(|state| {
                visit.call(&state.maxsize)?;
                visit.call(&state.finished)
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            self.bound.clear(py);
            self.items.clear(py);
            self.getters.clear(py);
            self.putters.clear(py);
            let old = self.state.with(py, |state| (state.maxsize.take(), state.finished.take()));
            drop(old);
        });
    }
}

/// A queue that hands out the newest item first (`asyncio.LifoQueue`).
#[pyclass(frozen, extends = Queue, subclass, module = "aioxide", name = "LifoQueue")]
pub struct LifoQueue;

#[pymethods]
impl LifoQueue {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "(maxsize=0)")]
    fn new(
        args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Queue::make(args.py(), Order::Last)).add_subclass(LifoQueue)
    }

    /// `asyncio.LifoQueue`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).lifo_queue.clone_ref(py)
    }
}

/// A queue that hands out the smallest item first (`asyncio.PriorityQueue`).
///
/// Items are compared with `<`; tuples of a number and something that is comparable are usual.
#[pyclass(frozen, extends = Queue, subclass, module = "aioxide", name = "PriorityQueue")]
pub struct PriorityQueue;

#[pymethods]
impl PriorityQueue {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "(maxsize=0)")]
    fn new(
        args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Queue::make(args.py(), Order::Smallest))
            .add_subclass(PriorityQueue)
    }

    /// `asyncio.PriorityQueue`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).priority_queue.clone_ref(py)
    }
}
