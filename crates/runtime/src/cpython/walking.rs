//! Whether `faulthandler` can walk the frames of the thread that its signal interrupted.
//!
//! It is made for threads that crashed or stand still, and reads what is not there in one that the
//! signal caught on its way:
//! - entering the interpreter, CPython 3.11 and 3.12 link a `_PyCFrame` a few instructions before
//!   they fill it in: its frame is then whatever the C stack held before;
//! - CPython 3.13 marks where C entered by a frame without code. `faulthandler` steps over such a
//!   frame when it follows one of Python; it reads its code where it is the innermost, or follows
//!   another. Both are so while a function that C called drops its locals: for an instant each
//!   time, and for long when a finalizer among them blocks.
//!
//! Either ends the process with SIGSEGV. So the signal comes here first. All that `faulthandler`
//! would follow is read beforehand by a system call, which refuses an address that is none. While
//! the thread is in the handler its frames do not change, so what was read is what will be.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;

use super::version::layout::{
    CODE, COUNT_FILLS_WORD, ENTRY, INNERMOST, INSTRUCTION, INSTRUCTIONS, OWNER, PREVIOUS, TAG,
};

/// What `faulthandler` installed for the signal.
static DUMP: AtomicUsize = AtomicUsize::new(0);
/// How many questions could not be answered where the thread was.
static DECLINED: AtomicU32 = AtomicU32::new(0);

/// More frames than `faulthandler` writes.
const MOST_FRAMES: usize = 256;
const WORD: usize = size_of::<usize>();

/// How many questions were declined so far, by all threads.
pub fn declined() -> u32 {
    DECLINED.load(Ordering::Relaxed)
}

/// Puts the look at the frames before what `faulthandler` does on `signal`. `faulthandler` must be
/// registered for it.
///
/// # Errors
/// `RuntimeError` if the frames of this interpreter are not laid out as expected or the system lets
/// nobody read them, `OSError` if the signal is not to be had.
pub fn guard(py: Python<'_>, signal: c_int) -> PyResult<()> {
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
    // SAFETY: a handler has to leave `errno` as it found it; this is where the thread has it.
    // `DUMP` is what `sigaction` gave, a function that takes the number of the signal and may be
    // called in a handler; zero and one are "default" and "ignore".
    unsafe {
        let error = *libc::__errno_location();
        if !can_be_walked() {
            DECLINED.fetch_add(1, Ordering::Relaxed);
        } else if dump > 1 {
            std::mem::transmute::<usize, extern "C" fn(c_int)>(dump)(signal);
        }
        *libc::__errno_location() = error;
    }
}

/// What stands at an address, which may be none.
fn read<const WORDS: usize>(address: usize) -> Option<[usize; WORDS]> {
    let mut words = [0; WORDS];
    let size = size_of_val(&words);
    let local = libc::iovec { iov_base: words.as_mut_ptr().cast::<c_void>(), iov_len: size };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: size };
    // SAFETY: the kernel writes `size` bytes into `words`, or fewer, and answers a bad address with
    // an error. The call may be made in a handler of signals.
    let copied = unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    (usize::try_from(copied) == Ok(size)).then_some(words)
}

/// A frame, as far as it is looked at.
struct Frame {
    code: usize,
    previous: usize,
    instruction: usize,
    owner: u8,
}

impl Frame {
    fn read(address: usize) -> Option<Self> {
        let words = read::<10>(address)?;
        Some(Self {
            code: words[CODE / WORD] & !TAG,
            previous: words[PREVIOUS / WORD],
            instruction: words[INSTRUCTION / WORD],
            owner: words[OWNER / WORD].to_ne_bytes()[OWNER % WORD],
        })
    }
}

/// A code object, as far as `faulthandler` reads it. The fields are where they are in all versions.
struct Code {
    units: usize,
    filename: usize,
    name: usize,
    lines: usize,
}

impl Code {
    /// The size of a unit of instructions.
    const UNIT: usize = 2;

    fn read(address: usize) -> Option<Self> {
        let words = read::<18>(address)?;
        let code = Self { units: words[2], filename: words[14], name: words[15], lines: words[17] };
        is_object(&words, &raw const ffi::PyCode_Type).then_some(code)
    }

    /// Whether what it points at is what it should be, and the instruction is one of its own.
    fn is_whole(&self, address: usize, instruction: usize) -> bool {
        let first = address.wrapping_add(INSTRUCTIONS);
        // A frame that was not entered yet is at the unit before the first.
        let unit = instruction.wrapping_sub(first).wrapping_add(Self::UNIT) / Self::UNIT;
        unit <= self.units
            && points_at(self.filename, &raw const ffi::PyUnicode_Type)
            && points_at(self.name, &raw const ffi::PyUnicode_Type)
            && points_at(self.lines, &raw const ffi::PyBytes_Type)
    }
}

/// Whether an object that is alive begins with these words. In one that was freed, the link to the
/// next free block is where the count of references was.
fn is_object(words: &[usize], kind: *const ffi::PyTypeObject) -> bool {
    let count = words[0];
    words[1] == kind.addr() && u32::try_from(count).map_or(!COUNT_FILLS_WORD, |count| count > 0)
}

fn points_at(address: usize, kind: *const ffi::PyTypeObject) -> bool {
    read::<2>(address).is_some_and(|words| is_object(&words, kind))
}

/// The innermost frame of this thread: zero if it is none of Python's, None if nobody can tell.
fn innermost() -> Option<usize> {
    // SAFETY: asks for a value of the thread's own, as `faulthandler` does in its handler.
    let state = unsafe { ffi::PyGILState_GetThisThreadState() };
    if state.is_null() {
        return Some(0);
    }
    INNERMOST.iter().try_fold(state.addr(), |address, offset| {
        read::<1>(address.wrapping_add(*offset)).map(|words| words[0])
    })
}

/// Whether all that `faulthandler` would read is there.
fn can_be_walked() -> bool {
    let Some(mut address) = innermost() else { return false };
    let mut after_entry = true;
    for _ in 0..MOST_FRAMES {
        if address == 0 {
            break;
        }
        let Some(frame) = Frame::read(address) else { return false };
        let is_entry = frame.owner >= ENTRY;
        let readable = if is_entry {
            !after_entry
        } else {
            Code::read(frame.code).is_some_and(|code| code.is_whole(frame.code, frame.instruction))
        };
        if !readable {
            return false;
        }
        (after_entry, address) = (is_entry, frame.previous);
    }
    true
}

/// Whether this thread's innermost frame is where we look, and what Python says of it.
fn frames_are_known(py: Python<'_>) -> PyResult<bool> {
    let frame = py.import("sys")?.call_method0("_getframe")?;
    let code = frame.getattr("f_code")?;
    let instruction: usize = frame.getattr("f_lasti")?.extract()?;
    let Some(found) = innermost().and_then(Frame::read) else { return Ok(false) };
    let Some(read) = Code::read(found.code) else { return Ok(false) };
    let address = code.as_ptr().addr();
    Ok(found.owner < ENTRY
        && found.code == address
        && found.instruction == address + INSTRUCTIONS + instruction
        && read.filename == code.getattr("co_filename")?.as_ptr().addr()
        && read.name == code.getattr("co_name")?.as_ptr().addr()
        && can_be_walked())
}
