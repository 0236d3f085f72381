//! What the main thread of a simulated rank does: the steps that its machine names, and the leader's program.

use es_core::team::{Round, Step, Table};

use super::job::{ITERATIONS, apply, figures, outcome, record};
use super::{What, World};

impl World {
    /// One turn of a rank's main thread: it finishes what it did, and does the next step.
    pub fn main(&mut self, rank: u32) {
        let weights = self.processes[rank as usize].weights;
        if let Some((round, unit)) = self.processes[rank as usize].task.take() {
            self.machine(rank, |machine, now| {
                machine.evaluated(now, outcome(weights, round, unit));
            });
        }
        let mut step = Step::Wait;
        self.machine(rank, |machine, now| step = machine.next(now));
        let process = &mut self.processes[rank as usize];
        match step {
            Step::Wait => {
                process.waiting = true;
                if process.machine.leads() && !process.opened {
                    process.opened = true;
                    self.lead(rank);
                }
                return;
            }
            Step::Evaluate { round, unit } => {
                assert_eq!(round.step, process.applied, "seed {}", self.seed);
                process.task = Some((round, unit));
                let mut seconds = process.pace * (0.8 + 0.4 * self.draw.unit());
                seconds += self.hang();
                return self.main_soon(rank, seconds);
            }
            Step::Apply { iteration, payload } => {
                assert_eq!(iteration, process.applied, "seed {}", self.seed);
                process.weights = apply(process.weights, &payload);
                process.applied += 1;
                process.opened = false;
                if std::mem::take(&mut process.flip) {
                    process.weights ^= 1 << rank;
                }
                let weights = process.weights;
                self.machine(rank, |machine, now| machine.digest(now, iteration, weights));
            }
            Step::Heal { .. } => {
                let records =
                    process.machine.history().since(0)[..process.applied as usize].to_vec();
                process.weights = records
                    .iter()
                    .fold(1, |weights, record| apply(weights, record));
                let (iteration, weights) = (process.applied - 1, process.weights);
                self.machine(rank, |machine, now| machine.digest(now, iteration, weights));
            }
            Step::Halt => process.halting = true,
            Step::Complete if process.evaluated != Some(process.applied) => {
                self.table(rank, 1);
                let process = &mut self.processes[rank as usize];
                process.evaluated = Some(process.applied);
                process.opened = false;
            }
            Step::Complete => self.publish(rank),
            Step::Lead | Step::Superseded => process.opened = false,
            Step::Finished { payload } => {
                let weights = process.weights;
                let resigned = process.machine.losses().contains_key(&rank);
                assert!(
                    resigned || payload.is_empty() || payload == weights.to_le_bytes(),
                    "seed {}: rank {rank}, call {}, applied {}, {:?}",
                    self.seed,
                    process.calls,
                    process.applied,
                    process.machine.losses()
                );
                process.inside = false;
                process.left_out |= payload.is_empty();
                if process.calls < ITERATIONS.len() {
                    let seconds = self.draw.skewed(0.001, 2.0);
                    self.at(self.now + seconds, What::Enter { rank });
                } else {
                    process.done = true;
                }
                return;
            }
            // One that resigned and takes all others for lost leaves with its own error.
            Step::Stopped { payload }
                if payload.is_empty() && process.machine.losses().contains_key(&rank) =>
            {
                return self.kill(rank);
            }
            Step::Agreed { iteration, digest } => {
                assert_eq!(
                    digest,
                    self.expected[iteration as usize + 1],
                    "seed {}",
                    self.seed
                );
            }
            Step::Follow
            | Step::Lost { .. }
            | Step::Back { .. }
            | Step::Welcome { .. }
            | Step::Note { .. } => {}
            Step::Diverged {
                hopeless: false, ..
            } if self.trouble.flips > 0 => {}
            step => panic!("seed {}: rank {rank}: {step:?}", self.seed),
        }
        let seconds = 0.001 + self.hang();
        self.main_soon(rank, seconds);
    }

    /// Seconds for which a main thread hangs: mostly none.
    fn hang(&mut self) -> f64 {
        let hangs = self.draw.chance(self.trouble.hangs);
        f64::from(u8::from(hangs)) * self.timeout * (0.5 + 2.0 * self.draw.unit())
    }

    /// The leader's program: evaluate before each iteration, iterate to the end of this call.
    fn lead(&mut self, rank: u32) {
        let process = &self.processes[rank as usize];
        let (step, weights) = (process.applied, process.weights);
        let end: u32 = ITERATIONS[..process.calls].iter().sum();
        if step < end && !process.halting {
            let kind = u32::from(process.evaluated != Some(step));
            let costs: Vec<f64> = (0..self.units)
                .map(|unit| f64::from(1 + unit % 3))
                .collect();
            let round = Round { kind, step };
            self.machine(rank, |machine, now| {
                machine.begin(now, round, &costs).expect("there are units");
            });
        } else {
            self.machine(rank, |machine, now| {
                machine.finish(now, weights.to_le_bytes().to_vec());
            });
        }
        self.main_soon(rank, 0.0);
    }

    /// The complete table of a round, which is that of an undisturbed run.
    fn table(&mut self, rank: u32, kind: u32) -> Table {
        let process = &mut self.processes[rank as usize];
        let step = process.applied;
        let table = process.machine.take_table().expect("it is complete");
        let units = u64::from(self.units);
        assert_eq!(
            table.counts,
            [units, units * (units + 1) / 2],
            "seed {}: counted once",
            self.seed
        );
        let right = self.expected[step as usize];
        let round = Round { kind, step };
        for (unit, values) in (0..).zip(&table.values) {
            assert_eq!(
                *values,
                outcome(right, round, unit).values,
                "seed {} unit {unit}",
                self.seed
            );
            let told = table.figures.get(&unit).cloned().unwrap_or_default();
            assert_eq!(told, figures(right, unit), "seed {} unit {unit}", self.seed);
        }
        table
    }

    fn publish(&mut self, rank: u32) {
        let table = self.table(rank, 0);
        let step = self.processes[rank as usize].applied;
        self.published.push(step);
        // Who slept may have published a record that the others made anew: in a real job the journal refuses it.
        let mark = if self.timeout > 0.0 {
            0
        } else {
            self.draw.word()
        };
        self.machine(rank, |machine, now| {
            machine.publish(now, step, record(&table.values, mark));
        });
    }
}
