//! Digests of the ranks' master weights after the last iterations, and whose are wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::RankId;

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
    values: BTreeMap<RankId, u64>,
    attempts: u32,
    agreed: bool,
}

impl Digests {
    /// Takes a rank's digest; those of earlier iterations don't matter any more.
    pub fn note(&mut self, rank: RankId, iteration: u32, digest: u64) {
        if self.iteration.is_none_or(|known| known < iteration) {
            *self = Self {
                iteration: Some(iteration),
                ..Self::default()
            };
        }
        if self.iteration == Some(iteration) && self.values.insert(rank, digest) != Some(digest) {
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

    /// Whether two ranks are known to differ.
    pub fn disputed(&self) -> bool {
        let mut values = self.values.values();
        let first = values.next();
        values.any(|value| Some(value) != first)
    }

    /// Looks at the living ranks' digests. Ranks that differ are named once, and are asked anew.
    pub fn judge(&mut self, living: &BTreeSet<RankId>) -> Verdict {
        self.values.retain(|rank, _| living.contains(rank));
        if self.iteration.is_none() || self.values.len() < living.len() || self.agreed {
            return Verdict::Open;
        }
        let mut votes: BTreeMap<u64, u32> = BTreeMap::new();
        for &value in self.values.values() {
            *votes.entry(value).or_default() += 1;
        }
        let most = votes.values().max().copied().unwrap_or(0);
        let winners: Vec<u64> = votes
            .iter()
            .filter(|vote| *vote.1 == most)
            .map(|vote| *vote.0)
            .collect();
        if votes.len() == 1 {
            self.agreed = true;
            return Verdict::Agreed(winners[0]);
        }
        let right = (winners.len() == 1).then(|| winners[0]);
        let wrong = |entry: &(&RankId, &u64)| Some(*entry.1) != right;
        let differ: Vec<RankId> = self
            .values
            .iter()
            .filter(wrong)
            .map(|entry| *entry.0)
            .collect();
        self.attempts += 1;
        if self.attempts > ATTEMPTS {
            return Verdict::Hopeless(differ);
        }
        for rank in &differ {
            self.values.remove(rank);
        }
        Verdict::Differ(differ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(values: &[u64]) -> Verdict {
        let mut digests = Digests::default();
        for (rank, &value) in values.iter().enumerate() {
            digests.note(rank as RankId, 7, value);
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
            digests.note(0, 3, 1);
            digests.note(1, 3, 2);
            assert!(digests.disputed() && !digests.settled());
            let verdict = digests.judge(&living);
            assert_eq!(matches!(verdict, Verdict::Hopeless(_)), attempt == ATTEMPTS);
        }
    }

    #[test]
    fn a_rank_that_comes_after_they_agreed_is_compared() {
        let mut digests = Digests::default();
        digests.note(0, 3, 1);
        assert_eq!(digests.judge(&BTreeSet::from([0])), Verdict::Agreed(1));
        digests.note(0, 3, 1);
        assert!(digests.settled(), "said again");
        digests.note(1, 3, 1);
        let both = BTreeSet::from([0, 1]);
        assert_eq!(digests.judge(&both), Verdict::Agreed(1));
        digests.note(1, 3, 2);
        assert!(!digests.settled());
        assert_eq!(digests.judge(&both), Verdict::Differ(vec![0, 1]));
    }

    #[test]
    fn a_lost_rank_isnt_waited_for_and_old_digests_are_ignored() {
        let mut digests = Digests::default();
        digests.note(0, 3, 1);
        assert_eq!(digests.judge(&BTreeSet::from([0, 1])), Verdict::Open);
        digests.note(1, 2, 9);
        assert_eq!(digests.judge(&BTreeSet::from([0])), Verdict::Agreed(1));
        assert!(digests.settled());
        digests.note(0, 4, 2);
        assert!(!digests.settled());
    }
}
