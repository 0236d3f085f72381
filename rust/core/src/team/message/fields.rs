//! The bytes of the message fields that are more than a number or some bytes.

use crate::schedule::UnitId;
use crate::team::wire::{Field, Item, Reader, WireError, Writer};

use super::{Assignment, CallEnd, Hello, Outcome, Piece, Published, Report, Round, WeightsDigest};

/// The most units or ranks that one message may name.
const MAX_IDS: usize = 1 << 26;

/// The fields of a struct in the order of their bytes.
macro_rules! fields {
    ($($name:ident { $($field:ident),+ })+) => {$(
        impl Field for $name {
            fn write(&self, out: &mut Writer) {
                $(self.$field.write(out);)+
            }

            fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
                $(let $field = from.get()?;)+
                Ok(Self { $($field),+ })
            }
        }
    )+};
}

fields! {
    Round { kind, step }
    WeightsDigest { iteration, digest, rebuilds }
    Hello { have, history, identity, led, digest, results }
    Report { round, deal, ready, counts, results, figures }
    Outcome { values, counts, figures }
    Assignment { round, deal, alone, units }
    CallEnd { leader, have, payload, last }
    Piece { leader, iteration, index, bytes }
    Published { iteration, checksum, length, ranks, piece }
}

/// Ids of units or ranks as runs of consecutive ids: the number of runs, then (first, length) of each.
impl Field for Vec<u32> {
    fn write(&self, out: &mut Writer) {
        let runs: Vec<&[u32]> = self.chunk_by(|a, b| *b == a.wrapping_add(1)).collect();
        out.varint(runs.len() as u64);
        for run in runs {
            run[0].write(out);
            out.varint(run.len() as u64);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut ids = Self::new();
        for _ in 0..from.count()? {
            let (first, length): (u32, u32) = (from.get()?, from.get()?);
            let end = first.checked_add(length).ok_or(WireError::Range)?;
            // A run of any length takes two varints, so the bytes of the message do not bound it.
            if ids.len() + length as usize > MAX_IDS {
                return Err(WireError::Range);
            }
            ids.extend(first..end);
        }
        Ok(ids)
    }
}

/// Counts, mostly small.
impl Field for Vec<u64> {
    fn write(&self, out: &mut Writer) {
        out.varint(self.len() as u64);
        for &count in self {
            out.varint(count);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        (0..from.count()?).map(|_| from.varint()).collect()
    }
}

/// Figures by unit.
impl Item for (UnitId, Vec<u8>) {}

/// Results by unit.
impl Item for (UnitId, Outcome) {}

/// Values by unit, in runs of consecutive units with the same number of values: the number of runs, then of each
/// (first, length, values per unit) and the values. A unit without values is a separate run, so every unit takes bytes.
impl Field for Vec<(UnitId, Vec<f64>)> {
    fn write(&self, out: &mut Writer) {
        let next = |a: &(UnitId, Vec<f64>), b: &(UnitId, Vec<f64>)| {
            b.0 == a.0.wrapping_add(1) && b.1.len() == a.1.len() && !b.1.is_empty()
        };
        let runs: Vec<_> = self.chunk_by(next).collect();
        out.varint(runs.len() as u64);
        for run in runs {
            run[0].0.write(out);
            out.varint(run.len() as u64);
            out.varint(run[0].1.len() as u64);
            for (_, values) in run {
                out.floats(values);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut results = Self::new();
        for _ in 0..from.count()? {
            let (first, length): (UnitId, u32) = (from.get()?, from.get()?);
            let width = from.count()?;
            if width == 0 && length > 1 {
                return Err(WireError::Range);
            }
            for offset in 0..length {
                let unit = first.checked_add(offset).ok_or(WireError::Range)?;
                results.push((unit, from.floats(width)?));
            }
        }
        Ok(results)
    }
}

/// Values: their number, then 8 bytes each.
impl Field for Vec<f64> {
    fn write(&self, out: &mut Writer) {
        out.varint(self.len() as u64);
        out.floats(self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = from.count()?;
        from.floats(count)
    }
}
