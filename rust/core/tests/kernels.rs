//! Every path, any cut of a tensor and any number of threads make the bits of the naive form.

use es_core::kernels::{
    Bf16, Dtype, F16, F32, KernelError, Kernels, Live, LiveType, Path, Update, UpdateReport, naive,
    set_kernel_threads,
};
use es_core::noise::{MAX_ELEMENTS, MAX_TENSORS, NoiseAddress, NoiseError};
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
    Kernels::best().fill(address, &mut out).unwrap();
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
    naive::perturb_into::<L>(&mut expected, master, 0.125, address).unwrap();
    for kernels in all_paths() {
        let mut live = vec![L::Bits::default(); master.len()];
        kernels
            .perturb_into(wrap(&mut live), master, 0.125, address)
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
        naive::fill(address, &mut expected).unwrap();
        for kernels in all_paths() {
            let mut out = vec![0.0; count];
            kernels.fill(address, &mut out).unwrap();
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
        let update = Update { address, pairs: &pairs, coefficients: &coefficients, dtype: Dtype::F16 };
        let mut expected = weights(count);
        naive::accumulate(&mut expected, update).unwrap();
        let mut reports = Vec::new();
        for kernels in all_paths() {
            let mut master = weights(count);
            reports.push(kernels.accumulate(&mut master, update).unwrap());
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
        let update = Update { address, pairs: &pairs, coefficients: &coefficients, dtype: Dtype::Bf16 };
        let report = kernels.accumulate(&mut whole, update).unwrap();
        set_kernel_threads(threads).unwrap();
        let mut again = weights(count);
        prop_assert_eq!(kernels.accumulate(&mut again, update).unwrap(), report);
        prop_assert_eq!(bits(&again), bits(&whole));
        let mut bounds = cuts;
        bounds.extend([0, count]);
        bounds.sort_unstable();
        let (mut parts, mut digest) = (weights(count), 0_u64);
        for pair in bounds.windows(2) {
            let element = address.element + pair[0] as u64;
            let part = &mut parts[pair[0]..pair[1]];
            let update = Update { address: NoiseAddress { element, ..address }, ..update };
            kernels.accumulate(part, update).unwrap();
            digest = digest.wrapping_add(kernels.digest(part, address.tensor, element).unwrap());
        }
        set_kernel_threads(0).unwrap();
        prop_assert_eq!(bits(&parts), bits(&whole));
        prop_assert_eq!(digest, naive::digest(&whole, address.tensor, address.element));
    }

    #[test]
    fn a_changed_element_changes_the_digest(
        address in addresses(),
        place in 0..400_usize,
        change in 1..u32::MAX,
    ) {
        let mut master = weights(400);
        let before = Kernels::best().digest(&master, address.tensor, address.element).unwrap();
        master[place] = f32::from_bits(master[place].to_bits() ^ change);
        let after = Kernels::best().digest(&master, address.tensor, address.element).unwrap();
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

#[test]
fn the_report_says_what_moved() {
    let address = NoiseAddress {
        run_seed: 1,
        iteration: 2,
        pair: 0,
        tensor: 3,
        element: 1,
    };
    let update = |coefficients| Update {
        address,
        pairs: &[9],
        coefficients,
        dtype: Dtype::Bf16,
    };
    let mut master = vec![1.0; 70_001];
    let still = Kernels::best()
        .accumulate(&mut master, update(&[0.0]))
        .unwrap();
    assert_eq!(
        (still.elements, still.moved, still.nonfinite),
        (70_001, 0, 0)
    );
    assert!(still.cosine().is_nan());
    let small = Kernels::best()
        .accumulate(&mut master, update(&[1e-4]))
        .unwrap();
    assert_eq!(small.moved, 0, "bfloat16 can't hold 1 + 1e-4");
    assert!((small.update_norm() / (1e-4 * 70_001_f64.sqrt()) - 1.0).abs() < 0.02);
    master[5] = f32::INFINITY;
    let large = Kernels::best()
        .accumulate(&mut master, update(&[1.0]))
        .unwrap();
    assert_eq!(large.nonfinite, 1);
    assert!(large.moved > 69_000);
    assert_eq!((still + small).elements, 140_002);
    assert_eq!(
        [still, small].into_iter().sum::<UpdateReport>(),
        still + small
    );
}

#[test]
fn arguments_out_of_the_contract_are_errors() {
    let kernels = Kernels::best();
    let good = NoiseAddress {
        run_seed: 0,
        iteration: 0,
        pair: 0,
        tensor: 0,
        element: MAX_ELEMENTS - 4,
    };
    let mut out = [0.0; 5];
    assert_eq!(kernels.fill(good, &mut out[..4]), Ok(()));
    let error = NoiseError::Element {
        element: good.element,
        count: 5,
    };
    assert_eq!(
        kernels.fill(good, &mut out),
        Err(KernelError::Address(error))
    );
    let overflow = NoiseAddress {
        element: u64::MAX,
        ..good
    };
    assert!(kernels.fill(overflow, &mut out).is_err());
    let tensor = NoiseAddress {
        tensor: MAX_TENSORS,
        element: 0,
        ..good
    };
    assert_eq!(
        kernels.fill(tensor, &mut out),
        Err(KernelError::Address(NoiseError::Tensor(MAX_TENSORS)))
    );
    assert_eq!(
        kernels.digest(&out, MAX_TENSORS, 0),
        Err(KernelError::Address(NoiseError::Tensor(MAX_TENSORS)))
    );
    let length = kernels.round_into(Live::F32(&mut out), &[0.0; 4]);
    assert_eq!(length, Err(KernelError::Length { live: 5, master: 4 }));
    let update = Update {
        address: good,
        pairs: &[1],
        coefficients: &[],
        dtype: Dtype::F32,
    };
    let error = kernels.accumulate(&mut out[..4], update);
    assert_eq!(
        error,
        Err(KernelError::Coefficients {
            pairs: 1,
            coefficients: 0
        })
    );
    assert!(Dtype::from_name("float64").is_err());
    assert_eq!(
        set_kernel_threads(4096),
        Err(KernelError::ThreadCount(4096))
    );
}
