//! Who receives what a transport reads.

pub mod child;
pub mod python;
