//! The journal: writer and reader.

use std::collections::BTreeMap;
use std::path::PathBuf;

use es_core::journal::{
    Fault, JOURNAL_VERSION, Journal as Core, JournalError, JournalWriter as CoreWriter,
};
use pyo3::prelude::*;

use crate::door::{CoreError, Guarded, detached, raise, unfailing};
use crate::population::Record;

/// Adds the classes and constants of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("JOURNAL_VERSION", JOURNAL_VERSION)?;
    m.add_class::<JournalWriter>()?;
    m.add_class::<Journal>()
}

/// Appends frames to a journal; every append is on the disk (fsync) when it returns.
#[pyclass(frozen, module = "es_llm._core")]
pub struct JournalWriter {
    path: PathBuf,
    /// None if it is closed.
    writer: Guarded<Option<CoreWriter>>,
}

#[pymethods]
impl JournalWriter {
    /// Creates a journal with this header (JSON text). Refuses an existing file. The file appears whole or not at all.
    #[staticmethod]
    fn create(py: Python<'_>, path: PathBuf, header: &str) -> PyResult<Self> {
        let writer = detached(py, || CoreWriter::create(&path, header))?;
        Ok(Self::new(path, writer))
    }

    /// Opens an existing journal: verifies it and cuts it back to its last good frame.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let writer = detached(py, || CoreWriter::open(&path))?;
        Ok(Self::new(path, writer))
    }

    /// As `open`, but copies the journal to a new file that takes its name. A writer of the old file is refused from then on.
    #[staticmethod]
    fn take_over(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let writer = detached(py, || CoreWriter::take_over(&path))?;
        Ok(Self::new(path, writer))
    }

    /// Number of records in the file; None if it is closed.
    #[getter]
    fn records(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        self.writer
            .with(py, |writer| writer.as_ref().map(CoreWriter::records))
    }

    /// Appends the record of the next iteration.
    fn append_record(&self, py: Python<'_>, record: &Record) -> PyResult<()> {
        self.with(py, |writer| writer.append_record(&record.0))
    }

    /// Appends the digest of the master weights after `iteration`.
    fn append_digest(&self, py: Python<'_>, iteration: u32, digest: u64) -> PyResult<()> {
        self.with(py, |writer| writer.append_digest(iteration, digest))
    }

    /// Appends an event (JSON text): an evaluation, a resume, a rank that died.
    fn append_event(&self, py: Python<'_>, event: &str) -> PyResult<()> {
        self.with(py, |writer| writer.append_event(event))
    }

    /// The journal in the file.
    fn journal(&self, py: Python<'_>) -> PyResult<Journal> {
        self.with(py, CoreWriter::journal).map(Journal::new)
    }

    /// Closes the file; a second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.writer.with(py, |writer| drop(writer.take()))
    }

    fn __repr__(&self) -> String {
        format!("JournalWriter({:?})", self.path.display().to_string())
    }
}

impl JournalWriter {
    fn new(path: PathBuf, writer: CoreWriter) -> Self {
        Self {
            path,
            writer: Guarded::new(Some(writer)),
        }
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut CoreWriter) -> Result<T, JournalError> + Send,
    ) -> PyResult<T> {
        let done = self.writer.attempt(py, |slot| {
            // A panic in `work` may leave half a frame. The slot is empty then, so the writer is closed.
            let mut open = slot.take();
            let done = open.as_mut().map(work).transpose();
            *slot = open;
            done
        })?;
        done.ok_or_else(|| {
            let message = format!("journal {}: this writer is closed", self.path.display());
            raise(py, "JournalError", &message)
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

    /// This journal with the run seed from its header, which records of format version 1 don't hold.
    fn with_run_seed(&self, py: Python<'_>, run_seed: u64) -> PyResult<Self> {
        let core = unfailing(py, || self.core.clone().with_run_seed(run_seed))?;
        Ok(Self {
            core,
            seed_known: true,
        })
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
        unfailing(py, || {
            self.core.records.iter().cloned().map(Record).collect()
        })
    }

    /// Iteration -> digest of the master weights after it.
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

    /// Bytes of an unfinished last frame. Readers ignore them; `JournalWriter.open` removes them.
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
        match self.fault {
            Fault::Corrupt { .. } | Fault::Header => "JournalCorruptError",
            Fault::Deleted => "JournalTakenError",
            Fault::Io
            | Fault::Exists
            | Fault::NotAJournal
            | Fault::Version
            | Fault::NoHeader
            | Fault::Write
            | Fault::Changed
            | Fault::Order
            | Fault::DigestDiffers
            | Fault::Unwritable => "JournalError",
        }
    }
}
