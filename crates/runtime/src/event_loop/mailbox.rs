//! What other threads post to a loop.

use pyo3::prelude::*;

use crate::blocking::Finished;
use crate::handles::Handle;

/// One item of a loop's mailbox.
pub enum Posted {
    /// `call_soon_threadsafe`.
    Call(Py<Handle>),
    /// A worker finished a blocking call.
    Finish(Finished),
}
