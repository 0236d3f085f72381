//! What the coordination of a run costs beside the work itself: schedule, ask / tell / apply, journal. Each bench checks
//! its answer while it is timed; the curve at the end shows that the schedule's cost per decision doesn't grow.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Seek, Write};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use es_core::fitness::FailurePolicy;
use es_core::journal::{Journal, JournalWriter, encode_record};
use es_core::population::{Population, Record};
use es_core::schedule::{Action, Event, PolicyKind, Schedule, WorkerId};
use es_core::shaping::ShapingRule;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10);
    targets = decision, whole_iteration, losses, ask_tell_apply, journal, curve
}
criterion_main!(benches);

/// Plans and completes all units: every worker starts, and each result brings the next unit. Gives the decisions taken.
fn complete(units: u32, workers: u32) -> u64 {
    let ids: Vec<WorkerId> = (0..workers).collect();
    let mut schedule = Schedule::new(units, &ids, PolicyKind::Static).unwrap();
    let mut work: Vec<(WorkerId, u32)> = Vec::with_capacity(workers as usize);
    let (mut decisions, mut finishes) = (0, 0);
    let mut take = |schedule: &mut Schedule, event, work: &mut Vec<(WorkerId, u32)>| {
        decisions += 1;
        for action in schedule.handle_event(0.0, event).unwrap() {
            match action {
                Action::Assign(worker, unit) => work.push((worker, unit)),
                Action::Cancel(..) => panic!("nothing is done twice"),
                Action::Finish => finishes += 1,
            }
        }
    };
    for &worker in &ids {
        take(&mut schedule, Event::WorkerReady(worker), &mut work);
    }
    // Round by round over the workers: neighbours in time are never neighbours in memory.
    while !work.is_empty() {
        for (worker, unit) in std::mem::take(&mut work) {
            take(&mut schedule, Event::UnitDone(worker, unit), &mut work);
        }
    }
    assert!(schedule.finished() && finishes == 1 && decisions == u64::from(units + workers));
    decisions
}

fn decision(c: &mut Criterion) {
    let mut group = c.benchmark_group("one_decision");
    for workers in [16, 10_000_u32] {
        let units = 100 * workers;
        let ids: Vec<WorkerId> = (0..workers).collect();
        let ready = || {
            let mut schedule = Schedule::new(units, &ids, PolicyKind::Static).unwrap();
            for &worker in &ids {
                schedule
                    .handle_event(0.0, Event::WorkerReady(worker))
                    .unwrap();
            }
            schedule
        };
        let middle = workers / 2;
        group.throughput(Throughput::Elements(50));
        group.bench_function(BenchmarkId::new("workers", workers), |b| {
            b.iter_batched_ref(
                ready,
                |schedule| {
                    for unit in 100 * middle..100 * middle + 50 {
                        let actions = schedule
                            .handle_event(0.0, Event::UnitDone(middle, unit))
                            .unwrap();
                        assert_eq!(actions, [Action::Assign(middle, unit + 1)]);
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
}

fn whole_iteration(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan_and_complete");
    for (units, workers) in [(960, 16), (1_000_000, 10_000)] {
        group.throughput(Throughput::Elements(u64::from(units)));
        group.bench_function(
            BenchmarkId::new("units_workers", format!("{units}_{workers}")),
            |b| {
                b.iter(|| complete(black_box(units), workers));
            },
        );
    }
}

/// Half of the workers die, one after another; the others take everything over.
fn losses(c: &mut Criterion) {
    let (units, workers) = (100_000, 1_000);
    let ids: Vec<WorkerId> = (0..workers).collect();
    let mut group = c.benchmark_group("lose_half_of");
    group.throughput(Throughput::Elements(u64::from(workers / 2)));
    group.bench_function(BenchmarkId::new("workers", workers), |b| {
        b.iter(|| {
            let mut schedule = Schedule::new(units, &ids, PolicyKind::Static).unwrap();
            for &worker in &ids[..ids.len() / 2] {
                let actions = schedule
                    .handle_event(0.0, Event::WorkerLost(worker))
                    .unwrap();
                assert!(actions.is_empty(), "nobody was waiting");
            }
            let first = schedule
                .handle_event(0.0, Event::WorkerReady(workers - 1))
                .unwrap();
            assert!(matches!(first[..], [Action::Assign(..)]));
        });
    });
}

fn population(size: usize) -> Population {
    Population::new(1, size, false, ShapingRule::ZScore, FailurePolicy::Worst).unwrap()
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
                let members = population.ask();
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
        "\n{:>10} {:>8} {:>10} {:>12}",
        "units", "workers", "seconds", "ns/decision"
    );
    for (units, workers) in [
        (1_000, 10),
        (10_000, 100),
        (100_000, 1_000),
        (1_000_000, 10_000),
        (4_000_000, 10_000),
    ] {
        let mut best = f64::INFINITY;
        let mut decisions = 0;
        for _ in 0..3 {
            #[expect(
                clippy::disallowed_methods,
                reason = "a bench reads the clock; the core doesn't"
            )]
            let start = std::time::Instant::now();
            decisions = complete(units, workers);
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!(
            "{units:>10} {workers:>8} {best:>10.4} {:>12.0}",
            1e9 * best / decisions as f64
        );
    }
}
