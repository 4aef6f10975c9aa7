//! What every Nearside daemon does: start, watch, hold the last good state, serve its control listener, stop.
