//! Members and records, the values that ranks, journal and weights exchange. Each is a whole address of noise.

/// One perturbed model: its weights are `master + sign * sigma * noise(run_seed, iteration, pair)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// Seed of the run's noise.
    pub run_seed: u64,
    /// The iteration it belongs to, from 0.
    pub iteration: u32,
    /// Its index in the population, from 0.
    pub index: u32,
    /// The pair, whose noise it shares with its mirror image; equal to `index` without antithetic pairs.
    pub pair: u32,
    /// +1, or -1 for the mirrored member of an antithetic pair.
    pub sign: i8,
    /// Scale of the noise.
    pub sigma: f64,
}

/// One iteration of a run: everything that the next iteration and the update of the weights need.
///
/// Plain SGD moves the weights by `sum over the pairs p of f32(learning_rate / N * coefficient_p) * noise(p)`; N is the
/// number of members, failed ones included.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Seed of the run's noise.
    pub run_seed: u64,
    /// The iteration, from 0.
    pub iteration: u32,
    /// Noise scale of this iteration.
    pub sigma: f64,
    /// Learning rate of this iteration: alpha of the paper, with 1/sigma folded in.
    pub learning_rate: f64,
    /// Rows of the training data that were consumed before this iteration.
    pub cursor: u64,
    /// Fitness of each member; `None` for a member that failed.
    pub fitness: Vec<Option<f64>>,
    /// The factor of the noise of pair 0, 1, 2, ...: the shaped fitness Z of its member, or Z+ - Z- of its two members.
    pub coefficients: Vec<f64>,
    /// True in records of version-1 journals: the coefficients are float32 numbers with learning rate / N folded in.
    pub rate_folded: bool,
}

impl Record {
    /// The factor of the noise of each pair in plain SGD, rounded to float32 once.
    pub fn sgd_coefficients(&self) -> Vec<f32> {
        let factor = if self.rate_folded {
            1.0
        } else {
            self.learning_rate / self.fitness.len() as f64
        };
        let coefficients = self.coefficients.iter();
        coefficients.map(|value| (factor * value) as f32).collect()
    }
}
