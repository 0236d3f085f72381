//! The schedule of one iteration: which worker evaluates which unit. A state machine: events in, actions out.
//!
//! ```text
//! WorkerReady  first, before its last unit, and after a Cancel -> Assign, or nothing if there is nothing to do
//! UnitDone     the result                   -> Assign, if the worker holds no more; Finish with the last unit
//! WorkerLost   its open units are replanned -> Assign for workers that were waiting
//! WorkerJoined a new worker, or a lost one  -> nothing; it then says WorkerReady
//! Tick         time passed                  -> Assign of units that have become late to workers that wait
//! ```
//! Knows nothing about members, prompts, results or transport: units and workers are opaque ids, time is an argument,
//! and any order of events gives the same table because a unit's result doesn't depend on who made it. The first
//! result of a unit counts; a later one must be equal, or [`Action::Differs`] says so.

mod dynamic;
mod error;
mod late;
mod policy;
mod state;
mod static_runs;
mod worker;

use std::collections::{BTreeMap, BTreeSet};

pub use error::ScheduleError;
pub use policy::PolicyKind;

use late::LateUnits;
use policy::Policy;
use state::{Held, UnitState};
use worker::Worker;

/// Id of a unit in a schedule: from 0 to the number of units.
pub type UnitId = u32;

/// Id of a worker: any number.
pub type WorkerId = u32;

/// A batch of the dynamic policy is this part of what a worker should get of all open units.
const BATCH: f64 = 0.25;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker wants more work.
    WorkerReady(WorkerId),
    /// A worker has the result of a unit; the number stands for the result and is compared, nothing else.
    UnitDone(WorkerId, UnitId, u64),
    /// A worker is gone; what it had is open again.
    WorkerLost(WorkerId),
    /// A worker came, or came back.
    WorkerJoined(WorkerId),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the unit to the worker, behind those it holds.
    Assign(WorkerId, UnitId),
    /// Give a late unit to a second worker, one that holds nothing.
    Duplicate(WorkerId, UnitId),
    /// The worker's unit was finished by another: it may drop it, and says `WorkerReady` if it holds no more.
    Cancel(WorkerId, UnitId),
    /// Two results of a unit aren't equal: a worker's weights or its machine are not right.
    Differs {
        /// The unit.
        unit: UnitId,
        /// Whose result counted.
        first: WorkerId,
        /// Whose result differs from it.
        second: WorkerId,
    },
    /// Every unit is done; said once.
    Finish,
}

/// Units and workers of one iteration.
#[derive(Debug)]
pub struct Schedule {
    costs: Vec<f64>,
    units: Vec<UnitState>,
    done: u32,
    /// Cost of the units that nobody holds.
    open_cost: f64,
    workers: BTreeMap<WorkerId, Worker>,
    /// Workers that hold nothing and got nothing.
    waiting: BTreeSet<WorkerId>,
    alive: usize,
    /// Living workers whose speed is known, and the sum of their speeds.
    known: (usize, f64),
    policy: Box<dyn Policy>,
    /// Made when nothing is open any more.
    late: Option<LateUnits>,
}

impl Schedule {
    /// A schedule of units with these expected costs (in any measure) over these workers and their speeds (cost per
    /// second; 0: unknown).
    ///
    /// # Errors
    /// If there is no unit or no worker, a worker is named twice, or a cost or speed is no number for it.
    pub fn new(
        costs: &[f64],
        workers: &[(WorkerId, f64)],
        policy: PolicyKind,
    ) -> Result<Self, ScheduleError> {
        if costs.is_empty() {
            return Err(ScheduleError::NoUnits);
        }
        if workers.is_empty() {
            let open = costs.len() as u32;
            return Err(ScheduleError::NoWorkers { open });
        }
        let bad = |cost: &f64| !(cost.is_finite() && *cost > 0.0);
        if let Some(unit) = costs.iter().position(bad) {
            let cost = costs[unit];
            return Err(ScheduleError::Cost { unit, cost });
        }
        let mut states = BTreeMap::new();
        let mut known = (0, 0.0);
        for &(worker, speed) in workers {
            if !(speed.is_finite() && speed >= 0.0) {
                return Err(ScheduleError::Speed { worker, speed });
            }
            if states.insert(worker, Worker::with_speed(speed)).is_some() {
                return Err(ScheduleError::Repeated { worker });
            }
            known = (known.0 + usize::from(speed > 0.0), known.1 + speed);
        }
        Ok(Self {
            costs: costs.to_vec(),
            units: vec![UnitState::Open; costs.len()],
            done: 0,
            open_cost: costs.iter().sum(),
            alive: states.len(),
            workers: states,
            waiting: BTreeSet::new(),
            known,
            policy: policy.plan(costs, workers),
            late: None,
        })
    }

    /// Takes one event and says what to do. `now` is any clock that doesn't go back, in seconds.
    ///
    /// # Errors
    /// Of an unknown unit or worker: nothing changes. If the last worker is lost before the end ([`NoWorkers`]): the
    /// loss is noted, and a worker that joins later takes all open units.
    ///
    /// [`NoWorkers`]: ScheduleError::NoWorkers
    pub fn handle_event(&mut self, now: f64, event: Event) -> Result<Vec<Action>, ScheduleError> {
        let mut actions = Vec::new();
        match event {
            Event::WorkerReady(worker) => self.ready(now, worker, &mut actions)?,
            Event::UnitDone(worker, unit, result) => {
                self.unit_done(now, worker, unit, result, &mut actions)?;
            }
            Event::WorkerLost(worker) => self.lost(now, worker, &mut actions)?,
            Event::WorkerJoined(worker) => self.joined(worker)?,
            Event::Tick => self.serve_waiting(now, &mut actions),
        }
        Ok(actions)
    }

    /// Whether every unit is done.
    pub fn finished(&self) -> bool {
        self.done as usize == self.units.len()
    }

    /// Whether a result of this unit was counted.
    ///
    /// # Errors
    /// If there is no such unit.
    pub fn is_done(&self, unit: UnitId) -> Result<bool, ScheduleError> {
        self.check_unit(unit)?;
        Ok(matches!(self.units[unit as usize], UnitState::Done { .. }))
    }

    /// Whether the worker is known and not lost.
    pub fn is_alive(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|known| !known.lost)
    }

    /// Living workers whose speed was measured, in cost per second: for the next schedule.
    pub fn speeds(&self) -> impl Iterator<Item = (WorkerId, f64)> {
        let alive = self.workers.iter().filter(|(_, worker)| !worker.lost);
        alive.filter_map(|(&id, worker)| Some((id, worker.speed()?)))
    }

    /// For each worker that evaluates a unit: (worker, unit, since when).
    pub fn in_work(&self) -> impl Iterator<Item = (WorkerId, UnitId, f64)> {
        self.workers.iter().filter_map(|(&id, worker)| {
            let &unit = worker.holds.front()?;
            Some((id, unit, worker.since()))
        })
    }

    fn ready(
        &mut self,
        now: f64,
        id: WorkerId,
        actions: &mut Vec<Action>,
    ) -> Result<(), ScheduleError> {
        match self.workers.get(&id) {
            None => Err(ScheduleError::UnknownWorker { worker: id }),
            Some(worker) if worker.lost => Err(ScheduleError::LostWorker { worker: id }),
            Some(_) => {
                self.assign_next(now, id, actions);
                Ok(())
            }
        }
    }

    fn unit_done(
        &mut self,
        now: f64,
        id: WorkerId,
        unit: UnitId,
        result: u64,
        actions: &mut Vec<Action>,
    ) -> Result<(), ScheduleError> {
        self.check_unit(unit)?;
        let cost = self.costs[unit as usize];
        let worker = self
            .workers
            .get_mut(&id)
            .ok_or(ScheduleError::UnknownWorker { worker: id })?;
        let before = worker.speed();
        worker.finish(now, unit, cost);
        let (after, lost) = (worker.speed(), worker.lost);
        let free = !lost && worker.holds.is_empty();
        if !lost {
            self.note_speed(before, after);
        }
        let counted = self.count(id, unit, result, actions);
        if free {
            self.assign_next(now, id, actions);
        }
        if counted && self.finished() {
            actions.push(Action::Finish);
        }
        Ok(())
    }

    /// Counts the first result of a unit, and compares a later one. Whether it was the first.
    fn count(
        &mut self,
        id: WorkerId,
        unit: UnitId,
        result: u64,
        actions: &mut Vec<Action>,
    ) -> bool {
        match self.units[unit as usize] {
            UnitState::Done {
                by: first,
                result: counted,
            } => {
                if counted != result {
                    let second = id;
                    actions.push(Action::Differs {
                        unit,
                        first,
                        second,
                    });
                }
                return false;
            }
            UnitState::Open => self.open_cost -= self.costs[unit as usize],
            UnitState::Held(held) => {
                if held.second.is_none()
                    && let Some(late) = &mut self.late
                {
                    late.remove(held.eta, unit);
                }
                for other in held.workers().filter(|&other| other != id) {
                    self.worker(other).drop_unit(unit);
                    actions.push(Action::Cancel(other, unit));
                }
            }
        }
        self.units[unit as usize] = UnitState::Done { by: id, result };
        self.done += 1;
        true
    }

    fn lost(
        &mut self,
        now: f64,
        id: WorkerId,
        actions: &mut Vec<Action>,
    ) -> Result<(), ScheduleError> {
        let worker = self
            .workers
            .get_mut(&id)
            .ok_or(ScheduleError::UnknownWorker { worker: id })?;
        if worker.lost {
            return Ok(());
        }
        worker.lost = true;
        let (held, speed) = (std::mem::take(&mut worker.holds), worker.speed());
        self.alive -= 1;
        self.note_speed(speed, None);
        self.waiting.remove(&id);
        let reopened = self.reopen(id, held);
        if !reopened.is_empty() {
            self.late = None;
        }
        self.policy.lost(id, reopened);
        self.serve_waiting(now, actions);
        if self.alive == 0 && !self.finished() {
            return Err(ScheduleError::NoWorkers {
                open: self.units.len() as u32 - self.done,
            });
        }
        Ok(())
    }

    /// The units that only this worker held; the others are their second holder's alone now.
    fn reopen(&mut self, id: WorkerId, held: impl IntoIterator<Item = UnitId>) -> Vec<UnitId> {
        let mut reopened = Vec::new();
        for unit in held {
            let UnitState::Held(before) = self.units[unit as usize] else {
                unreachable!("a worker holds only units in work");
            };
            let other = before.workers().find(|&other| other != id);
            self.units[unit as usize] = if let Some(first) = other {
                if let Some(late) = &mut self.late {
                    late.insert(before.eta, unit);
                }
                UnitState::Held(Held {
                    first,
                    second: None,
                    ..before
                })
            } else {
                if let Some(late) = &mut self.late {
                    late.remove(before.eta, unit);
                }
                self.open_cost += self.costs[unit as usize];
                reopened.push(unit);
                UnitState::Open
            };
        }
        reopened
    }

    fn joined(&mut self, id: WorkerId) -> Result<(), ScheduleError> {
        if self.is_alive(id) {
            return Err(ScheduleError::Repeated { worker: id });
        }
        let speed = self.workers.get(&id).and_then(Worker::speed);
        self.workers
            .insert(id, Worker::with_speed(speed.unwrap_or(0.0)));
        self.alive += 1;
        self.note_speed(None, speed);
        self.policy.joined(id);
        Ok(())
    }

    /// Gives a worker its next open units; if there are none and it holds nothing, a late one of another, or it waits.
    fn assign_next(&mut self, now: f64, id: WorkerId, actions: &mut Vec<Action>) {
        let budget = self.budget(id);
        let (mut given, mut last) = (0.0, 0.0);
        while given == 0.0 || given + last <= budget {
            let Some(unit) = self.policy.next(id) else {
                break;
            };
            // A late result of a lost worker may have finished it in the meantime.
            if self.units[unit as usize] == UnitState::Open {
                last = self.costs[unit as usize];
                given += last;
                self.open_cost -= last;
                let eta = self.assign(now, id, unit);
                actions.push(Action::Assign(id, unit));
                let (first, second) = (id, None);
                let held = Held {
                    first,
                    second,
                    given: now,
                    eta,
                };
                self.units[unit as usize] = UnitState::Held(held);
            }
        }
        if given == 0.0 && self.worker(id).holds.is_empty() {
            self.waiting.insert(id);
            self.duplicate(now, id, actions);
        }
    }

    /// Cost of the open units that a worker may take at once.
    fn budget(&mut self, id: WorkerId) -> f64 {
        if self.policy.all_at_once() {
            return f64::INFINITY;
        }
        // One unit until its speed is known: a slow worker shouldn't sit on many.
        let all = self.usual_speed().unwrap_or(0.0) * self.alive as f64;
        let speed = self.worker(id).speed();
        speed.map_or(0.0, |speed| BATCH * self.open_cost * speed / all)
    }

    /// Serves the workers that wait.
    fn serve_waiting(&mut self, now: f64, actions: &mut Vec<Action>) {
        for id in self.waiting.clone() {
            self.assign_next(now, id, actions);
        }
    }

    /// Gives an idle worker a unit that another should have finished, or will finish later than it can.
    fn duplicate(&mut self, now: f64, id: WorkerId, actions: &mut Vec<Action>) {
        let Some(usual) = self.usual_speed().filter(|_| self.policy.duplicates()) else {
            return;
        };
        if self.late.is_none() {
            self.late = Some(self.late_units(usual));
        }
        let speed = self.worker(id).speed().unwrap_or(usual);
        let seconds = |unit: UnitId| self.costs[unit as usize] / speed;
        let given = |unit: UnitId| match self.units[unit as usize] {
            UnitState::Held(held) => held.given,
            _ => now,
        };
        let late = self.late.as_ref().expect("made above");
        let Some(unit) = late.pick(now, seconds, given) else {
            return;
        };
        let UnitState::Held(held) = self.units[unit as usize] else {
            unreachable!("late units are in work");
        };
        self.late
            .as_mut()
            .expect("made above")
            .remove(held.eta, unit);
        self.assign(now, id, unit);
        actions.push(Action::Duplicate(id, unit));
        let second = Some(id);
        self.units[unit as usize] = UnitState::Held(Held { second, ..held });
    }

    /// The units that one worker holds; where no speed was known when it was given, the usual one of today counts.
    fn late_units(&mut self, usual: f64) -> LateUnits {
        let mut late = LateUnits::default();
        for &unit in self.workers.values().flat_map(|worker| &worker.holds) {
            if let UnitState::Held(held) = &mut self.units[unit as usize]
                && held.second.is_none()
            {
                if held.eta.is_infinite() {
                    held.eta = held.given + self.costs[unit as usize] / usual;
                }
                late.insert(held.eta, unit);
            }
        }
        late
    }

    /// Puts a unit behind those that a worker holds; the answer is when it should be finished.
    fn assign(&mut self, now: f64, id: WorkerId, unit: UnitId) -> f64 {
        let (cost, usual) = (self.costs[unit as usize], self.usual_speed());
        self.waiting.remove(&id);
        self.worker(id).assign(now, unit, cost, usual)
    }

    /// Mean speed of the living workers whose speed is known.
    fn usual_speed(&self) -> Option<f64> {
        (self.known.0 > 0).then(|| self.known.1 / self.known.0 as f64)
    }

    fn note_speed(&mut self, before: Option<f64>, after: Option<f64>) {
        self.known.0 = self.known.0 + usize::from(after.is_some()) - usize::from(before.is_some());
        self.known.1 += after.unwrap_or(0.0) - before.unwrap_or(0.0);
        if self.known.0 == 0 {
            self.known.1 = 0.0;
        }
    }

    fn worker(&mut self, id: WorkerId) -> &mut Worker {
        self.workers.get_mut(&id).expect("the caller knows it")
    }

    fn check_unit(&self, unit: UnitId) -> Result<(), ScheduleError> {
        let units = self.units.len() as u32;
        if unit < units {
            Ok(())
        } else {
            Err(ScheduleError::UnknownUnit { unit, units })
        }
    }
}
