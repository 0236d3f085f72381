//! The digests of the ranks' master weights after an iteration, and which ranks have wrong weights.

use std::collections::{BTreeMap, BTreeSet};

use super::{RankId, WeightsDigest};

/// The number of times that a rank may rebuild weights that differ before the job gives up.
const ATTEMPTS: u32 = 2;

/// The comparison of the digests of an iteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Digests are missing, or the ranks agreed before.
    Open,
    /// All are equal.
    Agreed(u64),
    /// These ranks differ from the majority; all ranks if there is no majority.
    Differ(Vec<RankId>),
    /// These ranks still differ after they rebuilt their weights.
    Hopeless(Vec<RankId>),
}

#[derive(Debug, Default)]
pub(super) struct Digests {
    /// The last iteration with a digest.
    iteration: Option<u32>,
    values: BTreeMap<RankId, WeightsDigest>,
    /// All digests of this iteration since the ranks last agreed. They include digests of ranks that are lost now, since the
    /// table may hold results of such ranks.
    reported: BTreeSet<u64>,
    /// Ranks whose weights were wrong after this iteration.
    wrong: BTreeMap<RankId, Wrong>,
    agreed: bool,
}

/// A rank whose weights differed.
#[derive(Clone, Copy, Debug, Default)]
struct Wrong {
    /// The number of comparisons in which the weights differed.
    times: u32,
    /// The number of rebuilds of this rank before the last such comparison.
    rebuilds: u32,
}

impl Digests {
    /// Takes a rank's digest. Ignores digests of earlier iterations, and digests that a rank sent before it rebuilt its
    /// weights: such a digest may arrive after the request to rebuild was sent.
    pub fn note(&mut self, rank: RankId, reported: WeightsDigest) {
        if self
            .iteration
            .is_none_or(|known| known < reported.iteration)
        {
            *self = Self {
                iteration: Some(reported.iteration),
                ..Self::default()
            };
        }
        let stale = |wrong: &Wrong| reported.rebuilds <= wrong.rebuilds;
        if self.iteration != Some(reported.iteration) || self.wrong.get(&rank).is_some_and(stale) {
            return;
        }
        self.reported.insert(reported.digest);
        let before = self.values.insert(rank, reported);
        if before.is_none_or(|before| before.digest != reported.digest) {
            // Even if the ranks have agreed, a rank that joins later is compared.
            self.agreed = false;
        }
    }

    /// The last iteration with a digest.
    pub fn iteration(&self) -> Option<u32> {
        self.iteration
    }

    /// Whether records may be published: there is no digest, or all ranks that take part have agreed.
    pub fn settled(&self) -> bool {
        self.iteration.is_none() || self.agreed
    }

    /// Whether digests differ, and the ranks have not agreed since then.
    pub fn disputed(&self) -> bool {
        self.reported.len() > 1
    }

    /// What a request to rebuild must contain, (iteration, rebuilds), if the rank has wrong weights and no newer digest.
    pub fn awaited(&self, rank: RankId) -> Option<(u32, u32)> {
        let wrong = self.wrong.get(&rank)?;
        (!self.values.contains_key(&rank)).then_some((self.iteration?, wrong.rebuilds))
    }

    /// Compares the digests of the ranks that take part. A rank that differs is returned once for each digest it reports.
    pub fn judge(&mut self, present: &BTreeSet<RankId>) -> Verdict {
        self.values.retain(|rank, _| present.contains(rank));
        if self.iteration.is_none() || self.values.len() < present.len() || self.agreed {
            return Verdict::Open;
        }
        let mut votes: BTreeMap<u64, u32> = BTreeMap::new();
        for reported in self.values.values() {
            *votes.entry(reported.digest).or_default() += 1;
        }
        let most = votes.values().max().copied().unwrap_or(0);
        let winners: Vec<u64> = votes
            .iter()
            .filter(|vote| *vote.1 == most)
            .map(|vote| *vote.0)
            .collect();
        if votes.len() == 1 {
            self.agreed = true;
            self.reported = BTreeSet::from([winners[0]]);
            return Verdict::Agreed(winners[0]);
        }
        let right = (winners.len() == 1).then(|| winners[0]);
        let differ: Vec<RankId> = self
            .values
            .iter()
            .filter(|(_, reported)| Some(reported.digest) != right)
            .map(|(rank, _)| *rank)
            .collect();
        let mut hopeless = false;
        for rank in &differ {
            let wrong = self.wrong.entry(*rank).or_default();
            wrong.times += 1;
            hopeless |= wrong.times > ATTEMPTS;
            if let Some(reported) = self.values.remove(rank) {
                wrong.rebuilds = reported.rebuilds;
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

    fn digest_of(iteration: u32, digest: u64, rebuilds: u32) -> WeightsDigest {
        WeightsDigest {
            iteration,
            digest,
            rebuilds,
        }
    }

    fn judged(values: &[u64]) -> Verdict {
        let mut digests = Digests::default();
        for (rank, &value) in values.iter().enumerate() {
            digests.note(rank as RankId, digest_of(7, value, 0));
        }
        digests.judge(&(0..values.len() as RankId).collect())
    }

    #[test]
    fn the_majority_is_right_and_without_one_no_rank_is() {
        assert_eq!(judged(&[5, 5, 5]), Verdict::Agreed(5));
        assert_eq!(judged(&[5, 6, 5]), Verdict::Differ(vec![1]));
        assert_eq!(judged(&[6, 5, 5]), Verdict::Differ(vec![0]));
        assert_eq!(judged(&[5, 6]), Verdict::Differ(vec![0, 1]));
        assert_eq!(judged(&[5, 5, 6, 6]), Verdict::Differ(vec![0, 1, 2, 3]));
    }

    #[test]
    fn weights_that_differ_after_two_rebuilds_are_hopeless() {
        let (mut digests, present) = (Digests::default(), BTreeSet::from([0, 1]));
        for attempt in 0..=ATTEMPTS {
            digests.note(0, digest_of(3, 1, attempt));
            digests.note(1, digest_of(3, 2, attempt));
            assert!(digests.disputed() && !digests.settled());
            let verdict = digests.judge(&present);
            assert_eq!(matches!(verdict, Verdict::Hopeless(_)), attempt == ATTEMPTS);
        }
    }

    #[test]
    fn a_digest_sent_before_a_rebuild_is_ignored() {
        let (mut digests, present) = (Digests::default(), BTreeSet::from([0, 1, 2]));
        for (rank, value) in [(0, 1), (1, 1), (2, 9)] {
            digests.note(rank, digest_of(3, value, 4));
        }
        assert_eq!(digests.judge(&present), Verdict::Differ(vec![2]));
        for _ in 0..5 {
            digests.note(2, digest_of(3, 9, 4));
            assert_eq!(digests.judge(&present), Verdict::Open);
            assert_eq!(digests.awaited(2), Some((3, 4)));
        }
        digests.note(2, digest_of(3, 1, 5));
        assert_eq!(digests.awaited(2), None);
        assert_eq!(digests.judge(&present), Verdict::Agreed(1));
    }

    #[test]
    fn a_lost_ranks_digest_is_disputed_until_the_others_agree() {
        let mut digests = Digests::default();
        digests.note(2, digest_of(3, 9, 0));
        digests.note(0, digest_of(3, 1, 0));
        assert!(digests.disputed());
        assert_eq!(digests.judge(&BTreeSet::from([0, 1])), Verdict::Open);
        assert!(digests.disputed());
        digests.note(1, digest_of(3, 1, 0));
        assert_eq!(digests.judge(&BTreeSet::from([0, 1])), Verdict::Agreed(1));
        assert!(!digests.disputed());
    }

    #[test]
    fn ranks_that_join_with_wrong_weights_are_each_returned_once() {
        let mut digests = Digests::default();
        digests.note(0, digest_of(3, 1, 0));
        digests.note(1, digest_of(3, 1, 0));
        for rank in 2..9 {
            digests.note(rank, digest_of(3, u64::from(rank), 0));
            let present = (0..=rank).collect();
            assert_eq!(digests.judge(&present), Verdict::Differ(vec![rank]));
            digests.note(rank, digest_of(3, 1, 1));
            assert_eq!(digests.judge(&present), Verdict::Agreed(1));
        }
    }

    #[test]
    fn a_rank_that_joins_after_the_others_agreed_is_compared() {
        let mut digests = Digests::default();
        digests.note(0, digest_of(3, 1, 0));
        assert_eq!(digests.judge(&BTreeSet::from([0])), Verdict::Agreed(1));
        digests.note(0, digest_of(3, 1, 0));
        assert!(digests.settled(), "the same digest again");
        digests.note(1, digest_of(3, 1, 0));
        let both = BTreeSet::from([0, 1]);
        assert_eq!(digests.judge(&both), Verdict::Agreed(1));
        digests.note(1, digest_of(3, 2, 0));
        assert!(!digests.settled());
        assert_eq!(digests.judge(&both), Verdict::Differ(vec![0, 1]));
    }

    #[test]
    fn lost_ranks_and_old_digests_are_ignored() {
        let mut digests = Digests::default();
        digests.note(0, digest_of(3, 1, 0));
        assert_eq!(digests.judge(&BTreeSet::from([0, 1])), Verdict::Open);
        digests.note(1, digest_of(2, 9, 0));
        assert_eq!(digests.judge(&BTreeSet::from([0])), Verdict::Agreed(1));
        assert!(digests.settled());
        digests.note(0, digest_of(4, 2, 0));
        assert!(!digests.settled());
    }
}
