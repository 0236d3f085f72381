//! The records that a rank has, from the first on, with a checksum over each prefix.

/// Records by iteration, as opaque bytes.
#[derive(Debug, Default)]
pub struct History {
    records: Vec<Vec<u8>>,
    /// The checksum over records 0..=i, for each i.
    checksums: Vec<u64>,
}

impl History {
    /// The number of records, which is the next iteration.
    pub fn count(&self) -> u32 {
        self.records.len() as u32
    }

    /// Appends the next record.
    pub fn push(&mut self, record: Vec<u8>) {
        self.checksums.push(mix(self.checksum_of_all(), &record));
        self.records.push(record);
    }

    /// The record of an iteration.
    pub fn get(&self, iteration: u32) -> Option<&[u8]> {
        self.records.get(iteration as usize).map(Vec::as_slice)
    }

    /// The records from `first` on; none if there are fewer.
    pub fn since(&self, first: u32) -> &[Vec<u8>] {
        self.records.get(first as usize..).unwrap_or_default()
    }

    /// Whether these records start at `first`, leave no gap after the known records, and equal them where both overlap.
    pub fn agrees(&self, first: u32, records: &[Vec<u8>]) -> bool {
        let mut both = self.since(first).iter().zip(records);
        first <= self.count() && both.all(|(known, record)| known == record)
    }

    /// The checksum over the first `count` records, equal for equal prefixes; `None` if there are fewer records.
    pub fn checksum(&self, count: u32) -> Option<u64> {
        match count {
            0 => Some(0),
            count => self.checksums.get(count as usize - 1).copied(),
        }
    }

    /// The checksum over all records.
    pub fn checksum_of_all(&self) -> u64 {
        self.checksums.last().copied().unwrap_or(0)
    }
}

/// Continues a checksum with these bytes. Not cryptographic.
pub(super) fn mix(seed: u64, bytes: &[u8]) -> u64 {
    let word = |state: u64, word: u64| {
        let mixed = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    };
    let state = bytes.chunks(8).fold(seed, |state, chunk| {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        word(state, u64::from_le_bytes(padded))
    });
    word(state, bytes.len() as u64 + 1)
}
