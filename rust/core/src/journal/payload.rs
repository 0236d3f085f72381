//! The payloads of frames: fixed little-endian layouts. docs/journal.md describes every byte.

use crate::population::Record;

/// Bytes of a digest.
const DIGEST: usize = 12;

/// The payload of a record, in format version 2:
///
/// ```text
/// run seed u64 | iteration u32 | members N u32 | pairs P u32 | sigma f64 | learning rate f64 | cursor u64
/// failed: ceil(N / 8) bytes, member n is bit n % 8 of byte n / 8
/// fitness f64 x N (0 where failed) | coefficient f64 x P
/// ```
pub fn encode_record(record: &Record) -> Vec<u8> {
    let (members, pairs) = (record.fitness.len(), record.coefficients.len());
    let mut bytes = Vec::with_capacity(44 + members.div_ceil(8) + 8 * (members + pairs));
    bytes.extend(record.run_seed.to_le_bytes());
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
    let fitness = record.fitness.iter().map(|value| value.unwrap_or(0.0));
    let values = fitness.chain(record.coefficients.iter().copied());
    bytes.extend(values.flat_map(f64::to_le_bytes));
    bytes
}

/// Checks a record before it is written and after it is read.
pub(super) fn check_record(record: &Record) -> Result<(), &'static str> {
    let is_finite = |value: &Option<f64>| value.is_none_or(f64::is_finite);
    if record.rate_folded {
        return Err("a record of format version 1");
    }
    if record.fitness.len() > u32::MAX as usize || record.coefficients.len() > record.fitness.len()
    {
        return Err("a record with more pairs than members, or too many members");
    }
    if !record.sigma.is_finite() || !record.learning_rate.is_finite() {
        return Err("a record whose sigma or learning rate isn't finite");
    }
    if !record.fitness.iter().all(is_finite)
        || !record.coefficients.iter().all(|value| value.is_finite())
    {
        return Err("a record with a fitness or coefficient that isn't finite");
    }
    Ok(())
}

/// The record of a payload.
///
/// # Errors
/// The reason, if the bytes are no record.
pub(super) fn decode_record(payload: &[u8]) -> Result<Record, &'static str> {
    let mut rest = Rest(payload);
    let run_seed = u64::from_le_bytes(rest.take()?);
    let (record, [members, pairs]) = decode_fixed(&mut rest, run_seed)?;
    let fitness = decode_fitness(&mut rest, members)?;
    let coefficients = rest.array(pairs)?.iter().copied();
    let record = Record {
        fitness,
        coefficients: coefficients.map(f64::from_le_bytes).collect(),
        ..record
    };
    rest.end()?;
    check_record(&record)?;
    Ok(record)
}

/// The record of a payload of format version 1. Only the header of such a journal holds the run seed.
///
/// ```text
/// as version 2 without the run seed | fitness f64 x N | pair u32 x P: 0, 1, 2, ... | coefficient f32 x P
/// ```
///
/// # Errors
/// The reason, if the bytes are no record.
pub(super) fn decode_record_v1(payload: &[u8]) -> Result<Record, &'static str> {
    let mut rest = Rest(payload);
    let (record, [members, pairs]) = decode_fixed(&mut rest, 0)?;
    let fitness = decode_fitness(&mut rest, members)?;
    let order = rest.array(pairs)?.iter().copied();
    if !order.map(u32::from_le_bytes).eq(0..pairs as u32) {
        return Err("a record with other pairs than 0, 1, 2, ...");
    }
    let coefficients = rest.array(pairs)?.iter();
    let coefficients = coefficients.map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    let record = Record {
        fitness,
        coefficients: coefficients.collect(),
        ..record
    };
    rest.end()?;
    check_record(&record)?;
    Ok(Record {
        rate_folded: true,
        ..record
    })
}

/// A record without its arrays, and the numbers of members and pairs.
fn decode_fixed(rest: &mut Rest<'_>, run_seed: u64) -> Result<(Record, [usize; 2]), &'static str> {
    let iteration = u32::from_le_bytes(rest.take()?);
    let members = u32::from_le_bytes(rest.take()?) as usize;
    let pairs = u32::from_le_bytes(rest.take()?) as usize;
    let record = Record {
        run_seed,
        iteration,
        sigma: f64::from_le_bytes(rest.take()?),
        learning_rate: f64::from_le_bytes(rest.take()?),
        cursor: u64::from_le_bytes(rest.take()?),
        fitness: Vec::new(),
        coefficients: Vec::new(),
        rate_folded: false,
    };
    Ok((record, [members, pairs]))
}

pub(super) fn encode_digest(iteration: u32, digest: u64) -> Vec<u8> {
    [&iteration.to_le_bytes()[..], &digest.to_le_bytes()[..]].concat()
}

pub(super) fn decode_digest(payload: &[u8]) -> Result<(u32, u64), &'static str> {
    if payload.len() != DIGEST {
        return Err("a digest of wrong length");
    }
    let mut rest = Rest(payload);
    let iteration = u32::from_le_bytes(rest.take()?);
    Ok((iteration, u64::from_le_bytes(rest.take()?)))
}

pub(super) fn decode_text(payload: &[u8]) -> Result<String, &'static str> {
    String::from_utf8(payload.to_vec()).map_err(|_| "text that isn't UTF-8")
}

fn decode_fitness(rest: &mut Rest<'_>, members: usize) -> Result<Vec<Option<f64>>, &'static str> {
    let failed = rest.bytes(members.div_ceil(8))?;
    let values = rest.array(members)?.iter().enumerate();
    let is_alive = |member: usize| failed[member / 8] >> (member % 8) & 1 == 0;
    let value =
        |(member, bytes): (usize, &[u8; 8])| is_alive(member).then_some(f64::from_le_bytes(*bytes));
    Ok(values.map(value).collect())
}

/// The rest of a payload. Every length is checked before memory is allocated.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let split = self.0.split_at_checked(count);
        let (taken, rest) = split.ok_or("a record that is too short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, count: usize) -> Result<&'a [[u8; N]], &'static str> {
        let size = count.checked_mul(N).ok_or("a record that is too short")?;
        Ok(self.bytes(size)?.as_chunks().0)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        Ok(self.array(1)?[0])
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("a record that is longer than its counts")
        }
    }
}
