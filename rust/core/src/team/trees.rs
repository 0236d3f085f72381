//! How a record is cut into pieces, and the tree of ranks through which each piece travels.
//!
//! Every rank passes on at most one piece, and sends at most the bytes of one record.

/// How records are cut and passed on. The same on all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fan {
    /// The most ranks to which one rank passes a piece on.
    pub ranks: u32,
    /// The fewest bytes of a piece.
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

/// One tree per piece, over the positions 0, 1, ... of a list of ranks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trees {
    ranks: usize,
    /// The number of positions in each tree that pass the piece on.
    inner: usize,
    /// The number of positions to which each of them passes it.
    arity: usize,
    pub pieces: usize,
}

impl Trees {
    /// The trees for a record of `length` bytes.
    pub fn new(fan: Fan, ranks: usize, length: u32) -> Self {
        let others = ranks.saturating_sub(1).max(1);
        let least = others.div_ceil(fan.ranks.max(1) as usize);
        // A piece goes to at most as many positions as there are pieces, so no rank sends more than a record.
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

    /// The piece whose tree begins at a position.
    pub fn rooted_at(self, position: usize) -> Option<usize> {
        let piece = position / self.inner;
        (position.is_multiple_of(self.inner) && piece < self.pieces).then_some(piece)
    }

    /// The piece that a position passes on, and the positions to which it does.
    pub fn passed_on_by(self, position: usize) -> Option<(usize, Vec<usize>)> {
        let piece = position / self.inner;
        let first = position % self.inner * self.arity + 1;
        let last = self.ranks.min(first + self.arity);
        let children = (first..last).map(|offset| (piece * self.inner + offset) % self.ranks);
        (piece < self.pieces && first < last).then(|| (piece, children.collect()))
    }

    /// The bytes of a piece of a record.
    pub fn cut(self, record: &[u8], piece: usize) -> &[u8] {
        let start = |piece: usize| piece * record.len() / self.pieces;
        &record[start(piece)..start(piece + 1)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pieces that arrive at each position, and the number of pieces that each position sends.
    fn travel(trees: Trees) -> (Vec<Vec<usize>>, Vec<usize>) {
        let mut have = vec![Vec::new(); trees.ranks];
        let mut sent = vec![0; trees.ranks];
        let mut under_way: Vec<(usize, usize)> = (0..trees.ranks)
            .filter_map(|position| Some((position, trees.rooted_at(position)?)))
            .collect();
        while let Some((position, piece)) = under_way.pop() {
            have[position].push(piece);
            if let Some((passed_on, children)) = trees.passed_on_by(position)
                && passed_on == piece
            {
                sent[position] += children.len();
                under_way.extend(children.into_iter().map(|child| (child, piece)));
            }
        }
        (have, sent)
    }

    proptest! {
        #[test]
        fn every_piece_arrives_at_every_position_once(ranks in 2_usize..200, fan in 1_u32..40, bytes in 1_u32..80, length in 0_u32..4000) {
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

    /// The leader sends each piece once, and no rank sends more bytes than a record has.
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
