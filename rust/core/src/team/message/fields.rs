//! The fields of messages that are more than a number or some bytes.

use crate::schedule::UnitId;
use crate::team::MAX_UNITS;
use crate::team::wire::{Reader, WireError, Writer};

use super::{Hello, Outcome, Published, Report, Round, WeightsDigest};

impl Writer {
    pub fn blob(&mut self, kind: u8, bytes: &[u8]) {
        self.kind(kind);
        self.bytes(bytes);
    }

    pub fn flagged(&mut self, kind: u8, flag: bool, bytes: &[u8]) {
        self.kind(kind);
        self.word(u64::from(flag));
        self.bytes(bytes);
    }

    pub fn numbers(&mut self, kind: u8, numbers: &[u32]) {
        self.kind(kind);
        for &number in numbers {
            self.word(u64::from(number));
        }
    }

    pub fn pair(&mut self, kind: u8, iteration: u32, digest: u64) {
        self.kind(kind);
        self.word(u64::from(iteration));
        self.fixed(digest);
    }

    pub fn weights_digest(&mut self, said: WeightsDigest) {
        self.word(u64::from(said.iteration));
        self.fixed(said.digest);
        self.word(u64::from(said.healed));
    }

    pub fn round(&mut self, round: Round) {
        self.word(u64::from(round.kind));
        self.word(u64::from(round.step));
    }

    /// Runs of consecutive units (or ranks): how many runs, then (first, length) of each.
    pub fn units(&mut self, units: &[UnitId]) {
        let runs: Vec<&[UnitId]> = units.chunk_by(|a, b| *b == a.wrapping_add(1)).collect();
        self.word(runs.len() as u64);
        for run in runs {
            self.word(u64::from(run[0]));
            self.word(run.len() as u64);
        }
    }

    pub fn counts(&mut self, counts: &[u64]) {
        self.word(counts.len() as u64);
        for &count in counts {
            self.word(count);
        }
    }

    /// Runs of consecutive units with equally many values: how many runs, then (first, length, values of each unit) and
    /// the values of each. A unit without values is a run by itself, so no unit costs nothing.
    pub fn report(&mut self, report: &Report) {
        self.round(report.round);
        self.word(u64::from(report.deal));
        self.word(u64::from(report.ready));
        self.counts(&report.counts);
        let next = |a: &(UnitId, Vec<f64>), b: &(UnitId, Vec<f64>)| {
            b.0 == a.0.wrapping_add(1) && b.1.len() == a.1.len() && !b.1.is_empty()
        };
        let runs: Vec<_> = report.results.chunk_by(next).collect();
        self.word(runs.len() as u64);
        for run in runs {
            self.word(u64::from(run[0].0));
            self.word(run.len() as u64);
            self.word(run[0].1.len() as u64);
            for value in run.iter().flat_map(|(_, values)| values) {
                self.fixed(value.to_bits());
            }
        }
        self.word(report.figures.len() as u64);
        for (unit, figures) in &report.figures {
            self.word(u64::from(*unit));
            self.bytes(figures);
        }
    }

    pub fn published(&mut self, published: &Published) {
        self.word(u64::from(published.iteration));
        self.fixed(published.checksum);
        self.word(u64::from(published.length));
        self.units(&published.ranks);
        self.option(published.piece.as_ref(), |out, piece| out.bytes(piece));
    }

    pub fn hello(&mut self, hello: &Hello) {
        self.word(u64::from(hello.have));
        self.fixed(hello.history);
        self.fixed(hello.identity);
        self.word(u64::from(hello.led));
        self.option(hello.digest.as_ref(), |out, &digest| {
            out.weights_digest(digest);
        });
        self.option(hello.results.as_ref(), |out, (round, results)| {
            out.round(*round);
            out.word(results.len() as u64);
            for (unit, outcome) in results {
                out.word(u64::from(*unit));
                out.word(outcome.values.len() as u64);
                for value in &outcome.values {
                    out.fixed(value.to_bits());
                }
                out.counts(&outcome.counts);
                out.bytes(&outcome.figures);
            }
        });
    }
}

impl Reader<'_> {
    pub fn pair(&mut self) -> Result<(u32, u64), WireError> {
        Ok((self.small()?, self.fixed()?))
    }

    pub fn round(&mut self) -> Result<Round, WireError> {
        Ok(Round {
            kind: self.small()?,
            step: self.small()?,
        })
    }

    pub fn units(&mut self) -> Result<Vec<UnitId>, WireError> {
        let mut units = Vec::new();
        for _ in 0..self.count()? {
            let (first, length) = (self.small()?, self.small()?);
            let end = first.checked_add(length).ok_or(WireError::Range)?;
            // A run is two words however long it is, so its length is bounded by hand.
            if units.len() + length as usize > MAX_UNITS {
                return Err(WireError::Range);
            }
            units.extend(first..end);
        }
        Ok(units)
    }

    pub fn counts(&mut self) -> Result<Vec<u64>, WireError> {
        (0..self.count()?).map(|_| self.word()).collect()
    }

    pub fn values(&mut self, width: usize) -> Result<Vec<f64>, WireError> {
        (0..width)
            .map(|_| Ok(f64::from_bits(self.fixed()?)))
            .collect()
    }

    pub fn report(&mut self) -> Result<Report, WireError> {
        let (round, deal) = (self.round()?, self.small()?);
        let (ready, counts) = (self.flag()?, self.counts()?);
        let mut results = Vec::new();
        for _ in 0..self.count()? {
            let (first, length) = (self.small()?, self.small()?);
            let width = self.count()?;
            if width == 0 && length > 1 {
                return Err(WireError::Range);
            }
            for place in 0..length {
                let unit = first.checked_add(place).ok_or(WireError::Range)?;
                results.push((unit, self.values(width)?));
            }
        }
        let figures = (0..self.count()?)
            .map(|_| Ok((self.small()?, self.bytes()?)))
            .collect::<Result<_, _>>()?;
        Ok(Report {
            round,
            deal,
            ready,
            results,
            counts,
            figures,
        })
    }

    pub fn published(&mut self) -> Result<Published, WireError> {
        Ok(Published {
            iteration: self.small()?,
            checksum: self.fixed()?,
            length: self.small()?,
            ranks: self.units()?,
            piece: self.flag()?.then(|| self.bytes()).transpose()?,
        })
    }

    pub fn weights_digest(&mut self) -> Result<WeightsDigest, WireError> {
        Ok(WeightsDigest {
            iteration: self.small()?,
            digest: self.fixed()?,
            healed: self.small()?,
        })
    }

    pub fn hello(&mut self) -> Result<Hello, WireError> {
        let (have, history, identity) = (self.small()?, self.fixed()?, self.fixed()?);
        let led = self.flag()?;
        let digest = self.flag()?.then(|| self.weights_digest()).transpose()?;
        let results = if self.flag()? {
            let (round, count) = (self.round()?, self.count()?);
            let mut results = Vec::new();
            for _ in 0..count {
                let (unit, width) = (self.small()?, self.count()?);
                let values = self.values(width)?;
                let (counts, figures) = (self.counts()?, self.bytes()?);
                let outcome = Outcome {
                    values,
                    counts,
                    figures,
                };
                results.push((unit, outcome));
            }
            Some((round, results))
        } else {
            None
        };
        Ok(Hello {
            have,
            history,
            identity,
            digest,
            led,
            results,
        })
    }
}
