//! What one rank does in one iteration, step by step. No I/O: the caller executes each step and says when it is done.
//!
//! ```text
//! (perturb(member) evaluate(unit)+)*  exchange  journal  update  [digest]  finish
//! ```
//! Every rank builds the same [`Schedule`] from the same arguments and follows its own part of it, so no rank has to
//! tell another what to do. When a rank is lost before the exchange is complete, the survivors agree on the units that
//! are still open and build new machines for those, with their new numbers: results don't depend on who made them.

use std::collections::VecDeque;

use crate::schedule::{Action, Event, PolicyKind, Schedule, ScheduleError, Unit};

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the live weights of this member.
    Perturb {
        /// Index of the member.
        member: u32,
    },
    /// Evaluate this unit with the live weights.
    Evaluate {
        /// Index of the unit ([`Unit::index`]).
        unit: u32,
    },
    /// Gather the results of all ranks.
    Exchange,
    /// Make the record and write it to the journal.
    Journal,
    /// Update the master weights and apply the record.
    Update,
    /// Compare the ranks' weights.
    Digest,
    /// Nothing more.
    Finish,
}

/// One iteration as one rank sees it.
#[derive(Debug)]
pub struct RankMachine {
    rank: u32,
    units: Vec<Unit>,
    /// None if there are no units: another rank's loss may leave nothing open.
    schedule: Option<Schedule>,
    digest: bool,
    step: Step,
    /// Places in `units` of this rank's next units.
    queue: VecDeque<usize>,
    /// Place in `units` of the unit in work.
    current: usize,
}

impl RankMachine {
    /// The machine of `rank` out of `ranks`, for these units in this order; `digest` asks for that step.
    ///
    /// # Errors
    /// If `rank` isn't below `ranks`.
    pub fn new(
        rank: u32,
        ranks: u32,
        units: Vec<Unit>,
        digest: bool,
    ) -> Result<Self, ScheduleError> {
        if ranks == 0 {
            return Err(ScheduleError::Zero { name: "ranks" });
        }
        if rank >= ranks {
            return Err(ScheduleError::Rank { rank, ranks });
        }
        let workers: Vec<(u32, f64)> = (0..ranks).map(|rank| (rank, 0.0)).collect();
        let costs = vec![1.0; units.len()];
        let plan = || Schedule::new(&costs, &workers, PolicyKind::Static);
        let schedule = if units.is_empty() {
            None
        } else {
            Some(plan()?)
        };
        let mut machine = Self {
            rank,
            units,
            schedule,
            digest,
            step: Step::Exchange,
            queue: VecDeque::new(),
            current: 0,
        };
        // The static policy ignores time.
        machine.follow(0.0, Event::WorkerReady(rank), None)?;
        Ok(machine)
    }

    /// The step to do now; the same one until [`RankMachine::done`] is called.
    pub fn next(&self) -> Step {
        self.step
    }

    /// The current step is finished.
    ///
    /// # Errors
    /// If the iteration is finished already.
    pub fn done(&mut self, now: f64) -> Result<(), ScheduleError> {
        self.step = match self.step {
            Step::Perturb { .. } => Step::Evaluate {
                unit: self.units[self.current].index,
            },
            Step::Evaluate { .. } => {
                let (place, member) = (self.current, self.units[self.current].member);
                return self.follow(
                    now,
                    Event::UnitDone(self.rank, place as u32, 0),
                    Some(member),
                );
            }
            Step::Exchange => Step::Journal,
            Step::Journal => Step::Update,
            Step::Update if self.digest => Step::Digest,
            Step::Update | Step::Digest => Step::Finish,
            Step::Finish => return Err(ScheduleError::Finished),
        };
        Ok(())
    }

    /// Tells the schedule, and goes to this rank's next unit, or to the exchange if it has none.
    fn follow(&mut self, now: f64, event: Event, live: Option<u32>) -> Result<(), ScheduleError> {
        let actions = match &mut self.schedule {
            Some(schedule) => schedule.handle_event(now, event)?,
            None => Vec::new(),
        };
        let mine = actions.iter().filter_map(|action| match *action {
            Action::Assign(worker, place) if worker == self.rank => Some(place as usize),
            _ => None,
        });
        self.queue.extend(mine);
        self.step = match self.queue.pop_front() {
            None => Step::Exchange,
            Some(place) => {
                let Unit { index, member, .. } = self.units[place];
                self.current = place;
                if live == Some(member) {
                    Step::Evaluate { unit: index }
                } else {
                    Step::Perturb { member }
                }
            }
        };
        Ok(())
    }
}
