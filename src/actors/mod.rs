//! Everything durable, as supervised actors: the runtime and the entities of each service.

pub mod runtime;
