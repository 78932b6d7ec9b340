//! The product from the outside: real nodes in processes of their own, judged over their public edges.
//!
//! With the feature `failpoints`, a node ends at named steps. With the feature `peers`, also against programs made
//! elsewhere, which `scripts/test` installs.

mod admin_tls;
mod backup;
mod census;
mod cli;
#[cfg(feature = "peers")]
mod clock;
mod cluster;
#[cfg(feature = "failpoints")]
mod crash;
mod deploy;
mod disk;
mod hostile;
mod http;
mod intruders;
mod kill;
mod links;
mod lists;
mod load;
mod mail;
mod node;
mod overload;
#[cfg(feature = "peers")]
mod peers;
mod person;
mod readme;
mod routes;
#[cfg(feature = "failpoints")]
mod sms_crash;
mod soak;
mod socket;
mod tour;
mod traces;
mod virtual_clock;
mod walk;
