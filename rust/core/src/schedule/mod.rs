//! The schedule of one iteration: which worker evaluates which unit. A state machine: events in, actions out.
//!
//! ```text
//! WorkerReady  first, and after a Cancel     -> Assign, or nothing if the worker has nothing to do
//! UnitDone     the result, and "free again"  -> Assign of the next unit; Finish with the last one
//! WorkerLost   its open units are replanned  -> Assign for workers that were waiting
//! WorkerJoined a new worker, or a lost one   -> nothing; it then says WorkerReady
//! ```
//! Knows nothing about members, prompts, results or transport: units and workers are opaque ids, time is an argument,
//! and any order of events gives the same table because a unit's result doesn't depend on who made it. The first
//! result of a unit counts ([`Schedule::is_done`], asked before the event, tells); later ones are ignored.

mod error;
mod policy;
mod static_runs;
mod unit;

use std::collections::{BTreeMap, BTreeSet};

pub use error::ScheduleError;
pub use policy::PolicyKind;
pub use unit::{Unit, plan_units};

use policy::Policy;

/// Id of a unit in a schedule: from 0 to the number of units.
pub type UnitId = u32;

/// Id of a worker: any number.
pub type WorkerId = u32;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker waits for work.
    WorkerReady(WorkerId),
    /// A worker has the result of a unit, and waits for the next one.
    UnitDone(WorkerId, UnitId),
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
    /// Give the unit to the worker.
    Assign(WorkerId, UnitId),
    /// The worker's unit was finished by another: it may drop it and say `WorkerReady`.
    Cancel(WorkerId, UnitId),
    /// Every unit is done; said once.
    Finish,
}

/// Units and workers of one iteration.
#[derive(Debug)]
pub struct Schedule {
    units: Vec<UnitState>,
    done: u32,
    workers: BTreeMap<WorkerId, Worker>,
    /// Workers that said they are ready and got nothing.
    waiting: BTreeSet<WorkerId>,
    alive: usize,
    policy: Box<dyn Policy>,
}

impl Schedule {
    /// A schedule of units 0..units over these workers, in this order.
    ///
    /// # Errors
    /// If there is no unit or no worker, or a worker is named twice.
    pub fn new(
        units: u32,
        workers: &[WorkerId],
        policy: PolicyKind,
    ) -> Result<Self, ScheduleError> {
        if units == 0 {
            return Err(ScheduleError::NoUnits);
        }
        if workers.is_empty() {
            return Err(ScheduleError::NoWorkers { open: units });
        }
        let mut known = BTreeMap::new();
        for &worker in workers {
            if known.insert(worker, Worker::default()).is_some() {
                return Err(ScheduleError::Repeated { worker });
            }
        }
        Ok(Self {
            units: vec![UnitState::Open; units as usize],
            done: 0,
            alive: known.len(),
            workers: known,
            waiting: BTreeSet::new(),
            policy: policy.plan(units, workers),
        })
    }

    /// Takes one event and says what to do. `now` is any clock that doesn't go back; the static policy ignores it.
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
            Event::UnitDone(worker, unit) => self.unit_done(now, worker, unit, &mut actions)?,
            Event::WorkerLost(worker) => self.lost(now, worker, &mut actions)?,
            Event::WorkerJoined(worker) => self.joined(worker)?,
            Event::Tick => {}
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
        Ok(self.units[unit as usize] == UnitState::Done)
    }

    fn ready(
        &mut self,
        now: f64,
        id: WorkerId,
        actions: &mut Vec<Action>,
    ) -> Result<(), ScheduleError> {
        let worker = self
            .workers
            .get(&id)
            .ok_or(ScheduleError::UnknownWorker { worker: id })?;
        match (worker.lost, worker.holds) {
            (true, _) => return Err(ScheduleError::LostWorker { worker: id }),
            // Said twice: the assignment is, too.
            (false, Some(unit)) => actions.push(Action::Assign(id, unit)),
            (false, None) => self.assign_next(now, id, actions),
        }
        Ok(())
    }

    fn unit_done(
        &mut self,
        now: f64,
        id: WorkerId,
        unit: UnitId,
        actions: &mut Vec<Action>,
    ) -> Result<(), ScheduleError> {
        self.check_unit(unit)?;
        let worker = self
            .workers
            .get_mut(&id)
            .ok_or(ScheduleError::UnknownWorker { worker: id })?;
        if worker.holds == Some(unit) {
            worker.holds = None;
        }
        let free = !worker.lost && worker.holds.is_none();
        let before = std::mem::replace(&mut self.units[unit as usize], UnitState::Done);
        if before != UnitState::Done {
            self.done += 1;
        }
        if let UnitState::Held(other) = before
            && other != id
        {
            self.workers
                .get_mut(&other)
                .expect("only known workers hold units")
                .holds = None;
            actions.push(Action::Cancel(other, unit));
        }
        if free {
            self.assign_next(now, id, actions);
        }
        if before != UnitState::Done && self.finished() {
            actions.push(Action::Finish);
        }
        Ok(())
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
        let held = worker.holds.take();
        if let Some(unit) = held {
            self.units[unit as usize] = UnitState::Open;
        }
        self.alive -= 1;
        self.waiting.remove(&id);
        self.policy.lost(id, held);
        for waiting in std::mem::take(&mut self.waiting) {
            self.assign_next(now, waiting, actions);
        }
        if self.alive == 0 && !self.finished() {
            return Err(ScheduleError::NoWorkers {
                open: self.units.len() as u32 - self.done,
            });
        }
        Ok(())
    }

    fn joined(&mut self, id: WorkerId) -> Result<(), ScheduleError> {
        if self.workers.get(&id).is_some_and(|worker| !worker.lost) {
            return Err(ScheduleError::Repeated { worker: id });
        }
        self.workers.insert(id, Worker::default());
        self.alive += 1;
        self.policy.joined(id);
        Ok(())
    }

    /// Gives a free worker its next open unit, or lets it wait.
    fn assign_next(&mut self, now: f64, id: WorkerId, actions: &mut Vec<Action>) {
        while let Some(unit) = self.policy.next(now, id) {
            // A late result of a lost worker may have finished it in the meantime.
            if self.units[unit as usize] == UnitState::Open {
                self.units[unit as usize] = UnitState::Held(id);
                self.workers
                    .get_mut(&id)
                    .expect("the caller knows it")
                    .holds = Some(unit);
                self.waiting.remove(&id);
                actions.push(Action::Assign(id, unit));
                return;
            }
        }
        self.waiting.insert(id);
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnitState {
    Open,
    Held(WorkerId),
    Done,
}

#[derive(Debug, Default)]
struct Worker {
    lost: bool,
    holds: Option<UnitId>,
}
