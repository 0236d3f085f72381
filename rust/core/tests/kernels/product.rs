//! The product of a few rows, on every path.

use es_core::kernels::{KernelError, Kernels, set_kernel_threads};

use super::all_paths;

fn values(count: usize, step: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * step) % 97) as f32 * 0.03125 - 1.5)
        .collect()
}

fn product(kernels: Kernels, [rows, inputs, outputs]: [usize; 3]) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * outputs];
    let (x, w) = (values(rows * inputs, 7), values(outputs * inputs, 13));
    kernels
        .product(&mut y, &x, &w, inputs)
        .expect("sizes that fit");
    y
}

/// The chain of fmas, value by value.
fn plain([rows, inputs, outputs]: [usize; 3]) -> Vec<f32> {
    let (x, w) = (values(rows * inputs, 7), values(outputs * inputs, 13));
    let dot = |x: &[f32], w: &[f32]| {
        let both = x.iter().zip(w);
        both.fold(0.0_f32, |sum, (x, w)| w.mul_add(*x, sum))
    };
    x.chunks_exact(inputs)
        .flat_map(|x| w.chunks_exact(inputs).map(move |w| dot(x, w)))
        .collect()
}

#[test]
fn every_value_is_the_chain_of_fmas_on_every_path() {
    let sizes = [
        [1, 1, 1],
        [2, 17, 13],
        [16, 15, 12],
        [17, 16, 11],
        [33, 40, 25],
        [70, 33, 50],
    ];
    for size in sizes {
        let wanted = plain(size);
        for kernels in all_paths() {
            assert_eq!(product(kernels, size), wanted, "{size:?} {kernels:?}");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_other_rows_or_the_threads() {
    let size @ [_, inputs, outputs] = [40, 512, 300];
    let all = product(Kernels::best(), size);
    let (x, w) = (values(40 * inputs, 7), values(outputs * inputs, 13));
    for row in [0, 31, 39] {
        let mut y = vec![0.0; outputs];
        Kernels::best()
            .product(&mut y, &x[row * inputs..][..inputs], &w, inputs)
            .expect("sizes that fit");
        assert_eq!(y, all[row * outputs..][..outputs]);
    }
    set_kernel_threads(3).expect("a number of threads");
    assert_eq!(product(Kernels::best(), size), all);
    set_kernel_threads(0).expect("a number of threads");
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    for (y, x, w, inputs) in [(6, 6, 9, 3), (6, 7, 9, 3), (4, 6, 8, 3), (0, 0, 0, 0)] {
        let refused =
            Kernels::best().product(&mut vec![0.0; y], &vec![0.0; x], &vec![0.0; w], inputs);
        let fits = x == 2 * inputs && w == 3 * inputs && y == 6;
        assert_eq!(refused.is_ok(), fits);
        assert!(fits || matches!(refused, Err(KernelError::Batch(_))));
    }
    assert!(
        Kernels::best().product(&mut [], &[], &[0.0; 6], 3).is_ok(),
        "no rows"
    );
}
