//! A second implementation of the journal's frames, written from `docs/journal.md`.

/// Before the first frame.
pub const MAGIC: &[u8] = b"ESLLMJ\x02\x00";
/// Bytes of a frame before its payload.
pub const HEAD: usize = 9;

/// (start, length of the payload) of each frame, as far as the lengths lead.
pub fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = MAGIC.len();
    while let Some(head) = bytes.get(at..at + HEAD) {
        let length = u32::from_le_bytes(head[1..5].try_into().unwrap()) as usize;
        if bytes.len() < at + HEAD + length + 4 {
            break;
        }
        found.push((at, length));
        at += HEAD + length + 4;
    }
    found
}

/// Makes every checksum right.
pub fn mend(bytes: &mut [u8]) {
    if bytes.len() < MAGIC.len() {
        return;
    }
    let mut chain = crc32fast::hash(&bytes[..MAGIC.len()]).to_le_bytes();
    for (start, length) in frames(bytes) {
        let end = start + HEAD + length;
        let head = crc32fast::hash(&[&chain[..], &bytes[start..start + 5]].concat());
        bytes[start + 5..start + HEAD].copy_from_slice(&head.to_le_bytes());
        let whole = [
            &chain[..],
            &bytes[start..start + 5],
            &bytes[start + HEAD..end],
        ];
        chain = crc32fast::hash(&whole.concat()).to_le_bytes();
        bytes[end..end + 4].copy_from_slice(&chain);
    }
}
