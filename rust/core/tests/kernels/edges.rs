//! Values at the edges of their types, the report of an update, and arguments out of range.

use es_core::kernels::{
    Dtype, F32, KernelError, Kernels, Live, LowRank, Position, Terms, UpdateReport, naive,
    set_kernel_threads,
};
use es_core::noise::{Kind, MAX_ELEMENTS, MAX_TENSORS, NoiseAddress, NoiseError};

use super::all_paths;

/// What IEEE arithmetic makes of them, the same on every path, and counted.
#[test]
fn denormals_infinities_and_nan_are_kept_and_counted() {
    let address = NoiseAddress {
        run_seed: 3,
        iteration: 1,
        pair: 2,
        tensor: 0,
        element: 7,
    };
    let denormal = f32::from_bits(1);
    let master = [
        denormal,
        -denormal,
        1e-39,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        7e4,
        3.4e38,
        -0.0,
        1.0,
    ];
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    for kernels in all_paths() {
        let mut live = [9.0; 10];
        assert_eq!(
            kernels.perturb(Live::F32(&mut live), &master, 0.0, address),
            Ok(3)
        );
        assert!(
            live.iter()
                .zip(master)
                .all(|(live, master)| same(*live + 0.0, master + 0.0))
        );
        // A scale so small that the sum stays among the denormals, where a flushed one would show.
        let mut expected = [0.0; 10];
        naive::perturb::<F32>(&mut expected, &master, 1e-44, address).unwrap();
        kernels
            .perturb(Live::F32(&mut live), &master, 1e-44, address)
            .unwrap();
        assert!(
            live.iter()
                .zip(expected)
                .all(|(live, expected)| same(*live, expected))
        );
        assert!(live[0].is_subnormal() || live[1].is_subnormal());
        let mut half = [0; 10];
        assert_eq!(
            kernels.round(Live::F16(&mut half), &master),
            Ok(5),
            "70,000 is no half"
        );
        assert_eq!(half[3..8], [0x7c00, 0xfc00, 0x7e00, 0x7c00, 0x7c00]);
        assert_eq!(
            kernels.round(Live::Bf16(&mut half), &master),
            Ok(4),
            "3.4e38 is no bfloat16"
        );
        assert_eq!(half[3..8], [0x7f80, 0xff80, 0x7fc0, 0x4789, 0x7f80]);
        assert_eq!(half[8], 0x8000);
        let mut after = master;
        let terms = Terms {
            pairs: &[2],
            coefficients: &[1e-44],
            dtype: Dtype::F32,
        };
        let report = kernels.accumulate(&mut after, address, terms).unwrap();
        assert_eq!(report.nonfinite, 3);
        let mut expected = master;
        naive::accumulate(&mut expected, address, terms).unwrap();
        assert!(
            after
                .iter()
                .zip(expected)
                .all(|(after, expected)| same(*after, expected))
        );
        assert_ne!(
            after[2].to_bits(),
            master[2].to_bits(),
            "a denormal moves by denormals"
        );
    }
}

#[test]
fn the_report_counts_what_moved() {
    let address = NoiseAddress {
        run_seed: 1,
        iteration: 2,
        pair: 0,
        tensor: 3,
        element: 1,
    };
    let terms = |coefficients| Terms {
        pairs: &[9],
        coefficients,
        dtype: Dtype::Bf16,
    };
    let mut master = vec![1.0; 70_001];
    let still = Kernels::best()
        .accumulate(&mut master, address, terms(&[0.0]))
        .unwrap();
    assert_eq!(
        (still.elements, still.moved, still.nonfinite),
        (70_001, 0, 0)
    );
    assert!(still.cosine().is_nan());
    let small = Kernels::best()
        .accumulate(&mut master, address, terms(&[1e-4]))
        .unwrap();
    assert_eq!(small.moved, 0, "bfloat16 can't hold 1 + 1e-4");
    assert!((small.update_norm() / (1e-4 * 70_001_f64.sqrt()) - 1.0).abs() < 0.02);
    master[5] = f32::INFINITY;
    let large = Kernels::best()
        .accumulate(&mut master, address, terms(&[1.0]))
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
fn arguments_out_of_range_are_errors() {
    let kernels = Kernels::best();
    let good = NoiseAddress {
        run_seed: 0,
        iteration: 0,
        pair: 0,
        tensor: 0,
        element: MAX_ELEMENTS - 4,
    };
    let mut out = [0.0; 5];
    assert_eq!(kernels.fill(Kind::Dense, good, &mut out[..4]), Ok(()));
    let error = NoiseError::Element {
        element: good.element,
        count: 5,
    };
    assert_eq!(
        kernels.fill(Kind::Dense, good, &mut out),
        Err(KernelError::Address(error))
    );
    let overflow = NoiseAddress {
        element: u64::MAX,
        ..good
    };
    assert!(kernels.fill(Kind::Dense, overflow, &mut out).is_err());
    let tensor = NoiseAddress {
        tensor: MAX_TENSORS,
        element: 0,
        ..good
    };
    assert_eq!(
        kernels.fill(Kind::Dense, tensor, &mut out),
        Err(KernelError::Address(NoiseError::Tensor(MAX_TENSORS)))
    );
    assert_eq!(
        kernels.digest(&out, tensor),
        Err(KernelError::Address(NoiseError::Tensor(MAX_TENSORS)))
    );
    let length = kernels.round(Live::F32(&mut out), &[0.0; 4]);
    assert_eq!(length, Err(KernelError::Length { live: 5, master: 4 }));
    let terms = Terms {
        pairs: &[1],
        coefficients: &[],
        dtype: Dtype::F32,
    };
    let error = kernels.accumulate(&mut out[..4], good, terms);
    assert_eq!(
        error,
        Err(KernelError::Coefficients {
            pairs: 1,
            coefficients: 0
        })
    );
    let rows = |columns, stride| Position {
        address: good,
        columns,
        stride,
    };
    for position in [rows(2, 1), rows(0, 1), rows(3, 4)] {
        let error = kernels.fill(Kind::Dense, position, &mut out[..4]);
        assert!(
            matches!(error, Err(KernelError::Rows { .. })),
            "{position:?}: {error:?}"
        );
    }
    assert_eq!(kernels.fill(Kind::Dense, rows(2, 2), &mut out[..4]), Ok(()));
    assert!(matches!(
        kernels.fill(Kind::Dense, rows(2, 3), &mut out[..4]),
        Err(KernelError::Address(_))
    ));
    assert!(
        kernels
            .fill(Kind::Dense, rows(1, u64::MAX), &mut out[..4])
            .is_err()
    );
    assert_eq!(
        set_kernel_threads(4096),
        Err(KernelError::ThreadCount(4096))
    );
}

#[test]
fn low_rank_blocks_out_of_range_are_errors() {
    let kernels = Kernels::best();
    let mut out = [0.0; 4];
    let matrix = |rank, first, shape| LowRank {
        address: NoiseAddress::default(),
        rank,
        first,
        shape,
    };
    for (matrix, expected) in [
        (matrix(0, [0, 0], [2, 2]), KernelError::Rank(0)),
        (matrix(1025, [0, 0], [2, 2]), KernelError::Rank(1025)),
        (
            matrix(1, [0, 0], [2, 3]),
            KernelError::Shape {
                rows: 2,
                columns: 3,
                values: 4,
            },
        ),
    ] {
        let error = kernels.perturb(Live::F32(&mut out), &[0.0; 4], 1.0, matrix);
        assert_eq!(error, Err(expected));
    }
    let far = matrix(4, [MAX_ELEMENTS / 4 - 1, 0], [2, 2]);
    let error = kernels.perturb(Live::F32(&mut out), &[0.0; 4], 1.0, far);
    assert!(matches!(error, Err(KernelError::Address(_))));
}

#[test]
fn names_of_dtypes_round_trip_and_unknown_ones_are_refused() {
    for dtype in Dtype::ALL {
        assert_eq!(Dtype::from_name(dtype.name()), Ok(dtype));
    }
    let error = KernelError::Dtype("float64".to_owned());
    assert_eq!(Dtype::from_name("float64"), Err(error));
}
