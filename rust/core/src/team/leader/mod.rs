//! What the leader does: greet, hand out, count, publish, compare, end.

mod greeting;
mod handing_out;

use std::collections::{BTreeMap, BTreeSet};

use crate::schedule::{Event, ScheduleError};

use crate::team::digests::{Digests, Verdict};
use crate::team::message::{Hello, Message, Round};
use crate::team::open_round::OpenRound;
use crate::team::{Loss, Rank, RankId, Step, Table};

#[derive(Debug, Default)]
pub(super) struct Leader {
    /// Ranks that said hello to this leader and haven't been lost since.
    greeted: BTreeSet<RankId>,
    /// Deals so far, and the one in which each rank's units are assigned: a new one makes what was assigned void.
    deals: u32,
    deal_of: BTreeMap<RankId, u32>,
    /// When it heard each rank last.
    heard: BTreeMap<RankId, f64>,
    /// Ranks that have later records than this one, and what they said.
    later: BTreeMap<RankId, Hello>,
    round: Option<OpenRound>,
    /// Whether the table was handed over.
    complete: bool,
    /// Up to which record each rank was sent them whole since its hello: links lose nothing.
    whole: BTreeMap<RankId, u32>,
    /// Records that all greeted ranks were sent.
    shared: u32,
    digests: Digests,
    /// Whether digests differ: until they agree nothing is handed out and nothing counted.
    paused: bool,
    welcome: Option<Vec<u8>>,
    /// Ranks that know the call's result, once it is said.
    done: Option<BTreeSet<RankId>>,
}

impl Leader {
    /// All ranks know `shared` records.
    pub fn new(shared: u32) -> Self {
        Self {
            shared,
            ..Self::default()
        }
    }

    /// What these ranks were assigned is void.
    fn deal_anew(&mut self, ranks: impl IntoIterator<Item = RankId>) {
        self.deals += 1;
        for rank in ranks {
            self.deal_of.insert(rank, self.deals);
        }
    }

    /// A rank spoke.
    pub fn hear(&mut self, now: f64, rank: RankId) {
        self.heard.insert(rank, now);
    }
}

impl Rank {
    /// Opens a round of units with these expected costs. Ranks that come later join it. Nothing happens if this rank
    /// doesn't lead (any more).
    ///
    /// # Errors
    /// If there is no unit or a cost is no number for it.
    pub fn begin(&mut self, now: f64, round: Round, costs: &[f64]) -> Result<(), ScheduleError> {
        if self.leader.is_none() || self.outdated() {
            return Ok(());
        }
        let workers = self.workers();
        let opened = OpenRound::new(round, costs.to_vec(), &workers, self.settings.policy)?;
        let leader = self.leader.as_mut().expect("it leads");
        leader.round = Some(opened);
        leader.complete = false;
        leader.deal_anew(workers.iter().map(|worker| worker.0));
        if !leader.paused {
            self.set_to_work(now);
        }
        self.settle(now);
        Ok(())
    }

    /// The leader takes the journal over anew: another rank did so, and is gone or leads no more. Nothing happens if this
    /// rank doesn't lead (any more).
    pub fn lead_anew(&mut self) {
        if self.leads() && !self.todo.contains(&Step::Lead) {
            self.todo.push_back(Step::Lead);
        }
    }

    /// The complete table, after [`Step::Complete`]; none if the round has become void in the meantime.
    pub fn take_table(&mut self) -> Option<Table> {
        let leader = self.leader.as_mut().filter(|leader| leader.complete)?;
        leader.round.as_mut().map(OpenRound::take_table)
    }

    /// The record of an iteration, which is on the disk: all ranks get it, and apply it. Not if this rank has learnt of
    /// one in the meantime, or doesn't lead any more: then it is in the journal that the next leader takes over. The answer
    /// says so.
    pub fn publish(&mut self, now: f64, iteration: u32, payload: Vec<u8>) -> bool {
        let next = self.leads() && iteration == self.history.len();
        if next {
            self.learn(payload);
            self.share_records(now);
        }
        next
    }

    /// What ranks must be told before anything else, those that are there and those that come.
    pub fn set_welcome(&mut self, now: f64, payload: Vec<u8>) {
        for rank in self.greeted_others() {
            self.post(
                rank,
                &Message::Welcome {
                    payload: payload.clone(),
                },
            );
        }
        if let Some(leader) = &mut self.leader {
            leader.welcome = Some(payload);
        }
        self.settle(now);
    }

    /// Something for the other nodes' journals.
    pub fn note(&mut self, payload: &[u8]) {
        for rank in self.greeted_others() {
            self.post(
                rank,
                &Message::Note {
                    payload: payload.to_vec(),
                },
            );
        }
    }

    /// The call's result: [`Step::Finished`] comes when all living ranks know it. Nothing happens if this rank doesn't
    /// lead (any more).
    pub fn finish(&mut self, now: f64, payload: Vec<u8>) {
        if self.leader.is_none() || self.outdated() {
            return;
        }
        for rank in self.listeners() {
            self.post(
                rank,
                &Message::Finish {
                    have: self.history.len(),
                    payload: payload.clone(),
                },
            );
        }
        self.finished = Some(payload);
        self.finished_by = self.me;
        self.worker.forget();
        if let Some(leader) = &mut self.leader {
            leader.round = None;
            leader.done = Some(BTreeSet::from([self.me]));
        }
        self.settle(now);
    }

    /// Whether this rank has learnt of records that its main thread doesn't know yet, so that what it begins is void: it
    /// is told so behind them.
    fn outdated(&mut self) -> bool {
        let outdated = self.applied < self.history.len();
        if outdated {
            self.todo.push_back(Step::Superseded);
        }
        outdated
    }

    /// The call ends with an error on all ranks.
    pub fn stop(&mut self, payload: &[u8]) {
        for rank in self.others() {
            self.post(
                rank,
                &Message::Stop {
                    payload: payload.to_vec(),
                },
            );
        }
    }

    /// Records were learnt: a round of before them is void, and so is an end that was said without them.
    pub(super) fn void_what_was_begun(&mut self) {
        let (next, more) = (self.history.len(), self.finished.is_none());
        let Some(leader) = &mut self.leader else {
            return;
        };
        let round = leader.round.take_if(|open| open.round.step < next);
        let end = leader.done.take_if(|_| more);
        if round.is_some() || end.is_some() {
            self.todo.push_back(Step::Superseded);
        }
    }

    /// What a rank says to its leader.
    pub(super) fn lead(&mut self, now: f64, from: RankId, message: Message) {
        let Some(leader) = &mut self.leader else {
            return;
        };
        match message {
            Message::Report(report) => {
                let Some(round) = leader
                    .round
                    .as_mut()
                    .filter(|round| round.round == report.round)
                else {
                    return;
                };
                // Of another deal, only a unit by itself is sure to be counted right.
                let dealt = leader.deal_of.get(&from) == Some(&report.deal);
                let right = dealt || report.results.len() <= 1;
                if right && round.is_alive(from) && !leader.paused {
                    let actions = round.report(now, from, &report);
                    self.deliver(&actions);
                }
            }
            Message::Digest(said) => {
                if let Some(hello) = leader.later.get_mut(&from) {
                    // Of an iteration that this rank has yet to catch up with.
                    hello.digest = Some(said);
                } else if said.iteration < self.history.len() {
                    leader.digests.note(from, said);
                    self.judge(now);
                }
            }
            Message::Records { first, records } => self.catch_up(now, from, first, records),
            // One of an end that was said before a later record was known doesn't count.
            Message::Done { have } if have == self.history.len() => {
                if let Some(done) = &mut leader.done {
                    done.insert(from);
                }
            }
            Message::Halt => self.todo.push_back(Step::Halt),
            _ => {}
        }
    }

    /// A rank of this leader's is gone.
    pub(super) fn worker_lost(&mut self, now: f64, rank: RankId, loss: Loss) {
        if loss == Loss::Silent {
            self.post(rank, &Message::Evict);
        }
        self.todo.push_back(Step::Lost { rank, loss });
        self.dismiss(now, rank);
    }

    /// A rank takes no part any more.
    pub(super) fn dismiss(&mut self, now: f64, rank: RankId) {
        if let Some(leader) = &mut self.leader {
            leader.greeted.remove(&rank);
            leader.whole.remove(&rank);
            leader.later.remove(&rank);
            self.tell_round(now, Event::WorkerLost(rank));
            self.judge(now);
        }
    }

    /// Late units, and ranks that take too long or say nothing.
    pub(super) fn lead_tick(&mut self, now: f64) {
        self.tell_round(now, Event::Tick);
        let timeout = self.settings.unit_timeout_s;
        if timeout <= 0.0 {
            return;
        }
        let awaited = self.awaited();
        let leader = self.leader.as_mut().expect("it leads");
        let too_long = |since: f64| now - since > timeout;
        let in_work = leader.round.iter().flat_map(OpenRound::in_work);
        let mut late: BTreeSet<RankId> = in_work
            .filter(|work| too_long(work.2))
            .map(|work| work.0)
            .collect();
        for rank in awaited.into_iter().filter(|&rank| rank != self.me) {
            if too_long(*leader.heard.entry(rank).or_insert(now)) {
                late.insert(rank);
            }
        }
        for rank in late {
            if rank == self.me {
                // Its main thread hangs; the others take its units, and it joins again when it comes back.
                self.tell_round(now, Event::WorkerLost(rank));
                self.greet = true;
            } else {
                self.lose(now, rank, Loss::Silent);
            }
        }
    }

    /// This process itself stood still: nobody is to blame for having been silent.
    pub(super) fn forgive(&mut self, now: f64) {
        if let Some(leader) = &mut self.leader {
            leader.heard.values_mut().for_each(|heard| *heard = now);
        }
    }

    /// The living ranks that haven't left this call.
    fn awaited(&self) -> BTreeSet<RankId> {
        let mut living = self.living();
        living.retain(|rank| !self.left.contains(rank));
        living
    }

    /// The leader's next step, when there is nothing else to do.
    pub(super) fn leader_step(&mut self) -> Step {
        let living = self.awaited();
        let Some(leader) = &mut self.leader else {
            return Step::Wait;
        };
        if let Some(done) = &leader.done {
            if !living.is_subset(done) {
                return Step::Wait;
            }
            for rank in self.listeners() {
                self.post(rank, &Message::Release);
            }
            self.end(self.finished.clone().expect("said with `done`"));
            return self.todo.pop_front().expect("the end");
        }
        let current = |open: &&OpenRound| open.round.step == self.applied;
        let round = leader.round.as_ref().filter(current);
        let finished = round.is_some_and(OpenRound::finished);
        let known = living.is_subset(&leader.greeted) && leader.digests.settled();
        if finished && known && !leader.complete {
            leader.complete = true;
            let round = leader.round.as_ref().expect("it is finished");
            self.speeds.extend(round.speeds());
            return Step::Complete;
        }
        Step::Wait
    }

    /// Compares the digests as far as they are known.
    fn judge(&mut self, now: f64) {
        let living = self.awaited();
        if (self.leader.as_ref()).is_some_and(|leader| leader.digests.disputed()) {
            self.pause();
        }
        let Some(leader) = &mut self.leader else {
            return;
        };
        if !living.is_subset(&leader.greeted) {
            return;
        }
        let Some(iteration) = leader.digests.iteration() else {
            return;
        };
        let (ranks, hopeless) = match leader.digests.judge(&living) {
            Verdict::Open => return,
            Verdict::Agreed(digest) => {
                for rank in self.greeted_others() {
                    self.post(rank, &Message::Agreed { iteration, digest });
                }
                self.todo.push_back(Step::Agreed { iteration, digest });
                return self.resume(now);
            }
            Verdict::Differ(ranks) => (ranks, false),
            Verdict::Hopeless(ranks) => (ranks, true),
        };
        let named = ranks.clone();
        self.todo.push_back(Step::Diverged {
            ranks: named,
            iteration,
            hopeless,
        });
        for rank in ranks.into_iter().filter(|_| !hopeless) {
            self.ask_to_heal(rank);
        }
    }

    /// A rank whose weights were found wrong is asked to make them anew, until it says that it did.
    fn ask_to_heal(&mut self, rank: RankId) {
        let leader = self.leader.as_ref().expect("it leads");
        if let Some((iteration, healed)) = leader.digests.awaited(rank) {
            self.deliver_to(rank, Message::Heal { iteration, healed });
        }
    }

    /// Results of the open round may come from wrong weights: it begins anew when the weights are right.
    fn pause(&mut self) {
        let (workers, policy) = (self.workers(), self.settings.policy);
        let leader = self.leader.as_mut().expect("it leads");
        if !std::mem::replace(&mut leader.paused, true)
            && let Some(open) = &leader.round
        {
            let anew = OpenRound::new(open.round, open.costs().to_vec(), &workers, policy);
            leader.round = Some(anew.expect("it was opened before"));
            leader.complete = false;
            leader.deal_anew(workers.iter().map(|worker| worker.0));
        }
    }

    fn resume(&mut self, now: f64) {
        let leader = self.leader.as_mut().expect("it leads");
        if std::mem::replace(&mut leader.paused, false) {
            self.set_to_work(now);
        }
    }
}
