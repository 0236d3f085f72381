//! Centered ranks (Salimans et al., arXiv 1703.03864, section 2.1; ties by their average rank).

/// `Z_n = rank_n / (M - 1) - 1/2`, ranks from 0 (lowest fitness) to M - 1; members with equal fitness share the
/// mean of their ranks. Needs at least two different values.
#[expect(clippy::float_cmp, reason = "a tie means equal values, not close ones")]
pub(super) fn shape(fitness: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..fitness.len()).collect();
    // -0.0 and 0.0 are a tie, though total_cmp orders them: the order within a tie doesn't matter.
    order.sort_by(|&a, &b| fitness[a].total_cmp(&fitness[b]));
    let last = (fitness.len() - 1) as f64;
    let mut shaped = vec![0.0; fitness.len()];
    let mut first = 0;
    for tie in order.chunk_by(|&a, &b| fitness[a] == fitness[b]) {
        let twice_the_rank = (2 * first + tie.len() - 1) as f64;
        for &member in tie {
            shaped[member] = (twice_the_rank - last) / (2.0 * last);
        }
        first += tie.len();
    }
    shaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_span_minus_half_to_half() {
        assert_eq!(shape(&[3.0, 1.0, 2.0]), vec![0.5, -0.5, 0.0]);
    }

    #[test]
    fn ties_share_the_average_rank() {
        // ranks 0, (1 + 2) / 2 twice, 3
        assert_eq!(shape(&[5.0, 1.0, 5.0, 9.0]), vec![0.0, -0.5, 0.0, 0.5]);
        assert_eq!(shape(&[-0.0, 0.0, 1.0]), vec![-0.25, -0.25, 0.5]);
    }

    #[test]
    fn ranks_are_antisymmetric_and_sum_to_zero() {
        let fitness = [0.5, -2.0, 7.0, 0.5, 1e300, -1e300, 0.0];
        let negated: Vec<f64> = fitness.iter().map(|value| -value).collect();
        let up = shape(&fitness);
        let down: Vec<f64> = shape(&negated).iter().map(|z| -z).collect();
        assert_eq!(up, down);
        assert!(up.iter().sum::<f64>().abs() < 1e-15);
    }
}
