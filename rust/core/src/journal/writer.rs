//! The writer: one frame per call, on the disk when the call returns.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::frame::{self, Kind};
use super::{End, Fault, JOURNAL_VERSION, Journal, JournalError, disk, payload};
use crate::population::Record;

/// Why a payload has no frame.
const TOO_LONG: &str = "it is longer than 4 GiB";

/// Appends frames to a journal; every append is on the disk (fdatasync) when it returns.
///
/// After a failed write (a full disk) the file is cut back to its last good frame, and the writer stays usable. After a
/// failed sync or a failed cut the state of the disk is unknown, so the writer refuses everything until the journal is
/// opened again.
#[derive(Debug)]
pub struct JournalWriter {
    path: PathBuf,
    file: File,
    end: End,
    /// Number of records in the file, which is the next iteration.
    records: u32,
    digests: BTreeMap<u32, u64>,
    broken: bool,
}

impl JournalWriter {
    /// Creates a journal with this header (JSON text). The file appears whole or not at all.
    ///
    /// # Errors
    /// If the file exists or can't be created.
    pub fn create(path: &Path, header: &str) -> Result<Self, JournalError> {
        let mut end = End::of_magic(JOURNAL_VERSION);
        let frame = frame::encode(Kind::Header, header.as_bytes(), end.chain)
            .ok_or_else(|| unwritable(path, "the header", TOO_LONG))?;
        end.pass(header.len(), &frame);
        let bytes = [&frame::magic(JOURNAL_VERSION)[..], &frame].concat();
        let file = disk::create_whole(path, &bytes).map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => JournalError::new(
                Fault::Exists,
                path,
                " exists already; it is never overwritten",
            ),
            _ => JournalError::io(path, "create")(source),
        })?;
        Ok(Self::after(
            Journal::new(JOURNAL_VERSION, String::new(), end),
            path,
            file,
        ))
    }

    /// Opens an existing journal: verifies it and cuts it back to its last good frame.
    ///
    /// # Errors
    /// As [`Journal::read`]; if the file can't be written or has an older format version.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let io = |action| JournalError::io(path, action);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(path)
            .map_err(io("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        let journal = parse_current(&bytes, path)?;
        if journal.torn_bytes > 0 {
            file.set_len(journal.good_bytes)
                .map_err(io("cut the torn tail of"))?;
        }
        // Without a torn tail too: if a writer was killed before its sync, the last frames may be in memory only.
        file.sync_all().map_err(io("sync"))?;
        Ok(Self::after(journal, path, file))
    }

    /// A writer that continues behind the frames of this journal.
    fn after(journal: Journal, path: &Path, file: File) -> Self {
        Self {
            path: path.to_owned(),
            file,
            end: journal.end,
            records: journal.records.len() as u32,
            digests: journal.digests,
            broken: false,
        }
    }

    /// As [`JournalWriter::open`], but copies the good frames to a new file that takes the name of the journal.
    ///
    /// For a journal whose writer may still run, such as a leader that hangs. The new file has all frames that the old
    /// writer appended with success. The old file loses its name, so later appends of the old writer are refused.
    ///
    /// # Errors
    /// As [`JournalWriter::open`].
    pub fn take_over(path: &Path) -> Result<Self, JournalError> {
        loop {
            let mut old = File::open(path).map_err(JournalError::io(path, "open"))?;
            let (journal, bytes) = read_again(&mut old, path)?;
            let (mut file, replaced) = disk::replace_whole(path, &bytes, &old)
                .map_err(JournalError::io(path, "take over"))?;
            if !replaced {
                continue; // Another writer took it over at the same time.
            }
            let (later, all) = read_again(&mut old, path)?;
            if all.len() <= bytes.len() {
                return Ok(Self::after(journal, path, file));
            }
            // The frames that were appended between the reading and the renaming.
            let copied = file
                .write_all(&all[bytes.len()..])
                .and_then(|()| file.sync_all());
            copied.map_err(JournalError::io(path, "take over"))?;
            return Ok(Self::after(later, path, file));
        }
    }

    /// The journal in the file of this writer, even if another file has the name now.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn journal(&mut self) -> Result<Journal, JournalError> {
        Ok(read_again(&mut self.file, &self.path)?.0)
    }

    /// Number of records in the file, which is the next iteration.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Appends the record of the next iteration.
    ///
    /// # Errors
    /// If it isn't the record of the next iteration or can't be written; the journal is as before then.
    pub fn append_record(&mut self, record: &Record) -> Result<(), JournalError> {
        let (expected, got) = (shown(self.records), shown(record.iteration));
        let what = format!("the record of iteration {got}");
        if got != expected {
            return Err(self.refused(
                Fault::Order,
                &format!("expected the record of iteration {expected}, got iteration {got}"),
            ));
        }
        payload::check_record(record).map_err(|why| unwritable(&self.path, &what, why))?;
        self.append(Kind::Record, &payload::encode_record(record), &what)?;
        self.records += 1;
        Ok(())
    }

    /// Appends the digest of the master weights after `iteration`. A second digest (after a resume) must be equal.
    ///
    /// # Errors
    /// If the iteration has no record yet or another digest, or the digest can't be written.
    pub fn append_digest(&mut self, iteration: u32, digest: u64) -> Result<(), JournalError> {
        let (iterations, number) = (self.records, shown(iteration));
        if iteration >= iterations {
            return Err(self.refused(
                Fault::Order,
                &format!(
                    "a digest of iteration {number}, whose record isn't written; the journal has {iterations} \
                     iterations"
                ),
            ));
        }
        if let Some(&expected) = self.digests.get(&iteration)
            && expected != digest
        {
            return Err(self.refused(
                Fault::DigestDiffers,
                &format!("digest {digest:#018x} of iteration {number} differs from {expected:#018x} written before"),
            ));
        }
        self.append(
            Kind::Digest,
            &payload::encode_digest(iteration, digest),
            &format!("the digest of iteration {number}"),
        )?;
        self.digests.insert(iteration, digest);
        Ok(())
    }

    /// Appends an event (JSON text): an evaluation, a resume, a rank that died.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn append_event(&mut self, event: &str) -> Result<(), JournalError> {
        self.append(Kind::Event, event.as_bytes(), "an event")
    }

    fn append(&mut self, kind: Kind, payload: &[u8], what: &str) -> Result<(), JournalError> {
        self.check_file(what)?;
        self.put(kind, payload, what)
    }

    /// Appends to a file that [`JournalWriter::check_file`] has just checked.
    fn put(&mut self, kind: Kind, payload: &[u8], what: &str) -> Result<(), JournalError> {
        let frame = frame::encode(kind, payload, self.end.chain)
            .ok_or_else(|| unwritable(&self.path, what, TOO_LONG))?;
        if let Err(source) = self.file.write_all(&frame) {
            let cut = self
                .file
                .set_len(self.end.bytes)
                .and_then(|()| self.file.sync_all());
            self.broken = cut.is_err();
            return Err(self.write_failed(what, &source));
        }
        if let Err(source) = self.file.sync_data() {
            // A second sync would prove nothing: the pages may be marked clean though they never reached the disk.
            self.broken = true;
            let _ = self.file.set_len(self.end.bytes);
            return Err(self.write_failed(what, &source));
        }
        // With a name now, the frame is safe: a takeover reads this file again after it has lost its name.
        self.check_name(what)?;
        self.end.pass(payload.len(), &frame);
        Ok(())
    }

    /// Refuses a file that another process changed or deleted.
    fn check_file(&self, what: &str) -> Result<(), JournalError> {
        if self.broken {
            let iterations = self.records;
            return Err(self.refused(
                Fault::Write,
                &format!(
                    "{what} not written: an earlier append failed, and the state of the disk is unknown; open the journal \
                     again, its {iterations} iterations are safe"
                ),
            ));
        }
        let metadata = self.check_name(what)?;
        let (expected, got) = (self.end.bytes, metadata.len());
        if got != expected {
            return Err(self.refused(
                Fault::Changed,
                &format!(
                    "{what} not written: the file has {got} bytes, expected {expected}: another process cut it or writes to it"
                ),
            ));
        }
        Ok(())
    }

    /// Refuses a file without a name.
    fn check_name(&self, what: &str) -> Result<std::fs::Metadata, JournalError> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(JournalError::io(&self.path, "look at"))?;
        if disk::is_deleted(&metadata) {
            return Err(self.refused(
                Fault::Deleted,
                &format!(
                    "{what} not written: another leader of this job has taken the file over, or it was deleted; a deleted \
                     journal can only be resumed from a copy, such as that of another host of the run"
                ),
            ));
        }
        Ok(metadata)
    }

    fn write_failed(&self, what: &str, source: &io::Error) -> JournalError {
        let iterations = self.records;
        let state = if self.broken {
            format!(
                "its {iterations} iterations before it are safe, and nothing more is written until the journal is opened \
                 again"
            )
        } else {
            format!("it was cut back and its {iterations} iterations are safe")
        };
        self.refused(
            Fault::Write,
            &format!("can't write {what}: {source}; {state}"),
        )
    }

    fn refused(&self, fault: Fault, reason: &str) -> JournalError {
        JournalError::new(fault, &self.path, &format!(": {reason}"))
    }
}

/// The journal in an open file, and the bytes of its good frames.
fn read_again(file: &mut File, path: &Path) -> Result<(Journal, Vec<u8>), JournalError> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(JournalError::io(path, "read"))?;
    let journal = parse_current(&bytes, path)?;
    bytes.truncate(journal.good_bytes as usize);
    Ok((journal, bytes))
}

/// A journal of the current format version, which can be continued.
fn parse_current(bytes: &[u8], path: &Path) -> Result<Journal, JournalError> {
    let journal = Journal::parse(bytes, path)?;
    if journal.version == JOURNAL_VERSION {
        return Ok(journal);
    }
    let text = format!(
        " has format version {}, which is read and replayed, but no longer continued; this package appends to version \
         {JOURNAL_VERSION}: rebuild the model with `es-llm replay`, and start a new run from that model",
        journal.version
    );
    Err(JournalError::new(Fault::Version, path, &text))
}

/// The number of an iteration in messages, which count from 1.
fn shown(iteration: u32) -> u64 {
    u64::from(iteration) + 1
}

fn unwritable(path: &Path, what: &str, reason: &str) -> JournalError {
    let text = format!(": {what} can't be written: {reason}");
    JournalError::new(Fault::Unwritable, path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A takeover may have read the old file for the last time before the frame was written.
    #[test]
    fn an_append_to_a_file_that_lost_its_name_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.es");
        let mut old = JournalWriter::create(&path, "{}").unwrap();
        old.check_file("an event").unwrap();
        JournalWriter::take_over(&path).unwrap();
        let put = old.put(Kind::Event, b"{}", "an event");
        assert!(matches!(put, Err(error) if error.fault == Fault::Deleted));
    }
}
