//! A record as it travels: as the journal has it, but without what follows from the rest of it.
//!
//! ```text
//! WHOLE            the journal's bytes
//! PAIRS_IN_ORDER   ... without the pairs, which are 0, 1, 2, ...
//! SHAPED           ... nor their coefficients, which this way of shaping gives again from the fitness:
//!                  rule u8 | failure policy u8 | CRC-32 of the coefficients | fixed part | fitness, NaN where failed
//! ```
//! So a record of N members travels as 8 N + 43 bytes. The journal always spells it out.

use super::payload::{FIXED, check_record, decode_record, encode_record};
use crate::fitness::FailurePolicy;
use crate::population::{Population, Record};
use crate::shaping::ShapingRule;

/// What comes before a record's bytes.
const WHOLE: u8 = 0;
const PAIRS_IN_ORDER: u8 = 1;
const SHAPED: u8 = 2;

/// Bytes of a shaped one before the record's own.
const SHAPED_HEAD: usize = 7;

/// The bytes by which ranks tell each other a record.
pub fn pack_record(record: &Record) -> Vec<u8> {
    let bytes = pack_spelled_record(record);
    let shaping = || Shaping::all().find(|shaping| shaping.gives(record));
    let Some(shaping) = Some(&bytes)
        .filter(|bytes| bytes[0] == PAIRS_IN_ORDER)
        .and_then(|_| shaping())
    else {
        return bytes;
    };
    let code = |place: Option<usize>| place.expect("one of all") as u8;
    let rule = ShapingRule::ALL
        .iter()
        .position(|rule| *rule == shaping.rule);
    let policy = FailurePolicy::ALL
        .iter()
        .position(|policy| *policy == shaping.policy);
    let mut shaped = vec![SHAPED, code(rule), code(policy)];
    shaped.extend(checksum(&record.coefficients).to_le_bytes());
    shaped.extend(&bytes[1..=FIXED]);
    let values = record.fitness.iter();
    shaped.extend(values.flat_map(|value| value.unwrap_or(f64::NAN).to_le_bytes()));
    shaped
}

/// The same with its coefficients spelled out, whatever they follow from.
pub fn pack_spelled_record(record: &Record) -> Vec<u8> {
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
            let (members, pairs) = counts(packed)?;
            let at = pairs_at(members);
            let coefficients = packed
                .len()
                .checked_sub(at)
                .ok_or("a record that is too short")?;
            if coefficients as u64 != 4 * pairs as u64 {
                return Err("a record of another length than its counts say");
            }
            let order: Vec<u8> = (0..pairs as u32).flat_map(u32::to_le_bytes).collect();
            decode_record(&[&packed[..at], &order, &packed[at..]].concat())
        }
        Some((&SHAPED, packed)) => {
            let parts = packed.split_at_checked(SHAPED_HEAD - 1);
            let (head, packed) = parts.ok_or("a record that is too short")?;
            unpack_shaped(head, packed)
        }
        _ => Err("no record"),
    }
}

fn unpack_shaped(head: &[u8], packed: &[u8]) -> Result<Record, &'static str> {
    let (members, pairs) = counts(packed)?;
    let parts = packed.split_at_checked(FIXED);
    let (fixed, fitness) = parts.ok_or("a record that is too short")?;
    if fitness.len() as u64 != 8 * members as u64 || pairs > members {
        return Err("a record of another length than its counts say");
    }
    let unknown = "a record with an unknown way of shaping";
    let shaping = Shaping {
        rule: *ShapingRule::ALL.get(usize::from(head[0])).ok_or(unknown)?,
        policy: *FailurePolicy::ALL
            .get(usize::from(head[1]))
            .ok_or(unknown)?,
    };
    let values = fitness.as_chunks().0.iter();
    let values: Vec<Option<f64>> = values
        .map(|bytes| Some(f64::from_le_bytes(*bytes)).filter(|value| !value.is_nan()))
        .collect();
    // The rest of the fixed part is read as that of a record without members.
    let mut fixed = fixed.to_vec();
    fixed[4..12].fill(0);
    let mut record = decode_record(&fixed)?;
    record.fitness = values;
    record.pairs = (0..pairs as u32).collect();
    record.coefficients = shaping
        .coefficients(&record)
        .ok_or("a record that no population makes")?;
    if checksum(&record.coefficients).to_le_bytes() != head[2..] {
        return Err("a record whose fitness gives other coefficients here than where it was made");
    }
    check_record(&record)?;
    Ok(record)
}

/// How coefficients come from fitness, beside what a record says itself.
struct Shaping {
    rule: ShapingRule,
    policy: FailurePolicy,
}

impl Shaping {
    fn all() -> impl Iterator<Item = Self> {
        let rules = ShapingRule::ALL.into_iter();
        rules.flat_map(|rule| FailurePolicy::ALL.map(|policy| Self { rule, policy }))
    }

    /// Those of a population that is told the record's fitness; none if there is no such population.
    fn coefficients(&self, record: &Record) -> Option<Vec<f32>> {
        let (members, pairs) = (record.fitness.len(), record.pairs.len());
        if pairs != members && 2 * pairs != members {
            return None;
        }
        let population = Population::new(0, members, pairs < members, self.rule, self.policy);
        let told = population.ok()?.tell(
            &record.fitness,
            record.sigma,
            record.learning_rate,
            record.cursor,
        );
        Some(told.ok()?.coefficients)
    }

    fn gives(&self, record: &Record) -> bool {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
        let told: Option<Vec<u32>> = self.coefficients(record).map(|values| bits(&values));
        told == Some(bits(&record.coefficients))
    }
}

/// Members and pairs, as the fixed part says.
fn counts(packed: &[u8]) -> Result<(usize, usize), &'static str> {
    let number = |at| packed.get(at..at + 4).and_then(|word| word.try_into().ok());
    let words = number(4).zip(number(8));
    let (members, pairs) = words.ok_or("a record that is too short")?;
    Ok((
        u32::from_le_bytes(members) as usize,
        u32::from_le_bytes(pairs) as usize,
    ))
}

/// Where the pairs begin in a record of so many members.
fn pairs_at(members: usize) -> usize {
    FIXED + members.div_ceil(8) + 8 * members
}

fn checksum(coefficients: &[f32]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for value in coefficients {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize()
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

    fn told(antithetic: bool, rule: ShapingRule, policy: FailurePolicy, whole: bool) -> Record {
        let fitness: Vec<Option<f64>> = (0..12_u32)
            .map(|member| (whole || member % 5 != 2).then(|| f64::from(member * 7 % 11) / 3.0))
            .collect();
        let population = Population::new(5, 12, antithetic, rule, policy).unwrap();
        let told = population.tell(&fitness, 1e-3, 5e-4, 7);
        Record {
            iteration: 9,
            ..told.unwrap()
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
    fn what_a_population_tells_travels_as_its_fitness() {
        for rule in ShapingRule::ALL {
            for policy in FailurePolicy::ALL {
                for antithetic in [false, true] {
                    let whole = policy == FailurePolicy::Raise;
                    let record = told(antithetic, rule, policy, whole);
                    let bytes = pack_record(&record);
                    assert_eq!(bytes.len(), 43 + 8 * 12);
                    assert_eq!(unpack_record(&bytes).as_ref(), Ok(&record));
                    let spelled = pack_spelled_record(&record);
                    assert_eq!(
                        spelled.len(),
                        1 + FIXED + 2 + 8 * 12 + 4 * record.pairs.len()
                    );
                    assert_eq!(unpack_record(&spelled).as_ref(), Ok(&record));
                }
            }
        }
    }

    #[test]
    fn coefficients_of_another_shaping_are_spelled_out_or_refused() {
        let mut record = told(false, ShapingRule::ZScore, FailurePolicy::Worst, false);
        let bytes = pack_record(&record);
        for place in 3..SHAPED_HEAD {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert!(
                unpack_record(&other)
                    .unwrap_err()
                    .contains("other coefficients")
            );
        }
        record.coefficients[3] = record.coefficients[3].next_up();
        let spelled = pack_record(&record);
        assert_eq!(spelled.len(), 1 + FIXED + 2 + 12 * 12);
        assert_eq!(unpack_record(&spelled), Ok(record));
    }

    #[test]
    fn pairs_in_order_cost_nothing() {
        let bytes = |pairs: Vec<u32>| pack_record(&record(pairs)).len();
        assert_eq!(bytes(vec![0, 1, 2]), bytes(vec![0, 2, 1]) - 12);
        assert_eq!(bytes(vec![0, 1, 2]), 1 + FIXED + 1 + 8 * 3 + 4 * 3);
    }

    #[test]
    fn a_cut_or_longer_one_is_refused() {
        let shaped = told(true, ShapingRule::CenteredRank, FailurePolicy::Zero, false);
        for record in [record(vec![0, 1, 2]), record(vec![2, 1]), shaped] {
            let bytes = pack_record(&record);
            for length in 0..bytes.len() {
                assert!(unpack_record(&bytes[..length]).is_err(), "{length}");
            }
            assert!(unpack_record(&[&bytes[..], &[0]].concat()).is_err());
        }
        let mut huge = pack_record(&record(vec![0, 1]));
        huge[5..13].fill(0xff);
        assert!(unpack_record(&huge).is_err());
    }

    #[test]
    fn any_bytes_of_a_shaped_one_are_read_or_refused() {
        let bytes = pack_record(&told(
            false,
            ShapingRule::ZScore,
            FailurePolicy::Zero,
            false,
        ));
        for place in 0..bytes.len() {
            for value in 0..=255 {
                let mut other = bytes.clone();
                other[place] = value;
                let _ = unpack_record(&other);
            }
        }
    }
}
