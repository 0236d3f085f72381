//! Payloads of the frames: fixed little-endian layouts, described byte by byte in docs/journal.md.

use crate::population::Record;

/// Bytes of a record before its arrays.
pub(super) const FIXED: usize = 36;

/// Bytes of a digest.
const DIGEST: usize = 12;

/// A record's payload:
///
/// ```text
/// iteration u32 | members N u32 | pairs P u32 | sigma f64 | learning_rate f64 | cursor u64
/// failed: ceil(N / 8) bytes, member n is bit n % 8 of byte n / 8
/// fitness f64 x N (0 where failed) | pair u32 x P | coefficient f32 x P
/// ```
pub fn encode_record(record: &Record) -> Vec<u8> {
    let (members, pairs) = (record.fitness.len(), record.pairs.len());
    let mut bytes = Vec::with_capacity(FIXED + members.div_ceil(8) + 8 * members + 8 * pairs);
    bytes.extend(record.iteration.to_le_bytes());
    bytes.extend((members as u32).to_le_bytes());
    bytes.extend((pairs as u32).to_le_bytes());
    bytes.extend(record.sigma.to_le_bytes());
    bytes.extend(record.learning_rate.to_le_bytes());
    bytes.extend(record.cursor.to_le_bytes());
    let failed = |chunk: &[Option<f64>]| {
        let bits = chunk.iter().enumerate();
        bits.fold(0, |byte, (bit, value)| {
            byte | u8::from(value.is_none()) << bit
        })
    };
    bytes.extend(record.fitness.chunks(8).map(failed));
    bytes.extend(
        record
            .fitness
            .iter()
            .flat_map(|value| value.unwrap_or(0.0).to_le_bytes()),
    );
    bytes.extend(record.pairs.iter().flat_map(|pair| pair.to_le_bytes()));
    bytes.extend(
        record
            .coefficients
            .iter()
            .flat_map(|value| value.to_le_bytes()),
    );
    bytes
}

/// Why a record can't be written; what it says also holds for every record that is read.
pub(super) fn check_record(record: &Record) -> Result<(), &'static str> {
    let finite = |value: &Option<f64>| value.is_none_or(f64::is_finite);
    if record.fitness.len() > u32::MAX as usize || record.pairs.len() > u32::MAX as usize {
        return Err("a record with too many members");
    }
    if record.pairs.len() != record.coefficients.len() {
        return Err("a record with another number of pairs than coefficients");
    }
    if !record.sigma.is_finite() || !record.learning_rate.is_finite() {
        return Err("a record whose sigma or learning rate isn't finite");
    }
    if !record.fitness.iter().all(finite)
        || !record.coefficients.iter().all(|value| value.is_finite())
    {
        return Err("a record with a fitness or coefficient that isn't finite");
    }
    Ok(())
}

/// The record of a payload.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode_record(payload: &[u8]) -> Result<Record, &'static str> {
    if payload.len() < FIXED {
        return Err("a record that is too short");
    }
    let (fixed, arrays) = payload.split_at(FIXED);
    let mut fixed = Cursor(fixed);
    let iteration = u32::from_le_bytes(fixed.take());
    let members = u32::from_le_bytes(fixed.take()) as usize;
    let pairs = u32::from_le_bytes(fixed.take()) as usize;
    let sigma = f64::from_le_bytes(fixed.take());
    let learning_rate = f64::from_le_bytes(fixed.take());
    let cursor = u64::from_le_bytes(fixed.take());
    let expected = members.div_ceil(8) as u64 + 8 * members as u64 + 8 * pairs as u64;
    if arrays.len() as u64 != expected {
        return Err("a record whose length doesn't fit its counts");
    }
    let (failed, arrays) = arrays.split_at(members.div_ceil(8));
    let (fitness, arrays) = arrays.split_at(8 * members);
    let (pairs, coefficients) = arrays.split_at(4 * pairs);
    let record = Record {
        iteration,
        sigma,
        learning_rate,
        cursor,
        fitness: decode_fitness(failed, fitness),
        pairs: pairs
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect(),
        coefficients: coefficients
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
    };
    check_record(&record)?;
    Ok(record)
}

pub(super) fn encode_digest(iteration: u32, digest: u64) -> Vec<u8> {
    [&iteration.to_le_bytes()[..], &digest.to_le_bytes()[..]].concat()
}

pub(super) fn decode_digest(payload: &[u8]) -> Result<(u32, u64), &'static str> {
    if payload.len() != DIGEST {
        return Err("a digest of wrong length");
    }
    let mut payload = Cursor(payload);
    Ok((
        u32::from_le_bytes(payload.take()),
        u64::from_le_bytes(payload.take()),
    ))
}

pub(super) fn decode_text(payload: &[u8]) -> Result<String, &'static str> {
    String::from_utf8(payload.to_vec()).map_err(|_| "text that isn't UTF-8")
}

fn decode_fitness(failed: &[u8], values: &[u8]) -> Vec<Option<f64>> {
    let values = values
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f64::from_le_bytes(*bytes));
    let alive = |member: usize| failed[member / 8] >> (member % 8) & 1 == 0;
    values
        .enumerate()
        .map(|(member, value)| alive(member).then_some(value))
        .collect()
}

/// Takes arrays of bytes from a slice that is known to be long enough.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("the length was checked");
        self.0 = rest;
        *taken
    }
}
