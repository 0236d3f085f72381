//! How a record gets from the leader to all others, so that no rank sends much more than the record itself.
//!
//! ```text
//! leader --Published, piece 0--> rank 1 --piece 0--> ranks 2, 3       the record is cut into pieces, and each piece
//!        --Published, piece 1--> rank 2 --piece 1--> ranks 1, 3       has a tree of its own, in which other ranks
//!        --Published, piece 2--> rank 3 --piece 2--> ranks 1, 2       pass it on
//! ```
//! So the leader sends the record once, and so does each rank: 8 N bytes for N members, however many ranks there are.
//! What a leader says behind a record waits until the record is there, so everything happens in the order in which the
//! leader said it. A piece that doesn't come, because who has it died or hangs, is asked for: the leader sends the whole.

use std::collections::{BTreeMap, VecDeque};

use super::history::mix;
use super::message::{Message, Published};
use super::{Rank, RankId};

/// A published record that isn't there within so many seconds is asked for, and again after twice as long each time: the
/// leader may stand still, and answers all that it was asked when it comes to itself.
const PATIENCE_S: f64 = 0.25;

/// How records are cut and passed on. The same on all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fan {
    /// Ranks to which a rank passes a piece on, at most.
    pub ranks: u32,
    /// Bytes of a piece, at least.
    pub bytes: u32,
}

impl Default for Fan {
    fn default() -> Self {
        Self {
            ranks: 8,
            bytes: 64,
        }
    }
}

/// One tree for each piece, over places 0, 1, ... of ranks. A place passes on one piece at most.
#[derive(Clone, Copy, Debug)]
struct Trees {
    ranks: usize,
    /// Places that pass the piece on, in each tree.
    inner: usize,
    /// Places to which each of them does.
    arity: usize,
    pieces: usize,
}

impl Trees {
    /// For a record of so many bytes.
    fn new(fan: Fan, ranks: usize, length: u32) -> Self {
        let others = ranks.saturating_sub(1).max(1);
        let least = others.div_ceil(fan.ranks.max(1) as usize);
        // So many that none passes on more than there is: a piece goes to as many places as there are pieces.
        let inner = (least..=others).find(|&inner| others.div_ceil(inner) <= ranks / inner);
        let inner = inner.unwrap_or(others);
        let most = length.div_ceil(fan.bytes.max(1)).max(1) as usize;
        Self {
            ranks,
            inner,
            arity: others.div_ceil(inner),
            pieces: (ranks / inner).clamp(1, most),
        }
    }

    /// The piece whose tree begins at a place.
    fn rooted_at(self, place: usize) -> Option<usize> {
        let piece = place / self.inner;
        (place.is_multiple_of(self.inner) && piece < self.pieces).then_some(piece)
    }

    /// The piece that a place passes on, and the places to which it does.
    fn passed_on_by(self, place: usize) -> Option<(usize, Vec<usize>)> {
        let piece = place / self.inner;
        let first = place % self.inner * self.arity + 1;
        let last = self.ranks.min(first + self.arity);
        let children = (first..last).map(|at| (piece * self.inner + at) % self.ranks);
        (piece < self.pieces && first < last).then(|| (piece, children.collect()))
    }

    fn cut(self, record: &[u8], piece: usize) -> &[u8] {
        let at = |piece: usize| piece * record.len() / self.pieces;
        &record[at(piece)..at(piece + 1)]
    }
}

/// What a rank waits for, and what its leader said behind it.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    coming: Option<Coming>,
    /// Iteration -> piece -> bytes.
    pieces: BTreeMap<u32, BTreeMap<usize, Vec<u8>>>,
    behind: VecDeque<Message>,
}

/// A record on its way to this rank.
#[derive(Debug)]
struct Coming {
    published: Published,
    trees: Trees,
    /// The piece that this rank has still to pass on, and to whom.
    errand: Option<(usize, Vec<RankId>)>,
    /// When it was published or asked for, and for how long it is waited for now.
    since: f64,
    patience_s: f64,
}

impl Rank {
    /// Whether pieces of a record are on their way to this rank, and not late yet.
    pub fn expects(&self) -> bool {
        let coming = self.arrivals.coming.as_ref();
        coming.is_some_and(|coming| coming.patience_s <= PATIENCE_S)
    }

    /// Sends a record to ranks that may lack it.
    pub(super) fn broadcast(&mut self, iteration: u32, ranks: &[RankId]) {
        let record = self.history.get(iteration).expect("it has it").to_vec();
        if let [rank] = *ranks {
            let payload = record;
            return self.post(rank, &Message::Record { iteration, payload });
        }
        let (length, checksum) = (record.len() as u32, mix(0, &record));
        let trees = Trees::new(self.settings.fan, ranks.len(), length);
        for (place, &rank) in ranks.iter().enumerate() {
            let piece = trees.rooted_at(place);
            let published = Published {
                iteration,
                checksum,
                length,
                ranks: ranks.to_vec(),
                piece: piece.map(|piece| trees.cut(&record, piece).to_vec()),
            };
            self.post(rank, &Message::Published(published));
        }
    }

    /// Whether what the leader says has to wait for a record.
    pub(super) fn has_to_wait(&self, message: &Message) -> bool {
        let waits = match *message {
            // It may be the one that is waited for, and nothing may be behind these.
            Message::Record { iteration, .. } => iteration > self.history.len(),
            Message::Stop { .. } | Message::Evict | Message::Beat => false,
            _ => true,
        };
        let waits = waits && !self.lost.contains_key(&self.me);
        waits && (self.arrivals.coming.is_some() || !self.arrivals.behind.is_empty())
    }

    pub(super) fn put_behind(&mut self, message: Message) {
        self.arrivals.behind.push_back(message);
    }

    /// A hello makes void what was handed out before it.
    pub(super) fn forget_work_behind(&mut self) {
        let behind = &mut self.arrivals.behind;
        behind.retain(|word| !matches!(word, Message::Assign { .. } | Message::Cancel { .. }));
    }

    /// What the leader said and needn't wait any more.
    pub(super) fn next_behind(&mut self) -> Option<Message> {
        let ready = self.arrivals.coming.is_none();
        ready.then(|| self.arrivals.behind.pop_front()).flatten()
    }

    /// The leader published a record.
    pub(super) fn expect(&mut self, now: f64, mut published: Published) {
        let ranks = &published.ranks;
        let place = ranks.iter().position(|&rank| rank == self.me);
        // One that resigned needs no more records, and what the leader says waits for none.
        let Some(place) = place.filter(|_| !self.lost.contains_key(&self.me)) else {
            return;
        };
        let trees = Trees::new(self.settings.fan, ranks.len(), published.length);
        let errand = trees.passed_on_by(place).map(|(piece, places)| {
            let ranks = places.into_iter().map(|place| ranks[place]).collect();
            (piece, ranks)
        });
        let iteration = published.iteration;
        if let (Some(piece), Some(bytes)) = (trees.rooted_at(place), published.piece.take()) {
            let pieces = self.arrivals.pieces.entry(iteration).or_default();
            pieces.insert(piece, bytes);
        }
        self.arrivals.coming = Some(Coming {
            published,
            trees,
            errand,
            since: now,
            patience_s: PATIENCE_S,
        });
        self.run_errand();
        self.assemble(now);
    }

    /// A rank passed on a piece of a record of its leader's.
    pub(super) fn take_piece(
        &mut self,
        now: f64,
        leader: RankId,
        iteration: u32,
        piece: u32,
        bytes: Vec<u8>,
    ) {
        if leader != self.head || self.leads() || iteration < self.history.len() {
            return;
        }
        let pieces = self.arrivals.pieces.entry(iteration).or_default();
        pieces.insert(piece as usize, bytes);
        self.run_errand();
        self.assemble(now);
    }

    /// A record that was published and doesn't come is asked for.
    pub(super) fn look_for_record(&mut self, now: f64) {
        let coming = self.arrivals.coming.as_ref();
        if coming.is_some_and(|coming| now - coming.since > coming.patience_s) {
            self.ask_for_record(now);
        }
    }

    fn ask_for_record(&mut self, now: f64) {
        if let Some(coming) = &mut self.arrivals.coming {
            coming.since = now;
            coming.patience_s *= 2.0;
            let first = self.history.len();
            self.tell_head(Message::Fetch { first });
        }
    }

    /// Another leader, or none: what the last one published comes from the new one if it counts.
    pub(super) fn expect_nothing(&mut self) {
        self.arrivals = Arrivals::default();
    }

    /// This rank needs no more records; what the leader said behind one doesn't wait for it.
    pub(super) fn wait_for_nothing(&mut self) {
        self.arrivals.coming = None;
        self.arrivals.pieces.clear();
    }

    /// The record of an iteration is there: what belongs to it isn't needed any more.
    pub(super) fn arrived(&mut self) {
        self.run_errand();
        let next = self.history.len();
        self.arrivals.pieces = self.arrivals.pieces.split_off(&next);
        let arrivals = &mut self.arrivals;
        arrivals
            .coming
            .take_if(|coming| coming.published.iteration < next);
    }

    /// Passes on this rank's piece, if it has that or the whole record.
    fn run_errand(&mut self) {
        let Some(coming) = &mut self.arrivals.coming else {
            return;
        };
        let Some((piece, ranks)) = coming.errand.take() else {
            return;
        };
        let iteration = coming.published.iteration;
        let pieces = self.arrivals.pieces.get(&iteration);
        let bytes = match (
            pieces.and_then(|pieces| pieces.get(&piece)),
            self.history.get(iteration),
        ) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some(record)) => coming.trees.cut(record, piece).to_vec(),
            (None, None) => {
                coming.errand = Some((piece, ranks));
                return;
            }
        };
        let message = Message::Piece {
            leader: self.head,
            iteration,
            piece: piece as u32,
            bytes,
        };
        for rank in ranks {
            self.post(rank, &message);
        }
    }

    /// Puts the record together once its pieces are there.
    fn assemble(&mut self, now: f64) {
        let next = self.history.len();
        let Some(coming) = &self.arrivals.coming else {
            return;
        };
        let iteration = coming.published.iteration;
        if iteration < next {
            return self.arrived();
        }
        let Some(pieces) = self.arrivals.pieces.get(&iteration) else {
            return;
        };
        let pieces = pieces.range(..coming.trees.pieces);
        if iteration > next || pieces.clone().count() < coming.trees.pieces {
            return;
        }
        let record: Vec<u8> = pieces.flat_map(|piece| piece.1).copied().collect();
        if mix(0, &record) == coming.published.checksum {
            self.learn(record);
        } else {
            // They are of two publications.
            self.arrivals.pieces.remove(&iteration);
            self.ask_for_record(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces that come to each place, and how often each place sends one.
    fn travel(trees: Trees) -> (Vec<Vec<usize>>, Vec<usize>) {
        let mut have = vec![Vec::new(); trees.ranks];
        let mut sent = vec![0; trees.ranks];
        let mut on_the_way: Vec<(usize, usize)> = (0..trees.ranks)
            .filter_map(|place| Some((place, trees.rooted_at(place)?)))
            .collect();
        while let Some((place, piece)) = on_the_way.pop() {
            have[place].push(piece);
            if let Some((errand, children)) = trees.passed_on_by(place)
                && errand == piece
            {
                sent[place] += children.len();
                on_the_way.extend(children.into_iter().map(|child| (child, piece)));
            }
        }
        (have, sent)
    }

    proptest! {
        #[test]
        fn every_piece_comes_to_every_place_once(ranks in 2_usize..200, fan in 1_u32..40, bytes in 1_u32..80, length in 0_u32..4000) {
            let trees = Trees::new(Fan { ranks: fan, bytes }, ranks, length);
            let (mut have, sent) = travel(trees);
            for pieces in &mut have {
                pieces.sort_unstable();
                prop_assert_eq!(&*pieces, &(0..trees.pieces).collect::<Vec<_>>());
            }
            prop_assert!(sent.iter().all(|&sent| sent <= fan as usize));
            prop_assert_eq!(sent.iter().sum::<usize>(), trees.pieces * (ranks - 1));
            let record: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let whole: Vec<u8> = (0..trees.pieces).flat_map(|piece| trees.cut(&record, piece).to_vec()).collect();
            prop_assert_eq!(whole, record);
        }
    }

    /// The leader sends each piece once, and nobody sends more bytes than a record has.
    #[test]
    fn the_load_is_even() {
        for ranks in 2..1000 {
            let trees = Trees::new(Fan::default(), ranks, 100_000);
            let (_, sent) = travel(trees);
            let most = *sent.iter().max().unwrap();
            assert!(most <= trees.pieces, "{ranks} ranks: {trees:?}");
        }
    }
}
