//! The reader under many seeded mutations of real journals, most with their checksums mended, so that what lies behind
//! the checksums is reached as well. `rust/fuzz` goes further.

mod support;

use std::path::Path;

use es_core::journal::JournalWriter;
use es_core::noise::philox4x32;
use es_core::population::Record;
use support::frames::{HEAD, frames, mend};

const MUTATIONS: u64 = 200_000;

struct Random(u32);

impl Random {
    /// A number below `limit`; 0 if that is 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0 += 1;
        philox4x32([self.0, 0, 0, 0], [7, 0])[0] as usize % limit.max(1)
    }
}

fn journal() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let mut writer = JournalWriter::create(&path, r#"{"run": 1}"#).unwrap();
    for iteration in 0..4_u32 {
        let record = Record {
            run_seed: 7,
            iteration,
            sigma: 1e-3,
            learning_rate: 5e-4,
            cursor: 8,
            fitness: vec![Some(0.5), None, Some(f64::from(iteration))],
            coefficients: vec![0.25, -0.5],
            rate_folded: false,
        };
        writer.append_record(&record).unwrap();
        writer.append_digest(iteration, 77).unwrap();
        writer.append_event("{}").unwrap();
    }
    std::fs::read(path).unwrap()
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let mut below = |limit: usize| random.below(limit);
    let at = below(bytes.len());
    let until = (at + 1 + below(40)).min(bytes.len());
    match below(7) {
        0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
        2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
        3 => drop(bytes.drain(at..until)),
        4 => bytes.splice(at..at, vec![0; 1 + below(20)]).for_each(drop),
        5 => {
            let copy = bytes[at..until].to_vec();
            let to = below(bytes.len());
            bytes.splice(to..to, copy).for_each(drop);
        }
        _ => {
            let all = frames(bytes);
            if let Some(&(start, length)) = all.get(below(all.len())) {
                let frame = bytes[start..start + HEAD + length + 4].to_vec();
                let to = all[below(all.len())].0;
                bytes.splice(to..to, frame).for_each(drop);
            }
        }
    }
}

#[test]
fn any_mutation_is_a_good_prefix_or_a_refusal() {
    let v1 = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/journal_v1.bin"),
    );
    let originals = [journal(), v1.unwrap()];
    for (number, original) in originals.iter().enumerate() {
        let mut mended = original.clone();
        mend(&mut mended);
        assert!(mended == *original, "mending journal {number} changes it");
    }
    let mut random = Random(0);
    for number in 0..MUTATIONS {
        let mut bytes = originals[(number % 2) as usize].clone();
        for _ in 0..=random.below(3) {
            mutate(&mut bytes, &mut random);
        }
        if !number.is_multiple_of(4) {
            mend(&mut bytes);
        }
        support::reader::check(&bytes);
    }
}
