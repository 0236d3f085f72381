//! The noise of the rows of a batch, on every path.

use std::ops::Range;

use es_core::kernels::{BatchRows, Bf16, F16, F32, Kernels, LiveType, LowRank, RowFactors};
use es_core::noise::NoiseAddress;

use super::all_paths;

const OUTPUTS: usize = 131;
const INPUTS: usize = 70;
const RANK: usize = 3;
const TOKENS: usize = 2;

fn factors(kernels: Kernels) -> RowFactors {
    let matrix = LowRank {
        address: NoiseAddress {
            run_seed: 5,
            iteration: 2,
            tensor: 3,
            ..NoiseAddress::default()
        },
        rank: RANK,
        first: [0, 0],
        shape: [OUTPUTS, INPUTS],
    };
    kernels.factors(matrix, &[4, 9]).expect("a valid address")
}

fn rows() -> BatchRows {
    BatchRows {
        pairs: vec![1, 0, 1],
        scales: vec![0.5, -0.25, 1.0],
    }
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 23) as f32 * 0.125 - 1.0).collect()
}

/// y + s (x B) A^T in f64.
fn plain(y: &[f32], x: &[f32], factors: &RowFactors, rows: &BatchRows) -> Vec<f64> {
    let at = |values: &[f32], pair: usize, k: usize, width: usize, column: usize| {
        f64::from(values[(pair * RANK + k) * width + column])
    };
    let mut sums: Vec<f64> = y.iter().map(|value| f64::from(*value)).collect();
    for (line, sums) in sums.chunks_exact_mut(OUTPUTS).enumerate() {
        let (row, x) = (line / TOKENS, &x[line * INPUTS..][..INPUTS]);
        let pair = rows.pairs[row] as usize;
        for k in 0..RANK {
            let products = x.iter().enumerate();
            let product: f64 = products
                .map(|(column, x)| f64::from(*x) * at(&factors.b, pair, k, INPUTS, column))
                .sum();
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum += f64::from(rows.scales[row])
                    * product
                    * at(&factors.a, pair, k, OUTPUTS, column);
            }
        }
    }
    sums
}

fn added<L: LiveType>(kernels: Kernels, outputs: Range<usize>) -> Vec<f32> {
    let lines = 3 * TOKENS;
    let bits = |values: Vec<f32>| values.into_iter().map(L::round).collect::<Vec<_>>();
    let (mut y, x) = (
        bits(values(lines * outputs.len())),
        bits(values(lines * INPUTS)),
    );
    let (factors, rows) = (factors(kernels), rows());
    kernels
        .add_low_rank::<L>(&mut y, &x, factors.of_rows(&rows, outputs))
        .expect("valid sizes");
    y.into_iter().map(L::widen).collect()
}

#[test]
fn rows_take_the_noise_of_their_pairs_on_every_path() {
    let y = values(3 * TOKENS * OUTPUTS);
    let wanted = plain(
        &y,
        &values(3 * TOKENS * INPUTS),
        &factors(Kernels::best()),
        &rows(),
    );
    let first = added::<F32>(all_paths()[0], 0..OUTPUTS);
    for (value, wanted) in first.iter().zip(&wanted) {
        assert!(
            (f64::from(*value) - wanted).abs() < 1e-4,
            "{value} {wanted}"
        );
    }
    for kernels in all_paths() {
        assert_eq!(added::<F32>(kernels, 0..OUTPUTS), first, "{kernels:?}");
        assert_eq!(
            added::<Bf16>(kernels, 0..OUTPUTS),
            added::<Bf16>(all_paths()[0], 0..OUTPUTS)
        );
        assert_eq!(
            added::<F16>(kernels, 0..OUTPUTS),
            added::<F16>(all_paths()[0], 0..OUTPUTS)
        );
    }
}

#[test]
fn a_transposed_matrix_swaps_the_factors() {
    let (kernels, rows) = (Kernels::best(), rows());
    let straight = factors(kernels);
    let swapped = RowFactors {
        a: straight.b.clone(),
        b: straight.a.clone(),
        shape: [2, RANK, INPUTS, OUTPUTS],
    };
    let x = values(3 * OUTPUTS);
    let (mut one, mut two) = (values(3 * INPUTS), values(3 * INPUTS));
    kernels
        .add_low_rank::<F32>(&mut one, &x, straight.transposed(&rows))
        .expect("valid sizes");
    kernels
        .add_low_rank::<F32>(&mut two, &x, swapped.of_rows(&rows, 0..INPUTS))
        .expect("valid sizes");
    assert_eq!(one, two);
}

#[test]
fn every_half_widens_exactly() {
    for bits in 0..=u16::MAX {
        let value = F16::widen(bits);
        assert!(
            value.is_nan() || F16::round(value) == bits,
            "{bits:#06x} {value}"
        );
        let value = Bf16::widen(bits);
        assert!(
            value.is_nan() || Bf16::round(value) == bits,
            "{bits:#06x} {value}"
        );
    }
}
