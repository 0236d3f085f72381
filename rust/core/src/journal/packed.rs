//! A record as it travels: as the journal has it, but without its pairs where they are just 0, 1, 2, ...

use super::payload::{FIXED, decode_record, encode_record};
use crate::population::Record;

/// What comes before a record's bytes.
const WHOLE: u8 = 0;
const PAIRS_IN_ORDER: u8 = 1;

/// The bytes by which ranks tell each other a record.
pub fn pack_record(record: &Record) -> Vec<u8> {
    let whole = encode_record(record);
    let pairs = record.pairs.len() as u32;
    if !record.pairs.iter().copied().eq(0..pairs) {
        return [&[WHOLE], &whole[..]].concat();
    }
    let at = pairs_at(record.fitness.len());
    [
        &[PAIRS_IN_ORDER],
        &whole[..at],
        &whole[at + 4 * record.pairs.len()..],
    ]
    .concat()
}

/// The record of such bytes.
///
/// # Errors
/// What is wrong with them.
pub fn unpack_record(bytes: &[u8]) -> Result<Record, &'static str> {
    match bytes.split_first() {
        Some((&WHOLE, whole)) => decode_record(whole),
        Some((&PAIRS_IN_ORDER, packed)) => {
            let number = |at| packed.get(at..at + 4).and_then(|word| word.try_into().ok());
            let words = number(4).zip(number(8));
            let (members, pairs) = words.ok_or("a record that is too short")?;
            let (members, pairs) = (u32::from_le_bytes(members), u32::from_le_bytes(pairs));
            let at = pairs_at(members as usize);
            let coefficients = packed
                .len()
                .checked_sub(at)
                .ok_or("a record that is too short")?;
            if coefficients as u64 != 4 * u64::from(pairs) {
                return Err("a record of another length than its counts say");
            }
            let order: Vec<u8> = (0..pairs).flat_map(u32::to_le_bytes).collect();
            decode_record(&[&packed[..at], &order, &packed[at..]].concat())
        }
        _ => Err("no record"),
    }
}

/// Where the pairs begin in a record of so many members.
fn pairs_at(members: usize) -> usize {
    FIXED + members.div_ceil(8) + 8 * members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pairs: Vec<u32>) -> Record {
        Record {
            iteration: 3,
            sigma: 1e-3,
            learning_rate: 5e-4,
            cursor: 24,
            fitness: vec![Some(0.5), None, Some(-1.0)],
            coefficients: pairs.iter().map(|&pair| pair as f32 - 0.5).collect(),
            pairs,
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        for pairs in [
            vec![],
            vec![0],
            vec![0, 1, 2],
            vec![2, 1, 0],
            vec![1, 2],
            vec![0, 1, 1],
        ] {
            let record = record(pairs);
            assert_eq!(unpack_record(&pack_record(&record)), Ok(record));
        }
    }

    #[test]
    fn pairs_in_order_cost_nothing() {
        let bytes = |pairs: Vec<u32>| pack_record(&record(pairs)).len();
        assert_eq!(bytes(vec![0, 1, 2]), bytes(vec![0, 2, 1]) - 12);
        assert_eq!(bytes(vec![0, 1, 2]), 1 + FIXED + 1 + 8 * 3 + 4 * 3);
    }

    #[test]
    fn a_cut_or_longer_one_is_refused() {
        for pairs in [vec![0, 1, 2], vec![2, 1]] {
            let bytes = pack_record(&record(pairs));
            for length in 0..bytes.len() {
                assert!(unpack_record(&bytes[..length]).is_err(), "{length}");
            }
            assert!(unpack_record(&[&bytes[..], &[0]].concat()).is_err());
        }
        let mut huge = pack_record(&record(vec![0, 1]));
        huge[5..13].fill(0xff);
        assert!(unpack_record(&huge).is_err());
    }
}
