//! Where an address is, and how far it is from there.
