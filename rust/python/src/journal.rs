//! The journal: writer and reader.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use es_core::journal::{
    JOURNAL_VERSION, Journal as Core, JournalError, JournalWriter as CoreWriter,
};
use pyo3::prelude::*;

use crate::door::{CoreError, detached, raise, unfailing};
use crate::population::Record;

/// Adds this file's classes and constants to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("JOURNAL_VERSION", JOURNAL_VERSION)?;
    m.add_class::<JournalWriter>()?;
    m.add_class::<Journal>()
}

/// Appends frames to a journal; every append is on the disk (fsync) when it returns.
#[pyclass(frozen, module = "es_llm._core")]
pub struct JournalWriter {
    path: PathBuf,
    writer: Mutex<Option<CoreWriter>>,
}

#[pymethods]
impl JournalWriter {
    /// A new journal with this header (JSON text). An existing file is refused. The file appears whole or not at all.
    #[staticmethod]
    fn create(py: Python<'_>, path: PathBuf, header: &str) -> PyResult<Self> {
        detached(py, move || {
            CoreWriter::create(&path, header).map(|writer| Self::new(path, writer))
        })
    }

    /// An existing journal: verified, cut back to its last good frame, ready to append.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        detached(py, move || {
            CoreWriter::open(&path).map(|writer| Self::new(path, writer))
        })
    }

    /// As `open`, in a file of its own that takes the journal's name: a writer that still has the old one is refused.
    #[staticmethod]
    fn take_over(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        detached(py, move || {
            CoreWriter::take_over(&path).map(|writer| Self::new(path, writer))
        })
    }

    /// Records in the file; None if it is closed.
    #[getter]
    fn records(&self) -> Option<u32> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.as_ref().map(CoreWriter::records)
    }

    /// Appends the record of the next iteration.
    fn append_record(&self, py: Python<'_>, record: &Record) -> PyResult<()> {
        self.with(py, |writer| writer.append_record(&record.0))
    }

    /// Digest of the master weights after `iteration` was applied.
    fn append_digest(&self, py: Python<'_>, iteration: u32, digest: u64) -> PyResult<()> {
        self.with(py, |writer| writer.append_digest(iteration, digest))
    }

    /// An event as JSON text: an evaluation, a resume, a rank that died.
    fn append_event(&self, py: Python<'_>, event: &str) -> PyResult<()> {
        self.with(py, |writer| writer.append_event(event))
    }

    /// What is in the file.
    fn journal(&self, py: Python<'_>) -> PyResult<Journal> {
        self.with(py, CoreWriter::journal).map(Journal::new)
    }

    /// Closes the file; a second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        unfailing(py, || {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            drop(writer.take());
        })
    }

    fn __repr__(&self) -> String {
        format!("JournalWriter({:?})", self.path.display().to_string())
    }
}

impl JournalWriter {
    fn new(path: PathBuf, writer: CoreWriter) -> Self {
        Self {
            path,
            writer: Mutex::new(Some(writer)),
        }
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut CoreWriter) -> Result<T, JournalError> + Send,
    ) -> PyResult<T> {
        let done = detached(py, || {
            // A writer whose append panicked may have left half a frame: closed, it can only be opened anew.
            let mut writer = self.writer.lock().unwrap_or_else(|poisoned| {
                let mut writer = poisoned.into_inner();
                *writer = None;
                writer
            });
            writer.as_mut().map(work).transpose()
        })?;
        done.ok_or_else(|| {
            let path = self.path.display();
            raise(
                py,
                "JournalError",
                &format!("journal {path}: this writer is closed"),
            )
        })
    }
}

/// A journal that was read and verified.
#[pyclass(frozen, module = "es_llm._core")]
pub struct Journal {
    core: Core,
    seed_known: bool,
}

#[pymethods]
impl Journal {
    /// Reads and verifies a journal.
    #[staticmethod]
    fn read(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        detached(py, move || Core::read(&path)).map(Self::new)
    }

    /// This journal, with the run seed that its header names: records of format version 1 don't hold it.
    fn with_run_seed(&self, run_seed: u64) -> Self {
        Self {
            core: self.core.clone().with_run_seed(run_seed),
            seed_known: true,
        }
    }

    #[getter]
    fn version(&self) -> u16 {
        self.core.version
    }

    #[getter]
    fn header(&self) -> &str {
        &self.core.header
    }

    #[getter]
    fn records(&self, py: Python<'_>) -> PyResult<Vec<Record>> {
        if !self.seed_known {
            let message = "the records of a journal of version 1 hold no run seed: call `with_run_seed` first";
            return Err(raise(py, "JournalError", message));
        }
        Ok(self.core.records.iter().cloned().map(Record).collect())
    }

    /// Iteration -> digest after it.
    #[getter]
    fn digests(&self) -> BTreeMap<u32, u64> {
        self.core.digests.clone()
    }

    #[getter]
    fn events(&self) -> Vec<String> {
        self.core.events.clone()
    }

    #[getter]
    fn good_bytes(&self) -> u64 {
        self.core.good_bytes
    }

    /// Bytes of an unfinished last frame, ignored by readers and cut off by `JournalWriter.open`.
    #[getter]
    fn torn_bytes(&self) -> u64 {
        self.core.torn_bytes
    }

    fn __repr__(&self) -> String {
        let Core {
            version,
            records,
            digests,
            events,
            good_bytes,
            torn_bytes,
            ..
        } = &self.core;
        format!(
            "Journal(version={version}, records={}, digests={}, events={}, good_bytes={good_bytes}, torn_bytes={torn_bytes})",
            records.len(),
            digests.len(),
            events.len()
        )
    }
}

impl Journal {
    fn new(core: Core) -> Self {
        let seed_known = core.version > 1;
        Self { core, seed_known }
    }
}

impl CoreError for JournalError {
    fn class(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } | Self::Header { .. } => "JournalCorruptError",
            Self::Deleted { .. } => "JournalTakenError",
            Self::Io { .. }
            | Self::Exists { .. }
            | Self::NotAJournal { .. }
            | Self::Version { .. }
            | Self::OldVersion { .. }
            | Self::NoHeader { .. }
            | Self::Append { .. }
            | Self::Lost { .. }
            | Self::Broken { .. }
            | Self::Changed { .. }
            | Self::Order { .. }
            | Self::DigestOrder { .. }
            | Self::DigestDiffers { .. }
            | Self::Unwritable { .. } => "JournalError",
        }
    }
}
