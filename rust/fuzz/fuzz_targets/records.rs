//! Any bytes, read as a record that a rank received: refused, or a record that is written and read alike.
#![no_main]

use es_core::fitness::FailurePolicy;
use es_core::population::Population;
use es_core::shaping::Shaping;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let shaping = Shaping::named("zscore").expect("a known rule");
    let population = Population::new(7, 4, true, shaping, FailurePolicy::Worst).expect("4 members");
    if let Ok(record) = population.unpack(bytes) {
        let written = population.pack(&record);
        assert_eq!(population.unpack(&written).expect("what is written is read"), record);
    }
});
