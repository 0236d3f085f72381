//! The pure core of `es_llm`. Knows nothing about Python, MPI, models, clocks or the network.
//!
//! Time and randomness are arguments; iteration orders are fixed; the only threads are rayon's inside the kernels.

pub mod fitness;
pub mod journal;
pub mod kernels;
pub mod noise;
pub mod plan;
pub mod population;
pub mod schedule;
pub mod shaping;
pub mod team;
