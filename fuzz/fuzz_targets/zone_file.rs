//! Any text is a zone or a mistake with a place, and every zone answers every name.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nearside_zones::{Bindings, Name, NameBuf, Rtype, Zone, master};

fuzz_target!(|text: &[u8]| {
    let origin: Name = "z.test".parse().expect("a name");
    // Every include reads the same text: nesting and cycles come by themselves.
    let Ok(loaded) = master::read(Path::new("z"), &origin, &mut |_| Ok(text.to_vec())) else { return };
    let owners: Vec<Name> = loaded.records.iter().map(|record| record.owner.clone()).collect();
    let Ok((zone, _)) = Zone::build(origin.clone(), loaded.records, &Bindings::new()) else { return };
    for owner in owners.iter().filter(|owner| owner.is_subdomain_of(&origin)) {
        for name in [Some(owner.clone()), owner.parent(), Name::parse(b"x", Some(owner)).ok()] {
            let Some(name) = name.filter(|name| name.is_subdomain_of(&origin)) else { continue };
            for rtype in [Rtype::A, Rtype::NS, Rtype::DS, Rtype::CNAME, Rtype::ANY] {
                zone.lookup(&mut NameBuf::from(&name), rtype, |_, _| {});
            }
        }
    }
});
