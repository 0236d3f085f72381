//! Any bytes, read as a journal: as they are, and behind a good beginning with their checksums made right.
#![no_main]

#[path = "../../core/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    support::reader::check(bytes);
    let mut mended = [support::frames::MAGIC, bytes].concat();
    support::frames::mend(&mut mended);
    support::reader::check(&mended);
});
