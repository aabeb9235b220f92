//! Whether `faulthandler` can walk the frames of the thread that its signal interrupted.
//!
//! CPython 3.13 (only that one) marks where C entered the interpreter by a frame without code. Its
//! `faulthandler` steps over such a frame when it follows one of Python; where it is the innermost,
//! or follows another, it reads the code that is not there, and the process dies of SIGSEGV. Both
//! are so while a function that C called drops its locals: for an instant each time, and for long
//! when a finalizer among them blocks. So the signal comes here first.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;

use super::version::{CURRENT_FRAME, DUMPS_ENTRY_FRAMES};

/// What `faulthandler` installed for the signal.
static DUMP: AtomicUsize = AtomicUsize::new(0);
/// How many questions could not be answered where the thread was.
static DECLINED: AtomicU32 = AtomicU32::new(0);

/// More frames than `faulthandler` writes.
const MOST_FRAMES: usize = 256;
/// `FRAME_OWNED_BY_CSTACK`.
const ENTRY: u8 = 3;

/// `_PyInterpreterFrame` of CPython 3.13, as far as it is looked at.
#[repr(C)]
struct Frame {
    code: *const ffi::PyObject,
    previous: *const Frame,
    objects: [usize; 6],
    stack_top: c_int,
    return_offset: u16,
    owner: u8,
}

/// How many questions were declined so far, by all threads.
pub fn declined() -> u32 {
    DECLINED.load(Ordering::Relaxed)
}

/// Puts the look at the frames before what `faulthandler` does on `signal`, where that is needed.
/// `faulthandler` must be registered for it.
///
/// # Errors
/// `RuntimeError` if the frames of this interpreter are not laid out as expected, `OSError` if the
/// signal is not to be had.
pub fn guard(py: Python<'_>, signal: c_int) -> PyResult<()> {
    if !DUMPS_ENTRY_FRAMES {
        return Ok(());
    }
    if !frames_are_known(py)? {
        return Err(PyRuntimeError::new_err("the frames of this interpreter are not known"));
    }
    // SAFETY: `sigaction` fills in what it is given, and zero is a valid value of each of its
    // fields. What is installed is what was there with another function in it, which takes the
    // same arguments: `faulthandler` asks for no more than the number.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0
            || action.sa_flags & libc::SA_SIGINFO != 0
        {
            return Err(PyOSError::new_err("the watchdog's signal is somebody else's"));
        }
        let ours = answer as extern "C" fn(c_int) as usize;
        if action.sa_sigaction != ours {
            DUMP.store(action.sa_sigaction, Ordering::Relaxed);
            action.sa_sigaction = ours;
            if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(PyOSError::new_err("the watchdog's signal cannot be caught"));
            }
        }
    }
    Ok(())
}

extern "C" fn answer(signal: c_int) {
    let dump = DUMP.load(Ordering::Relaxed);
    // SAFETY: the frames are this thread's, which stands still in this handler; their layout was
    // verified. `DUMP` is what `sigaction` gave, a function that takes the number of the signal
    // and may be called in a handler; zero and one are "default" and "ignore".
    unsafe {
        if !innermost().is_none_or(|frame| can_be_walked(frame)) {
            DECLINED.fetch_add(1, Ordering::Relaxed);
        } else if dump > 1 {
            std::mem::transmute::<usize, extern "C" fn(c_int)>(dump)(signal);
        }
    }
}

/// The innermost frame of this thread; None if it is none of Python's.
///
/// # Safety
/// The interpreter must be one whose thread states have the frame at `CURRENT_FRAME`.
unsafe fn innermost() -> Option<*const Frame> {
    // SAFETY: asks for a value of the thread's own, as `faulthandler` does in its handler.
    let state = unsafe { ffi::PyGILState_GetThisThreadState() };
    // SAFETY: a thread state that is not null is alive, and has the pointer there.
    (!state.is_null())
        .then(|| unsafe { state.cast::<*const Frame>().byte_add(CURRENT_FRAME).read() })
}

/// # Safety
/// The frame must be null or one of a thread that stands still.
unsafe fn can_be_walked(mut frame: *const Frame) -> bool {
    let mut after_entry = true;
    for _ in 0..MOST_FRAMES {
        if frame.is_null() {
            break;
        }
        // SAFETY: each frame stays where it is while the frames that it called do.
        let (owner, previous) = unsafe { ((*frame).owner, (*frame).previous) };
        if owner == ENTRY && after_entry {
            return false;
        }
        (after_entry, frame) = (owner == ENTRY, previous);
    }
    true
}

/// Whether this thread's innermost frame is where we look, and what Python says of it.
fn frames_are_known(py: Python<'_>) -> PyResult<bool> {
    let code = py.import("sys")?.call_method0("_getframe")?.getattr("f_code")?;
    // SAFETY: the thread is attached, so that it has a state, and Python code called us, so that
    // it has a frame. The offset is fixed for all releases of a version.
    unsafe {
        let Some(frame) = innermost().filter(|frame| !frame.is_null()) else { return Ok(false) };
        Ok((*frame).code == code.as_ptr().cast_const() && (*frame).owner < ENTRY)
    }
}
