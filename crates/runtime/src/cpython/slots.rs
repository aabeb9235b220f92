//! Type slots that PyO3 cannot fill: `tp_finalize` (PEP 442) and `am_send`/`tp_iternext`.
//!
//! Called once, when the module is built, before any instance exists. A class says what it wants
//! by implementing [`Finalize`] or [`Resume`]; this file alone knows how the slots work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::PyTypeInfo;
use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::PyClass;

use super::cell::GilCell;

/// A class with something to say when its instance dies, such as "exception never retrieved".
pub trait Finalize: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync {
    /// Whether `finalize` has anything to do: asked first, because it is cheap.
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool;
    /// Runs with the object alive once more (`object.__del__`, PEP 442).
    fn finalize(this: &Bound<'_, Self>);
    /// Where PyO3's own `tp_dealloc` of this class is kept.
    fn original_dealloc() -> &'static AtomicUsize;
}

/// A class that can be driven like a coroutine, without raising `StopIteration`.
pub trait Resume: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync {
    /// What `send(None)` and `__next__` do.
    fn resume<'py>(this: &Bound<'py, Self>) -> super::coroutine::Outcome<'py>;
}

/// Gives `T` a finalizer.
pub fn install_finalizer<T: Finalize + PyTypeInfo>(py: Python<'_>) {
    let class = T::type_object_raw(py);
    // SAFETY: a heap type of ours, complete, with no instance yet and no other thread aware of it;
    // PyO3 always sets `tp_dealloc`.
    unsafe {
        if let Some(original) = (*class).tp_dealloc {
            T::original_dealloc().store(original as usize, Ordering::Relaxed);
            (*class).tp_dealloc = Some(dealloc::<T>);
            (*class).tp_finalize = Some(finalize::<T>);
        }
    }
}

/// Makes `T` resumable at C speed.
pub fn install_resume<T: Resume + PyTypeInfo>(py: Python<'_>) {
    let class = T::type_object_raw(py);
    // SAFETY: as above; the type was made by `PyType_FromSpec`, so it is a PyHeapTypeObject and
    // its `as_async` is the table that `tp_as_async` is meant to name.
    unsafe {
        let heap_type = class.cast::<ffi::PyHeapTypeObject>();
        (*heap_type).as_async.am_send = Some(am_send::<T>);
        (*class).tp_as_async = &raw mut (*heap_type).as_async;
        (*class).tp_iternext = Some(iternext::<T>);
        ffi::PyType_Modified(class);
    }
}

/// Makes instances of `T` awaitables that are done: each is its own iterator, and has ended with
/// None, at the cost of no call of PyO3's.
pub fn install_ended<T: PyClass + PyTypeInfo>(py: Python<'_>) {
    let class = T::type_object_raw(py);
    // SAFETY: as for `install_resume`.
    unsafe {
        let heap_type = class.cast::<ffi::PyHeapTypeObject>();
        (*heap_type).as_async.am_await = Some(itself);
        (*heap_type).as_async.am_send = Some(send_none);
        (*class).tp_as_async = &raw mut (*heap_type).as_async;
        (*class).tp_iternext = Some(no_more);
        ffi::PyType_Modified(class);
    }
}

unsafe extern "C" fn itself(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live object; the answer is a new reference to it.
    unsafe { ffi::Py_NewRef(object) }
}

/// NULL without an exception is an iterator's end, which gives None to `await`.
unsafe extern "C" fn no_more(_object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    std::ptr::null_mut()
}

unsafe extern "C" fn send_none(
    _object: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: `result` is where the interpreter wants a new reference.
    unsafe { *result = ffi::Py_NewRef(ffi::Py_None()) };
    ffi::PySendResult::PYGEN_RETURN
}

/// How many bytes the collector keeps in front of an object (`sizeof(PyGC_Head)`).
static COLLECTOR_HEAD: AtomicUsize = AtomicUsize::new(0);

/// Allocates instances of `T` itself (not of subclasses) outside of the collector's books: they
/// are never on its lists, and making them brings no collection nearer. For classes whose owner
/// shows their references on their behalf (`Handle`).
///
/// # Errors
/// What `sys.getsizeof` raises, which it does not for a list.
pub fn install_plain_allocation<T: PyClass + PyTypeInfo>(py: Python<'_>) -> PyResult<()> {
    // Every object with collector support has the same head, and `sys.getsizeof` counts it.
    let list = pyo3::types::PyList::empty(py);
    let whole: usize = py.import("sys")?.call_method1("getsizeof", (&list,))?.extract()?;
    let own: usize = list.call_method0("__sizeof__")?.extract()?;
    COLLECTOR_HEAD.store(whole.saturating_sub(own), Ordering::Relaxed);
    let class = T::type_object_raw(py);
    // SAFETY: a complete heap type of ours without instances; Python subclasses get allocation
    // functions of their own from `type`.
    unsafe {
        (*class).tp_alloc = Some(alloc_plain);
        (*class).tp_free = Some(free_plain);
    }
    Ok(())
}

/// Memory of instances that died, for the next ones of the same size: `(bytes, addresses)`.
static SPARE: GilCell<[(usize, Vec<usize>); 2]> = GilCell::new([(0, Vec::new()), (0, Vec::new())]);

/// How many are kept of a size: a burst, in one mebibyte at most.
const SPARES: usize = 8192;

unsafe extern "C" fn alloc_plain(
    class: *mut ffi::PyTypeObject,
    _items: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    let head = COLLECTOR_HEAD.load(Ordering::Relaxed);
    // SAFETY: zeroed memory for the head and the instance, as large as asked for: spare memory is
    // kept by size. A zeroed head means "untracked", which is what `PyObject_GC_UnTrack` finds
    // when the instance dies. The interpreter calls, so this thread is attached.
    unsafe {
        let size = head + (*class).tp_basicsize as usize;
        let spare = SPARE.with(Python::assume_attached(), |pools| {
            pools.iter_mut().find(|pool| pool.0 == size)?.1.pop()
        });
        let memory = match spare {
            Some(address) => {
                let memory = address as *mut u8;
                memory.write_bytes(0, size);
                memory
            }
            None => ffi::PyObject_Calloc(1, size).cast::<u8>(),
        };
        if memory.is_null() {
            return ffi::PyErr_NoMemory();
        }
        ffi::PyObject_Init(memory.add(head).cast(), class)
    }
}

unsafe extern "C" fn free_plain(object: *mut std::ffi::c_void) {
    let head = COLLECTOR_HEAD.load(Ordering::Relaxed);
    // SAFETY: `object` came from `alloc_plain`, `head` bytes into its memory, and still names its
    // class, which PyO3 lets go of after this call.
    unsafe {
        let size = head + (*ffi::Py_TYPE(object.cast())).tp_basicsize as usize;
        let memory = object.cast::<u8>().sub(head);
        let kept = SPARE.with(Python::assume_attached(), |pools| {
            let Some(pool) = pools.iter_mut().find(|pool| pool.0 == size || pool.0 == 0) else {
                return false;
            };
            pool.0 = size;
            let room = pool.1.len() < SPARES;
            if room {
                pool.1.push(memory as usize);
            }
            room
        });
        if !kept {
            ffi::PyObject_Free(memory.cast());
        }
    }
}

unsafe extern "C" fn dealloc<T: Finalize>(object: *mut ffi::PyObject) {
    // SAFETY: `object` is an instance of T whose count is zero; `Borrowed` does not touch the
    // count. The saved pointer was a `destructor` when it was stored.
    unsafe {
        let py = Python::assume_attached();
        let wanted = T::wants_finalizer(&Borrowed::from_ptr(py, object).cast_unchecked::<T>());
        if wanted && ffi::PyObject_CallFinalizerFromDealloc(object) < 0 {
            return; // Somebody took a new reference: the object lives on.
        }
        let original = T::original_dealloc().load(Ordering::Relaxed);
        let original: ffi::destructor = std::mem::transmute::<usize, ffi::destructor>(original);
        original(object);
    }
}

unsafe extern "C" fn finalize<T: Finalize>(object: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter with a live instance of T; an exception that is being
    // raised meanwhile is kept aside, as tp_finalize demands.
    unsafe {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            // Nobody can be told any more once the interpreter has begun to take itself apart.
            Python::try_attach(|py| {
                let raised = PyErr::take(py);
                let this = Bound::from_borrowed_ptr(py, object).cast_into_unchecked::<T>();
                if T::wants_finalizer(&this) {
                    T::finalize(&this);
                }
                if let Some(error) = raised {
                    error.restore(py);
                }
            });
        }));
    }
}

unsafe extern "C" fn am_send<T: Resume>(
    object: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: called by the interpreter with a live instance of T and a place for the result.
    unsafe {
        match guarded_resume::<T>(object) {
            Resumed::Next(value) => {
                *result = value;
                ffi::PySendResult::PYGEN_NEXT
            }
            Resumed::Return(value) => {
                *result = value;
                ffi::PySendResult::PYGEN_RETURN
            }
            Resumed::Error => {
                *result = std::ptr::null_mut();
                ffi::PySendResult::PYGEN_ERROR
            }
        }
    }
}

unsafe extern "C" fn iternext<T: Resume>(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with a live instance of T; the returned value is a new
    // reference, or NULL with StopIteration set (or implied, when the value is None).
    unsafe {
        match guarded_resume::<T>(object) {
            Resumed::Next(value) => value,
            Resumed::Return(value) => {
                if value != ffi::Py_None() {
                    set_stop_iteration(value);
                }
                ffi::Py_DECREF(value);
                std::ptr::null_mut()
            }
            Resumed::Error => std::ptr::null_mut(),
        }
    }
}

enum Resumed {
    Next(*mut ffi::PyObject),
    Return(*mut ffi::PyObject),
    Error,
}

/// `T::resume`, its answer as raw references; a panic becomes a `SystemError`.
unsafe fn guarded_resume<T: Resume>(object: *mut ffi::PyObject) -> Resumed {
    use super::coroutine::Outcome;
    // SAFETY: the interpreter calls, so this thread is attached. Asking PyO3 would cost as much
    // as the rest of this function, and panics while the interpreter takes itself apart.
    let py = unsafe { Python::assume_attached() };
    let answer = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller passes a live instance of T.
        let this = unsafe { Borrowed::from_ptr(py, object).cast_unchecked::<T>() };
        T::resume(&this)
    }));
    match answer {
        Ok(Outcome::Yielded(value)) => Resumed::Next(value.into_ptr()),
        Ok(Outcome::Returned(value)) => Resumed::Return(value.into_ptr()),
        Ok(Outcome::Raised(error)) => {
            error.restore(py);
            Resumed::Error
        }
        Err(_) => {
            PySystemError::new_err("a panic while an awaitable was resumed").restore(py);
            Resumed::Error
        }
    }
}

/// `raise StopIteration(value)`, taking care that a tuple or an exception stays one argument.
unsafe fn set_stop_iteration(value: *mut ffi::PyObject) {
    // SAFETY: `value` is a live object; `PyErr_SetObject` treats tuples and exceptions as
    // argument lists and instances, so those are wrapped first (`_PyGen_SetStopIterationValue`).
    unsafe {
        let class = ffi::PyExc_StopIteration;
        if ffi::PyTuple_Check(value) == 0 && ffi::PyExceptionInstance_Check(value) == 0 {
            ffi::PyErr_SetObject(class, value);
            return;
        }
        let exception = ffi::PyObject_CallOneArg(class, value);
        if !exception.is_null() {
            ffi::PyErr_SetObject(class, exception);
            ffi::Py_DECREF(exception);
        }
    }
}
