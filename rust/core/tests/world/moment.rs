//! The events of a world and their times.

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Arrive {
        to: u32,
        from: u32,
        bytes: Vec<u8>,
    },
    Main {
        rank: u32,
        turn: u64,
    },
    Tick {
        rank: u32,
    },
    Kill {
        rank: u32,
    },
    Noticed {
        rank: u32,
        dead: u32,
    },
    Freeze {
        rank: u32,
        seconds: f64,
    },
    /// The links of a host to all others are cut.
    Cut {
        host: u32,
        seconds: f64,
    },
    Resign {
        rank: u32,
    },
    Halt {
        rank: u32,
    },
    Enter {
        rank: u32,
    },
    Restart,
}

impl What {
    /// The rank that the event concerns; none if it concerns the whole job.
    pub fn rank(&self) -> Option<u32> {
        match *self {
            Self::Arrive { to: rank, .. }
            | Self::Main { rank, .. }
            | Self::Tick { rank }
            | Self::Kill { rank }
            | Self::Noticed { rank, .. }
            | Self::Freeze { rank, .. }
            | Self::Resign { rank }
            | Self::Halt { rank }
            | Self::Enter { rank } => Some(rank),
            Self::Cut { .. } | Self::Restart => None,
        }
    }
}

/// An event at a time. Earlier ones are greater, as the heap needs it.
#[derive(Clone, Debug)]
pub struct Moment {
    pub time: f64,
    pub order: u64,
    pub what: What,
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other
            .time
            .total_cmp(&self.time)
            .then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Moment {}
