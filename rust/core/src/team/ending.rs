//! How a call ends, also for ranks that miss its end.
//!
//! ```text
//! leader --Finish--> all --Done--> leader --Release--> all       everybody knows the result before anybody goes
//! ```
//! A rank that knows the result and loses its leader goes at once, and tells the others (`Left`), with the last record: it
//! may not be there to be asked. Whoever then has the same records goes as well; whoever lacks more asks for them, or makes
//! them itself.

use super::message::Message;
use super::{Ended, Loss, Rank, RankId, Step};

impl Rank {
    /// A rank knows how the call ended and has left it.
    pub(super) fn parted(&mut self, now: f64, rank: RankId) {
        self.left.insert(rank);
        self.dismiss(now, rank);
        self.elect(now);
    }

    /// A rank left the call, which ended by a leader, with so many records and this result.
    pub(super) fn hear_end(
        &mut self,
        now: f64,
        from: RankId,
        end: (RankId, u32, Vec<u8>),
        last: Option<Vec<u8>>,
    ) {
        let resigned = self.lost.contains_key(&self.me);
        let next = end.1 == self.history.len() + 1 && !resigned;
        let mut last = last.filter(|_| next);
        // Not if it told another leader that it hasn't this record: that one may make it anew, of other bytes.
        let right = end.0 == self.head || self.leads();
        if let Some(record) = last.take_if(|_| right) {
            if self.leads() {
                // Others led while this one slept, and have the journal.
                self.todo.push_back(Step::Follow);
            }
            self.learn(record);
        }
        self.parted(now, from);
        if resigned {
            return self.end(end.2);
        }
        if let Some(record) = last.filter(|_| self.leads()) {
            self.learn(record);
        }
        self.known_end = Some(end);
        if !self.leave_if_over() && self.finished.is_none() {
            // It would make the same records itself; asking is quicker.
            let first = self.history.len();
            self.post(from, &Message::Fetch { first });
        }
    }

    /// The result is known and the leader that said it is gone: this rank leaves, and tells the others.
    pub(super) fn leave(&mut self, payload: Vec<u8>) {
        let left = self.left(&payload);
        for rank in self.others() {
            self.post(rank, &left);
        }
        self.end(payload);
    }

    fn left(&self, payload: &[u8]) -> Message {
        Message::Left {
            leader: self.finished_by,
            have: self.history.len(),
            payload: payload.to_vec(),
            last: self.history.since(0).last().cloned(),
        }
    }

    /// Leaves the call if others did, and this rank has all its records. It leads no more then, nor takes a journal over.
    pub(super) fn leave_if_over(&mut self) -> bool {
        let have = self.history.len();
        let known = self.known_end.take_if(|end| end.1 == have);
        let over = self.finished.is_none() && known.is_some();
        if let (true, Some((leader, _, payload))) = (over, known) {
            self.finished = Some(payload.clone());
            self.finished_by = leader;
            self.worker.forget();
            for step in self.todo.iter_mut().filter(|step| **step == Step::Lead) {
                *step = Step::Follow;
            }
            self.leave(payload);
        }
        over
    }

    /// The main thread learns that the call is over. Those that hang are told as well: nobody waits for them any more.
    pub(super) fn end(&mut self, payload: Vec<u8>) {
        self.leader = None;
        if !self.lost.contains_key(&self.me) {
            let left = self.left(&payload);
            for rank in self.others() {
                if self.lost.get(&rank) == Some(&Loss::Silent) {
                    self.post(rank, &left);
                }
            }
        }
        self.ended = Some(Ended {
            call: self.call,
            leader: self.finished_by,
            records: self.history.since(0).to_vec(),
            payload: payload.clone(),
        });
        self.todo.push_back(Step::Finished { payload });
    }

    /// Tells a rank that missed the end of a call how it ended, and the records that it lacks. Not if this rank had
    /// resigned: it may lack some itself.
    pub(super) fn tell_end(&mut self, call: u32, rank: RankId, asked: &Message) {
        let whole = !self.lost.contains_key(&self.me);
        let Some(end) = self.ended.as_ref().filter(|end| whole && end.call == call) else {
            return;
        };
        let answer = match *asked {
            Message::Fetch { first } => Message::Records {
                first,
                records: end
                    .records
                    .get(first as usize..)
                    .unwrap_or_default()
                    .to_vec(),
            },
            _ => Message::Left {
                leader: end.leader,
                have: end.records.len() as u32,
                payload: end.payload.clone(),
                last: end.records.last().cloned(),
            },
        };
        self.post_as(call, rank, &answer);
    }
}
