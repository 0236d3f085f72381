//! When a rank last heard its leader, and when others last had a sign of life of this rank.

/// A rank sends this number of signs of life within the time after which it would count as lost.
pub(super) const BEATS: f64 = 4.0;

/// Times in seconds. The limit after which a rank counts as lost is an argument; 0 means that there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clocks {
    /// The last message of the leader.
    pub heard: f64,
    /// The last sign of life to others.
    pub beat: f64,
    /// The last time the main thread took or finished a step.
    pub worked: f64,
    /// The last tick.
    ticked: f64,
}

impl Clocks {
    pub fn starting(now: f64) -> Self {
        Self {
            heard: now,
            beat: now,
            worked: now,
            ticked: now,
        }
    }

    /// Time passed. Returns whether this process stood still for so long that it can't blame others for being silent.
    pub fn tick(&mut self, now: f64, limit_s: f64) -> bool {
        let pause = now - std::mem::replace(&mut self.ticked, now);
        let slept = limit_s > 0.0 && pause > limit_s / 2.0;
        if slept {
            self.heard = now;
        }
        slept
    }

    /// Whether a sign of life is due. None is if the main thread hangs, though the thread of this call lives.
    pub fn beat_is_due(&self, now: f64, limit_s: f64) -> bool {
        limit_s > 0.0 && now - self.worked < limit_s && now - self.beat > limit_s / BEATS
    }

    /// Whether the leader was silent for too long.
    pub fn leader_is_silent(&self, now: f64, limit_s: f64) -> bool {
        limit_s > 0.0 && now - self.heard > limit_s
    }
}
