//! The schedule: every unit is counted exactly once, whatever happens to the ranks.

use std::collections::BTreeMap;

use es_core::schedule::{Action, Event, PolicyKind, Schedule, ScheduleError};
use proptest::prelude::*;

const POLICIES: [PolicyKind; 2] = PolicyKind::ALL;

/// Equal units over ranks of unknown speed.
fn schedule(units: u32, ranks: &[u32], policy: PolicyKind) -> Schedule {
    let ranks: Vec<(u32, f64)> = ranks.iter().map(|&id| (id, 0.0)).collect();
    Schedule::new(&vec![1.0; units as usize], &ranks, policy).unwrap()
}

/// The number used as the result of a unit.
fn result(unit: u32) -> u64 {
    u64::from(unit) * 31 + 7
}

fn done(rank: u32, unit: u32) -> Event {
    Event::UnitDone(rank, unit, result(unit))
}

/// A minimal model of the ranks and their transport: the units that each rank holds, and the results that were counted.
struct World {
    schedule: Schedule,
    now: f64,
    /// Alive ranks and the units each holds, in order.
    tasks: BTreeMap<u32, Vec<u32>>,
    /// Results of lost ranks that are still on their way.
    late: Vec<(u32, u32)>,
    counted: Vec<u32>,
}

impl World {
    fn new(units: u32, ranks: u32, policy: PolicyKind) -> Self {
        let ids: Vec<u32> = (0..ranks).collect();
        Self {
            schedule: schedule(units, &ids, policy),
            now: 0.0,
            tasks: ids.iter().map(|&id| (id, Vec::new())).collect(),
            late: Vec::new(),
            counted: vec![0; units as usize],
        }
    }

    fn handle(&mut self, event: Event) {
        self.now += 0.125;
        if let Event::UnitDone(rank, unit, _) = event {
            if !self.schedule.is_done(unit) {
                self.counted[unit as usize] += 1;
            }
            self.tasks
                .entry(rank)
                .and_modify(|held| held.retain(|&other| other != unit));
        }
        let actions = match self.schedule.handle_event(self.now, event) {
            Ok(actions) => actions,
            Err(ScheduleError::NoRanks { open }) => {
                assert!(open > 0 && self.tasks.is_empty(), "{event:?}");
                return;
            }
            Err(error) => panic!("{event:?}: {error}"),
        };
        for action in actions {
            match action {
                Action::Assign(rank, unit) | Action::Duplicate(rank, unit) => {
                    let held = self
                        .tasks
                        .get_mut(&rank)
                        .expect("only living ranks get work");
                    assert!(!held.contains(&unit), "rank {rank} has it already");
                    held.push(unit);
                    let count = self.counted[unit as usize];
                    assert_eq!(count, 0, "unit {unit} is done already");
                    let holders = self.tasks.values().filter(|held| held.contains(&unit));
                    assert!(holders.count() <= 2, "unit {unit} is with three ranks");
                }
                Action::Cancel(rank, unit) => {
                    let held = self.tasks.get_mut(&rank).expect("it lives");
                    assert!(held.contains(&unit), "rank {rank} doesn't hold {unit}");
                    held.retain(|&other| other != unit);
                }
                Action::Differs { unit, .. } => panic!("the results of {unit} are all equal"),
            }
        }
    }

    fn lose(&mut self, rank: u32) {
        let held = self.tasks.remove(&rank).expect("it lives");
        self.late.extend(held.first().map(|&unit| (rank, unit)));
        self.handle(Event::RankLost(rank));
    }

    fn join(&mut self, rank: u32) {
        self.tasks.insert(rank, Vec::new());
        self.handle(Event::RankJoined(rank));
    }

    /// Every living rank works until nothing is left.
    fn drain(&mut self) {
        for _ in 0..2 * self.counted.len() + 2 {
            for rank in self.tasks.keys().copied().collect::<Vec<_>>() {
                let unit = self.tasks[&rank].first().copied();
                self.handle(unit.map_or(Event::RankReady(rank), |unit| done(rank, unit)));
            }
        }
        assert!(self.schedule.finished());
        assert!(
            self.counted.iter().all(|&count| count == 1),
            "{:?}",
            self.counted
        );
        assert!(
            self.tasks.values().all(Vec::is_empty),
            "no rank has work left"
        );
    }
}

/// The units that the rank is given at once.
fn batch(schedule: &mut Schedule, now: f64, event: Event) -> Vec<u32> {
    let actions = schedule.handle_event(now, event).unwrap();
    let unit = |action: &Action| match *action {
        Action::Assign(_, unit) | Action::Duplicate(_, unit) => Some(unit),
        _ => None,
    };
    actions.iter().filter_map(unit).collect()
}

#[test]
fn static_ranges_are_contiguous_and_proportional_to_the_speeds() {
    let mut schedule = schedule(10, &[7, 3, 5], PolicyKind::Static);
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(7)), [0, 1, 2]);
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(3)), [3, 4, 5, 6]);
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(5)), [7, 8, 9]);

    let speeds = [(0, 1.0), (1, 3.0), (2, 0.0)];
    let mut schedule = Schedule::new(&[1.0; 12], &speeds, PolicyKind::Static).unwrap();
    let sizes = [0, 1, 2].map(|rank| batch(&mut schedule, 0.0, Event::RankReady(rank)).len());
    assert_eq!(
        sizes,
        [2, 6, 4],
        "an unknown speed is the mean of the others"
    );

    let costs = [4.0, 1.0, 1.0, 1.0, 1.0];
    let mut schedule = Schedule::new(&costs, &[(0, 0.0), (1, 0.0)], PolicyKind::Static).unwrap();
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(0)), [0]);
}

#[test]
fn dynamic_hands_out_the_longest_first_and_batches_by_measured_speed() {
    let costs = [1.0, 1.0, 3.0, 2.0];
    let mut schedule = Schedule::new(&costs, &[(0, 0.0), (1, 0.0)], PolicyKind::Dynamic).unwrap();
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(0)), [2]);
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(1)), [3]);

    let mut schedule =
        Schedule::new(&[1.0; 101], &[(0, 0.0), (1, 1.0)], PolicyKind::Dynamic).unwrap();
    assert_eq!(
        batch(&mut schedule, 0.0, Event::RankReady(0)),
        [0],
        "one, to measure"
    );
    // 3 units a second against 1: a quarter of three quarters of 100.
    let units = batch(&mut schedule, 1.0 / 3.0, done(0, 0));
    assert_eq!(units, (1..=18).collect::<Vec<u32>>());
    // A quarter of a quarter of 82.
    let units = batch(&mut schedule, 0.4, Event::RankReady(1));
    assert_eq!(units, (19..=23).collect::<Vec<u32>>());
    let speeds: Vec<_> = schedule.speeds().collect();
    assert_eq!(speeds, [(0, 3.0), (1, 1.0)]);
}

#[test]
fn no_rank_takes_in_advance_what_another_could_begin() {
    for ranks in [[(0, 0.0), (1, 0.0)], [(0, 1.0), (1, 1.0)]] {
        let mut schedule = Schedule::new(&[1.0; 3], &ranks, PolicyKind::Dynamic).unwrap();
        assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(0)), [0]);
        assert_eq!(batch(&mut schedule, 0.1, Event::RankReady(0)), [1]);
        assert_eq!(
            batch(&mut schedule, 0.2, Event::RankReady(0)),
            [0_u32; 0],
            "for rank 1"
        );
        assert_eq!(batch(&mut schedule, 0.3, Event::RankReady(1)), [2]);
    }
    let mut schedule =
        Schedule::new(&[1.0; 2], &[(0, 1.0), (1, 1.0)], PolicyKind::Dynamic).unwrap();
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(0)), [0]);
    assert_eq!(batch(&mut schedule, 0.1, Event::RankReady(0)), [0_u32; 0]);
    assert_eq!(
        batch(&mut schedule, 1.0, done(0, 0)),
        [1],
        "rank 1 has not asked"
    );
}

#[test]
fn near_the_end_an_idle_rank_takes_a_late_unit_and_the_first_result_counts() {
    let ranks = [(0, 1.0), (1, 1.0)];
    let mut schedule = Schedule::new(&[1.0; 2], &ranks, PolicyKind::Dynamic).unwrap();
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(0)), [0]);
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(1)), [1]);
    assert_eq!(
        batch(&mut schedule, 1.0, done(1, 1)),
        [0_u32; 0],
        "rank 0 is on time"
    );
    assert_eq!(batch(&mut schedule, 1.05, Event::Tick), [0_u32; 0]);
    assert_eq!(
        batch(&mut schedule, 1.9, Event::Tick),
        [0_u32; 0],
        "rank 0 may finish sooner than rank 1 would"
    );
    assert_eq!(batch(&mut schedule, 2.0, Event::Tick), [0], "late");
    assert_eq!(batch(&mut schedule, 2.1, Event::Tick), [0_u32; 0], "once");
    let actions = schedule.handle_event(2.2, done(1, 0)).unwrap();
    assert_eq!(actions, [Action::Cancel(0, 0)]);
    assert!(schedule.finished());
    assert_eq!(schedule.handle_event(2.3, done(0, 0)).unwrap(), [], "equal");
    let differs = Action::Differs {
        unit: 0,
        first: 1,
        second: 0,
    };
    let other = Event::UnitDone(0, 0, result(0) + 1);
    assert_eq!(schedule.handle_event(2.4, other).unwrap(), [differs]);
}

#[test]
fn a_fast_rank_takes_what_a_slow_one_would_finish_later() {
    let ranks = [(0, 1.0), (1, 8.0)];
    let mut schedule = Schedule::new(&[1.0; 6], &ranks, PolicyKind::Dynamic).unwrap();
    assert_eq!(batch(&mut schedule, 0.0, Event::RankReady(0)), [0]);
    let mut units = batch(&mut schedule, 0.0, Event::RankReady(1));
    let mut now = 0.0;
    while let Some(unit) = units.pop() {
        now += 0.125;
        units.extend(batch(&mut schedule, now, done(1, unit)));
    }
    assert!(schedule.finished() && now < 0.8, "{now}");
}

#[test]
fn a_duplicate_survives_the_loss_of_either_holder() {
    for lost in [0, 1] {
        let ranks = [(0, 1.0), (1, 1.0)];
        let mut schedule = Schedule::new(&[1.0; 2], &ranks, PolicyKind::Dynamic).unwrap();
        for rank in [0, 1] {
            batch(&mut schedule, 0.0, Event::RankReady(rank));
        }
        batch(&mut schedule, 1.0, done(1, 1));
        assert_eq!(batch(&mut schedule, 2.0, Event::Tick), [0]);
        assert_eq!(
            schedule.handle_event(2.1, Event::RankLost(lost)).unwrap(),
            []
        );
        let actions = schedule.handle_event(3.0, done(1 - lost, 0)).unwrap();
        assert!(actions.is_empty() && schedule.finished());
    }
}

#[test]
fn bad_arguments_and_unknown_ids_are_refused_without_a_change() {
    for policy in POLICIES {
        let make = |costs: &[f64], ranks: &[(u32, f64)]| {
            Schedule::new(costs, ranks, policy).unwrap_err().to_string()
        };
        assert!(make(&[], &[(1, 0.0)]).contains("at least 1 unit"));
        assert!(make(&[1.0], &[]).contains("no rank is left"));
        assert!(make(&[1.0], &[(4, 0.0), (4, 0.0)]).contains("rank 4 is there already"));
        for cost in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(make(&[1.0, cost], &[(0, 0.0)]).contains("unit 1 must have"));
        }
        for speed in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(make(&[1.0], &[(3, speed)]).contains("rank 3 must have"));
        }
        let mut schedule = schedule(1, &[0], policy);
        let mut refused = |event| schedule.handle_event(0.0, event).unwrap_err();
        let unknown = ScheduleError::UnknownRank { rank: 9 };
        assert_eq!(refused(Event::RankReady(9)), unknown);
        assert_eq!(refused(Event::RankLost(9)), unknown);
        assert_eq!(refused(done(9, 0)), unknown);
        assert_eq!(
            refused(done(0, 1)),
            ScheduleError::UnknownUnit { unit: 1, units: 1 }
        );
        assert_eq!(
            refused(Event::RankJoined(0)),
            ScheduleError::Repeated { rank: 0 }
        );
        assert!(!schedule.is_done(0) && !schedule.is_done(1));
        assert_eq!(schedule.handle_event(0.0, Event::Tick).unwrap(), []);
    }
    assert_eq!("dynamic".parse(), Ok(PolicyKind::Dynamic));
    assert!(
        "fast"
            .parse::<PolicyKind>()
            .unwrap_err()
            .to_string()
            .contains("fast")
    );
}

#[test]
fn a_waiting_rank_takes_over_from_a_lost_one() {
    let mut schedule = schedule(3, &[0, 1], PolicyKind::Static);
    let mut handle = |event| schedule.handle_event(0.0, event);
    let assign = |unit| Action::Assign(1, unit);
    handle(Event::RankReady(0)).unwrap();
    assert_eq!(handle(Event::RankReady(1)).unwrap(), [assign(2)]);
    assert_eq!(handle(done(1, 2)).unwrap(), [], "nothing is left for it");
    assert_eq!(handle(Event::RankLost(0)).unwrap(), [assign(0), assign(1)]);
    assert_eq!(handle(Event::RankLost(0)).unwrap(), [], "lost twice");
    let refused = handle(Event::RankReady(0)).unwrap_err();
    assert_eq!(refused, ScheduleError::LostRank { rank: 0 });
    // The lost rank's result of unit 0 arrives after all: it counts, and rank 1 can drop the unit.
    assert_eq!(handle(done(0, 0)).unwrap(), [Action::Cancel(1, 0)]);
    assert_eq!(handle(Event::RankReady(1)).unwrap(), []);
    assert_eq!(handle(done(1, 1)).unwrap(), []);
    assert_eq!(
        handle(done(1, 1)).unwrap(),
        [],
        "a second result is ignored"
    );
    assert!(schedule.finished());
}

#[test]
fn when_all_are_lost_a_rank_that_joins_takes_everything() {
    for policy in POLICIES {
        let mut world = World::new(5, 2, policy);
        world.handle(Event::RankReady(0));
        world.lose(0);
        world.lose(1);
        world.join(8);
        world.drain();
    }
}

#[derive(Clone, Debug)]
enum Move {
    Ready,
    Done,
    Repeat,
    Late,
    Lose,
    Join,
    Tick,
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => Just(Move::Ready),
        6 => Just(Move::Done),
        1 => Just(Move::Repeat),
        1 => Just(Move::Late),
        1 => Just(Move::Lose),
        1 => Just(Move::Join),
        2 => Just(Move::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_events_count_each_unit_once_and_one_living_rank_finishes(
        units in 1_u32..40,
        ranks in 1_u32..8,
        policy in prop::sample::select(POLICIES.to_vec()),
        moves in proptest::collection::vec((any_move(), any::<prop::sample::Index>()), 0..200),
    ) {
        let mut world = World::new(units, ranks, policy);
        for (step, index) in moves {
            let living: Vec<u32> = world.tasks.keys().copied().collect();
            let pick = || (!living.is_empty()).then(|| living[index.index(living.len())]);
            match step {
                Move::Ready => pick().into_iter().for_each(|rank| world.handle(Event::RankReady(rank))),
                Move::Done => {
                    let task = pick().and_then(|rank| world.tasks[&rank].first().map(|&unit| (rank, unit)));
                    if let Some((rank, unit)) = task {
                        world.handle(done(rank, unit));
                    }
                }
                Move::Repeat => {
                    let done: Vec<u32> = (0..units).filter(|&unit| world.schedule.is_done(unit)).collect();
                    if let (Some(rank), false) = (pick(), done.is_empty()) {
                        world.handle(self::done(rank, done[index.index(done.len())]));
                    }
                }
                Move::Late => {
                    if let Some((rank, unit)) = world.late.pop() {
                        world.handle(done(rank, unit));
                    }
                }
                Move::Tick => world.handle(Event::Tick),
                Move::Lose => pick().into_iter().for_each(|rank| world.lose(rank)),
                Move::Join => {
                    let away = (0..1000).find(|id| !world.tasks.contains_key(id));
                    world.join(away.expect("there are more ids than ranks"));
                }
            }
        }
        if world.tasks.is_empty() {
            world.join(99);
        }
        world.drain();
    }
}
