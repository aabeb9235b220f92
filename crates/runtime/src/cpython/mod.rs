//! The locked room: all `unsafe` towards Python, and everything that differs between Pythons.
//!
//! Its doors are safe functions, each named for what it does; no `unsafe fn` leaves the room.
//!
//! | door | promises |
//! |---|---|
//! | [`cell::GilCell`] | state that is touched only by a thread that is attached |
//! | [`context`] | copy a `contextvars.Context`, run code inside one |
//! | [`coroutine`] | resume a coroutine without raising `StopIteration` |
//! | [`calls`] | call Python objects by vectorcall, arguments in place |
//! | [`collector`] | when a handle is shown to the garbage collector |
//! | [`slots`] | finalizers and `am_send` for classes PyO3 cannot give them |
//! | [`buffers`] | lend a Python buffer to a system call |
//! | [`descriptor`] | descriptors that Python hands over or lends |
//! | [`detached`] | wait in the kernel without the interpreter |
//! | [`openssl`] | drive `ssl.MemoryBIO` and `ssl.SSLObject` with memory of ours |
//! | [`frames`] | lines of Python code: who calls, where an exception was caught |
//! | [`stacks`] | where a thread is, asked without the interpreter |
//! | [`imports`] | every Python object we need, imported once |
//! | [`instances`] | what an instance carries, and which line of Python made it |
//! | [`walking`] | keep `faulthandler` from frames that it cannot read |
//! | [`version`] | every `cfg(Py_3_xx)`: same signature on every Python |

pub mod buffers;
pub mod calls;
pub mod cell;
pub mod collector;
pub mod context;
pub mod coroutine;
pub mod descriptor;
pub mod detached;
pub mod frames;
pub mod imports;
pub mod instances;
pub mod openssl;
pub mod slots;
pub mod stacks;
pub mod version;
mod walking;
