//! How a record gets from the leader to all other ranks, so that no rank sends much more than the record itself.
//!
//! ```text
//! leader --Published, piece 0--> rank 1 --piece 0--> ranks 2, 3       the record is cut into pieces, and each piece
//!        --Published, piece 1--> rank 2 --piece 1--> ranks 1, 3       travels through a tree of its own
//!        --Published, piece 2--> rank 3 --piece 2--> ranks 1, 2
//! ```
//! The leader sends each record once, and so does every other rank: 8 N bytes for N members, on any number of ranks.
//! Messages that the leader sends behind a record wait until the record is whole, so that everything happens in the order
//! in which the leader sent it. If a piece does not arrive because the rank that passes it on died or hangs, the receiver
//! asks the leader for the whole record.

use std::collections::{BTreeMap, VecDeque};

use super::RankId;
use super::history::mix;
use super::message::{Message, Piece, Published};
use super::shared::Shared;
use super::trees::Trees;

/// Seconds after which a rank asks for a record that was published and is not whole. The time doubles with each request,
/// since a leader that was stopped answers all requests when it continues.
const PATIENCE_S: f64 = 0.25;

/// Sends a record to ranks that may lack it.
pub(super) fn broadcast(shared: &mut Shared, iteration: u32, ranks: &[RankId]) {
    let Some(record) = shared.history.get(iteration).map(<[u8]>::to_vec) else {
        return;
    };
    if let [rank] = *ranks {
        let payload = record;
        return shared.post(rank, &Message::Record { iteration, payload });
    }
    let (length, checksum) = (record.len() as u32, mix(0, &record));
    let trees = Trees::new(shared.settings.fan, ranks.len(), length);
    for (position, &rank) in ranks.iter().enumerate() {
        let piece = trees.rooted_at(position);
        let published = Published {
            iteration,
            checksum,
            length,
            ranks: ranks.to_vec(),
            piece: piece.map(|piece| trees.cut(&record, piece).to_vec()),
        };
        shared.post(rank, &Message::Published(published));
    }
}

/// The record that a follower waits for, and the messages of its leader that wait behind it.
#[derive(Debug, Default)]
pub(super) struct Incoming {
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
    /// The piece that this rank has yet to pass on, and the ranks that get it.
    pass_on: Option<(usize, Vec<RankId>)>,
    /// When it was published or last asked for.
    since: f64,
    /// The time to wait before it is asked for again.
    patience_s: f64,
}

impl Incoming {
    /// Whether a record is on its way and not late yet.
    pub fn expects(&self) -> bool {
        let coming = self.coming.as_ref();
        coming.is_some_and(|coming| coming.patience_s <= PATIENCE_S)
    }

    /// Keeps a message of the leader if it has to wait for a record; else returns it.
    pub fn delay(&mut self, message: Message, have: u32) -> Option<Message> {
        let waits = match message {
            // It may be the record that the others wait for.
            Message::Record { iteration, .. } => iteration > have,
            Message::Stop { .. } | Message::Evict | Message::Beat => false,
            _ => true,
        };
        if waits && (self.coming.is_some() || !self.behind.is_empty()) {
            self.behind.push_back(message);
            return None;
        }
        Some(message)
    }

    /// The next message that no longer has to wait.
    pub fn next_behind(&mut self) -> Option<Message> {
        let ready = self.coming.is_none();
        ready.then(|| self.behind.pop_front()).flatten()
    }

    /// Gives up waiting. Returns the messages that waited.
    pub fn into_behind(self) -> VecDeque<Message> {
        self.behind
    }

    /// Drops waiting assignments: this rank sends a hello, which voids them.
    pub fn forget_assignments(&mut self) {
        self.behind
            .retain(|held| !matches!(held, Message::Assign(_) | Message::Cancel { .. }));
    }

    /// The leader published a record. Returns the record once it is whole.
    pub fn handle_published(
        &mut self,
        now: f64,
        shared: &mut Shared,
        mut published: Published,
    ) -> Option<Vec<u8>> {
        let ranks = &published.ranks;
        let position = ranks.iter().position(|&rank| rank == shared.me())?;
        let trees = Trees::new(shared.settings.fan, ranks.len(), published.length);
        let pass_on = trees.passed_on_by(position).map(|(piece, positions)| {
            let receivers = positions.into_iter().map(|position| ranks[position]);
            (piece, receivers.collect())
        });
        let iteration = published.iteration;
        if let (Some(piece), Some(bytes)) = (trees.rooted_at(position), published.piece.take()) {
            self.keep(iteration, piece, bytes);
        }
        self.coming = Some(Coming {
            published,
            trees,
            pass_on,
            since: now,
            patience_s: PATIENCE_S,
        });
        self.assemble(now, shared)
    }

    /// Another rank passed on a piece of a record that this rank's leader published. Returns the record once it is whole.
    pub fn handle_piece(&mut self, now: f64, shared: &mut Shared, piece: Piece) -> Option<Vec<u8>> {
        if piece.iteration < shared.history.count() {
            return None;
        }
        self.keep(piece.iteration, piece.index as usize, piece.bytes);
        self.assemble(now, shared)
    }

    /// Asks for a record that was published and is late.
    pub fn handle_tick(&mut self, now: f64, shared: &mut Shared) {
        let coming = self.coming.as_ref();
        if coming.is_some_and(|coming| now - coming.since > coming.patience_s) {
            self.ask(now, shared);
        }
    }

    /// Drops the pieces of records that this rank now has whole.
    pub fn forget_arrived(&mut self, shared: &mut Shared) {
        self.pass_on(shared);
        let next = shared.history.count();
        self.pieces = self.pieces.split_off(&next);
        self.coming
            .take_if(|coming| coming.published.iteration < next);
    }

    fn keep(&mut self, iteration: u32, piece: usize, bytes: Vec<u8>) {
        let pieces = self.pieces.entry(iteration).or_default();
        pieces.insert(piece, bytes);
    }

    fn ask(&mut self, now: f64, shared: &mut Shared) {
        if let Some(coming) = &mut self.coming {
            coming.since = now;
            coming.patience_s *= 2.0;
            let first = shared.history.count();
            shared.send_to_leader(Message::Fetch { first });
        }
    }

    /// Passes on this rank's piece, if it has the piece or the whole record.
    fn pass_on(&mut self, shared: &mut Shared) {
        let (Some(coming), Some(leader)) = (&mut self.coming, shared.roster.leader) else {
            return;
        };
        let iteration = coming.published.iteration;
        let pieces = self.pieces.get(&iteration);
        let Some((piece, ranks)) = &coming.pass_on else {
            return;
        };
        let bytes = match (
            pieces.and_then(|pieces| pieces.get(piece)),
            shared.history.get(iteration),
        ) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some(record)) => coming.trees.cut(record, *piece).to_vec(),
            (None, None) => return,
        };
        let message = Message::Piece(Piece {
            leader,
            iteration,
            index: *piece as u32,
            bytes,
        });
        shared.post_all(ranks.iter().copied(), &message);
        coming.pass_on = None;
    }

    /// Passes this rank's piece on, and returns the record if it is the next one and all its pieces are there.
    fn assemble(&mut self, now: f64, shared: &mut Shared) -> Option<Vec<u8>> {
        self.pass_on(shared);
        let next = shared.history.count();
        let coming = self.coming.as_ref()?;
        let iteration = coming.published.iteration;
        if iteration < next {
            self.forget_arrived(shared);
            return None;
        }
        let pieces = self.pieces.get(&iteration)?.range(..coming.trees.pieces);
        if iteration > next || pieces.clone().count() < coming.trees.pieces {
            return None;
        }
        let record: Vec<u8> = pieces.flat_map(|piece| piece.1).copied().collect();
        if mix(0, &record) == coming.published.checksum {
            return Some(record);
        }
        // Some pieces belong to an earlier publication of this iteration.
        self.pieces.remove(&iteration);
        self.ask(now, shared);
        None
    }
}
