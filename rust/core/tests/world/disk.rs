//! The journals of a simulated job, one on each host. As in a real one, whoever takes a journal over is the only one that
//! can append to it from then on.

/// A host's journal.
#[derive(Debug, Default)]
pub struct Disk {
    pub records: Vec<Vec<u8>>,
    /// Of the last one that took it over.
    owner: u64,
    /// Whom the lock names: who is about to take it over, or did last.
    pub locked: Option<u32>,
    /// Whether a leader of this job wrote it: the others of this host see it then.
    pub led: bool,
}

/// What one process knows of a journal that it writes, or wrote.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    owner: u64,
    have: usize,
}

/// Somebody else took the journal over.
#[derive(Debug)]
pub struct Taken;

impl Disk {
    /// Opens it, and makes it and these records one: appends what it lacks, returns what they lack.
    pub fn take_over(&mut self, known: &[Vec<u8>]) -> (Writer, Vec<Vec<u8>>) {
        let both = self.records.len().min(known.len());
        assert_eq!(
            self.records[..both],
            known[..both],
            "the journal holds other records than the ranks"
        );
        self.records.extend_from_slice(&known[both..]);
        self.owner += 1;
        let writer = Writer {
            owner: self.owner,
            have: self.records.len(),
        };
        (writer, self.records[known.len().max(both)..].to_vec())
    }

    /// The record of an iteration; one that is there already is left alone.
    pub fn append(
        &mut self,
        writer: &mut Writer,
        iteration: u32,
        record: &[u8],
    ) -> Result<(), Taken> {
        let place = iteration as usize;
        assert!(
            place <= writer.have,
            "expected record {}, got {place}",
            writer.have
        );
        if place < writer.have {
            assert_eq!(
                self.records[place], record,
                "record {place} is another one on the disk"
            );
            return Ok(());
        }
        self.write(*writer)?;
        writer.have += 1;
        self.records.push(record.to_vec());
        Ok(())
    }

    /// Something that isn't a record.
    pub fn write(&self, writer: Writer) -> Result<(), Taken> {
        if writer.owner == self.owner {
            Ok(())
        } else {
            Err(Taken)
        }
    }
}
