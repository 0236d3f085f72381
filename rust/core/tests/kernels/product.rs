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

/// The chain of fmas over the inputs `first`, `first` + `step`, ...
fn chain(x: &[f32], w: &[f32], first: usize, step: usize) -> f32 {
    let both = x.iter().zip(w).skip(first).step_by(step);
    both.fold(0.0, |sum, (x, w)| w.mul_add(*x, sum))
}

/// The sum of 16 chains, added in halves.
fn halves(x: &[f32], w: &[f32]) -> f32 {
    let mut chains: Vec<f32> = (0..16).map(|first| chain(x, w, first, 16)).collect();
    while chains.len() > 1 {
        let (low, high) = chains.split_at(chains.len() / 2);
        chains = low.iter().zip(high).map(|(a, b)| a + b).collect();
    }
    chains[0]
}

/// The products, value by value.
fn plain([rows, inputs, outputs]: [usize; 3]) -> Vec<f32> {
    let (x, w) = (values(rows * inputs, 7), values(outputs * inputs, 13));
    let left_over = if rows % 16 <= 4 { rows % 16 } else { 0 };
    let (x, w) = (x.chunks_exact(inputs), w.chunks_exact(inputs));
    x.enumerate()
        .flat_map(|(row, x)| {
            let whole = row < rows - left_over;
            w.clone().map(move |w| {
                if whole {
                    chain(x, w, 0, 1)
                } else {
                    halves(x, w)
                }
            })
        })
        .collect()
}

#[test]
fn every_value_is_its_chains_of_fmas_on_every_path() {
    let sizes = [
        [1, 1, 1],
        [2, 17, 13],
        [16, 15, 12],
        [17, 16, 11],
        [20, 70, 11],
        [21, 70, 11],
        [33, 40, 25],
        [35, 100, 14],
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
fn a_row_does_not_depend_on_the_values_of_other_rows_or_the_threads() {
    let size @ [_, inputs, outputs] = [50, 512, 300];
    let all = product(Kernels::best(), size);
    let (x, w) = (values(50 * inputs, 7), values(outputs * inputs, 13));
    for (rows, first) in [(16, 0), (9, 39), (2, 48)] {
        let mut y = vec![0.0; rows * outputs];
        Kernels::best()
            .product(&mut y, &x[first * inputs..][..rows * inputs], &w, inputs)
            .expect("sizes that fit");
        assert_eq!(y, all[first * outputs..][..rows * outputs]);
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
