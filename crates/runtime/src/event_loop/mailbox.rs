//! What other threads post to a loop.

use crate::blocking::Finished;

/// One item of a loop's mailbox.
pub enum Posted {
    /// A worker finished a blocking call.
    Finish(Finished),
}
