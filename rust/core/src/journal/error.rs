//! The errors of journals.

use std::io;
use std::path::{Path, PathBuf};

use super::JOURNAL_VERSION;

/// Why a journal can't be read or written. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum JournalError {
    #[error("journal {}: can't {action} it: {source}", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error("journal {} exists already; it is never overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("{} is no journal: it doesn't begin with \"ESLLMJ\" and a version", path.display())]
    NotAJournal { path: PathBuf },
    #[error("journal {} has format version {got}; this package reads versions 1 to {JOURNAL_VERSION}", path.display())]
    Version { path: PathBuf, got: u16 },
    #[error(
        "journal {} has format version {got}, which is read and replayed, but no longer continued; this package appends \
         to version {JOURNAL_VERSION}: rebuild the model with `es-llm replay`, and start a new run from that model",
        path.display()
    )]
    OldVersion { path: PathBuf, got: u16 },
    #[error("journal {} has no whole header: another program wrote it, or it was cut", path.display())]
    NoHeader { path: PathBuf },
    #[error(
        "journal {} is damaged in its header, at byte {offset}: {reason}; nothing in it can be used: use the \
         copy of another host, if the run had several, or start again in another directory",
        path.display()
    )]
    Header {
        path: PathBuf,
        offset: u64,
        reason: &'static str,
    },
    #[error(
        "journal {} is damaged at byte {offset}, in frame {frame}: {reason}; the {iterations} iterations before it \
         are good, and cutting the file to {offset} bytes keeps them",
        path.display()
    )]
    Corrupt {
        path: PathBuf,
        offset: u64,
        frame: u64,
        iterations: usize,
        reason: &'static str,
    },
    #[error(
        "journal {}: can't write {what}: {source}; it was cut back and its {iterations} iterations are safe",
        path.display()
    )]
    Append {
        path: PathBuf,
        what: String,
        iterations: u32,
        source: io::Error,
    },
    #[error(
        "journal {}: can't write {what}: {source}; its {iterations} iterations before it are safe, and nothing more \
         is written until the journal is opened again",
        path.display()
    )]
    Lost {
        path: PathBuf,
        what: String,
        iterations: u32,
        source: io::Error,
    },
    #[error(
        "journal {}: {what} not written: an earlier append failed, and the state of the disk is unknown; open the \
         journal again, its {iterations} iterations are safe",
        path.display()
    )]
    Broken {
        path: PathBuf,
        what: String,
        iterations: u32,
    },
    #[error(
        "journal {}: {what} not written: the file has {got} bytes, expected {expected}: another process cut it or writes \
         to it",
        path.display()
    )]
    Changed {
        path: PathBuf,
        what: String,
        expected: u64,
        got: u64,
    },
    #[error(
        "journal {}: {what} not written: another leader of this job has taken the file over, or it was deleted; a \
         deleted journal can only be resumed from a copy, such as that of another host of the run",
        path.display()
    )]
    Deleted { path: PathBuf, what: String },
    #[error("journal {}: expected the record of iteration {expected}, got iteration {got}", path.display())]
    Order {
        path: PathBuf,
        expected: u32,
        got: u32,
    },
    #[error("journal {}: a digest of iteration {iteration}, whose record isn't written; the journal has {iterations} iterations", path.display())]
    DigestOrder {
        path: PathBuf,
        iteration: u32,
        iterations: u32,
    },
    #[error("journal {}: digest {got:#018x} of iteration {iteration} differs from {expected:#018x} written before", path.display())]
    DigestDiffers {
        path: PathBuf,
        iteration: u32,
        expected: u64,
        got: u64,
    },
    #[error("journal {}: {what} can't be written: {reason}", path.display())]
    Unwritable {
        path: PathBuf,
        what: String,
        reason: &'static str,
    },
}

impl JournalError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            action,
            source,
        }
    }
}
