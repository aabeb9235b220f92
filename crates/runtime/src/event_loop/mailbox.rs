//! What other threads post to a loop.

use crate::futures::delivery::Delivery;

/// One item of a loop's mailbox.
pub enum Posted {
    /// A worker finished a blocking call.
    Finish(Delivery),
}
