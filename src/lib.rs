//! `construct`: identity, billing, notifications, compliance and an API gateway as supervised durable actors.
//!
//! Start with ARCHITECTURE.md. Dependencies point one way:
//! `kernel ← storage, providers ← actors ← cluster ← gateway ← node ← main`.
#![forbid(unsafe_code)]

pub mod kernel;
