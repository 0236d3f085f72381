//! What the coordination of a run costs beside the work itself: schedule, ask / tell / apply, journal. Each bench checks
//! its answer while it is timed; the curve at the end shows that the schedule's cost per decision doesn't grow.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Seek, Write};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use es_core::fitness::FailurePolicy;
use es_core::journal::{Journal, JournalWriter, encode_record};
use es_core::population::{Population, Record};
use es_core::schedule::{Action, Event, PolicyKind, RankId, Schedule};
use es_core::shaping::Shaping;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10);
    targets = decision, whole_iteration, losses, ask_tell_apply, journal, curve
}
criterion_main!(benches);

/// A schedule of equal units over ranks 0, 1, ... of unknown speed, and of speeds that differ fourfold.
fn schedule(units: u32, ranks: u32, policy: PolicyKind) -> Schedule {
    let ranks: Vec<(RankId, f64)> = (0..ranks).map(|id| (id, 0.0)).collect();
    Schedule::new(&vec![1.0; units as usize], &ranks, policy).unwrap()
}

/// Plans and completes all units in simulated time: ranks are up to four times as fast as others, report unit by
/// unit, and say when they hold no more. Gives the decisions taken (one per event).
fn complete(units: u32, ranks: u32, policy: PolicyKind) -> u64 {
    let mut schedule = schedule(units, ranks, policy);
    let mut queues: Vec<VecDeque<u32>> = vec![VecDeque::new(); ranks as usize];
    let (mut decisions, mut counted) = (0, 0);
    let mut handle = |now: f64, event, queues: &mut Vec<VecDeque<u32>>| {
        decisions += 1;
        for action in schedule.handle_event(now, event).unwrap() {
            match action {
                Action::Assign(rank, unit) | Action::Duplicate(rank, unit) => {
                    queues[rank as usize].push_back(unit);
                }
                Action::Cancel(rank, unit) => {
                    queues[rank as usize].retain(|&held| held != unit);
                }
                Action::Differs { .. } => panic!("all results are equal"),
            }
        }
    };
    for rank in 0..ranks {
        handle(0.0, Event::RankReady(rank), &mut queues);
    }
    // Rounds over the ranks: neighbours in time are never neighbours in memory.
    let mut round = 0_u64;
    while queues.iter().any(|queue| !queue.is_empty()) {
        round += 1;
        for rank in 0..ranks {
            if round.is_multiple_of(1 + u64::from(rank % 4))
                && let Some(unit) = queues[rank as usize].pop_front()
            {
                counted += 1;
                handle(round as f64, Event::UnitDone(rank, unit, 0), &mut queues);
            }
        }
    }
    assert!(schedule.finished() && counted >= units, "{counted}");
    decisions
}

/// One event in the middle of an iteration: a rank has a result and gets its next unit.
fn decision(c: &mut Criterion) {
    let mut group = c.benchmark_group("one_decision");
    for (ranks, policy) in [16, 10_000].into_iter().zip([PolicyKind::Dynamic; 2]) {
        let ready = || {
            let mut schedule = schedule(100 * ranks, ranks, policy);
            for rank in 0..ranks {
                schedule.handle_event(0.0, Event::RankReady(rank)).unwrap();
            }
            schedule
        };
        let (middle, events) = (ranks / 2, 50);
        group.throughput(Throughput::Elements(events));
        group.bench_function(BenchmarkId::new("ranks", ranks), |b| {
            b.iter_batched_ref(
                ready,
                |schedule| {
                    let mut unit = middle;
                    for _ in 0..events {
                        // No time passes, so no speed is known and a batch is one unit.
                        let actions = schedule.handle_event(0.0, Event::UnitDone(middle, unit, 0));
                        let [Action::Assign(rank, next)] = actions.unwrap()[..] else {
                            panic!("one unit is done, the next one is given");
                        };
                        assert_eq!(rank, middle);
                        unit = next;
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
}

fn whole_iteration(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan_and_complete");
    for policy in PolicyKind::ALL {
        for (units, ranks) in [(960, 16), (1_000_000, 10_000)] {
            group.throughput(Throughput::Elements(u64::from(units)));
            let name = format!("{}_{units}_{ranks}", policy.name());
            group.bench_function(BenchmarkId::new("units_ranks", name), |b| {
                b.iter(|| complete(black_box(units), ranks, policy));
            });
        }
    }
}

/// Half of the ranks die, one after another; the others take everything over.
fn losses(c: &mut Criterion) {
    let (units, ranks) = (100_000, 1_000);
    let mut group = c.benchmark_group("lose_half_of");
    group.throughput(Throughput::Elements(u64::from(ranks / 2)));
    for policy in PolicyKind::ALL {
        group.bench_function(
            BenchmarkId::new("ranks", format!("{}_{ranks}", policy.name())),
            |b| {
                b.iter(|| {
                    let mut schedule = schedule(units, ranks, policy);
                    for rank in 0..ranks / 2 {
                        let ready = Event::RankReady(rank);
                        assert!(!schedule.handle_event(0.0, ready).unwrap().is_empty());
                        let lost = Event::RankLost(rank);
                        let actions = schedule.handle_event(0.0, lost).unwrap();
                        assert!(actions.is_empty(), "no rank was waiting");
                    }
                    let ready = Event::RankReady(ranks - 1);
                    let first = schedule.handle_event(0.0, ready).unwrap();
                    assert!(matches!(first[..], [Action::Assign(..), ..]));
                });
            },
        );
    }
}

fn population(size: usize) -> Population {
    Population::new(1, size, false, Shaping::default(), FailurePolicy::Worst).unwrap()
}

fn told(size: usize) -> (Vec<Option<f64>>, Record) {
    let fitness: Vec<_> = (0..size)
        .map(|member| Some((member * 7919 % 101) as f64 / 101.0))
        .collect();
    let record = population(size).tell(&fitness, 1e-3, 5e-4, 0).unwrap();
    (fitness, record)
}

fn ask_tell_apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("ask_tell_apply");
    for size in [30, 10_000_usize] {
        let (fitness, expected) = told(size);
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("members", size), |b| {
            b.iter(|| {
                let mut population = population(size);
                let members = population.ask(1e-3).unwrap();
                let record = population.tell(black_box(&fitness), 1e-3, 5e-4, 0).unwrap();
                population.apply(&record).unwrap();
                assert_eq!((members.len(), population.iteration()), (size, 1));
                assert_eq!(
                    record.coefficients[size / 2].to_bits(),
                    expected.coefficients[size / 2].to_bits()
                );
            });
        });
    }
}

/// Encoding alone, with a write but no sync, and as it is: with fdatasync.
fn journal(c: &mut Criterion) {
    for size in [30, 10_000_usize] {
        let (_, record) = told(size);
        let expected = 36 + size.div_ceil(8) + 16 * size;
        let mut group = c.benchmark_group(format!("journal_record_of_{size}"));
        group.throughput(Throughput::Bytes(expected as u64));
        group.bench_function("encode", |b| {
            b.iter(|| assert_eq!(encode_record(black_box(&record)).len(), expected));
        });
        let directory =
            std::env::temp_dir().join(format!("es-bench-{}-{size}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let plain = directory.join("plain");
        let mut file = File::create(&plain).unwrap();
        group.bench_function("encode_and_write_without_sync", |b| {
            b.iter(|| {
                file.rewind().unwrap();
                file.write_all(&encode_record(black_box(&record))).unwrap();
            });
        });
        let path = directory.join("journal");
        let mut writer = JournalWriter::create(&path, "{}").unwrap();
        group.bench_function("append_with_sync", |b| {
            b.iter(|| {
                let next = Record {
                    iteration: writer.records(),
                    ..record.clone()
                };
                writer.append_record(&next).unwrap();
            });
        });
        assert_eq!(
            Journal::read(&path).unwrap().records.len(),
            writer.records() as usize
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}

/// Seconds and nanoseconds per decision as the run grows: the last column stays flat.
fn curve(_: &mut Criterion) {
    println!(
        "\n{:>8} {:>10} {:>8} {:>10} {:>12}",
        "policy", "units", "ranks", "seconds", "ns/decision"
    );
    let sizes = [
        (1_000, 10),
        (10_000, 100),
        (100_000, 1_000),
        (1_000_000, 10_000),
        (4_000_000, 10_000),
    ];
    for policy in PolicyKind::ALL {
        for (units, ranks) in sizes {
            let mut best = f64::INFINITY;
            let mut decisions = 0;
            for _ in 0..3 {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a bench reads the clock; the core doesn't"
                )]
                let start = std::time::Instant::now();
                decisions = complete(units, ranks, policy);
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!(
                "{:>8} {units:>10} {ranks:>8} {best:>10.4} {:>12.0}",
                policy.name(),
                1e9 * best / decisions as f64
            );
        }
    }
}
