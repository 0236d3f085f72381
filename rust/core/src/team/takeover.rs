//! The stage of this rank's takeover of the journal, and the leaders that know of it.

use std::collections::BTreeSet;

use super::RankId;

/// The takeover of the journal by the main thread. This rank may stop leading while the main thread works on it.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    stage: Stage,
    /// Set when this rank stops leading after a takeover: the leaders since then that know of it.
    announced: Option<BTreeSet<RankId>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Stage {
    #[default]
    None,
    Running,
    Done,
}

impl Takeover {
    /// The main thread begins to take the journal over.
    pub fn begin(&mut self) {
        self.stage = Stage::Running;
    }

    /// The main thread asks for its next step, so a takeover that was running is done. Returns true if this rank no longer
    /// leads: it has just taken the journal from its leader, and must tell that one.
    pub fn complete(&mut self, leads: bool) -> bool {
        if self.stage != Stage::Running {
            return false;
        }
        self.stage = Stage::Done;
        if !leads {
            self.announced = Some(BTreeSet::new());
        }
        !leads
    }

    /// The main thread knows that this rank no longer leads.
    pub fn give_up(&mut self) {
        self.stage = Stage::None;
    }

    /// This rank stops leading. Returns whether the main thread has to learn of it.
    pub fn lose(&mut self) -> bool {
        let started = self.started();
        if started {
            self.announced = Some(BTreeSet::new());
        }
        started
    }

    /// Whether the main thread has begun to take the journal over, and may have done so.
    pub fn started(&self) -> bool {
        self.stage != Stage::None
    }

    /// Whether this leader does not know yet that this rank led.
    pub fn is_news_to(&self, leader: Option<RankId>) -> bool {
        let announced = self.announced.as_ref();
        announced.is_some_and(|known| leader.is_none_or(|leader| !known.contains(&leader)))
    }

    /// This leader gets the news that this rank led.
    pub fn announce_to(&mut self, leader: Option<RankId>) {
        if let Some(announced) = &mut self.announced {
            announced.extend(leader);
        }
    }
}
