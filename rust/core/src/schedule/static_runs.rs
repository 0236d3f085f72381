//! The static policy: one run of consecutive units per rank, so that the units of a rank share members. The cost of each run
//! is in proportion to the speed of its rank.
//!
//! Units of a lost rank go to the others, first to those with the fewest left. A rank that joins gets units only if no rank has
//! them, or at the next loss.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::policy::Policy;
use super::{RankId, UnitId};

/// Runs of consecutive units.
type Runs = VecDeque<Range<UnitId>>;

#[derive(Debug)]
pub(super) struct StaticRuns {
    runs: BTreeMap<RankId, Runs>,
    /// Units that were open when the last rank was lost.
    orphans: Runs,
}

impl StaticRuns {
    pub(super) fn new(costs: &[f64], ranks: &[(RankId, f64)]) -> Self {
        let known: Vec<f64> = ranks
            .iter()
            .map(|rank| rank.1)
            .filter(|&speed| speed > 0.0)
            .collect();
        let usual = if known.is_empty() {
            1.0
        } else {
            known.iter().sum::<f64>() / known.len() as f64
        };
        let speed = |speed: f64| if speed > 0.0 { speed } else { usual };
        let all_speeds: f64 = ranks.iter().map(|rank| speed(rank.1)).sum();
        let per_speed = costs.iter().sum::<f64>() / all_speeds;
        let mut runs = BTreeMap::new();
        let (mut start, mut planned, mut passed) = (0, 0.0, 0.0);
        for (index, &(rank, own)) in ranks.iter().enumerate() {
            planned += per_speed * speed(own);
            let mut stop = start;
            // A unit belongs to the run in which its middle lies. The last run takes what rounding left.
            while let Some(&cost) = costs.get(stop)
                && (index + 1 == ranks.len() || passed + cost / 2.0 <= planned)
            {
                passed += cost;
                stop += 1;
            }
            let run = start as UnitId..stop as UnitId;
            runs.insert(rank, Runs::from_iter((start < stop).then_some(run)));
            start = stop;
        }
        Self {
            runs,
            orphans: Runs::new(),
        }
    }
}

impl Policy for StaticRuns {
    fn next(&mut self, rank: RankId) -> Option<UnitId> {
        let runs = self.runs.get_mut(&rank)?;
        let unit = runs.front_mut()?.next();
        if runs.front().is_some_and(|run| run.start == run.end) {
            runs.pop_front();
        }
        unit
    }

    fn lost(&mut self, rank: RankId, held: Vec<UnitId>) {
        let mut open = self.runs.remove(&rank).unwrap_or_default();
        for unit in held.into_iter().rev() {
            open.push_front(unit..unit + 1);
        }
        if self.runs.is_empty() {
            self.orphans.append(&mut open);
            return;
        }
        let mut heirs: Vec<(u32, RankId)> = self
            .runs
            .iter()
            .map(|(&id, runs)| (count(runs), id))
            .collect();
        heirs.sort_unstable();
        let sizes = shares(count(&open), heirs.len() as u32);
        for ((_, heir), size) in heirs.into_iter().zip(sizes) {
            let runs = self.runs.entry(heir).or_default();
            runs.append(&mut take(&mut open, size));
        }
    }

    fn joined(&mut self, rank: RankId) {
        self.runs.insert(rank, std::mem::take(&mut self.orphans));
    }

    fn all_at_once(&self) -> bool {
        true
    }
}

/// The sizes of `parts` runs of `total` units. They differ by one unit at most, and the larger ones come first.
fn shares(total: u32, parts: u32) -> impl Iterator<Item = u32> {
    (0..parts).map(move |part| total / parts + u32::from(part < total % parts))
}

/// Takes the first `size` units, or all if there are fewer.
fn take(units: &mut Runs, size: u32) -> Runs {
    let mut taken = Runs::new();
    let mut missing = size;
    while missing > 0
        && let Some(run) = units.front_mut()
    {
        let stop = run.end.min(run.start + missing);
        missing -= stop - run.start;
        taken.push_back(run.start..stop);
        run.start = stop;
        if run.start == run.end {
            units.pop_front();
        }
    }
    taken
}

fn count(runs: &Runs) -> u32 {
    runs.iter().map(|run| run.end - run.start).sum()
}
