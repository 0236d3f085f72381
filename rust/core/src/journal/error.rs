//! The errors of journals.

use std::io;
use std::path::Path;

/// Why a journal can't be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct JournalError {
    /// The reason, for callers that handle some reasons in their own way.
    pub fault: Fault,
    /// What happened, with the name of the file.
    message: String,
}

/// The reason of a [`JournalError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Fault {
    Io,
    Exists,
    NotAJournal,
    Version,
    NoHeader,
    Header,
    /// Damaged at this byte; the iterations before it are good.
    Corrupt {
        offset: u64,
        iterations: usize,
    },
    /// A write failed, now or before.
    Write,
    Changed,
    Deleted,
    Order,
    DigestDiffers,
    Unwritable,
}

impl JournalError {
    /// `text` continues "journal PATH".
    pub(super) fn new(fault: Fault, path: &Path, text: &str) -> Self {
        let message = format!("journal {}{text}", path.display());
        Self { fault, message }
    }

    /// For `map_err`: the system refused this action on the file.
    pub(super) fn io(path: &Path, action: &str) -> impl Fn(io::Error) -> Self {
        move |source| Self::new(Fault::Io, path, &format!(": can't {action} it: {source}"))
    }
}
