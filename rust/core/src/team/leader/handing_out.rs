//! How a leader's schedule becomes messages.

use crate::schedule::{Action, Event};

use crate::team::message::Message;
use crate::team::{Loss, Rank, RankId, Step};

impl Rank {
    pub(in crate::team) fn set_to_work(&mut self, now: f64) {
        for (worker, _) in self.workers() {
            self.tell_round(now, Event::WorkerReady(worker));
        }
    }

    /// The ranks that take part, with their speeds (0: unknown).
    pub(in crate::team) fn workers(&self) -> Vec<(RankId, f64)> {
        let greeted = self.leader.iter().flat_map(|leader| &leader.greeted);
        let speed = |rank| self.speeds.get(rank).copied().unwrap_or(0.0);
        greeted.map(|rank| (*rank, speed(rank))).collect()
    }

    /// The ranks that take part, and those that resigned and wait for the end.
    pub(in crate::team) fn listeners(&self) -> Vec<RankId> {
        let mut ranks = self.greeted_others();
        let resigned = self
            .lost
            .iter()
            .filter(|lost| matches!(lost.1, Loss::Resigned(_)));
        ranks.extend(resigned.map(|lost| *lost.0).filter(|&rank| rank != self.me));
        ranks
    }

    pub(in crate::team) fn greeted_others(&self) -> Vec<RankId> {
        let greeted = self.leader.iter().flat_map(|leader| &leader.greeted);
        greeted.copied().filter(|&rank| rank != self.me).collect()
    }

    pub(in crate::team) fn tell_round(&mut self, now: f64, event: Event) {
        let round = self
            .leader
            .as_mut()
            .and_then(|leader| leader.round.as_mut());
        if let Some(round) = round {
            let actions = round.event(now, event);
            self.deliver(&actions);
        }
    }

    pub(in crate::team) fn deal_of(&self, rank: RankId) -> u32 {
        let leader = self.leader.as_ref().expect("it leads");
        leader.deal_of.get(&rank).copied().unwrap_or(0)
    }

    /// Carries out what the schedule says.
    pub(in crate::team) fn deliver(&mut self, actions: &[Action]) {
        let Some(round) = self
            .leader
            .iter()
            .find_map(|leader| leader.round.as_ref())
            .map(|open| open.round)
        else {
            return;
        };
        let together = |a: &Action, b: &Action| matches!((a, b), (Action::Assign(a, _), Action::Assign(b, _)) if a == b);
        for run in actions.chunk_by(together) {
            match run[0] {
                Action::Assign(worker, _) => {
                    let unit = |action: &Action| match *action {
                        Action::Assign(_, unit) => Some(unit),
                        _ => None,
                    };
                    let units = run.iter().filter_map(unit).collect();
                    self.deliver_to(
                        worker,
                        Message::Assign {
                            round,
                            deal: self.deal_of(worker),
                            units,
                            alone: false,
                        },
                    );
                }
                Action::Duplicate(worker, unit) => {
                    self.deliver_to(
                        worker,
                        Message::Assign {
                            round,
                            deal: self.deal_of(worker),
                            units: vec![unit],
                            alone: true,
                        },
                    );
                }
                Action::Cancel(worker, unit) => {
                    self.deliver_to(worker, Message::Cancel { round, unit });
                }
                Action::Differs {
                    unit,
                    first,
                    second,
                } => {
                    self.todo.push_back(Step::Differs {
                        unit,
                        first,
                        second,
                    });
                }
                Action::Finish => {}
            }
        }
    }

    pub(in crate::team) fn deliver_to(&mut self, rank: RankId, message: Message) {
        if rank == self.me {
            self.inbox.push_back(message);
        } else {
            self.post(rank, &message);
        }
    }
}
