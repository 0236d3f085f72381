//! The journals of a simulated job, one per host. As in a real job, only the rank that took a journal over last can append
//! to it.

/// A host's journal.
#[derive(Debug, Default)]
pub struct Disk {
    pub records: Vec<Vec<u8>>,
    /// The number of the last takeover.
    owner: u64,
    /// The rank that the lock names: it is about to take the journal over, or was the last one to do so.
    pub locked: Option<u32>,
    /// Whether a leader of this job wrote it, so that the other ranks of this host see it.
    pub led: bool,
}

/// What a process knows about a journal that it writes or wrote.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    owner: u64,
    have: usize,
}

/// Another rank took the journal over.
#[derive(Debug)]
pub struct Taken;

impl Disk {
    /// Takes the journal over. Appends those of the known records that it lacks, and returns its records beyond them.
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

    /// Appends the record of an iteration unless it is there already.
    pub fn append(
        &mut self,
        writer: &mut Writer,
        iteration: u32,
        record: &[u8],
    ) -> Result<(), Taken> {
        let index = iteration as usize;
        assert!(
            index <= writer.have,
            "expected record {}, got {index}",
            writer.have
        );
        if index < writer.have {
            assert_eq!(
                self.records[index], record,
                "record {index} differs from the one on the disk"
            );
            return Ok(());
        }
        self.write(*writer)?;
        writer.have += 1;
        self.records.push(record.to_vec());
        Ok(())
    }

    /// Appends an entry that is not a record.
    pub fn write(&self, writer: Writer) -> Result<(), Taken> {
        if writer.owner == self.owner {
            Ok(())
        } else {
            Err(Taken)
        }
    }
}
