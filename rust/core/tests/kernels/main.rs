//! Every path, any cut of a tensor and any number of threads make the bits of the naive form.

mod edges;
mod product;
mod rows;

use es_core::kernels::{
    Bf16, Dtype, F16, F32, Kernels, Live, LiveType, LowRank, Path, Position, Terms, naive,
    set_kernel_threads,
};
use es_core::noise::{Kind, MAX_ELEMENTS, MAX_TENSORS, NoiseAddress};
use proptest::prelude::*;

fn addresses() -> impl Strategy<Value = NoiseAddress> {
    let element = prop_oneof![
        0..5000_u64,
        (1_u64 << 34) - 3000..(1 << 34) + 3000,
        0..MAX_ELEMENTS - 400_000
    ];
    (
        any::<u64>(),
        any::<u32>(),
        any::<u32>(),
        0..MAX_TENSORS,
        element,
    )
        .prop_map(
            |(run_seed, iteration, pair, tensor, element)| NoiseAddress {
                run_seed,
                iteration,
                pair,
                tensor,
                element,
            },
        )
}

fn all_paths() -> Vec<Kernels> {
    Path::ALL
        .into_iter()
        .filter_map(|path| Kernels::on(path).ok())
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Weights of all magnitudes, from the noise itself.
fn weights(count: usize) -> Vec<f32> {
    let mut out = vec![0.0; count];
    let address = NoiseAddress {
        run_seed: 1,
        iteration: 0,
        pair: 0,
        tensor: 0,
        element: 0,
    };
    Kernels::best()
        .fill(Kind::Dense, address, &mut out)
        .unwrap();
    out.iter()
        .enumerate()
        .map(|(i, value)| value * 2.0_f32.powi(-(i as i32 % 40)))
        .collect()
}

fn perturb<L: LiveType>(
    master: &[f32],
    address: NoiseAddress,
    wrap: impl Fn(&mut [L::Bits]) -> Live<'_>,
) -> Result<(), TestCaseError>
where
    L::Bits: Default + PartialEq + std::fmt::Debug,
{
    let mut expected = vec![L::Bits::default(); master.len()];
    naive::perturb::<L>(&mut expected, master, 0.125, address).unwrap();
    for kernels in all_paths() {
        let mut live = vec![L::Bits::default(); master.len()];
        kernels
            .perturb(wrap(&mut live), master, 0.125, address)
            .unwrap();
        prop_assert_eq!(&live, &expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_path_fills_as_the_naive_form(address in addresses(), count in 0..1500_usize) {
        let mut expected = vec![0.0; count];
        naive::fill(Kind::Dense, address, &mut expected).unwrap();
        for kernels in all_paths() {
            let mut out = vec![0.0; count];
            kernels.fill(Kind::Dense, address, &mut out).unwrap();
            prop_assert_eq!(bits(&out), bits(&expected), "{:?}", kernels);
        }
    }

    #[test]
    fn every_path_perturbs_as_the_naive_form(address in addresses(), count in 0..1500_usize) {
        let master = weights(count);
        perturb::<F32>(&master, address, |live| Live::F32(live))?;
        perturb::<Bf16>(&master, address, |live| Live::Bf16(live))?;
        perturb::<F16>(&master, address, |live| Live::F16(live))?;
    }

    #[test]
    fn every_path_accumulates_as_the_naive_form(
        address in addresses(),
        count in 0..700_usize,
        terms in proptest::collection::vec((any::<u32>(), -1.0_f32..1.0), 0..5),
    ) {
        let (pairs, coefficients): (Vec<u32>, Vec<f32>) = terms.into_iter().unzip();
        let terms = Terms { pairs: &pairs, coefficients: &coefficients, dtype: Dtype::F16 };
        let mut expected = weights(count);
        naive::accumulate(&mut expected, address, terms).unwrap();
        let mut reports = Vec::new();
        for kernels in all_paths() {
            let mut master = weights(count);
            reports.push(kernels.accumulate(&mut master, address, terms).unwrap());
            prop_assert_eq!(bits(&master), bits(&expected), "{:?}", kernels);
        }
        prop_assert!(reports.iter().all(|report| *report == reports[0]));
    }

    #[test]
    fn cuts_and_threads_never_change_the_bits(
        address in addresses(),
        cuts in proptest::collection::vec(0..300_000_usize, 0..4),
        threads in 0..5_usize,
    ) {
        let count = 300_000;
        let (pairs, coefficients) = ([3, 1], [0.5, -0.25]);
        let kernels = Kernels::best();
        set_kernel_threads(1).unwrap();
        let mut whole = weights(count);
        let terms = Terms { pairs: &pairs, coefficients: &coefficients, dtype: Dtype::Bf16 };
        let report = kernels.accumulate(&mut whole, address, terms).unwrap();
        set_kernel_threads(threads).unwrap();
        let mut again = weights(count);
        prop_assert_eq!(kernels.accumulate(&mut again, address, terms).unwrap(), report);
        prop_assert_eq!(bits(&again), bits(&whole));
        let mut bounds = cuts;
        bounds.extend([0, count]);
        bounds.sort_unstable();
        let (mut parts, mut digest) = (weights(count), 0_u64);
        for pair in bounds.windows(2) {
            let start = NoiseAddress { element: address.element + pair[0] as u64, ..address };
            let part = &mut parts[pair[0]..pair[1]];
            kernels.accumulate(part, start, terms).unwrap();
            digest = digest.wrapping_add(kernels.digest(part, start).unwrap());
        }
        set_kernel_threads(0).unwrap();
        prop_assert_eq!(bits(&parts), bits(&whole));
        prop_assert_eq!(digest, naive::digest(&whole, address));
    }

    #[test]
    fn a_shard_is_a_slice_of_the_whole(
        address in addresses(),
        shape in (1..40_usize, 1..90_usize),
        corners in proptest::collection::vec(0.0_f64..1.0, 4),
        threads in 1..3_usize,
    ) {
        let (rows, columns) = shape;
        let cut = |at: f64, size: usize| (at * (size + 1) as f64) as usize;
        let (mut top, mut bottom) = (cut(corners[0], rows), cut(corners[1], rows));
        let (mut left, mut right) = (cut(corners[2], columns), cut(corners[3], columns));
        if top > bottom { (top, bottom) = (bottom, top); }
        if left > right { (left, right) = (right, left); }
        prop_assume!(left < right);
        let block = |whole: &[f32]| -> Vec<f32> {
            (top..bottom).flat_map(|row| whole[row * columns + left..row * columns + right].to_vec()).collect()
        };
        set_kernel_threads(threads).unwrap();
        let (pairs, coefficients) = ([3, 1], [0.5, -0.25]);
        let element = address.element + (top * columns + left) as u64;
        let position = Position {
            address: NoiseAddress { element, ..address },
            columns: (right - left) as u64,
            stride: columns as u64,
        };
        let terms = Terms { pairs: &pairs, coefficients: &coefficients, dtype: Dtype::Bf16 };
        let master = weights(rows * columns);
        for kernels in all_paths() {
            let (mut whole, mut part) = (vec![0.0; master.len()], block(&master));
            kernels.fill(Kind::Dense, address, &mut whole).unwrap();
            kernels.fill(Kind::Dense, position, &mut part).unwrap();
            prop_assert_eq!(bits(&part), bits(&block(&whole)));
            kernels.perturb(Live::F32(&mut whole), &master, 0.5, address).unwrap();
            kernels.perturb(Live::F32(&mut part), &block(&master), 0.5, position).unwrap();
            prop_assert_eq!(bits(&part), bits(&block(&whole)));
            (whole, part) = (master.clone(), block(&master));
            kernels.accumulate(&mut whole, address, terms).unwrap();
            kernels.accumulate(&mut part, position, terms).unwrap();
            prop_assert_eq!(bits(&part), bits(&block(&whole)));
            let mut digest = 0_u64;
            for (row, part) in part.chunks(right - left).enumerate() {
                digest = digest.wrapping_add(naive::digest(part, NoiseAddress { element: element + (row * columns) as u64, ..address }));
            }
            prop_assert_eq!(kernels.digest(&part, position).unwrap(), digest);
        }
    }

    #[test]
    fn every_path_multiplies_low_rank_factors_as_the_naive_form(
        address in addresses(),
        rank in 1..9_usize,
        shape in [0..20_usize, 0..40_usize],
        first in [0..1000_u64, 0..1000_u64],
        terms in proptest::collection::vec((any::<u32>(), -1.0_f32..1.0), 0..5),
    ) {
        let matrix = LowRank { address, rank, first, shape };
        let (pairs, coefficients): (Vec<u32>, Vec<f32>) = terms.into_iter().unzip();
        let terms = Terms { pairs: &pairs, coefficients: &coefficients, dtype: Dtype::Bf16 };
        let master = weights(shape[0] * shape[1]);
        let mut expected = master.clone();
        naive::accumulate(&mut expected, matrix, terms).unwrap();
        let mut live = vec![0; master.len()];
        naive::perturb::<Bf16>(&mut live, &master, 0.1, matrix).unwrap();
        let mut reports = Vec::new();
        for kernels in all_paths() {
            let (mut updated, mut written) = (master.clone(), vec![1; master.len()]);
            reports.push(kernels.accumulate(&mut updated, matrix, terms).unwrap());
            prop_assert_eq!(bits(&updated), bits(&expected), "{:?}", kernels);
            let bad = kernels.perturb(Live::Bf16(&mut written), &master, 0.1, matrix);
            prop_assert_eq!(bad, Ok(0));
            prop_assert_eq!(&written, &live, "{:?}", kernels);
        }
        prop_assert!(reports.iter().all(|report| *report == reports[0]));
    }

    #[test]
    fn a_changed_element_changes_the_digest(
        address in addresses(),
        position in 0..400_usize,
        change in 1..u32::MAX,
    ) {
        let mut master = weights(400);
        let before = Kernels::best().digest(&master, address).unwrap();
        master[position] = f32::from_bits(master[position].to_bits() ^ change);
        let after = Kernels::best().digest(&master, address).unwrap();
        prop_assert_ne!(before, after);
    }

    #[test]
    fn halves_are_the_nearest_ones(word in any::<u32>()) {
        let value = f32::from_bits(word);
        let (bf16, f16) = (half::bf16::from_f32(value), half::f16::from_f32(value));
        if value.is_nan() {
            prop_assert_eq!((Bf16::round(value), F16::round(value)), (0x7fc0, 0x7e00));
            prop_assert!(Bf16::nearest(value).is_nan() && F16::nearest(value).is_nan());
        } else {
            prop_assert_eq!((Bf16::round(value), F16::round(value)), (bf16.to_bits(), f16.to_bits()));
            prop_assert_eq!(Bf16::nearest(value).to_bits(), bf16.to_f32().to_bits());
            prop_assert_eq!(F16::nearest(value).to_bits(), f16.to_f32().to_bits());
        }
    }
}

/// Larger than a panel in each direction, more terms than are drawn at once, on one thread and on two.
#[test]
fn blocks_of_a_low_rank_matrix_are_slices_of_the_whole() {
    let (shape, rank) = ([500, 2100], 3);
    let address = NoiseAddress {
        run_seed: 5,
        iteration: 1,
        pair: 4,
        tensor: 2,
        element: 0,
    };
    let pairs: Vec<u32> = (0..50).rev().collect();
    let coefficients: Vec<f32> = (0..50).map(|i| 1e-3 * (i - 20) as f32).collect();
    let matrix = |first, shape| LowRank {
        address,
        rank,
        first,
        shape,
    };
    let terms = Terms {
        pairs: &pairs,
        coefficients: &coefficients,
        dtype: Dtype::F32,
    };
    let kernels = Kernels::best();
    let mut whole = vec![0.0; shape[0] * shape[1]];
    set_kernel_threads(2).unwrap();
    kernels
        .accumulate(&mut whole, matrix([0, 0], shape), terms)
        .unwrap();
    set_kernel_threads(1).unwrap();
    let (first, part) = ([241, 1023], [20, 30]);
    let mut block = vec![0.0; part[0] * part[1]];
    kernels
        .accumulate(
            &mut block,
            matrix(first.map(|index| index as u64), part),
            terms,
        )
        .unwrap();
    for (i, block) in block.chunks(part[1]).enumerate() {
        let start = (first[0] + i) * shape[1] + first[1];
        assert_eq!(bits(block), bits(&whole[start..start + part[1]]));
    }
    let mut few = vec![0.0; 4];
    naive::accumulate(&mut few, matrix([499, 2096], [1, 4]), terms).unwrap();
    assert_eq!(bits(&few), bits(&whole[whole.len() - 4..]));
}

/// More factors than are drawn once for all panels; the block is one panel, whose factors are drawn in it.
#[test]
fn many_factors_are_those_of_a_block() {
    let matrix = |first, shape| LowRank {
        address: NoiseAddress {
            run_seed: 5,
            iteration: 1,
            pair: 0,
            tensor: 2,
            element: 0,
        },
        rank: 1024,
        first,
        shape,
    };
    let pairs: Vec<u32> = (0..40).collect();
    let coefficients = vec![1e-3; pairs.len()];
    let terms = Terms {
        pairs: &pairs,
        coefficients: &coefficients,
        dtype: Dtype::F32,
    };
    let kernels = Kernels::best();
    let (mut whole, mut block) = (vec![0.0; 250 * 10], vec![0.0; 5 * 10]);
    kernels
        .accumulate(&mut whole, matrix([0, 0], [250, 10]), terms)
        .unwrap();
    kernels
        .accumulate(&mut block, matrix([245, 0], [5, 10]), terms)
        .unwrap();
    assert!(block.iter().any(|value| *value != 0.0));
    assert_eq!(bits(&block), bits(&whole[245 * 10..]));
}
