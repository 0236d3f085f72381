//! The schedule of one iteration: which rank evaluates which unit. A state machine: events in, actions out.
//!
//! ```text
//! RankReady   first, before its last unit, and after a Cancel -> Assign, or nothing if no unit is left for it
//! UnitDone    a result                        -> Assign, if the rank holds no more
//! RankLost    its units are open again        -> Assign for ranks that were waiting
//! RankJoined  a new rank, or a lost one again -> nothing; RankReady follows
//! Tick        time passed                     -> Duplicate of late units for ranks that wait
//! ```
//! The machine knows nothing about members, prompts, results or transport: units and ranks are opaque ids, time is an
//! argument. Any order of events gives the same table, because the result of a unit does not depend on its rank. The first
//! result of a unit counts. A later one must be equal, or the machine returns [`Action::Differs`].

mod dynamic;
mod error;
mod late;
mod policy;
mod state;
mod static_runs;

use std::collections::{BTreeMap, BTreeSet};

pub use error::ScheduleError;
pub use policy::PolicyKind;

use late::LateUnits;
use policy::Policy;
use state::{Held, OpenUnits, RankState, UnitState};

/// The index of a unit in its schedule.
pub type UnitId = u32;

/// The number of a rank in its job, from 0.
pub type RankId = u32;

/// The size of a batch of the dynamic policy, as a part of the share of all open units that a rank should get.
const BATCH: f64 = 0.25;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A rank wants more work.
    RankReady(RankId),
    /// A rank has the result of a unit. The number is a checksum of the result, and is only compared.
    UnitDone(RankId, UnitId, u64),
    /// A rank was lost. Its units are open again.
    RankLost(RankId),
    /// A rank joined, perhaps again.
    RankJoined(RankId),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the unit to the rank, behind the units that it holds.
    Assign(RankId, UnitId),
    /// Give a late unit to a second rank, which holds nothing.
    Duplicate(RankId, UnitId),
    /// Another rank finished this unit: the rank may drop it, and is ready if it holds no more.
    Cancel(RankId, UnitId),
    /// Two results of a unit are not equal: the weights or the hardware of a rank are faulty.
    Differs {
        /// The unit.
        unit: UnitId,
        /// The rank whose result counts.
        first: RankId,
        /// The rank whose result differs from it.
        second: RankId,
    },
}

/// The units and ranks of one iteration.
#[derive(Debug)]
pub struct Schedule {
    costs: Vec<f64>,
    units: Vec<UnitState>,
    done: u32,
    open: OpenUnits,
    ranks: BTreeMap<RankId, RankState>,
    /// Ranks that are ready and hold nothing.
    waiting: BTreeSet<RankId>,
    alive: usize,
    /// The number of living ranks that hold units.
    holders: usize,
    /// The number of living ranks with a known speed, and the sum of their speeds.
    known: (usize, f64),
    policy: Box<dyn Policy>,
    /// Built when no unit is open any more.
    late: Option<LateUnits>,
}

impl Schedule {
    /// A schedule of units with these expected costs (in any measure) over these ranks and their speeds (cost per
    /// second; 0: unknown).
    ///
    /// # Errors
    /// If there is no unit or no rank, a rank is named twice, or a cost or speed is out of range.
    pub fn new(
        costs: &[f64],
        ranks: &[(RankId, f64)],
        policy: PolicyKind,
    ) -> Result<Self, ScheduleError> {
        if costs.is_empty() {
            return Err(ScheduleError::NoUnits);
        }
        if ranks.is_empty() {
            let open = costs.len() as u32;
            return Err(ScheduleError::NoRanks { open });
        }
        let bad = |cost: &f64| !(cost.is_finite() && *cost > 0.0);
        if let Some(unit) = costs.iter().position(bad) {
            let cost = costs[unit];
            return Err(ScheduleError::Cost { unit, cost });
        }
        let mut states = BTreeMap::new();
        let mut known = (0, 0.0);
        for &(rank, speed) in ranks {
            if !(speed.is_finite() && speed >= 0.0) {
                return Err(ScheduleError::Speed { rank, speed });
            }
            if states.insert(rank, RankState::with_speed(speed)).is_some() {
                return Err(ScheduleError::Repeated { rank });
            }
            known = (known.0 + usize::from(speed > 0.0), known.1 + speed);
        }
        Ok(Self {
            costs: costs.to_vec(),
            units: vec![UnitState::Open; costs.len()],
            done: 0,
            open: OpenUnits {
                count: costs.len(),
                cost: costs.iter().sum(),
            },
            alive: states.len(),
            holders: 0,
            ranks: states,
            waiting: BTreeSet::new(),
            known,
            policy: policy.plan(costs, ranks),
            late: None,
        })
    }

    /// Handles an event, and returns what to do. `now` is any clock that does not go back, in seconds.
    ///
    /// # Errors
    /// For an unknown unit or rank; nothing changes. If the last rank is lost before the end ([`NoRanks`]): the
    /// loss is noted, and a rank that joins later takes all open units.
    ///
    /// [`NoRanks`]: ScheduleError::NoRanks
    pub fn handle_event(&mut self, now: f64, event: Event) -> Result<Vec<Action>, ScheduleError> {
        let mut actions = Vec::new();
        match event {
            Event::RankReady(rank) => self.ready(now, rank, &mut actions)?,
            Event::UnitDone(rank, unit, result) => {
                self.unit_done(now, rank, unit, result, &mut actions)?;
            }
            Event::RankLost(rank) => self.lost(now, rank, &mut actions)?,
            Event::RankJoined(rank) => self.joined(rank)?,
            Event::Tick => self.serve_waiting(now, &mut actions),
        }
        Ok(actions)
    }

    /// Whether every unit is done.
    pub fn finished(&self) -> bool {
        self.done as usize == self.units.len()
    }

    /// Whether there is such a unit and a result of it was counted.
    pub fn is_done(&self, unit: UnitId) -> bool {
        matches!(self.units.get(unit as usize), Some(UnitState::Done { .. }))
    }

    /// Whether the rank is known and not lost.
    pub fn is_alive(&self, rank: RankId) -> bool {
        self.ranks.get(&rank).is_some_and(|known| !known.lost)
    }

    /// The living ranks with a known speed, in cost per second, for the next schedule.
    pub fn speeds(&self) -> impl Iterator<Item = (RankId, f64)> {
        let alive = self.ranks.iter().filter(|(_, rank)| !rank.lost);
        alive.filter_map(|(&id, rank)| Some((id, rank.speed()?)))
    }

    /// The ranks that evaluate a unit, and since when.
    pub fn in_work(&self) -> impl Iterator<Item = (RankId, f64)> {
        let at_work = self.ranks.iter().filter(|(_, rank)| !rank.holds.is_empty());
        at_work.map(|(&id, rank)| (id, rank.mark))
    }

    fn ready(
        &mut self,
        now: f64,
        id: RankId,
        actions: &mut Vec<Action>,
    ) -> Result<(), ScheduleError> {
        if self.known(id)?.lost {
            return Err(ScheduleError::LostRank { rank: id });
        }
        self.assign_next(now, id, actions);
        Ok(())
    }

    fn unit_done(
        &mut self,
        now: f64,
        id: RankId,
        unit: UnitId,
        result: u64,
        actions: &mut Vec<Action>,
    ) -> Result<(), ScheduleError> {
        self.check_unit(unit)?;
        let cost = self.costs[unit as usize];
        let rank = self.known(id)?;
        let before = rank.speed();
        let held = rank.finish(now, unit, cost);
        let (after, lost) = (rank.speed(), rank.lost);
        let free = !lost && rank.holds.is_empty();
        self.holders -= usize::from(held && free);
        if !lost {
            self.note_speed(before, after);
        }
        self.count(id, unit, result, actions);
        if free {
            self.assign_next(now, id, actions);
        }
        Ok(())
    }

    /// Counts the first result of a unit, and compares a later one.
    fn count(&mut self, id: RankId, unit: UnitId, result: u64, actions: &mut Vec<Action>) {
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
                return;
            }
            UnitState::Open => self.open.remove(self.costs[unit as usize]),
            UnitState::Held(held) => {
                if held.second.is_none()
                    && let Some(late) = &mut self.late
                {
                    late.remove(held.eta, unit);
                }
                for other in held.ranks().filter(|&other| other != id) {
                    let rank = self.rank(other);
                    let free = rank.drop_unit(unit) && rank.holds.is_empty();
                    self.holders -= usize::from(free);
                    actions.push(Action::Cancel(other, unit));
                }
            }
        }
        self.units[unit as usize] = UnitState::Done { by: id, result };
        self.done += 1;
    }

    fn lost(
        &mut self,
        now: f64,
        id: RankId,
        actions: &mut Vec<Action>,
    ) -> Result<(), ScheduleError> {
        let rank = self.known(id)?;
        if rank.lost {
            return Ok(());
        }
        rank.lost = true;
        let (held, speed) = (std::mem::take(&mut rank.holds), rank.speed());
        self.alive -= 1;
        self.holders -= usize::from(!held.is_empty());
        self.note_speed(speed, None);
        self.waiting.remove(&id);
        let reopened = self.reopen(id, held);
        if !reopened.is_empty() {
            self.late = None;
        }
        self.policy.lost(id, reopened);
        self.serve_waiting(now, actions);
        if self.alive == 0 && !self.finished() {
            return Err(ScheduleError::NoRanks {
                open: self.units.len() as u32 - self.done,
            });
        }
        Ok(())
    }

    /// Opens the units that only this rank held, and returns them. Units that two ranks held stay with the other one.
    fn reopen(&mut self, id: RankId, held: impl IntoIterator<Item = UnitId>) -> Vec<UnitId> {
        let mut reopened = Vec::new();
        for unit in held {
            let UnitState::Held(before) = self.units[unit as usize] else {
                continue;
            };
            let other = before.ranks().find(|&other| other != id);
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
                self.open.add(self.costs[unit as usize]);
                reopened.push(unit);
                UnitState::Open
            };
        }
        reopened
    }

    fn joined(&mut self, id: RankId) -> Result<(), ScheduleError> {
        if self.is_alive(id) {
            return Err(ScheduleError::Repeated { rank: id });
        }
        let speed = self.ranks.get(&id).and_then(RankState::speed);
        self.ranks
            .insert(id, RankState::with_speed(speed.unwrap_or(0.0)));
        self.alive += 1;
        self.note_speed(None, speed);
        self.policy.joined(id);
        Ok(())
    }

    /// Gives a rank its next open units, but none in advance that another rank, which holds nothing, could begin at once. If
    /// there are none and it holds nothing, it gets a late unit of another, or waits.
    fn assign_next(&mut self, now: f64, id: RankId, actions: &mut Vec<Action>) {
        let budget = self.budget(id);
        let (mut given, mut last) = (0.0, 0.0);
        while (given == 0.0 || given + last <= budget) && self.may_take(id) {
            let Some(unit) = self.policy.next(id) else {
                break;
            };
            // A late result of a lost rank may have finished it in the meantime.
            if self.units[unit as usize] == UnitState::Open {
                last = self.costs[unit as usize];
                given += last;
                self.open.remove(last);
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
        if given == 0.0 && self.rank(id).holds.is_empty() {
            self.waiting.insert(id);
            self.duplicate(now, id, actions);
        }
    }

    /// Whether the rank holds nothing, or more units are open than the ranks that hold nothing can begin.
    fn may_take(&mut self, id: RankId) -> bool {
        let idle = self.alive - self.holders;
        self.policy.all_at_once() || self.rank(id).holds.is_empty() || self.open.count > idle
    }

    /// The cost of the open units that a rank may take at once.
    fn budget(&mut self, id: RankId) -> f64 {
        if self.policy.all_at_once() {
            return f64::INFINITY;
        }
        // One unit until its speed is known: a slow rank must not hold many.
        let all = self.usual_speed().unwrap_or(0.0) * self.alive as f64;
        let speed = self.rank(id).speed();
        speed.map_or(0.0, |speed| BATCH * self.open.cost * speed / all)
    }

    /// Serves the ranks that wait.
    fn serve_waiting(&mut self, now: f64, actions: &mut Vec<Action>) {
        for id in self.waiting.clone() {
            self.assign_next(now, id, actions);
        }
    }

    /// Gives an idle rank a unit that another rank should have finished, or would finish later than this one.
    fn duplicate(&mut self, now: f64, id: RankId, actions: &mut Vec<Action>) {
        let Some(usual) = self.usual_speed().filter(|_| !self.policy.all_at_once()) else {
            return;
        };
        let mut late = self.late.take().unwrap_or_else(|| self.late_units(usual));
        let speed = self.rank(id).speed().unwrap_or(usual);
        let seconds = |unit: UnitId| self.costs[unit as usize] / speed;
        if let Some(unit) = late.pick(now, seconds)
            && let UnitState::Held(held) = self.units[unit as usize]
        {
            late.remove(held.eta, unit);
            self.assign(now, id, unit);
            actions.push(Action::Duplicate(id, unit));
            let second = Some(id);
            self.units[unit as usize] = UnitState::Held(Held { second, ..held });
        }
        self.late = Some(late);
    }

    /// The units that exactly one rank holds. If no speed was known when a unit was given, the present usual speed counts.
    fn late_units(&mut self, usual: f64) -> LateUnits {
        let mut late = LateUnits::default();
        for &unit in self.ranks.values().flat_map(|rank| &rank.holds) {
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

    /// Puts a unit behind those that a rank holds. Returns when it should be finished.
    fn assign(&mut self, now: f64, id: RankId, unit: UnitId) -> f64 {
        let (cost, usual) = (self.costs[unit as usize], self.usual_speed());
        self.waiting.remove(&id);
        self.holders += usize::from(self.rank(id).holds.is_empty());
        self.rank(id).assign(now, unit, cost, usual)
    }

    /// The mean speed of the living ranks with a known speed.
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

    fn known(&mut self, id: RankId) -> Result<&mut RankState, ScheduleError> {
        let unknown = ScheduleError::UnknownRank { rank: id };
        self.ranks.get_mut(&id).ok_or(unknown)
    }

    /// The state of a rank that the schedule knows.
    fn rank(&mut self, id: RankId) -> &mut RankState {
        self.ranks.entry(id).or_default()
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
