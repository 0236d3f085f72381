//! Any bytes, read as a record that a rank was sent: refused, or a record that is written and read alike.
#![no_main]

use es_core::journal::{pack_record, pack_spelled_record, unpack_record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = unpack_record(bytes) {
        for written in [pack_record(&record), pack_spelled_record(&record)] {
            assert_eq!(unpack_record(&written).as_ref(), Ok(&record));
        }
    }
});
