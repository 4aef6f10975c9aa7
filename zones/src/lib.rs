//! What a name answers: names, master files, the zone tree, lookup.
//!
//! A zone's life: [`master::read`] turns an RFC 1035 file into records that know where they were
//! written, [`tree::Zone::build`] checks the whole and freezes it into an immutable label tree, and
//! [`tree::Zone::lookup`] answers names from it without allocating. [`tree::Zones`] picks the zone
//! a name belongs to.
//!
//! Pure and synchronous: no sockets, no clock, and files only through the function the caller
//! gives. What a *tailored* name answers is not known here: the tree only says which service it is
//! bound to.

pub mod check;
pub mod master;
pub mod name;
pub mod record;
pub mod tree;

pub use check::{Finding, Rule, Severity};
pub use master::{Loaded, MasterError};

pub use name::{Name, NameBuf, NameError};
pub use record::{Place, Record, RrSet, Rtype};
pub use tree::{Binding, Bindings, End, Link, Zone, ZoneError, Zones};
