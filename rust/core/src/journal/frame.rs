//! Frames: bytes with a kind, a length and two checksums. Knows nothing about the content of the payload.
//!
//! ```text
//! kind u8 | length u32 | head CRC u32 | payload (length bytes) | frame CRC u32          little-endian
//! head CRC  = CRC-32(chain, kind, length)              chain: the frame CRC of the frame before, as 4 bytes;
//! frame CRC = CRC-32(chain, kind, length, payload)            for the first frame the CRC-32 of the magic
//! ```
//! The head has a separate checksum, so that a wrong length isn't mistaken for a torn tail.

use crc32fast::Hasher;

/// Bytes before the first frame.
pub(super) const MAGIC_BYTES: usize = 8;

/// Bytes of a frame without its payload.
pub(super) const OVERHEAD: usize = HEAD + CRC;

const HEAD: usize = 1 + 4 + CRC;
const CRC: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header = 1,
    Record = 2,
    Digest = 3,
    Event = 4,
}

/// The result of reading one frame.
#[derive(Debug, PartialEq)]
pub(super) enum Decoded<'a> {
    /// No bytes.
    End,
    Frame {
        kind: Kind,
        payload: &'a [u8],
    },
    /// The beginning of a frame whose rest was never written. No good frame can follow it.
    Torn,
    /// Bytes that can't come from a torn write, and the reason.
    Damaged(&'static str),
}

/// The first bytes of the file: `ESLLMJ` and the version.
pub(super) fn magic(version: u16) -> [u8; MAGIC_BYTES] {
    let [low, high] = version.to_le_bytes();
    [b'E', b'S', b'L', b'L', b'M', b'J', low, high]
}

/// The frame that continues `chain`; `None` if the length of the payload is no u32.
pub(super) fn encode(kind: Kind, payload: &[u8], chain: u32) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok()?;
    let mut frame = Vec::with_capacity(OVERHEAD + payload.len());
    frame.push(kind as u8);
    frame.extend(length.to_le_bytes());
    let head = hash(chain, &frame);
    frame.extend(head.clone().finalize().to_le_bytes());
    frame.extend(payload);
    frame.extend(continued(head, payload).to_le_bytes());
    Some(frame)
}

/// Reads the frame at the start of `bytes`; `bytes` end where the file ends.
pub(super) fn decode(bytes: &[u8], chain: u32) -> Decoded<'_> {
    if bytes.is_empty() {
        return Decoded::End;
    }
    // After a power loss a file may have its new length but not yet its new bytes.
    if bytes.len() < HEAD || bytes.iter().all(|&byte| byte == 0) {
        return Decoded::Torn;
    }
    let head = hash(chain, &bytes[..HEAD - CRC]);
    if head.clone().finalize() != word(bytes, HEAD - CRC) {
        return Decoded::Damaged("the checksum of a frame's head differs");
    }
    let length = word(bytes, 1) as usize;
    let Some(payload) = bytes[HEAD..].get(..length) else {
        return Decoded::Torn;
    };
    let left = bytes.len() - HEAD - length;
    if left < CRC {
        return Decoded::Torn;
    }
    if continued(head, payload) != word(bytes, HEAD + length) {
        return if left == CRC {
            Decoded::Torn
        } else {
            Decoded::Damaged("the checksum of a frame differs")
        };
    }
    let kinds = [Kind::Header, Kind::Record, Kind::Digest, Kind::Event];
    match kinds.into_iter().find(|kind| *kind as u8 == bytes[0]) {
        Some(kind) => Decoded::Frame { kind, payload },
        None => Decoded::Damaged("a frame of unknown kind"),
    }
}

/// The frame CRC of a whole frame: the chain of the next one.
pub(super) fn last_crc(frame: &[u8]) -> u32 {
    word(frame, frame.len() - CRC)
}

fn hash(chain: u32, bytes: &[u8]) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(&chain.to_le_bytes());
    hasher.update(bytes);
    hasher
}

fn continued(mut hasher: Hasher, bytes: &[u8]) -> u32 {
    hasher.update(bytes);
    hasher.finalize()
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_tied_to_the_one_before() {
        let frame = encode(Kind::Event, b"{}", 7).unwrap();
        assert_eq!(
            decode(&frame, 7),
            Decoded::Frame {
                kind: Kind::Event,
                payload: b"{}"
            }
        );
        assert!(matches!(decode(&frame, 8), Decoded::Damaged(_)));
    }

    #[test]
    fn a_flipped_length_is_no_torn_tail() {
        let mut frame = encode(Kind::Event, b"{}", 7).unwrap();
        frame[2] ^= 1;
        assert!(matches!(decode(&frame, 7), Decoded::Damaged(_)));
    }

    #[test]
    fn zeros_at_the_end_are_a_torn_tail() {
        assert_eq!(decode(&[0; 100], 7), Decoded::Torn);
    }
}
