//! nearside-edge, the program.
fn main() {}
