//! nearside-controller and nearside: the desired state, kept at home.
