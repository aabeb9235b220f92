//! Executors: how a call on another thread becomes a Future, without a Python frame per call.
//!
//! [`job_queue`] is what the threads of the default executor take their work from; [`link`] joins
//! a `concurrent.futures.Future` of any executor to one of ours.

pub mod job_queue;
pub mod link;
