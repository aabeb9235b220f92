//! `Items`: what a queue holds, and in which order it is handed out.
//!
//! Ours as long as nobody looks; `_queue` shows them as asyncio keeps them (a deque, or a list),
//! and that object is used from then on: subclasses and programs change it. Priority queues begin
//! there, since only Python can compare their items.

use std::collections::VecDeque;

use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3::{PyTraverseError, intern};

use crate::cpython::calls;
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;

/// Which item comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The oldest.
    First,
    /// The newest.
    Last,
    /// The smallest.
    Smallest,
}

enum Store {
    Ours(VecDeque<Py<PyAny>>),
    Shown(Py<PyAny>),
}

/// What a queue holds.
pub struct Items {
    store: GilCell<Store>,
    order: Order,
}

impl Items {
    /// Nothing yet.
    pub fn new(order: Order) -> Self {
        Items { store: GilCell::new(Store::Ours(VecDeque::new())), order }
    }

    /// Asks our own store; `Err` is the object that was shown.
    #[inline]
    fn ask<R>(
        &self,
        py: Python<'_>,
        ask: impl FnOnce(&mut VecDeque<Py<PyAny>>) -> R,
    ) -> Result<R, Py<PyAny>> {
        self.store.with(py, |store| match store {
            Store::Ours(items) => Ok(ask(items)),
            Store::Shown(items) => Err(items.clone_ref(py)),
        })
    }

    /// `Queue._init`: begins anew.
    pub fn reset(&self, py: Python<'_>) {
        let fresh = match self.order {
            Order::Smallest => Store::Shown(PyList::empty(py).into_any().unbind()),
            Order::First | Order::Last => Store::Ours(VecDeque::new()),
        };
        let old = self.store.with(py, |store| std::mem::replace(store, fresh));
        drop(old);
    }

    /// How many items there are.
    #[inline]
    pub fn count(&self, py: Python<'_>) -> PyResult<usize> {
        match self.ask(py, |items| items.len()) {
            Ok(count) => Ok(count),
            Err(shown) => shown.bind(py).len(),
        }
    }

    /// `not self._queue`.
    #[inline]
    pub fn is_empty(&self, py: Python<'_>) -> PyResult<bool> {
        match self.ask(py, |items| items.is_empty()) {
            Ok(empty) => Ok(empty),
            Err(shown) => Ok(!shown.bind(py).is_truthy()?),
        }
    }

    /// `Queue._put`.
    #[inline]
    pub fn put(&self, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = item.py();
        match self.ask(py, |items| items.push_back(item.clone().unbind())) {
            Ok(()) => Ok(()),
            Err(shown) if self.order == Order::Smallest => {
                imports(py).heap_push.bind(py).call1((shown, item)).map(drop)
            }
            Err(shown) => calls::method1(shown.bind(py), intern!(py, "append"), item).map(drop),
        }
    }

    /// `Queue._get`; of an empty queue, IndexError.
    #[inline]
    pub fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let last = self.order == Order::Last;
        match self.ask(py, |items| if last { items.pop_back() } else { items.pop_front() }) {
            Ok(Some(item)) => Ok(item.into_bound(py)),
            Ok(None) => Err(pyo3::exceptions::PyIndexError::new_err("pop from an empty queue")),
            Err(shown) => match self.order {
                Order::First => calls::method0(shown.bind(py), intern!(py, "popleft")),
                Order::Last => calls::method0(shown.bind(py), intern!(py, "pop")),
                Order::Smallest => imports(py).heap_pop.bind(py).call1((shown,)),
            },
        }
    }

    /// A list of them, in the order they are kept.
    pub fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        match self.ask(py, |items| items.iter().map(|it| it.clone_ref(py)).collect::<Vec<_>>()) {
            Ok(copy) => PyList::new(py, copy),
            Err(shown) => {
                PyList::new(py, shown.bind(py).try_iter()?.collect::<PyResult<Vec<_>>>()?)
            }
        }
    }

    /// The object that holds the items (`_queue`): made when somebody looks, used from then on.
    pub fn show<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let copy = match self
            .ask(py, |items| items.iter().map(|item| item.clone_ref(py)).collect::<Vec<_>>())
        {
            Err(shown) => return Ok(shown.into_bound(py)),
            Ok(copy) => copy,
        };
        let shown = match self.order {
            Order::First => imports(py).deque.bind(py).call1((copy,))?,
            Order::Last | Order::Smallest => PyList::new(py, copy)?.into_any(),
        };
        self.replace(&shown);
        Ok(shown)
    }

    /// Puts another object in the place of the one that holds the items.
    pub fn replace(&self, items: &Bound<'_, PyAny>) {
        let shown = Store::Shown(items.clone().unbind());
        let old = self.store.with(items.py(), |store| std::mem::replace(store, shown));
        drop(old);
    }

    /// Shows them to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.store
            .peek(|store| match store {
                Store::Ours(items) => items.iter().try_for_each(|item| visit.call(item)),
                Store::Shown(items) => visit.call(items),
            })
            .unwrap_or(Ok(()))
    }

    /// Forgets them, for the collector.
    pub fn clear(&self, py: Python<'_>) {
        let empty = Store::Ours(VecDeque::new());
        let old = self.store.with(py, |store| std::mem::replace(store, empty));
        drop(old);
    }
}
