//! The noise of a run: a pure function (run seed, iteration, pair, tensor, element) -> f32, defined word by word.
//!
//! Three steps, each in a file: [`NoiseAddress`] numbers the values, [`philox4x32`] turns a counter into four random words,
//! [`normals`] turns four words into four standard normals. This is the naive definition; every fast path must give the
//! same bits. `docs/noise.md` describes it in prose. Knows nothing about arrays, weights or threads: see
//! [`crate::kernels`].

mod address;
mod normal;
mod philox;

pub use address::{Kind, MAX_ELEMENTS, MAX_TENSORS, NoiseAddress, NoiseError, Stream};
pub use normal::{bits, normals};
pub use philox::{KEY_STEP, MULTIPLIERS, ROUNDS, philox4x32};

/// Version of the address layout, the generator and the normal transform together; journals carry it.
pub const NOISE_VERSION: u32 = 1;

/// The noise of a single element: word `element % 4` of block `element / 4`.
///
/// # Errors
/// [`NoiseError`] if the tensor or the element is out of range.
pub fn noise_at(kind: Kind, address: NoiseAddress) -> Result<f32, NoiseError> {
    let stream = address.stream(kind, 1)?;
    Ok(stream.block(address.element / 4)[(address.element % 4) as usize])
}
