//! What a leader knows and does: it greets ranks, deals out units, collects results, publishes records, compares digests
//! and ends the call.
//!
//! Before a table counts as complete, every rank that takes part must have sent this leader a hello (else one may know a
//! later record), and the digests of these ranks must agree (else results may come from wrong weights).

mod dealing;
mod greeting;

use std::collections::{BTreeMap, BTreeSet};

use crate::schedule::{Event, ScheduleError};

use crate::team::digests::{Digests, Verdict};
use crate::team::message::{CallEnd, Hello, Message, Round, WeightsDigest};
use crate::team::shared::Shared;
use crate::team::{Loss, RankId, Step};
use dealing::Dealing;
use greeting::Greeting;

#[derive(Debug, Default)]
pub(super) struct Leader {
    pub greeting: Greeting,
    pub dealing: Dealing,
    digests: Digests,
    /// When this leader last heard each rank.
    pub heard: BTreeMap<RankId, f64>,
    /// The ranks that know the result of the call, once it is announced.
    done: Option<BTreeSet<RankId>>,
}

/// What a leader that has no other instruction for its main thread does next.
pub(super) enum Turn {
    Wait,
    /// The table of the round is complete.
    Complete,
    /// All ranks know the result of the call.
    End(CallEnd),
}

/// For the main thread. The methods of [`super::Leading`] with the same names describe them.
impl Leader {
    /// A leader whose ranks have all records that `shared` has.
    pub fn new(shared: &Shared) -> Self {
        Self {
            greeting: Greeting::new(shared.history.count()),
            ..Self::default()
        }
    }

    pub fn begin(
        &mut self,
        now: f64,
        shared: &mut Shared,
        round: Round,
        costs: &[f64],
    ) -> Result<(), ScheduleError> {
        let ranks = self.greeting.speeds(shared);
        self.dealing.open(now, shared, round, costs, &ranks)
    }

    pub fn restore(&mut self, shared: &mut Shared, records: impl Iterator<Item = Vec<u8>>) {
        for record in records {
            shared.learn(record);
        }
        self.void_what_was_begun(shared);
        self.greeting.publish_records(shared);
    }

    pub fn publish(&mut self, shared: &mut Shared, payload: Vec<u8>) {
        shared.learn(payload);
        self.greeting.publish_records(shared);
    }

    pub fn finish(&mut self, shared: &mut Shared, payload: Vec<u8>) {
        let (have, leader) = (shared.history.count(), shared.me());
        let message = Message::Finish {
            have,
            payload: payload.clone(),
        };
        shared.post_all(self.greeting.listeners(shared), &message);
        shared.result = Some(CallEnd {
            leader,
            have,
            payload,
            last: None,
        });
        self.dealing.close();
        self.done = Some(BTreeSet::from([leader]));
    }

    /// What to do when there is nothing else to do. `applied` is the number of records that the main thread knows.
    pub fn poll(&mut self, shared: &mut Shared, applied: u32) -> Turn {
        let present = shared.roster.present();
        if let (Some(done), Some(result)) = (&self.done, shared.result.clone()) {
            if !present.is_subset(done) {
                return Turn::Wait;
            }
            shared.post_all(self.greeting.listeners(shared), &Message::Release);
            return Turn::End(result);
        }
        let known = present.is_subset(&self.greeting.greeted) && self.digests.settled();
        if known && self.dealing.complete(shared, applied) {
            return Turn::Complete;
        }
        Turn::Wait
    }
}

/// For messages of other ranks, and of this one to itself.
impl Leader {
    pub fn handle_hello(&mut self, now: f64, shared: &mut Shared, from: RankId, mut hello: Hello) {
        if std::mem::take(&mut hello.led) && from != shared.me() {
            // It took the journal over while this leader had it, and the open round may be long out of date.
            self.dealing.close();
            shared.take_over();
        }
        if !self.greeting.admit(shared, from, &hello) {
            return;
        }
        let again = !self.greeting.greeted.insert(from);
        if let Some(digest) = hello.digest {
            self.digests.note(from, digest);
        }
        if from != shared.me() {
            self.introduce(shared, from, hello.have);
        }
        let results = hello.results;
        self.dealing.join(now, shared, from, results, again);
        // A rank that followed another leader ignored an earlier request.
        self.ask_to_rebuild(shared, from);
        self.judge(now, shared);
    }

    pub fn handle_digest(
        &mut self,
        now: f64,
        shared: &mut Shared,
        from: RankId,
        digest: WeightsDigest,
    ) {
        if let Some(hello) = self.greeting.ahead.get_mut(&from) {
            // This leader does not have the record of its iteration yet.
            hello.digest = Some(digest);
        } else if digest.iteration < shared.history.count() {
            self.digests.note(from, digest);
            self.judge(now, shared);
        }
    }

    /// Records that another rank has and this one lacked. The caller then checks whether they end the call, and else lets this
    /// leader share them.
    pub fn handle_records(&mut self, shared: &mut Shared, first: u32, records: Vec<Vec<u8>>) {
        let (known, position) = (shared.history.count(), shared.steps.len());
        for (iteration, record) in (first..).zip(records) {
            if iteration == shared.history.count() {
                shared.learn(record);
            }
        }
        if shared.history.count() > known && !shared.steps.contains(&Step::Lead) {
            // Another rank led while this one slept and has the journal. It is taken over before the records are applied.
            shared.steps.insert(position, Step::Lead);
        }
        self.void_what_was_begun(shared);
    }

    /// Publishes the records that `from` sent, and greets the ranks whose hellos waited for them.
    pub fn share_records(&mut self, now: f64, shared: &mut Shared, from: RankId) {
        self.greeting.publish_records(shared);
        for (rank, hello) in std::mem::take(&mut self.greeting.ahead) {
            if rank == from || hello.have <= shared.history.count() {
                self.handle_hello(now, shared, rank, hello);
            } else {
                self.greeting.ahead.insert(rank, hello);
            }
        }
    }

    pub fn handle_done(&mut self, shared: &Shared, from: RankId, have: u32) {
        // With another number of records, the rank means an announcement that is void by now.
        if let Some(done) = self
            .done
            .as_mut()
            .filter(|_| have == shared.history.count())
        {
            done.insert(from);
        }
    }

    /// A rank was lost.
    pub fn lose(&mut self, now: f64, shared: &mut Shared, rank: RankId, loss: Loss) {
        if loss == Loss::Silent {
            shared.post(rank, &Message::Evict);
        }
        shared.steps.push_back(Step::Lost { rank, loss });
        self.dismiss(now, shared, rank);
    }

    /// A rank takes no part any more.
    pub fn dismiss(&mut self, now: f64, shared: &mut Shared, rank: RankId) {
        self.greeting.remove(rank);
        self.dealing.event(now, shared, Event::RankLost(rank));
        self.judge(now, shared);
    }

    /// Deals out late units. Returns the ranks that are silent or busy with one unit for too long, and whether this rank's own
    /// main thread hangs. Then others evaluate its units until it sends another hello.
    pub fn handle_tick(&mut self, now: f64, shared: &mut Shared) -> (BTreeSet<RankId>, bool) {
        self.dealing.event(now, shared, Event::Tick);
        let (limit_s, me) = (shared.settings.unit_timeout_s, shared.me());
        if limit_s <= 0.0 {
            return (BTreeSet::new(), false);
        }
        let too_long = |since: f64| now - since > limit_s;
        let in_work = self.dealing.in_work().filter(|work| too_long(work.1));
        let mut late: BTreeSet<RankId> = in_work.map(|work| work.0).collect();
        let hangs = late.remove(&me);
        if hangs {
            self.dealing.event(now, shared, Event::RankLost(me));
        }
        for rank in shared.roster.present() {
            if rank != me && too_long(*self.heard.entry(rank).or_insert(now)) {
                late.insert(rank);
            }
        }
        (late, hangs)
    }

    /// This process stood still, so no rank is to blame for having been silent.
    pub fn forgive(&mut self, now: f64) {
        self.heard.values_mut().for_each(|heard| *heard = now);
    }
}

impl Leader {
    /// Sends a rank that has `have` records the welcome, missing records and the result, if there is one.
    fn introduce(&mut self, shared: &mut Shared, rank: RankId, have: u32) {
        self.greeting.introduce(shared, rank, have);
        if let (Some(_), Some(result)) = (&self.done, &shared.result) {
            let payload = result.payload.clone();
            let have = shared.history.count();
            shared.post(rank, &Message::Finish { have, payload });
        }
    }

    /// This rank learned records: a round of before them is void, and so is a result that was announced without them.
    fn void_what_was_begun(&mut self, shared: &mut Shared) {
        let round = self.dealing.close_before(shared.history.count());
        let result = self.done.take_if(|_| shared.result.is_none());
        if round || result.is_some() {
            shared.steps.push_back(Step::Superseded);
        }
    }

    /// Compares the digests as far as they are known.
    fn judge(&mut self, now: f64, shared: &mut Shared) {
        let ranks = self.greeting.speeds(shared);
        if self.digests.disputed() {
            self.dealing.pause(&ranks, shared.settings.policy);
        }
        let present = shared.roster.present();
        let Some(iteration) = self.digests.iteration() else {
            return;
        };
        if !present.is_subset(&self.greeting.greeted) {
            return;
        }
        let (ranks, hopeless) = match self.digests.judge(&present) {
            Verdict::Open => return,
            Verdict::Agreed(digest) => {
                let message = Message::Agreed { iteration, digest };
                shared.post_all(self.greeting.others(shared), &message);
                shared.steps.push_back(Step::Agreed { iteration, digest });
                return self.dealing.resume(now, shared, &ranks);
            }
            Verdict::Differ(ranks) => (ranks, false),
            Verdict::Hopeless(ranks) => (ranks, true),
        };
        shared.steps.push_back(Step::Diverged {
            ranks: ranks.clone(),
            iteration,
            hopeless,
        });
        for rank in ranks.into_iter().filter(|_| !hopeless) {
            self.ask_to_rebuild(shared, rank);
        }
    }

    /// Asks a rank to rebuild its weights if they were wrong and it has not reported a digest since.
    fn ask_to_rebuild(&mut self, shared: &mut Shared, rank: RankId) {
        if let Some((iteration, rebuilds)) = self.digests.awaited(rank) {
            let message = Message::Rebuild {
                iteration,
                rebuilds,
            };
            shared.send(rank, message);
        }
    }
}
