//! What a disk does to a node: power cuts, damage, no space, failing syncs, and how the storage stands it.

pub mod damage;
mod failing;
mod ledger;
mod power;
mod victim;
mod volume;
pub mod whole_node;
