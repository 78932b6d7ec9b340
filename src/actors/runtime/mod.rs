//! The entity runtime.

pub mod log;
pub mod sealer;
#[cfg(test)]
pub mod testing;
