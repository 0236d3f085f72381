//! Noise and weight kernels: every path of this machine and the naive form, in values per second, on one thread.
//!
//! Each benchmark first checks that its path gives the bits of the naive form. Compare within one run, not between runs.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use es_core::kernels::{
    Bf16, Dtype, Kernels, Live, LowRank, Path, Terms, naive, set_kernel_threads,
};
use es_core::noise::{Kind, NoiseAddress};

const ELEMENTS: usize = 1 << 20;
/// Elements of the naive form, which is slow.
const FEW: usize = 1 << 14;
/// Columns of the low-rank matrix.
const WIDTH: usize = 1 << 11;
const RANK: usize = 4;
const ADDRESS: NoiseAddress = NoiseAddress {
    run_seed: 42,
    iteration: 3,
    pair: 7,
    tensor: 5,
    element: (1 << 34) - 3,
};
const PAIRS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
const COEFFICIENTS: [f32; 8] = [1e-3, -2e-3, 3e-3, -4e-3, 5e-3, -6e-3, 7e-3, -8e-3];
const TERMS: Terms<'_> = Terms {
    pairs: &PAIRS,
    coefficients: &COEFFICIENTS,
    dtype: Dtype::Bf16,
};

fn paths() -> Vec<Kernels> {
    set_kernel_threads(1).unwrap();
    Path::ALL
        .into_iter()
        .filter_map(|path| Kernels::on(path).ok())
        .collect()
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    group
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn fill(c: &mut Criterion) {
    let mut group = group(c, "fill");
    let mut expected = vec![0.0; FEW];
    group.throughput(Throughput::Elements(FEW as u64));
    group.bench_function("naive", |b| {
        b.iter(|| naive::fill(Kind::Dense, ADDRESS, black_box(&mut expected)));
    });
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    for kernels in paths() {
        let mut out = vec![0.0; ELEMENTS];
        kernels.fill(Kind::Dense, ADDRESS, &mut out).unwrap();
        assert_eq!(bits(&out[..FEW]), bits(&expected));
        group.bench_function(
            BenchmarkId::new("path", format!("{:?}", kernels.path())),
            |b| {
                b.iter(|| kernels.fill(Kind::Dense, ADDRESS, black_box(&mut out)));
            },
        );
    }
}

fn perturb(c: &mut Criterion) {
    let mut group = group(c, "perturb_bf16");
    let master: Vec<f32> = (0..ELEMENTS).map(|i| (i % 97) as f32 * 1e-3).collect();
    let mut expected = vec![0; FEW];
    group.throughput(Throughput::Elements(FEW as u64));
    group.bench_function("naive", |b| {
        b.iter(|| naive::perturb::<Bf16>(black_box(&mut expected), &master[..FEW], 1e-3, ADDRESS));
    });
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    for kernels in paths() {
        let mut live = vec![0; ELEMENTS];
        kernels
            .perturb(Live::Bf16(&mut live), &master, 1e-3, ADDRESS)
            .unwrap();
        assert_eq!(live[..FEW], expected);
        group.bench_function(
            BenchmarkId::new("path", format!("{:?}", kernels.path())),
            |b| {
                b.iter(|| {
                    kernels.perturb(Live::Bf16(black_box(&mut live)), &master, 1e-3, ADDRESS)
                });
            },
        );
    }
}

/// Throughput counts noise values: elements times pairs.
fn accumulate(c: &mut Criterion) {
    let mut group = group(c, "accumulate_8_pairs");
    let mut expected = vec![1.0; FEW];
    naive::accumulate(&mut expected, ADDRESS, TERMS).unwrap();
    let mut master = vec![1.0; FEW];
    group.throughput(Throughput::Elements((FEW * PAIRS.len()) as u64));
    group.bench_function("naive", |b| {
        b.iter(|| naive::accumulate(black_box(&mut master), ADDRESS, TERMS));
    });
    group.throughput(Throughput::Elements((ELEMENTS * PAIRS.len()) as u64));
    for kernels in paths() {
        let mut master = vec![1.0; ELEMENTS];
        kernels.accumulate(&mut master, ADDRESS, TERMS).unwrap();
        assert_eq!(bits(&master[..FEW]), bits(&expected));
        group.bench_function(
            BenchmarkId::new("path", format!("{:?}", kernels.path())),
            |b| {
                b.iter(|| kernels.accumulate(black_box(&mut master), ADDRESS, TERMS));
            },
        );
    }
}

fn digest(c: &mut Criterion) {
    let mut group = group(c, "digest");
    let master: Vec<f32> = (0..ELEMENTS).map(|i| (i % 97) as f32 * 1e-3).collect();
    let expected = naive::digest(&master, ADDRESS);
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    group.bench_function("naive", |b| {
        b.iter(|| naive::digest(black_box(&master), ADDRESS));
    });
    for kernels in paths() {
        assert_eq!(kernels.digest(&master, ADDRESS), Ok(expected));
        group.bench_function(
            BenchmarkId::new("path", format!("{:?}", kernels.path())),
            |b| {
                b.iter(|| kernels.digest(black_box(&master), ADDRESS));
            },
        );
    }
}

/// Rank 4, 8 pairs. Throughput counts multiplications: elements times pairs times rank.
fn low_rank(c: &mut Criterion) {
    let mut group = group(c, "accumulate_low_rank_4_8_pairs");
    let matrix = |rows: usize| LowRank {
        address: ADDRESS,
        rank: RANK,
        first: [3, 5],
        shape: [rows, WIDTH],
    };
    let products = |elements: usize| Throughput::Elements((elements * PAIRS.len() * RANK) as u64);
    let rows = FEW / WIDTH;
    let mut expected = vec![1.0; FEW];
    naive::accumulate(&mut expected, matrix(rows), TERMS).unwrap();
    let mut master = vec![1.0; FEW];
    group.throughput(products(FEW));
    group.bench_function("naive", |b| {
        b.iter(|| naive::accumulate(black_box(&mut master), matrix(rows), TERMS));
    });
    group.throughput(products(ELEMENTS));
    for kernels in paths() {
        let mut master = vec![1.0; ELEMENTS];
        let rows = ELEMENTS / WIDTH;
        kernels
            .accumulate(&mut master, matrix(rows), TERMS)
            .unwrap();
        assert_eq!(bits(&master[..FEW]), bits(&expected));
        group.bench_function(
            BenchmarkId::new("path", format!("{:?}", kernels.path())),
            |b| {
                b.iter(|| kernels.accumulate(black_box(&mut master), matrix(rows), TERMS));
            },
        );
    }
}

/// The limit of memory: a copy of the same size, in f32 values per second.
fn copy(c: &mut Criterion) {
    let mut group = group(c, "copy");
    let (from, mut to) = (vec![1.0_f32; ELEMENTS], vec![0.0_f32; ELEMENTS]);
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    group.bench_function("memcpy", |b| {
        b.iter(|| black_box(&mut to).copy_from_slice(black_box(&from)));
    });
    assert_eq!(bits(&to), bits(&from));
}

criterion_group!(benches, fill, perturb, accumulate, low_rank, digest, copy);
criterion_main!(benches);
