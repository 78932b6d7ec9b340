//! `construct`: identity, billing, notifications, compliance and an API gateway as supervised durable actors.
//!
//! Start with ARCHITECTURE.md. Dependencies point one way:
//! `kernel ← storage, providers ← actors ← cluster ← gateway ← node ← main`.
#![deny(unsafe_code)]

pub mod actors;
pub mod cluster;
pub mod gateway;
pub mod kernel;
pub mod node;
pub mod providers;
pub mod settings;
pub mod storage;
pub mod telemetry;
