//! Any bytes, read as a message of the team: refused, or a message that is written and read alike.
#![no_main]

use es_core::team::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((call, message)) = Message::decode(bytes) {
        let written = message.encode(call);
        let (again, read) = Message::decode(&written).expect("what is written is read");
        assert_eq!((again, read.encode(again)), (call, written));
    }
});
