//! The schedule: every unit is counted exactly once, whatever happens to the workers.

use std::collections::BTreeMap;

use es_core::schedule::{Action, Event, PolicyKind, Schedule, ScheduleError, Unit, plan_units};
use proptest::prelude::*;

fn schedule(units: u32, workers: &[u32]) -> Schedule {
    Schedule::new(units, workers, PolicyKind::Static).unwrap()
}

/// The workers and their transport, as small as it gets: what each worker was told, and what was counted.
struct World {
    schedule: Schedule,
    /// Alive workers and the unit each works on.
    tasks: BTreeMap<u32, Option<u32>>,
    /// Results of lost workers that are still on their way.
    late: Vec<(u32, u32)>,
    counted: Vec<u32>,
    finishes: u32,
}

impl World {
    fn new(units: u32, workers: u32) -> Self {
        let ids: Vec<u32> = (0..workers).collect();
        Self {
            schedule: schedule(units, &ids),
            tasks: ids.iter().map(|&id| (id, None)).collect(),
            late: Vec::new(),
            counted: vec![0; units as usize],
            finishes: 0,
        }
    }

    fn handle(&mut self, event: Event) {
        if let Event::UnitDone(worker, unit) = event {
            if !self.schedule.is_done(unit).unwrap() {
                self.counted[unit as usize] += 1;
            }
            self.tasks
                .entry(worker)
                .and_modify(|task| *task = task.filter(|&held| held != unit));
        }
        let actions = match self.schedule.handle_event(0.0, event) {
            Ok(actions) => actions,
            Err(ScheduleError::NoWorkers { open }) => {
                assert!(open > 0 && self.tasks.is_empty(), "{event:?}");
                return;
            }
            Err(error) => panic!("{event:?}: {error}"),
        };
        for action in actions {
            match action {
                Action::Assign(worker, unit) => {
                    let task = self
                        .tasks
                        .get_mut(&worker)
                        .expect("only living workers get work");
                    assert!(
                        task.is_none_or(|held| held == unit),
                        "worker {worker} has work already"
                    );
                    assert_eq!(
                        self.counted[unit as usize], 0,
                        "unit {unit} is done already"
                    );
                    *task = Some(unit);
                }
                Action::Cancel(worker, unit) => {
                    assert_eq!(self.tasks.insert(worker, None), Some(Some(unit)));
                }
                Action::Finish => self.finishes += 1,
            }
        }
    }

    fn lose(&mut self, worker: u32) {
        if let Some(unit) = self.tasks.remove(&worker).expect("it lives") {
            self.late.push((worker, unit));
        }
        self.handle(Event::WorkerLost(worker));
    }

    fn join(&mut self, worker: u32) {
        self.tasks.insert(worker, None);
        self.handle(Event::WorkerJoined(worker));
    }

    /// Every living worker works until nothing is left.
    fn drain(&mut self) {
        for _ in 0..2 * self.counted.len() + 2 {
            for (worker, task) in self.tasks.clone() {
                self.handle(task.map_or(Event::WorkerReady(worker), |unit| {
                    Event::UnitDone(worker, unit)
                }));
            }
        }
        assert!(self.schedule.finished());
        assert_eq!(self.finishes, 1, "Finish is said once");
        assert!(
            self.counted.iter().all(|&count| count == 1),
            "{:?}",
            self.counted
        );
    }
}

#[test]
fn plan_is_member_by_member_in_prompt_chunks() {
    let units = plan_units(2, 5, 2).unwrap();
    let found: Vec<_> = units
        .iter()
        .map(|u| (u.index, u.member, u.start, u.stop))
        .collect();
    assert_eq!(
        found,
        [
            (0, 0, 0, 2),
            (1, 0, 2, 4),
            (2, 0, 4, 5),
            (3, 1, 0, 2),
            (4, 1, 2, 4),
            (5, 1, 4, 5)
        ]
    );
    assert_eq!(
        plan_units(1, 3, u32::MAX).unwrap(),
        [Unit {
            index: 0,
            member: 0,
            start: 0,
            stop: 3
        }]
    );
    for (members, prompts, chunk) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (u32::MAX, u32::MAX, 1)] {
        assert!(plan_units(members, prompts, chunk).is_err());
    }
}

#[test]
fn static_runs_are_contiguous_and_balanced() {
    let mut schedule = schedule(10, &[7, 3, 5]);
    let mut own = |worker| {
        let mut units = Vec::new();
        let mut actions = schedule
            .handle_event(0.0, Event::WorkerReady(worker))
            .unwrap();
        while let [Action::Assign(to, unit), ..] = actions[..] {
            assert_eq!(to, worker);
            units.push(unit);
            actions = schedule
                .handle_event(0.0, Event::UnitDone(worker, unit))
                .unwrap();
        }
        units
    };
    assert_eq!(own(7), [0, 1, 2, 3]);
    assert_eq!(own(3), [4, 5, 6]);
    assert_eq!(own(5), [7, 8, 9]);
    assert!(schedule.finished());
}

#[test]
fn bad_arguments_and_unknown_ids_are_refused_without_a_change() {
    let make =
        |units, workers: &[u32]| Schedule::new(units, workers, PolicyKind::Static).unwrap_err();
    assert_eq!(make(0, &[1]), ScheduleError::NoUnits);
    assert_eq!(make(1, &[]), ScheduleError::NoWorkers { open: 1 });
    assert_eq!(make(1, &[4, 4]), ScheduleError::Repeated { worker: 4 });

    let mut schedule = schedule(1, &[0]);
    let mut refused = |event| schedule.handle_event(0.0, event).unwrap_err();
    assert_eq!(
        refused(Event::WorkerReady(9)),
        ScheduleError::UnknownWorker { worker: 9 }
    );
    assert_eq!(
        refused(Event::WorkerLost(9)),
        ScheduleError::UnknownWorker { worker: 9 }
    );
    assert_eq!(
        refused(Event::UnitDone(9, 0)),
        ScheduleError::UnknownWorker { worker: 9 }
    );
    assert_eq!(
        refused(Event::UnitDone(0, 1)),
        ScheduleError::UnknownUnit { unit: 1, units: 1 }
    );
    assert_eq!(
        refused(Event::WorkerJoined(0)),
        ScheduleError::Repeated { worker: 0 }
    );
    assert!(!schedule.is_done(0).unwrap() && schedule.is_done(1).is_err());
    assert_eq!(schedule.handle_event(0.0, Event::Tick).unwrap(), []);
}

#[test]
fn a_waiting_worker_takes_over_from_a_lost_one() {
    let mut schedule = schedule(3, &[0, 1]);
    schedule.handle_event(0.0, Event::WorkerReady(0)).unwrap();
    assert_eq!(
        schedule.handle_event(0.0, Event::WorkerReady(1)).unwrap(),
        [Action::Assign(1, 2)]
    );
    assert_eq!(
        schedule.handle_event(0.0, Event::UnitDone(1, 2)).unwrap(),
        [],
        "nothing is left for it"
    );
    assert_eq!(
        schedule.handle_event(0.0, Event::WorkerLost(0)).unwrap(),
        [Action::Assign(1, 0)]
    );
    assert_eq!(
        schedule.handle_event(0.0, Event::WorkerLost(0)).unwrap(),
        [],
        "said twice"
    );
    let refused = schedule.handle_event(0.0, Event::WorkerReady(0));
    assert_eq!(
        refused.unwrap_err(),
        ScheduleError::LostWorker { worker: 0 }
    );
    // The lost worker's result of unit 0 arrives after all: it counts, and worker 1 needn't go on with it.
    assert_eq!(
        schedule.handle_event(0.0, Event::UnitDone(0, 0)).unwrap(),
        [Action::Cancel(1, 0)]
    );
    assert_eq!(
        schedule.handle_event(0.0, Event::WorkerReady(1)).unwrap(),
        [Action::Assign(1, 1)]
    );
    assert_eq!(
        schedule.handle_event(0.0, Event::UnitDone(1, 1)).unwrap(),
        [Action::Finish]
    );
    assert_eq!(
        schedule.handle_event(0.0, Event::UnitDone(1, 1)).unwrap(),
        [],
        "a second result is ignored"
    );
}

#[test]
fn when_all_are_lost_a_worker_that_joins_takes_everything() {
    let mut world = World::new(5, 2);
    world.handle(Event::WorkerReady(0));
    world.lose(0);
    world.lose(1);
    world.join(8);
    world.drain();
}

#[derive(Clone, Debug)]
enum Move {
    Ready,
    Done,
    Repeat,
    Late,
    Lose,
    Join,
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => Just(Move::Ready),
        6 => Just(Move::Done),
        1 => Just(Move::Repeat),
        1 => Just(Move::Late),
        1 => Just(Move::Lose),
        1 => Just(Move::Join),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_events_count_each_unit_once_and_one_living_worker_finishes(
        units in 1_u32..40,
        workers in 1_u32..8,
        moves in proptest::collection::vec((any_move(), any::<prop::sample::Index>()), 0..200),
    ) {
        let mut world = World::new(units, workers);
        for (step, index) in moves {
            let living: Vec<u32> = world.tasks.keys().copied().collect();
            let pick = || (!living.is_empty()).then(|| living[index.index(living.len())]);
            match step {
                Move::Ready => pick().into_iter().for_each(|worker| world.handle(Event::WorkerReady(worker))),
                Move::Done => {
                    let task = pick().and_then(|worker| world.tasks[&worker].map(|unit| (worker, unit)));
                    if let Some((worker, unit)) = task {
                        world.handle(Event::UnitDone(worker, unit));
                    }
                }
                Move::Repeat => {
                    let done: Vec<u32> = (0..units).filter(|&unit| world.schedule.is_done(unit).unwrap()).collect();
                    if let (Some(worker), false) = (pick(), done.is_empty()) {
                        world.handle(Event::UnitDone(worker, done[index.index(done.len())]));
                    }
                }
                Move::Late => {
                    if let Some((worker, unit)) = world.late.pop() {
                        world.handle(Event::UnitDone(worker, unit));
                    }
                }
                Move::Lose => pick().into_iter().for_each(|worker| world.lose(worker)),
                Move::Join => {
                    let away = (0..1000).find(|id| !world.tasks.contains_key(id));
                    world.join(away.expect("there are more ids than workers"));
                }
            }
        }
        if world.tasks.is_empty() {
            world.join(99);
        }
        world.drain();
    }

    #[test]
    fn plan_covers_every_cell_once(members in 1_u32..20, prompts in 1_u32..50, chunk in 1_u32..60) {
        let mut cells = vec![0; (members * prompts) as usize];
        for (place, unit) in plan_units(members, prompts, chunk).unwrap().into_iter().enumerate() {
            prop_assert_eq!(unit.index as usize, place);
            prop_assert!(unit.start < unit.stop && unit.stop - unit.start <= chunk);
            for prompt in unit.start..unit.stop {
                cells[(unit.member * prompts + prompt) as usize] += 1;
            }
        }
        prop_assert!(cells.iter().all(|&count| count == 1));
    }
}
