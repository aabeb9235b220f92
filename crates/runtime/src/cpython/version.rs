//! Every `cfg(Py_3_xx)` of the project: functions with the same signature on every Python.
//!
//! How asyncio is told which task runs: 3.11-3.13 keep a dict that anybody may write
//! (`_current_tasks`); 3.14 moved it into the thread state, behind `_swap_current_task`.

use pyo3::prelude::*;
#[cfg(not(Py_3_14))]
use pyo3::types::PyDict;

use super::imports::imports;

/// Where the interpreter has what `walking` looks at, in bytes. It is compared with what Python
/// says before it is relied on, so a release that differs costs the stacks and nothing else.
pub mod layout {
    /// From a `PyThreadState` to the pointer at its innermost frame: one offset, or through a
    /// `_PyCFrame`, two.
    pub const INNERMOST: &[usize] = if cfg!(Py_3_14) {
        &[64]
    } else if cfg!(Py_3_13) {
        &[72]
    } else if cfg!(Py_3_12) {
        &[56, 0]
    } else {
        &[56, 8]
    };

    /// From a `_PyInterpreterFrame` to its code.
    pub const CODE: usize = if cfg!(Py_3_12) { 0 } else { 32 };
    /// To the frame that called it.
    pub const PREVIOUS: usize = if cfg!(Py_3_12) { 8 } else { 48 };
    /// To the instruction that it is at.
    pub const INSTRUCTION: usize = 56;
    /// To who owns it, one byte.
    pub const OWNER: usize = if cfg!(Py_3_14) {
        74
    } else if cfg!(Py_3_12) {
        70
    } else {
        69
    };

    /// From a code object to its first instruction.
    pub const INSTRUCTIONS: usize = if cfg!(Py_3_14) {
        208
    } else if cfg!(Py_3_13) {
        200
    } else if cfg!(Py_3_12) {
        192
    } else {
        184
    };

    /// From this owner on a frame only marks where C entered the interpreter, and may have no code.
    /// In 3.12 such a mark (3) has code of its own, and 3.11 knows none.
    pub const ENTRY: u8 = if cfg!(Py_3_13) { 3 } else { 4 };

    /// From 3.14 on the lowest bits of the pointer at the code say how it is counted.
    pub const TAG: usize = if cfg!(Py_3_14) { 3 } else { 0 };

    /// From 3.14 on the upper half of a count of references holds flags.
    pub const COUNT_FILLS_WORD: bool = cfg!(not(Py_3_14));
}

/// Makes `task` the current one of `event_loop`.
#[inline]
pub fn set_current_task(event_loop: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = event_loop.py();
    #[cfg(not(Py_3_14))]
    {
        imports(py).current_tasks.bind(py).cast::<PyDict>()?.set_item(event_loop, task)
    }
    #[cfg(Py_3_14)]
    {
        imports(py).swap_current_task.bind(py).call1((event_loop, task)).map(drop)
    }
}

/// Makes nobody the current task of `event_loop`.
#[inline]
pub fn clear_current_task(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = event_loop.py();
    #[cfg(not(Py_3_14))]
    {
        let current = imports(py).current_tasks.bind(py).cast::<PyDict>()?;
        match current.del_item(event_loop) {
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyKeyError>(py) => Ok(()),
            other => other,
        }
    }
    #[cfg(Py_3_14)]
    {
        imports(py).swap_current_task.bind(py).call1((event_loop, py.None())).map(drop)
    }
}

/// The current task of `event_loop`, whoever made it.
pub fn current_task<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = event_loop.py();
    #[cfg(not(Py_3_14))]
    {
        imports(py).current_tasks.bind(py).cast::<PyDict>()?.get_item(event_loop)
    }
    #[cfg(Py_3_14)]
    {
        let task = imports(py).current_task.bind(py).call1((event_loop,))?;
        Ok((!task.is_none()).then_some(task))
    }
}

/// The running loop (`asyncio.get_running_loop`).
///
/// # Errors
/// `RuntimeError` when no loop runs in this thread.
#[inline]
pub fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let running = imports(py).get_running_loop.bind(py).call0()?;
    if running.is_none() {
        return Err(pyo3::exceptions::PyRuntimeError::new_err("no running event loop"));
    }
    Ok(running)
}

/// Whether a task factory is handed `name`: 3.14 passes it on, earlier Pythons call `set_name`
/// on what the factory returned, and factories written for them may not know the keyword.
pub const FACTORY_TAKES_NAME: bool = cfg!(Py_3_14);

/// Whether `throw(type, value, traceback)` on an awaitable warns (deprecated since 3.12).
pub const WARNS_OF_OLD_THROW: bool = cfg!(Py_3_12);

/// A callback and its arguments in words (`asyncio.format_helpers._format_callback_source`). The
/// arguments, which may be secrets, are shown in debug mode only, as CPython does from 3.13 on.
pub fn format_callback(
    callback: &Bound<'_, PyAny>,
    args: &Bound<'_, pyo3::types::PyTuple>,
    debug: bool,
) -> PyResult<String> {
    let py = callback.py();
    let format = imports(py).format_callback_source.bind(py);
    #[cfg(Py_3_13)]
    {
        let keywords = pyo3::types::PyDict::new(py);
        keywords.set_item("debug", debug)?;
        format.call((callback, args), Some(&keywords))?.extract()
    }
    #[cfg(not(Py_3_13))]
    {
        if debug {
            return format.call1((callback, args))?.extract();
        }
        let partial = py.import("functools")?.getattr("partial")?;
        let (mut inner, mut layers) = (callback.clone(), 1);
        while inner.is_instance(&partial)? {
            inner = inner.getattr("func")?;
            layers += 1;
        }
        let hidden = pyo3::types::PyTuple::empty(py);
        let text: String = format.call1((inner, hidden))?.extract()?;
        Ok(text.replacen("()", &"()".repeat(layers), 1))
    }
}
