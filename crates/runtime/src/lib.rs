//! asyncio in Rust: the loop, its handles, futures and tasks, and its transports.
//!
//! Knows Python, knows no protocol by name. All `unsafe` and every difference between Python
//! versions live in [`cpython`], the locked room; the other modules are safe code.

#![deny(unsafe_code)]

pub mod children;
pub mod event_loop;
pub mod futures;
pub mod handles;
pub mod tasks;

pub mod locks;
pub mod queues;
pub mod settled;
pub mod streams;

pub mod protocols;
pub mod transports;

pub mod blocking;
pub mod errors;
pub mod executors;
pub mod watchdog;

#[allow(unsafe_code)]
pub mod cpython;

use pyo3::prelude::*;

/// Makes the classes ready for use; called once, when the module is built.
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    cpython::imports::load(py)?;
    cpython::context::examine_layout(py)?;
    cpython::slots::install_finalizer::<futures::Future>(py);
    cpython::slots::install_finalizer::<tasks::Task>(py);
    cpython::slots::install_finalizer::<tasks::gathering::Gathering>(py);
    cpython::slots::install_finalizer::<transports::datagram::DatagramTransport>(py);
    cpython::slots::install_finalizer::<transports::stream::StreamTransport>(py);
    cpython::slots::install_finalizer::<transports::pipe::ReadPipeTransport>(py);
    cpython::slots::install_finalizer::<transports::pipe::WritePipeTransport>(py);
    cpython::slots::install_finalizer::<transports::tls::TlsTransport>(py);
    cpython::slots::install_finalizer::<streams::writer::StreamWriter>(py);
    cpython::slots::install_plain_allocation::<handles::Handle>(py)?;
    cpython::slots::install_plain_allocation::<handles::TimerHandle>(py)?;
    cpython::slots::install_resume::<futures::awaiting::FutureIter>(py);
    cpython::slots::install_ended::<settled::Settled>(py);
    Ok(())
}
