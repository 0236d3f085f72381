//! Z-scores (Qiu et al., arXiv 2509.24372, algorithm 2).

/// Added to the standard deviation, as in the paper.
const EPSILON: f64 = 1e-8;

/// Above this magnitude the squares could overflow, so all values are first scaled by a power of two, which is exact.
const LARGE: f64 = 1e150;

/// 2^-600: scales any finite value below 2^424, so that its square and the sum of 2^24 such squares are finite.
const SHRINK: f64 = f64::from_bits((1023 - 600) << 52);

/// `Z_n = (R_n - mean R) / (std R + 1e-8)`, std with ddof 0; both sums run in member order.
pub(super) fn shape(fitness: &[f64]) -> Vec<f64> {
    let count = fitness.len() as f64;
    let large = fitness.iter().any(|value| value.abs() > LARGE);
    let scale = if large { SHRINK } else { 1.0 };
    let mean = fitness.iter().fold(0.0, |sum, value| sum + value * scale) / count;
    let squares = fitness.iter().fold(0.0, |sum, value| {
        let deviation = value * scale - mean;
        sum + deviation * deviation
    });
    let spread = (squares / count).sqrt() + EPSILON * scale;
    fitness
        .iter()
        .map(|value| (value * scale - mean) / spread)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formula_with_ddof_zero() {
        // mean 2, deviations -1 0 1, population variance 2/3
        let spread = (2.0_f64 / 3.0).sqrt() + 1e-8;
        assert_eq!(
            shape(&[1.0, 2.0, 3.0]),
            vec![-1.0 / spread, 0.0, 1.0 / spread]
        );
    }

    #[test]
    fn epsilon_tames_a_tiny_spread() {
        let shaped = shape(&[0.0, 2e-12]);
        assert!(shaped.iter().all(|z| z.abs() < 1.1e-4), "{shaped:?}");
    }

    #[test]
    fn extreme_values_stay_finite() {
        let shaped = shape(&[f64::MAX, f64::MIN, 0.0, f64::MAX]);
        assert!(
            shaped.iter().all(|z| z.is_finite() && z.abs() < 2.0),
            "{shaped:?}"
        );
        assert!(shaped[1] < shaped[2] && shaped[2] < shaped[0]);
    }
}
