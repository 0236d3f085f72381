//! The main thread of a simulated rank: it carries out the steps of its machine, and the leader's program.

use es_core::team::{Loss, Round, Step, Table};

use super::disk::Writer;
use super::job::{ITERATIONS, apply, base, figures, outcome, record};
use super::{What, World};

/// A leader whose journal was taken waits this number of times for the rank that took it, `PATIENCE` seconds each time.
const WAITS: u32 = 20;
const PATIENCE: f64 = 0.25;

/// The error with which it ends the job if no rank sends a message.
const TAKEN: &[u8] = b"taken";

/// The current work of a main thread. It takes some time, in which messages arrive.
#[derive(Clone, Debug)]
pub enum Work {
    Evaluate {
        round: Round,
        unit: u32,
    },
    Begin {
        round: Round,
    },
    /// It holds the lock and will take the journal over.
    Lock,
    TakeOver {
        first: u32,
        lacking: Vec<Vec<u8>>,
    },
    Publish {
        iteration: u32,
        record: Vec<u8>,
    },
    Finish {
        payload: Vec<u8>,
    },
}

/// The state of a rank's program.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct Program {
    pub weights: u64,
    pub applied: u32,
    pub leading: bool,
    /// Whether it has a round open as leader, or has ended the call.
    pub busy: bool,
    /// The number of iterations after which it evaluated last as leader.
    pub evaluated: Option<u32>,
    /// Whether it was asked as leader to end the call soon.
    pub halting: bool,
    /// Whether it raised an error. Then it carries out only the last step.
    pub failed: bool,
    pub work: Option<Work>,
    pub writer: Option<Writer>,
    /// The number of times that it still waits for the rank that took its journal.
    pub taken: Option<u32>,
}

impl World {
    /// One turn of a rank's main thread: it finishes its current work and begins the next step.
    pub fn main(&mut self, rank: u32) {
        match self.program(rank).work.take() {
            Some(Work::Lock) => {
                self.take_over(rank);
                let seconds = self.draw.skewed(0.001, 0.5) + self.hang();
                return self.main_soon(rank, seconds);
            }
            Some(work) => self.finish_work(rank, work),
            None => {}
        }
        let mut step = Step::Wait;
        self.machine(rank, |machine, now| step = machine.poll_step(now));
        let now = self.now;
        if self.traced && step != Step::Wait {
            eprintln!("{now:9.3} {rank}: {step:?}");
        }
        let mut seconds = 0.001;
        let last = matches!(
            step,
            Step::Wait | Step::Finished { .. } | Step::Stopped { .. }
        );
        if self.program(rank).failed && !last {
            return self.main_soon(rank, seconds);
        }
        match step {
            Step::Wait => {
                let program = self.program(rank);
                if program.leading && !program.busy && !program.failed {
                    program.busy = true;
                    self.advance(rank);
                } else if let Some(waits) = &mut program.taken {
                    if *waits == 0 {
                        return self.give_up(rank);
                    }
                    *waits -= 1;
                    seconds = PATIENCE;
                } else {
                    self.processes[rank as usize].waiting = true;
                    return;
                }
            }
            Step::Evaluate { round, unit } => {
                assert_eq!(round.step, self.program(rank).applied, "the round is open");
                self.program(rank).work = Some(Work::Evaluate { round, unit });
                let pace = self.processes[rank as usize].pace;
                seconds = pace * (0.8 + 0.4 * self.draw.unit());
            }
            Step::Apply { iteration, payload } => self.apply(rank, iteration, &payload),
            Step::Rebuild { .. } => self.rebuild(rank),
            Step::Halt => self.program(rank).halting = true,
            Step::Complete => self.complete(rank),
            Step::Lead => self.lock(rank),
            Step::Follow => {
                let program = self.program(rank);
                (program.leading, program.taken, program.writer) = (false, None, None);
            }
            Step::Superseded => self.program(rank).busy = false,
            Step::Finished { payload } => return self.finished(rank, &payload),
            Step::Stopped { payload } if payload == TAKEN => return self.gone(rank),
            // A rank that resigned and for which all others are lost leaves with its own error.
            Step::Stopped { payload } if payload.is_empty() && self.resigned(rank) => {
                return self.gone(rank);
            }
            Step::Agreed { iteration, digest } => {
                if self.compared() {
                    let right = self.right(rank, iteration + 1);
                    assert_eq!(digest, right, "they agree on the right weights");
                }
                let _ = self.write(rank);
            }
            Step::Welcome { payload } => self.keep_copy(rank, u32::from(payload[0])),
            Step::Lost { .. } | Step::Back { .. } | Step::Note { .. } => {
                let _ = self.write(rank);
            }
            Step::Diverged {
                hopeless: false, ..
            } if self.trouble.flips > 0 => {
                let _ = self.write(rank);
            }
            // Results of a rank with wrong weights, from before weights were compared.
            Step::Differs { .. } if self.trouble.flips > 0 => {}
            step => panic!("rank {rank}: {step:?}"),
        }
        if self.program(rank).work.is_some() {
            seconds += self.draw.skewed(0.001, 0.5);
        }
        seconds += self.hang();
        self.main_soon(rank, seconds);
    }

    pub fn program(&mut self, rank: u32) -> &mut Program {
        &mut self.processes[rank as usize].program
    }

    /// The seconds for which a main thread hangs, mostly 0.
    fn hang(&mut self) -> f64 {
        let hangs = self.draw.chance(self.trouble.hangs);
        f64::from(u8::from(hangs)) * self.timeout * (0.5 + 2.0 * self.draw.unit())
    }

    fn finish_work(&mut self, rank: u32, work: Work) {
        if matches!(work, Work::TakeOver { .. }) {
            // Sometimes it writes an event first.
            if self.draw.chance(0.3) && self.write(rank) {
                return;
            }
            self.program(rank).busy = false;
        }
        let weights = self.program(rank).weights;
        let welcome = vec![self.processes[rank as usize].host as u8];
        let costs: Vec<f64> = (0..self.units)
            .map(|unit| f64::from(1 + unit % 3))
            .collect();
        self.machine(rank, |machine, now| match work {
            Work::Evaluate { round, unit } => {
                machine.evaluated(now, outcome(weights, round, unit));
            }
            Work::Begin { round } => {
                machine
                    .leading()
                    .begin(now, round, &costs)
                    .expect("there are units");
            }
            Work::TakeOver { first, lacking } => {
                machine.leading().set_welcome(now, welcome);
                let fits = machine.leading().restore(now, first, lacking);
                assert!(fits, "the journal holds other records than the ranks");
            }
            Work::Publish { iteration, record } => {
                machine.leading().publish(now, iteration, record);
            }
            Work::Finish { payload } => machine.leading().finish(now, payload),
            Work::Lock => unreachable!("a turn of its own"),
        });
    }

    /// The leader has no round open: it opens an evaluation before each iteration, then the iteration, and ends the call after
    /// the last one.
    fn advance(&mut self, rank: u32) {
        let end = ITERATIONS[self.processes[rank as usize].run()];
        let program = self.program(rank);
        let step = program.applied;
        program.work = Some(if step < end && !program.halting {
            let kind = u32::from(program.evaluated != Some(step));
            let round = Round { kind, step };
            Work::Begin { round }
        } else {
            let payload = program.weights.to_le_bytes().to_vec();
            Work::Finish { payload }
        });
    }

    fn lock(&mut self, rank: u32) {
        let process = &mut self.processes[rank as usize];
        let disk = self.disks.entry(process.journal()).or_default();
        (disk.locked, disk.led) = (Some(rank), true);
        let program = &mut process.program;
        (program.work, program.writer) = (Some(Work::Lock), None);
        (program.leading, program.busy, program.taken) = (true, true, None);
    }

    fn take_over(&mut self, rank: u32) {
        let process = &mut self.processes[rank as usize];
        let disk = self.disks.entry(process.journal()).or_default();
        let known = process.machine.history().since(0);
        let (writer, lacking) = disk.take_over(known);
        let first = known.len() as u32;
        let program = &mut process.program;
        program.work = Some(Work::TakeOver { first, lacking });
        program.writer = Some(writer);
    }

    /// The first rank of a host that does not see the leader's journal keeps a copy of it.
    fn keep_copy(&mut self, rank: u32, leader: u32) {
        let host = self.processes[rank as usize].host;
        let first = self.processes.iter().position(|other| other.host == host);
        let process = &mut self.processes[rank as usize];
        let disk = self.disks.entry(process.journal()).or_default();
        let local = first == Some(rank as usize);
        if local && leader != host && !disk.led && process.program.writer.is_none() {
            let applied = process.program.applied as usize;
            let known = &process.machine.history().since(0)[..applied];
            process.program.writer = Some(disk.take_over(known).0);
        }
    }

    fn apply(&mut self, rank: u32, iteration: u32, record: &[u8]) {
        let process = &mut self.processes[rank as usize];
        let journal = process.journal();
        let program = &mut process.program;
        assert_eq!(iteration, program.applied, "records are applied in order");
        if let Some(writer) = &mut program.writer {
            let disk = self.disks.get_mut(&journal).expect("it is written");
            if disk.append(writer, iteration, record).is_err() {
                assert!(
                    !program.leading,
                    "a leader applies a record that it can't write"
                );
                program.writer = None;
            }
        }
        let here = self.disks.iter().filter(|(other, _)| other.0 == journal.0);
        let mut kept = here.map(|(_, disk)| disk.records.get(iteration as usize));
        assert!(
            kept.any(|kept| kept == Some(&record.to_vec())),
            "the record is on a disk first"
        );
        program.weights = apply(program.weights, record);
        program.applied += 1;
        program.busy = false;
        if std::mem::take(&mut process.flip) {
            program.weights ^= 1 << rank;
        }
        if (iteration + 1).is_multiple_of(self.digest_steps) {
            self.report_digest(rank);
        }
    }

    /// Rebuilds the weights from the records, and reports the digest of the last iteration at which ranks compare digests.
    fn rebuild(&mut self, rank: u32) {
        let process = &mut self.processes[rank as usize];
        let (applied, start) = (process.program.applied, base(process.run()));
        let records = &process.machine.history().since(0)[..applied as usize];
        let (compared, since) = records.split_at((applied - applied % self.digest_steps) as usize);
        let digest = compared
            .iter()
            .fold(start, |weights, record| apply(weights, record));
        process.program.weights = since
            .iter()
            .fold(digest, |weights, record| apply(weights, record));
        let iteration = compared.len() as u32 - 1;
        self.machine(rank, |machine, now| machine.digest(now, iteration, digest));
    }

    fn report_digest(&mut self, rank: u32) {
        let (iteration, weights) = (self.program(rank).applied - 1, self.program(rank).weights);
        self.machine(rank, |machine, now| machine.digest(now, iteration, weights));
    }

    fn complete(&mut self, rank: u32) {
        let step = self.program(rank).applied;
        if self.program(rank).evaluated != Some(step) {
            self.table(rank, 1);
            self.program(rank).evaluated = Some(step);
            if !self.write(rank) {
                self.machine(rank, |machine, _| {
                    machine.leading().note(&step.to_le_bytes());
                });
                self.program(rank).busy = false;
            }
            return;
        }
        let table = self.table(rank, 0);
        // On several disks there may be a record that was made twice. A real job makes it of the same bytes.
        let mark = if self.hosts > 1 { 0 } else { self.draw.word() };
        let record = record(&table.values, mark);
        let process = &mut self.processes[rank as usize];
        let journal = process.journal();
        let program = &mut process.program;
        let writer = program.writer.as_mut().expect("it leads");
        let disk = self.disks.get_mut(&journal).expect("it is written");
        if disk.append(writer, step, &record).is_ok() {
            let iteration = step;
            program.work = Some(Work::Publish { iteration, record });
            program.busy = false;
        } else {
            self.journal_taken(rank);
        }
    }

    /// Takes the complete table of a round, and checks that it equals that of an undisturbed run.
    fn table(&mut self, rank: u32, kind: u32) -> Table {
        let step = self.program(rank).applied;
        let right = self.right(rank, step);
        let process = &mut self.processes[rank as usize];
        let table = process
            .machine
            .leading()
            .take_table()
            .expect("it is complete");
        let units = u64::from(self.units);
        let counts = [units, units * (units + 1) / 2];
        assert_eq!(table.counts, counts, "counted once");
        let round = Round { kind, step };
        for (unit, values) in (0..).zip(&table.values) {
            if self.compared() {
                assert_eq!(*values, outcome(right, round, unit).values, "unit {unit}");
                let found = table.figures.get(&unit).cloned().unwrap_or_default();
                assert_eq!(found, figures(right, unit), "unit {unit}");
            }
        }
        table
    }

    /// Writes an event or a digest to the journal if this rank has one. Returns whether another rank has taken that journal.
    fn write(&mut self, rank: u32) -> bool {
        let process = &self.processes[rank as usize];
        let refused = process
            .program
            .writer
            .is_some_and(|writer| self.disks[&process.journal()].write(writer).is_err());
        let taken = refused && process.program.leading;
        if taken {
            self.journal_taken(rank);
        }
        taken
    }

    /// Another rank led while this one slept. A message of that rank will let this one lead again or follow.
    fn journal_taken(&mut self, rank: u32) {
        self.program(rank).taken.get_or_insert(WAITS);
    }

    /// No such message arrived. If the rank that took the journal has ended or follows this one, this one takes it back. Otherwise
    /// this rank ends the job for all ranks that it reaches.
    fn give_up(&mut self, rank: u32) {
        let process = &self.processes[rank as usize];
        let losses = process.machine.losses();
        let locked = self.disks[&process.journal()].locked;
        if locked.is_some_and(|other| !losses.contains_key(&other) || self.dead.contains(&other)) {
            self.program(rank).taken = None;
            self.machine(rank, |machine, _| machine.leading().take_over_again());
            return self.main_soon(rank, 0.0);
        }
        let over = |other: &super::Process| other.calls > process.calls || other.done;
        let silent = locked.is_some_and(|other| losses[&other] == Loss::Silent);
        assert!(
            silent || self.processes.iter().any(over),
            "rank {rank} ends the job, and {locked:?} has the journal"
        );
        self.machine(rank, |machine, _| machine.leading().stop(TAKEN.to_vec()));
        self.gone(rank);
    }

    fn finished(&mut self, rank: u32, payload: &[u8]) {
        let (resigned, compared) = (self.resigned(rank), self.compared());
        let process = &mut self.processes[rank as usize];
        let program = &mut process.program;
        let same = payload.is_empty() || payload == program.weights.to_le_bytes();
        assert!(
            resigned || same || !compared,
            "rank {rank}, call {}, applied {}, {:?}",
            process.calls,
            program.applied,
            process.machine.losses()
        );
        process.inside = false;
        let applied = program.applied;
        if !resigned {
            self.check_end(rank);
        }
        let process = &mut self.processes[rank as usize];
        if !resigned && !payload.is_empty() {
            self.ends[process.run()].insert(applied);
        }
        let locked = self.disks.get_mut(&process.journal());
        if let Some(disk) = locked.filter(|disk| disk.locked == Some(rank)) {
            disk.locked = None;
        }
        if process.calls < ITERATIONS.len() {
            let seconds = self.draw.skewed(0.001, 2.0);
            self.at(self.now + seconds, What::Enter { rank });
        } else {
            process.done = true;
        }
    }

    /// Checks that a rank ends a run with the weights of an undisturbed one, and with records that are on a disk.
    fn check_end(&self, rank: u32) {
        let process = &self.processes[rank as usize];
        let program = &process.program;
        let right = self.right(rank, program.applied);
        if self.compared() {
            assert_eq!(program.weights, right, "rank {rank} has the right weights");
        }
        let known = process.machine.history().since(0);
        let mut disks = self
            .disks
            .iter()
            .filter(|(journal, _)| journal.0 == process.run());
        assert!(
            disks.any(|(_, disk)| disk.records.starts_with(known)),
            "the records of rank {rank} are on a disk"
        );
    }

    /// The weights of an undisturbed run after `applied` iterations of the run that this rank is in.
    pub fn right(&self, rank: u32, applied: u32) -> u64 {
        self.expected[self.processes[rank as usize].run()][applied as usize]
    }

    /// Whether flipped weights are compared with others before they have an effect. A rank for which all others hang has none to
    /// compare its weights with, and neither has a rank that arrives when the others are done.
    fn compared(&self) -> bool {
        self.trouble.flips == 0 || self.timeout == 0.0 && self.digest_steps == 1
    }
}
