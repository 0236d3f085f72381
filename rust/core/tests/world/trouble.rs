//! The faults of a world.

/// The faults of a job.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// The number of ranks that are killed, one by one.
    pub kills: u64,
    /// The number of times that a rank stops for longer than the time limit.
    pub freezes: u64,
    /// The number of times that a host is cut off from all others for longer than the time limit.
    pub cuts: u64,
    /// The share of units and other steps that take longer than the time limit.
    pub hangs: f64,
    /// The number of ranks that resign.
    pub resigns: u64,
    /// The number of signals that ask a rank to end the call soon.
    pub halts: u64,
    /// The number of bits that flip in a rank's weights.
    pub flips: u64,
    /// The weights are compared after every N iterations, N drawn up to this number. 0: after each.
    pub digest_steps: u64,
    /// The share of messages that arrive twice.
    pub repeats: f64,
    /// The most hosts. Ranks of different hosts do not see each other's journal. 0: one host.
    pub hosts: u64,
    /// The number of times that the whole job is killed, and continues from its journal on any number of ranks.
    pub restarts: u64,
}
