//! TLS over any transport: records go through the program's own `ssl.SSLContext`.
//!
//! Two classes, as in `asyncio.sslproto`, whose behaviour and messages these follow: the
//! [`TlsProtocol`] is the protocol of the transport below and does everything; the
//! [`TlsTransport`] is what the program's protocol sees. Nothing here knows sockets, nor any
//! library of TLS but Python's `ssl`.

pub mod layer;
pub mod transport;

mod below;
mod closing;
mod framing;
mod handshake;
mod reading;
mod records;
mod state;
mod writing;

pub use layer::TlsProtocol;
pub use state::{Settings, Waiter};
pub use transport::TlsTransport;
