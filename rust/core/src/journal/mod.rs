//! The journal: an append-only file. With the base model it gives the trained weights, bit for bit.
//!
//! ```text
//! magic | header frame | frame | frame | ...      frames: record, digest, event; bytes in docs/journal.md
//! ```
//! Frames are chained: each checksum covers the one before, so a frame that is missing, moved or repeated is found.
//! A kill or a full disk leaves an unfinished end, the *torn tail*: reading then gives the good frames before it. Reading
//! refuses any other damage. Knows nothing about the content of the header and the events, or about weights.

mod disk;
mod error;
mod frame;
mod payload;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::{Fault, JournalError};
pub use payload::encode_record;
pub use writer::JournalWriter;

use crate::population::Record;
use frame::{Decoded, Kind};

/// Version of the file format that is written; version 1 is still read.
pub const JOURNAL_VERSION: u16 = 2;

/// A journal that was read and verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Journal {
    /// Version of the file format.
    pub version: u16,
    /// The caller's header, JSON text.
    pub header: String,
    /// One record per iteration, from 0 on without gaps.
    pub records: Vec<Record>,
    /// Iteration -> digest of the master weights after it.
    pub digests: BTreeMap<u32, u64>,
    /// The caller's events, JSON text, in file order.
    pub events: Vec<String>,
    /// Bytes up to the end of the last good frame.
    pub good_bytes: u64,
    /// Bytes of an unfinished last frame; [`JournalWriter::open`] removes them.
    pub torn_bytes: u64,
    /// The end of the good frames.
    end: End,
}

impl Journal {
    /// Reads and verifies a journal.
    ///
    /// # Errors
    /// If the file can't be read, is no journal of a known version, or is damaged before its last frame.
    pub fn read(path: &Path) -> Result<Self, JournalError> {
        let bytes = std::fs::read(path).map_err(JournalError::io(path, "read"))?;
        Self::parse(&bytes, path)
    }

    /// Sets the run seed in the records of a version-1 journal, which don't hold it. Other journals don't change.
    #[must_use]
    pub fn with_run_seed(mut self, run_seed: u64) -> Self {
        let records = self.records.iter_mut().filter(|record| record.rate_folded);
        records.for_each(|record| record.run_seed = run_seed);
        self
    }

    /// Verifies the bytes of a journal; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, JournalError> {
        let (version, mut end) = check_magic(bytes, path)?;
        let unusable = |reason| {
            let text = format!(
                " is damaged in its header, at byte {}: {reason}; nothing in it can be used: use the copy of another host, \
                 if the run had several, or start again in another directory",
                frame::MAGIC_BYTES
            );
            JournalError::new(Fault::Header, path, &text)
        };
        let mut journal = match frame::decode(&bytes[frame::MAGIC_BYTES..], end.chain) {
            Decoded::Frame {
                kind: Kind::Header,
                payload,
            } => {
                let header = payload::decode_text(payload).map_err(unusable)?;
                end.pass(payload.len(), &bytes[frame::MAGIC_BYTES..]);
                Self::new(version, header, end)
            }
            Decoded::Frame { .. } => return Err(unusable("the first frame is no header")),
            Decoded::Damaged(reason) => return Err(unusable(reason)),
            Decoded::End | Decoded::Torn => {
                let text = " has no whole header: another program wrote it, or it was cut";
                return Err(JournalError::new(Fault::NoHeader, path, text));
            }
        };
        let damage = |journal: &Self, reason| {
            let (End { bytes, frames, .. }, iterations) = (journal.end, journal.records.len());
            let text = format!(
                " is damaged at byte {bytes}, in frame {frames}: {reason}; the {iterations} iterations before \
                 it are good, and cutting the file to {bytes} bytes keeps them"
            );
            let offset = bytes;
            JournalError::new(Fault::Corrupt { offset, iterations }, path, &text)
        };
        loop {
            let rest = &bytes[journal.end.bytes as usize..];
            match frame::decode(rest, journal.end.chain) {
                Decoded::End => break,
                Decoded::Torn => {
                    journal.torn_bytes = rest.len() as u64;
                    break;
                }
                Decoded::Damaged(reason) => return Err(damage(&journal, reason)),
                Decoded::Frame { kind, payload } => {
                    journal
                        .take(kind, payload)
                        .map_err(|why| damage(&journal, why))?;
                    journal.end.pass(payload.len(), rest);
                }
            }
        }
        journal.good_bytes = journal.end.bytes;
        Ok(journal)
    }

    fn new(version: u16, header: String, end: End) -> Self {
        Self {
            version,
            header,
            records: Vec::new(),
            digests: BTreeMap::new(),
            events: Vec::new(),
            good_bytes: 0,
            torn_bytes: 0,
            end,
        }
    }

    fn take(&mut self, kind: Kind, payload: &[u8]) -> Result<(), &'static str> {
        match kind {
            Kind::Header => return Err("a second header"),
            Kind::Record => {
                let record = match self.version {
                    1 => payload::decode_record_v1(payload)?,
                    _ => payload::decode_record(payload)?,
                };
                if record.iteration as usize != self.records.len() {
                    return Err("a record out of order");
                }
                self.records.push(record);
            }
            Kind::Digest => {
                let (iteration, digest) = payload::decode_digest(payload)?;
                if iteration as usize >= self.records.len() {
                    return Err("a digest before its record");
                }
                if *self.digests.entry(iteration).or_insert(digest) != digest {
                    return Err("two different digests of one iteration");
                }
            }
            Kind::Event => self.events.push(payload::decode_text(payload)?),
        }
        Ok(())
    }
}

/// The end of the good frames: the position of the next frame, and the checksum that it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    bytes: u64,
    frames: u64,
    chain: u32,
}

impl End {
    /// Before the first frame.
    fn of_magic(version: u16) -> Self {
        Self {
            bytes: frame::MAGIC_BYTES as u64,
            frames: 0,
            chain: crc32fast::hash(&frame::magic(version)),
        }
    }

    /// Moves the end behind the good frame at the start of `rest`.
    fn pass(&mut self, payload: usize, rest: &[u8]) {
        let length = frame::OVERHEAD + payload;
        self.chain = frame::last_crc(&rest[..length]);
        self.bytes += length as u64;
        self.frames += 1;
    }
}

/// The format version in the first bytes, and the position of the first frame.
fn check_magic(bytes: &[u8], path: &Path) -> Result<(u16, End), JournalError> {
    let magic = frame::magic(JOURNAL_VERSION);
    let begin = bytes.first_chunk::<{ frame::MAGIC_BYTES }>();
    let Some(&[.., low, high]) = begin.filter(|begin| begin[..6] == magic[..6]) else {
        let text = " is no journal: it doesn't begin with \"ESLLMJ\" and a version";
        return Err(JournalError::new(Fault::NotAJournal, path, text));
    };
    match u16::from_le_bytes([low, high]) {
        version @ (1 | JOURNAL_VERSION) => Ok((version, End::of_magic(version))),
        got => {
            let text = format!(
                " has format version {got}; this package reads versions 1 to {JOURNAL_VERSION}"
            );
            Err(JournalError::new(Fault::Version, path, &text))
        }
    }
}
