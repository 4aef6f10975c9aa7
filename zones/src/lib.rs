//! What a name answers: names, master files, the zone tree, lookup.
