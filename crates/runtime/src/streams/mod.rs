//! Streams: `await reader.read()` over any transport, without Python between socket and reader.
//!
//! Semantics and messages are those of `Lib/asyncio/streams.py` of the newest CPython, on every
//! Python. What joins a transport to its reader is `protocols::stream_reader`; opening connections
//! and servers and what awaits
//! is Python's (`python/aioxide/streams.py`).

pub mod reader;
pub mod reading;
pub mod separators;
pub mod serving;
mod unread;
pub mod writer;
