//! What can go wrong in a world.

/// What can happen to a job.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Ranks that are killed, one by one.
    pub kills: u64,
    /// Ranks that stop for longer than the time limit.
    pub freezes: u64,
    /// How often a host is cut off from all others, for longer than the time limit.
    pub cuts: u64,
    /// Share of units and other steps that take longer than the time limit.
    pub hangs: f64,
    /// Ranks that resign.
    pub resigns: u64,
    /// Signals that ask a rank to end the call soon.
    pub halts: u64,
    /// Bits that flip in a rank's weights.
    pub flips: u64,
    /// After how many iterations the weights are compared, at most. 0 is each.
    pub digest_steps: u64,
    /// Share of messages that arrive twice.
    pub repeats: f64,
    /// Hosts at most: ranks of different ones don't see each other's journal. 0 is one.
    pub hosts: u64,
    /// How often the whole job is killed, and goes on from its journal on any number of ranks.
    pub restarts: u64,
}
