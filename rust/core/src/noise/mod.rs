//! The numbering contract and the normal transform: (run seed, iteration, pair, tensor, element) -> f32.

/// Version of the generator, the address layout and the normal transform together.
pub const NOISE_VERSION: u32 = 1;
