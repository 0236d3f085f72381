//! The values that pass between ranks, journal and update: members and records.

/// One member of the population: its weights are master + sign * sigma * noise(run seed, iteration, pair).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The iteration it belongs to.
    pub iteration: u32,
    /// Its place in the population, from 0.
    pub index: u32,
    /// The noise it shares with its mirror image; its own index without antithetic pairs.
    pub pair: u32,
    /// +1, or -1 for the mirrored member of an antithetic pair.
    pub sign: i8,
}

/// One iteration of a run: everything that `apply` and the weight update need.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The iteration, from 0.
    pub iteration: u32,
    /// Noise scale of this iteration.
    pub sigma: f64,
    /// Learning rate of this iteration (the paper's alpha, 1/sigma folded in).
    pub learning_rate: f64,
    /// Rows of the training data that were consumed before this iteration.
    pub cursor: u64,
    /// One value per member as it was told; `None` for a member that failed.
    pub fitness: Vec<Option<f64>>,
    /// The pairs of the update, in the order of the sum: all of them, also those whose coefficient is 0.
    pub pairs: Vec<u32>,
    /// One coefficient per pair, learning rate and 1/N folded in.
    pub coefficients: Vec<f32>,
}
