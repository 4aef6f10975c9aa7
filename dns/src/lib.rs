//! nearside-dns: the GeoDNS authoritative server.
