//! Transports: one open descriptor each, and what waits to be sent on it.

pub mod address;
pub mod listener;
pub mod stream;
