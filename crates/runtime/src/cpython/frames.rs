//! Lines of Python code: who is calling, and where an exception was caught.
//!
//! Only the code object and the line are kept, never a frame, which would keep the locals alive.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;
use pyo3::{ffi, intern};

/// How far up the stack a caller is looked for behind the frames of asyncio.
const FRAMES_SEARCHED: usize = 16;

/// A line of some code.
pub struct Site {
    code: Py<PyAny>,
    line: i32,
}

impl Site {
    /// A second reference to the same place.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        Site { code: self.code.clone_ref(py), line: self.line }
    }

    /// File, line and qualified name of the function.
    pub fn describe<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, i32, Bound<'py, PyAny>)> {
        let code = self.code.bind(py);
        let file = code.getattr(intern!(py, "co_filename"))?;
        Ok((file, self.line, code.getattr(intern!(py, "co_qualname"))?))
    }

    /// Shows the code to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.code)
    }
}

/// The line that is calling: the innermost one outside of asyncio and aioxide, if there is one.
pub fn caller(py: Python<'_>) -> Option<Site> {
    // SAFETY: a borrowed reference to the running frame, or null where no Python code runs.
    let running = unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast()) };
    let innermost = running?;
    let mut frame = innermost.clone();
    for _ in 0..FRAMES_SEARCHED {
        let site = site_of(&frame);
        if !is_asyncio(py, &site) {
            return Some(site);
        }
        // SAFETY: `frame` is a frame; the answer is a new reference, or null at the outermost.
        let back = unsafe {
            Bound::from_owned_ptr_or_opt(py, ffi::PyFrame_GetBack(frame.as_ptr().cast()).cast())
        };
        match back {
            Some(back) => frame = back,
            None => break,
        }
    }
    Some(site_of(&innermost))
}

/// Where an exception was caught: the traceback begins with the frame that it reached last.
pub fn caught_at(error: &Bound<'_, PyAny>) -> Option<Site> {
    let py = error.py();
    let traceback = error.getattr(intern!(py, "__traceback__")).ok()?;
    if traceback.is_none() {
        return None;
    }
    let code = traceback.getattr(intern!(py, "tb_frame")).ok()?;
    let code = code.getattr(intern!(py, "f_code")).ok()?;
    let line = traceback.getattr(intern!(py, "tb_lineno")).ok()?.extract().unwrap_or(0);
    Some(Site { code: code.unbind(), line })
}

fn site_of(frame: &Bound<'_, PyAny>) -> Site {
    let py = frame.py();
    let pointer = frame.as_ptr().cast();
    // SAFETY: `frame` is a frame; its code is a new reference and never null.
    let (code, line) = unsafe {
        let code = Bound::from_owned_ptr(py, ffi::PyFrame_GetCode(pointer).cast());
        (code, ffi::PyFrame_GetLineNumber(pointer))
    };
    Site { code: code.unbind(), line }
}

/// Whether the code is asyncio's or aioxide's own.
fn is_asyncio(py: Python<'_>, site: &Site) -> bool {
    static FOLDERS: PyOnceLock<[String; 2]> = PyOnceLock::new();
    let folders = FOLDERS.get_or_init(py, || {
        ["asyncio", "aioxide"].map(|name| {
            let file = py.import(name).and_then(|module| module.getattr("__file__"));
            let file = file.and_then(|it| it.extract::<String>()).unwrap_or_default();
            file.strip_suffix("__init__.py").unwrap_or("\0").to_owned()
        })
    });
    let file = site.code.bind(py).getattr(intern!(py, "co_filename"));
    let Ok(Ok(file)) = file.map(|file| file.cast_into::<PyString>()) else { return false };
    file.to_str().is_ok_and(|file| folders.iter().any(|folder| file.starts_with(folder)))
}
