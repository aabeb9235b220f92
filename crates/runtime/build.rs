//! Learns which Python the runtime is built for, so that `cfg(Py_3_xx)` exists in this crate alone.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
