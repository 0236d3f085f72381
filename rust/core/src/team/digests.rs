//! Digests of the ranks' master weights after the last iterations, and whose are wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::{RankId, WeightsDigest};

/// How many times weights that differ are made anew before the ranks give up.
const ATTEMPTS: u32 = 2;

/// What the digests of an iteration say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not all are known.
    Open,
    /// All are equal.
    Agreed(u64),
    /// These ranks differ from the majority, or all are named because there is none.
    Differ(Vec<RankId>),
    /// They still differ after their weights were made anew.
    Hopeless(Vec<RankId>),
}

#[derive(Debug, Default)]
pub(super) struct Digests {
    /// The last iteration of which there is a digest.
    iteration: Option<u32>,
    values: BTreeMap<RankId, WeightsDigest>,
    /// All that was said of this iteration since the ranks agreed, also by ranks that were lost since: results of theirs may
    /// be there.
    said: BTreeSet<u64>,
    /// Ranks that were found wrong at this iteration.
    wrong: BTreeMap<RankId, Wrong>,
    agreed: bool,
}

/// A rank whose weights differed.
#[derive(Clone, Copy, Debug, Default)]
struct Wrong {
    /// How often.
    times: u32,
    /// What it said then of how often they had been made anew.
    healed: u32,
}

impl Digests {
    /// Takes a rank's digest. Those of earlier iterations don't matter any more, nor does what a rank said before it made
    /// its weights anew: it may have been on its way when the rank was asked to.
    pub fn note(&mut self, rank: RankId, said: WeightsDigest) {
        if self.iteration.is_none_or(|known| known < said.iteration) {
            *self = Self {
                iteration: Some(said.iteration),
                ..Self::default()
            };
        }
        let stale = |wrong: &Wrong| said.healed <= wrong.healed;
        if self.iteration != Some(said.iteration) || self.wrong.get(&rank).is_some_and(stale) {
            return;
        }
        self.said.insert(said.digest);
        let before = self.values.insert(rank, said);
        if before.is_none_or(|before| before.digest != said.digest) {
            // Also after they agreed: a rank that comes later is compared like any other.
            self.agreed = false;
        }
    }

    /// The last iteration.
    pub fn iteration(&self) -> Option<u32> {
        self.iteration
    }

    /// Whether nothing speaks against going on: no digest was made, or all living ranks agreed.
    pub fn settled(&self) -> bool {
        self.iteration.is_none() || self.agreed
    }

    /// Whether ranks differed, and have not agreed since.
    pub fn disputed(&self) -> bool {
        self.said.len() > 1
    }

    /// The iteration, and how often the rank had made its weights anew, if it was asked to do so again and hasn't yet.
    pub fn awaited(&self, rank: RankId) -> Option<(u32, u32)> {
        let wrong = self.wrong.get(&rank)?;
        (!self.values.contains_key(&rank)).then_some((self.iteration?, wrong.healed))
    }

    /// Looks at the living ranks' digests. Ranks that differ are named once, and are asked anew.
    pub fn judge(&mut self, living: &BTreeSet<RankId>) -> Verdict {
        self.values.retain(|rank, _| living.contains(rank));
        if self.iteration.is_none() || self.values.len() < living.len() || self.agreed {
            return Verdict::Open;
        }
        let mut votes: BTreeMap<u64, u32> = BTreeMap::new();
        for said in self.values.values() {
            *votes.entry(said.digest).or_default() += 1;
        }
        let most = votes.values().max().copied().unwrap_or(0);
        let winners: Vec<u64> = votes
            .iter()
            .filter(|vote| *vote.1 == most)
            .map(|vote| *vote.0)
            .collect();
        if votes.len() == 1 {
            self.agreed = true;
            self.said = BTreeSet::from([winners[0]]);
            return Verdict::Agreed(winners[0]);
        }
        let right = (winners.len() == 1).then(|| winners[0]);
        let differ: Vec<RankId> = self
            .values
            .iter()
            .filter(|(_, said)| Some(said.digest) != right)
            .map(|(rank, _)| *rank)
            .collect();
        let mut hopeless = false;
        for rank in &differ {
            let wrong = self.wrong.entry(*rank).or_default();
            wrong.times += 1;
            hopeless |= wrong.times > ATTEMPTS;
            if let Some(said) = self.values.remove(rank) {
                wrong.healed = said.healed;
            }
        }
        if hopeless {
            return Verdict::Hopeless(differ);
        }
        Verdict::Differ(differ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(iteration: u32, digest: u64, healed: u32) -> WeightsDigest {
        WeightsDigest {
            iteration,
            digest,
            healed,
        }
    }

    fn judged(values: &[u64]) -> Verdict {
        let mut digests = Digests::default();
        for (rank, &value) in values.iter().enumerate() {
            digests.note(rank as RankId, said(7, value, 0));
        }
        digests.judge(&(0..values.len() as RankId).collect())
    }

    #[test]
    fn the_majority_is_right_and_without_one_nobody_is() {
        assert_eq!(judged(&[5, 5, 5]), Verdict::Agreed(5));
        assert_eq!(judged(&[5, 6, 5]), Verdict::Differ(vec![1]));
        assert_eq!(judged(&[6, 5, 5]), Verdict::Differ(vec![0]));
        assert_eq!(judged(&[5, 6]), Verdict::Differ(vec![0, 1]));
        assert_eq!(judged(&[5, 5, 6, 6]), Verdict::Differ(vec![0, 1, 2, 3]));
    }

    #[test]
    fn what_differs_again_and_again_is_hopeless() {
        let (mut digests, living) = (Digests::default(), BTreeSet::from([0, 1]));
        for attempt in 0..=ATTEMPTS {
            digests.note(0, said(3, 1, attempt));
            digests.note(1, said(3, 2, attempt));
            assert!(digests.disputed() && !digests.settled());
            let verdict = digests.judge(&living);
            assert_eq!(matches!(verdict, Verdict::Hopeless(_)), attempt == ATTEMPTS);
        }
    }

    #[test]
    fn what_a_rank_said_before_it_made_its_weights_anew_is_no_second_try() {
        let (mut digests, living) = (Digests::default(), BTreeSet::from([0, 1, 2]));
        for (rank, value) in [(0, 1), (1, 1), (2, 9)] {
            digests.note(rank, said(3, value, 4));
        }
        assert_eq!(digests.judge(&living), Verdict::Differ(vec![2]));
        for _ in 0..5 {
            digests.note(2, said(3, 9, 4));
            assert_eq!(digests.judge(&living), Verdict::Open);
            assert_eq!(digests.awaited(2), Some((3, 4)));
        }
        digests.note(2, said(3, 1, 5));
        assert_eq!(digests.awaited(2), None);
        assert_eq!(digests.judge(&living), Verdict::Agreed(1));
    }

    #[test]
    fn what_a_rank_said_that_is_lost_since_stays_in_dispute_until_the_others_agree() {
        let mut digests = Digests::default();
        digests.note(2, said(3, 9, 0));
        digests.note(0, said(3, 1, 0));
        assert!(digests.disputed());
        assert_eq!(digests.judge(&BTreeSet::from([0, 1])), Verdict::Open);
        assert!(digests.disputed());
        digests.note(1, said(3, 1, 0));
        assert_eq!(digests.judge(&BTreeSet::from([0, 1])), Verdict::Agreed(1));
        assert!(!digests.disputed());
    }

    #[test]
    fn ranks_that_are_wrong_one_after_another_are_each_asked_once() {
        let mut digests = Digests::default();
        digests.note(0, said(3, 1, 0));
        digests.note(1, said(3, 1, 0));
        for rank in 2..9 {
            digests.note(rank, said(3, u64::from(rank), 0));
            let living = (0..=rank).collect();
            assert_eq!(digests.judge(&living), Verdict::Differ(vec![rank]));
            digests.note(rank, said(3, 1, 1));
            assert_eq!(digests.judge(&living), Verdict::Agreed(1));
        }
    }

    #[test]
    fn a_rank_that_comes_after_they_agreed_is_compared() {
        let mut digests = Digests::default();
        digests.note(0, said(3, 1, 0));
        assert_eq!(digests.judge(&BTreeSet::from([0])), Verdict::Agreed(1));
        digests.note(0, said(3, 1, 0));
        assert!(digests.settled(), "said again");
        digests.note(1, said(3, 1, 0));
        let both = BTreeSet::from([0, 1]);
        assert_eq!(digests.judge(&both), Verdict::Agreed(1));
        digests.note(1, said(3, 2, 0));
        assert!(!digests.settled());
        assert_eq!(digests.judge(&both), Verdict::Differ(vec![0, 1]));
    }

    #[test]
    fn a_lost_rank_isnt_waited_for_and_old_digests_are_ignored() {
        let mut digests = Digests::default();
        digests.note(0, said(3, 1, 0));
        assert_eq!(digests.judge(&BTreeSet::from([0, 1])), Verdict::Open);
        digests.note(1, said(2, 9, 0));
        assert_eq!(digests.judge(&BTreeSet::from([0])), Verdict::Agreed(1));
        assert!(digests.settled());
        digests.note(0, said(4, 2, 0));
        assert!(!digests.settled());
    }
}
