//! Who receives what a transport reads.

pub mod python;
