//! The engine: what is ready, what is due, and who else has something to say.
//! The runtime turns these seven parts into an event loop. Nothing here knows Python, calls back
//! into its caller or reads a clock: `now` is always an argument.

#![deny(unsafe_code)]

pub mod poller;
pub mod timers;

pub mod mailbox;
pub mod workers;

pub mod pulse;
pub mod read_buffer;
pub mod write_buffer;
