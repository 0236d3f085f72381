//! The pure core of `es_llm`. Knows nothing about Python, MPI, models, clocks or the network.
//!
//! Time and randomness are arguments. Iteration orders are fixed. Only the kernels use threads, those of rayon.

pub mod fitness;
pub mod journal;
pub mod kernels;
pub mod noise;
pub mod plan;
pub mod population;
pub mod schedule;
pub mod shaping;
pub mod team;
