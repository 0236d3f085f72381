//! Cuts slices into chunks. The cuts are at fixed elements of the tensor, so every chunk but the first begins with a whole
//! block and tile.

use std::ops::Range;

use super::position::Position;

/// Elements per chunk: the unit of work of one thread, 256 KiB of f32.
pub(super) const CHUNK: usize = 1 << 16;

/// The chunks of a slice of `len` values. A run is cut at multiples of [`CHUNK`] elements of the tensor, a shard at
/// multiples of [`CHUNK`] values.
pub(super) fn pieces(position: &Position, len: usize) -> Vec<Range<usize>> {
    let mut cuts = Vec::with_capacity(len / CHUNK + 2);
    let mut start = 0;
    let mut end = CHUNK;
    if position.is_run() {
        end -= (position.address.element % CHUNK as u64) as usize;
    }
    while start < len {
        cuts.push(start..end.min(len));
        start = end;
        end += CHUNK;
    }
    cuts
}

/// The parts of a slice at adjoining ranges.
pub(super) fn split<'a, T>(slice: &'a [T], cuts: &[Range<usize>]) -> Vec<&'a [T]> {
    cuts.iter().map(|cut| &slice[cut.clone()]).collect()
}

/// As [`split`], mutable.
pub(super) fn split_mut<'a, T>(mut slice: &'a mut [T], cuts: &[Range<usize>]) -> Vec<&'a mut [T]> {
    let mut parts = Vec::with_capacity(cuts.len());
    for cut in cuts {
        let (part, rest) = slice.split_at_mut(cut.len());
        parts.push(part);
        slice = rest;
    }
    parts
}
