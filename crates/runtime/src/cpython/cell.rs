//! `GilCell`: state of a Python object, touched only while attached to the interpreter.
//!
//! Every class of the runtime is frozen and keeps its mutable part in one of these. Take what you
//! need inside the closure, let go, then call Python: a closure that re-enters its own cell panics
//! (and PyO3 turns the panic into a Python exception), because that is a breach of law 5.

use std::cell::{Cell, UnsafeCell};

use pyo3::Python;

/// What may be done with a cell. Zero is no value of it on purpose: CPython 3.11 shows an object
/// to the collector while its memory is still zeroed and its contents are yet to be written.
const CLOSED: u8 = 1;
const OPEN: u8 = 2;

/// A value that only an attached thread may open, one borrower at a time.
pub struct GilCell<T> {
    door: Cell<u8>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through `with` and `peek`; `with` demands the `Python` token,
// so at most one thread (the holder of the GIL: the extension declares `gil_used = true`) is
// inside, and its closures never give the GIL up because they run no Python code. `T: Send`
// because that thread changes over time.
unsafe impl<T: Send> Sync for GilCell<T> {}

/// Closes the cell again, also when the closure unwinds.
struct Closer<'a>(&'a Cell<u8>);

impl Drop for Closer<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.set(CLOSED);
    }
}

impl<T: Default> Default for GilCell<T> {
    fn default() -> Self {
        GilCell::new(T::default())
    }
}

impl<T> GilCell<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        GilCell { door: Cell::new(CLOSED), value: UnsafeCell::new(value) }
    }

    /// Runs `look` with the value. `look` must not call into Python, nor drop Python objects whose
    /// destructors could: it takes them out, and the caller drops them afterwards.
    #[inline]
    pub fn with<R>(&self, _py: Python<'_>, look: impl FnOnce(&mut T) -> R) -> R {
        if self.door.replace(OPEN) != CLOSED {
            re_entered();
        }
        let _closer = Closer(&self.door);
        // SAFETY: the cell was closed, so no other reference to the value exists, and the token
        // proves that this thread is the one that may look.
        look(unsafe { &mut *self.value.get() })
    }

    /// For `__traverse__`, which runs without a token: skips a cell that is open or not written.
    pub fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        if self.door.get() != CLOSED {
            return None;
        }
        // SAFETY: the collector runs with the GIL held and calls only visit functions, which
        // touch no cell; the cell is closed, so no exclusive reference is alive.
        Some(look(unsafe { &*self.value.get() }))
    }
}

#[cold]
#[inline(never)]
#[allow(clippy::panic)]
fn re_entered() -> ! {
    panic!("a GilCell was entered while it was open: let go of state before calling (law 5)")
}
