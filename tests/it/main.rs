//! The product from the outside: real nodes in processes of their own, judged over their public edges.
//!
//! With the feature `peers`, also against programs made elsewhere, which `scripts/test` installs.

mod cli;
mod disk;
mod http;
mod kill;
mod links;
mod mail;
mod node;
#[cfg(feature = "peers")]
mod peers;
mod person;
mod readme;
mod socket;
mod tour;
mod walk;
