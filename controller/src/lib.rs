//! `nearside-controller` and `nearside`: the desired state, kept at home.
//!
//! [`home`] holds keys and identities, [`journal`] what must not be forgotten, [`check`] and [`bundle`] turn
//! the fleet file into a signed snapshot. [`nodes`] brings every node to it, [`purge`] every purge to every edge, [`api`] is how the command line
//! asks, [`serve`] runs it all. [`alarms`] finds what is wrong, [`events`] tells it once, [`webhooks`] to whom, [`stats`] sums up what
//! edges count. PoPs never need any of it to keep serving.

#![forbid(unsafe_code)]

pub mod acme;
pub mod alarms;
pub mod api;
pub mod archive;
pub mod audit;
pub mod backup;
pub mod bundle;
pub mod certs;
pub mod check;
pub mod cities;
pub mod cli;
pub mod client;
pub mod diff;
pub mod events;
pub mod gauges;
pub mod history;
pub mod home;
pub mod identities;
pub mod import;
pub mod journal;
pub mod nodes;
pub mod pair;
pub mod purge;
pub mod recovery;
pub mod rollout;
pub mod route;
pub mod serve;
pub mod starter;
pub mod stats;
pub mod tokens;
pub mod warm;
pub mod webhooks;
