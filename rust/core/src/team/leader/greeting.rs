//! How a leader takes up ranks that say hello, and learns of records that they know and it doesn't.

use crate::schedule::Event;

use crate::team::message::{Hello, Message};
use crate::team::{Rank, RankId, Step};

impl Rank {
    /// A rank says hello.
    pub(in crate::team) fn greeted(&mut self, now: f64, from: RankId, mut hello: Hello) {
        if std::mem::take(&mut hello.led) && from != self.me {
            // What this leader opened is its successor's by now, and the round may be of long ago.
            if let Some(leader) = &mut self.leader {
                leader.round = None;
                leader.complete = false;
            }
            self.lead_anew();
        }
        let mine = self.history.len();
        let known = self.history.checksum(hello.have.min(mine));
        let records = hello.have <= mine && known != Some(hello.history);
        if hello.identity != self.identity || records {
            self.todo.push_back(Step::Stranger {
                rank: from,
                records,
            });
            return;
        }
        let Some(leader) = &mut self.leader else {
            return;
        };
        if hello.have > mine {
            leader.later.insert(from, hello);
            self.post(from, &Message::Fetch { first: mine });
            return;
        }
        let again = !leader.greeted.insert(from);
        leader.deal_anew([from]);
        if let Some(said) = hello.digest {
            leader.digests.note(from, said);
        }
        if from != self.me {
            self.introduce(from, hello.have);
        }
        let leader = self.leader.as_mut().expect("it leads");
        if let Some(round) = &mut leader.round {
            if again && round.is_alive(from) {
                // It knows nothing any more of what it was given.
                let actions = round.event(now, Event::WorkerLost(from));
                self.deliver(&actions);
            }
            self.join(now, from, hello);
        }
        // One that followed another leader paid no heed to it.
        self.ask_to_heal(from);
        self.judge(now);
    }

    /// A rank that takes this one for its leader is asked to say hello, if its hello was lost: said to one that took it
    /// for silent, say, and didn't lead yet.
    pub(in crate::team) fn invite(&mut self, rank: RankId) {
        let leader = self.leader.as_ref().expect("it leads");
        if !leader.greeted.contains(&rank) && !leader.later.contains_key(&rank) {
            self.post(rank, &Message::Evict);
        }
    }

    /// Tells a rank what it doesn't know.
    pub(in crate::team) fn introduce(&mut self, rank: RankId, have: u32) {
        let leader = self.leader.as_ref().expect("it leads");
        let (welcome, done) = (leader.welcome.clone(), leader.done.is_some());
        if let Some(payload) = welcome {
            self.post(rank, &Message::Welcome { payload });
        }
        self.leader.as_mut().expect("it leads").whole.remove(&rank);
        self.send_records(rank, have);
        if let (true, Some(payload)) = (done, self.finished.clone()) {
            let have = self.history.len();
            self.post(rank, &Message::Finish { have, payload });
        }
    }

    /// Sends a rank the records from `first` on that are not on their way to it already.
    pub(in crate::team) fn send_records(&mut self, rank: RankId, first: u32) {
        let leader = self.leader.as_mut().expect("it leads");
        let sent = leader.whole.insert(rank, self.history.len()).unwrap_or(0);
        let first = first.max(sent);
        for (iteration, payload) in (first..).zip(self.history.since(first).to_vec()) {
            self.post(rank, &Message::Record { iteration, payload });
        }
    }

    /// A rank takes part in the open round, with what it has of it.
    pub(in crate::team) fn join(&mut self, now: f64, rank: RankId, hello: Hello) {
        let leader = self.leader.as_mut().expect("it leads");
        let Some(round) = &mut leader.round else {
            return;
        };
        let mut actions = round.event(now, Event::WorkerJoined(rank));
        if leader.paused {
            return;
        }
        if let Some((of, results)) = hello.results
            && of == round.round
        {
            actions.extend(round.results(now, rank, &results));
        }
        actions.extend(round.event(now, Event::WorkerReady(rank)));
        self.deliver(&actions);
    }

    /// Records that another rank has and this one lacked.
    pub(in crate::team) fn catch_up(
        &mut self,
        now: f64,
        from: RankId,
        first: u32,
        records: Vec<Vec<u8>>,
    ) {
        let (known, place) = (self.history.len(), self.todo.len());
        for (iteration, record) in (first..).zip(records) {
            if iteration == self.history.len() {
                self.learn(record);
            }
        }
        let more = self.history.len() > known;
        if more && !self.todo.contains(&Step::Lead) {
            // Another rank led while this one slept, and has the journal: it is taken over before they are applied.
            self.todo.insert(place, Step::Lead);
        }
        self.void_what_was_begun();
        let leader = self.leader.as_mut().expect("it leads");
        let hellos = std::mem::take(&mut leader.later);
        if self.leave_if_over() {
            return;
        }
        self.share_records(now);
        for (rank, hello) in hellos {
            if rank == from || hello.have <= self.history.len() {
                self.greeted(now, rank, hello);
            } else {
                self.leader
                    .as_mut()
                    .expect("it leads")
                    .later
                    .insert(rank, hello);
            }
        }
    }

    /// Sends the last records to all ranks; those that have them ignore them.
    pub(in crate::team) fn share_records(&mut self, now: f64) {
        let Some(leader) = &mut self.leader else {
            return;
        };
        let first = std::mem::replace(&mut leader.shared, self.history.len());
        let ranks = self.greeted_others();
        for iteration in first..self.history.len() {
            self.broadcast(iteration, &ranks);
        }
        self.settle(now);
    }
}
