//! The traffic of an iteration: each rank sends and receives 16 bytes per member, and a few per rank.

use std::collections::VecDeque;

use es_core::schedule::PolicyKind;
use es_core::team::{Outcome, Rank, Round, Settings, Step};

/// The bytes to ask for a batch of units, to assign it and to report it.
const A_BATCH: f64 = 64.0;

/// The most bytes of an iteration for a rank: the members' scores to it and from it, and some messages to each rank. Batches
/// become smaller towards the end, so their number grows as the logarithm of the units per rank.
fn bound(ranks: u32, units: u32) -> u64 {
    let batches = 2.0 + f64::from(units / ranks).log2();
    16 * u64::from(units) + (A_BATCH * batches * f64::from(ranks)) as u64
}

/// A job whose messages arrive at once and whose ranks take turns.
struct Job {
    ranks: Vec<Rank>,
    units: u32,
    now: f64,
    /// The number of rounds that were opened.
    opened: u32,
    /// The number of records that each rank has applied.
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
            ranks[rank as usize].enter(0.0, None);
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

    /// Delivers messages until there are none.
    fn deliver(&mut self) {
        let mut mail = VecDeque::new();
        loop {
            for (from, rank) in (0..).zip(&mut self.ranks) {
                mail.extend(
                    rank.poll_sends()
                        .into_iter()
                        .map(|(to, bytes)| (from, to as usize, bytes)),
                );
            }
            let Some((from, to, bytes)) = mail.pop_front() else {
                return;
            };
            self.ranks[to]
                .handle_message(self.now, from, &bytes)
                .unwrap();
        }
    }

    /// Runs until all ranks have applied this number of records.
    fn run(&mut self, iterations: u32) {
        let mut turns = 0;
        while self.applied.iter().any(|&count| count < iterations) {
            turns += 1;
            assert!(turns < 1_000_000, "{:?}", self.applied);
            self.now += 0.1;
            for rank in 0..self.ranks.len() {
                self.turn(rank, iterations);
                self.deliver();
            }
        }
    }

    fn turn(&mut self, index: usize, iterations: u32) {
        let (rank, now) = (&mut self.ranks[index], self.now);
        match rank.poll_step(now) {
            Step::Evaluate { unit, .. } => {
                let outcome = Outcome {
                    values: vec![f64::from(unit)],
                    counts: vec![1],
                    ..Outcome::default()
                };
                rank.evaluated(now, outcome);
            }
            Step::Apply { iteration, .. } => {
                self.applied[index] = iteration + 1;
                rank.digest(now, iteration, 3);
            }
            Step::Complete => {
                let table = rank.leading().take_table().unwrap();
                assert_eq!(table.counts, [u64::from(self.units)]);
                // A record on the wire has a header and a number for each member.
                let mut record = vec![1; 43];
                let values = table.values.iter();
                record.extend(values.flat_map(|values| values[0].to_le_bytes()));
                assert!(rank.leading().publish(now, self.opened - 1, record));
            }
            Step::Wait
                if rank.leads()
                    && self.opened == self.applied[index]
                    && self.opened < iterations =>
            {
                let round = Round {
                    kind: 0,
                    step: self.opened,
                };
                let costs = vec![1.0; self.units as usize];
                rank.leading().begin(now, round, &costs).unwrap();
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
