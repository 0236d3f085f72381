//! What an iteration costs on the wire: each rank sends and receives 16 bytes a member, and a few for each rank.

use std::collections::VecDeque;

use es_core::schedule::PolicyKind;
use es_core::team::{Outcome, Rank, Round, Settings, Step};

/// Bytes that it costs to ask for units, to hand them out and to tell that they are done.
const A_BATCH: f64 = 64.0;

/// What an iteration may cost a rank: the members' scores to it and from it, and some words with each rank. Batches become
/// ever smaller towards the end, so there are the more of them the more units a rank has, as a logarithm grows.
fn bound(ranks: u32, units: u32) -> u64 {
    let batches = 2.0 + f64::from(units / ranks).log2();
    16 * u64::from(units) + (A_BATCH * batches * f64::from(ranks)) as u64
}

/// A job whose messages arrive at once and whose ranks take turns.
struct Job {
    ranks: Vec<Rank>,
    units: u32,
    now: f64,
    /// Iterations of which the round was opened.
    opened: u32,
    /// Records that each rank has applied.
    applied: Vec<u32>,
}

impl Job {
    fn new(count: u32, units: u32, policy: PolicyKind) -> Self {
        let settings = Settings {
            policy,
            ..Settings::default()
        };
        let mut ranks = Vec::new();
        for rank in 0..count {
            ranks.push(Rank::new(rank, count, 7, settings));
            ranks[rank as usize].enter(0.0);
        }
        let applied = vec![0; ranks.len()];
        let mut job = Self {
            ranks,
            units,
            now: 0.0,
            opened: 0,
            applied,
        };
        job.deliver();
        job
    }

    /// Hands messages over until there is none.
    fn deliver(&mut self) {
        let mut mail = VecDeque::new();
        loop {
            for (from, rank) in (0..).zip(&mut self.ranks) {
                mail.extend(
                    rank.take_sends()
                        .into_iter()
                        .map(|(to, bytes)| (from, to as usize, bytes)),
                );
            }
            let Some((from, to, bytes)) = mail.pop_front() else {
                return;
            };
            self.ranks[to].receive(self.now, from, &bytes).unwrap();
        }
    }

    /// Runs until all ranks have applied so many records.
    fn run(&mut self, iterations: u32) {
        let mut turns = 0;
        while self.applied.iter().any(|&count| count < iterations) {
            turns += 1;
            assert!(turns < 1_000_000, "{:?}", self.applied);
            self.now += 0.1;
            for place in 0..self.ranks.len() {
                self.turn(place, iterations);
                self.deliver();
            }
        }
    }

    fn turn(&mut self, place: usize, iterations: u32) {
        let (rank, now) = (&mut self.ranks[place], self.now);
        match rank.next(now) {
            Step::Evaluate { unit, .. } => {
                let outcome = Outcome {
                    values: vec![f64::from(unit)],
                    counts: vec![1],
                    ..Outcome::default()
                };
                rank.evaluated(now, outcome);
            }
            Step::Apply { iteration, .. } => {
                self.applied[place] = iteration + 1;
                rank.digest(now, iteration, 3);
            }
            Step::Complete => {
                let table = rank.take_table().unwrap();
                assert_eq!(table.counts, [u64::from(self.units)]);
                // As a record travels: what it says of itself, and a number for each member.
                let mut record = vec![1; 43];
                let values = table.values.iter();
                record.extend(values.flat_map(|values| values[0].to_le_bytes()));
                assert!(rank.publish(now, self.opened - 1, record));
            }
            Step::Wait
                if rank.leads()
                    && self.opened == self.applied[place]
                    && self.opened < iterations =>
            {
                let round = Round {
                    kind: 0,
                    step: self.opened,
                };
                let costs = vec![1.0; self.units as usize];
                rank.begin(now, round, &costs).unwrap();
                self.opened += 1;
            }
            _ => {}
        }
    }

    fn traffic(&self) -> Vec<(u64, u64)> {
        self.ranks.iter().map(Rank::traffic).collect()
    }
}

#[test]
fn an_iteration_costs_each_rank_sixteen_bytes_a_member() {
    let jobs = [
        (2, 30),
        (4, 30),
        (3, 1000),
        (16, 256),
        (16, 30),
        (17, 4000),
        (40, 600),
        (100, 1600),
    ];
    for (ranks, units) in jobs {
        for policy in PolicyKind::ALL {
            let mut job = Job::new(ranks, units, policy);
            job.run(2);
            let before = job.traffic();
            job.run(6);
            let bound = bound(ranks, units);
            for (rank, (before, after)) in before.iter().zip(job.traffic()).enumerate() {
                let (sent, received) = ((after.0 - before.0) / 4, (after.1 - before.1) / 4);
                assert!(
                    sent + received <= bound,
                    "{ranks} ranks, {units} units, {policy:?}: rank {rank} sent {sent} and received {received}, bound {bound}"
                );
            }
        }
    }
}
