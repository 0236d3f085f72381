//! What reading any bytes as a journal must keep to; shared by the tests and the fuzz target.

use std::path::Path;

use es_core::journal::{Fault, Journal};

/// Reads `bytes`, and checks that the answer is a good prefix or a refusal that says where.
///
/// # Panics
/// If it is neither.
pub fn check(bytes: &[u8]) {
    let path = Path::new("journal");
    match Journal::parse(bytes, path) {
        Ok(journal) => {
            assert_eq!(journal.good_bytes + journal.torn_bytes, bytes.len() as u64);
            let good = &bytes[..journal.good_bytes as usize];
            let again = Journal::parse(good, path).expect("the good part alone is good");
            assert_eq!(again.torn_bytes, 0);
            assert_eq!(again.records, journal.records);
            assert_eq!(again.digests, journal.digests);
            assert_eq!(again.events, journal.events);
            for (index, record) in journal.records.iter().enumerate() {
                assert_eq!(record.iteration as usize, index);
                assert!(record.coefficients.len() <= record.fitness.len());
                let fitness = record.fitness.iter().flatten();
                assert!(fitness.copied().all(f64::is_finite));
                assert!(record.coefficients.iter().all(|value| value.is_finite()));
            }
        }
        Err(error) => match error.fault {
            Fault::Corrupt { offset, iterations } => {
                let good = &bytes[..offset as usize];
                let kept =
                    Journal::parse(good, path).expect("cutting it there keeps the good part");
                assert_eq!(kept.torn_bytes, 0);
                assert_eq!(kept.records.len(), iterations);
            }
            Fault::NotAJournal | Fault::Version | Fault::NoHeader | Fault::Header => {}
            _ => panic!("reading bytes gave {error}"),
        },
    }
}
