//! The static policy: one run of consecutive units per worker, so that a worker's units share members. The runs cost as
//! much as the workers' speeds say.
//!
//! Units of a lost worker go to the others, those with the least left first. A worker that joins gets what nobody has,
//! and else waits for the next loss.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::policy::Policy;
use super::{UnitId, WorkerId};

/// Consecutive units, run after run.
type Runs = VecDeque<Range<UnitId>>;

#[derive(Debug)]
pub(super) struct StaticRuns {
    runs: BTreeMap<WorkerId, Runs>,
    /// Units that were left when the last worker was lost.
    orphans: Runs,
}

impl StaticRuns {
    pub(super) fn new(costs: &[f64], workers: &[(WorkerId, f64)]) -> Self {
        let known: Vec<f64> = workers
            .iter()
            .map(|worker| worker.1)
            .filter(|&speed| speed > 0.0)
            .collect();
        let usual = if known.is_empty() {
            1.0
        } else {
            known.iter().sum::<f64>() / known.len() as f64
        };
        let speed = |speed: f64| if speed > 0.0 { speed } else { usual };
        let all_speeds: f64 = workers.iter().map(|worker| speed(worker.1)).sum();
        let per_speed = costs.iter().sum::<f64>() / all_speeds;
        let mut runs = BTreeMap::new();
        let (mut start, mut planned, mut passed) = (0, 0.0, 0.0);
        for (place, &(worker, own)) in workers.iter().enumerate() {
            planned += per_speed * speed(own);
            let mut stop = start;
            // A unit belongs to the run in which its middle lies; the last run takes what rounding left.
            while let Some(&cost) = costs.get(stop)
                && (place + 1 == workers.len() || passed + cost / 2.0 <= planned)
            {
                passed += cost;
                stop += 1;
            }
            let run = start as UnitId..stop as UnitId;
            runs.insert(worker, Runs::from_iter((start < stop).then_some(run)));
            start = stop;
        }
        Self {
            runs,
            orphans: Runs::new(),
        }
    }
}

impl Policy for StaticRuns {
    fn next(&mut self, worker: WorkerId) -> Option<UnitId> {
        let runs = self.runs.get_mut(&worker)?;
        let unit = runs.front_mut()?.next();
        if runs.front().is_some_and(|run| run.start == run.end) {
            runs.pop_front();
        }
        unit
    }

    fn lost(&mut self, worker: WorkerId, held: Vec<UnitId>) {
        let mut open = self.runs.remove(&worker).unwrap_or_default();
        for unit in held.into_iter().rev() {
            open.push_front(unit..unit + 1);
        }
        if self.runs.is_empty() {
            self.orphans.append(&mut open);
            return;
        }
        let mut heirs: Vec<(u32, WorkerId)> = self
            .runs
            .iter()
            .map(|(&id, runs)| (count(runs), id))
            .collect();
        heirs.sort_unstable();
        let sizes = shares(count(&open), heirs.len() as u32);
        for ((_, heir), size) in heirs.into_iter().zip(sizes) {
            self.runs
                .get_mut(&heir)
                .expect("listed above")
                .append(&mut take(&mut open, size));
        }
    }

    fn joined(&mut self, worker: WorkerId) {
        self.runs.insert(worker, std::mem::take(&mut self.orphans));
    }

    fn all_at_once(&self) -> bool {
        true
    }

    fn duplicates(&self) -> bool {
        false
    }
}

/// Sizes of `parts` runs of `total` units: equal but for one unit, the larger ones first.
fn shares(total: u32, parts: u32) -> impl Iterator<Item = u32> {
    (0..parts).map(move |part| total / parts + u32::from(part < total % parts))
}

/// Takes the first `size` units, which must be there.
fn take(units: &mut Runs, size: u32) -> Runs {
    let mut taken = Runs::new();
    let mut missing = size;
    while missing > 0 {
        let run = units.front_mut().expect("shares add up to the whole");
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
