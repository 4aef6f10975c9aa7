//! How queries arrive and answers leave.

pub mod batch;
