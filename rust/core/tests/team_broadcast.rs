//! Records in pieces, seen from one rank: which pieces it passes on and accepts, and which messages wait for a record.

use es_core::team::{Assignment, CallEnd, Message, Piece, Published, Rank, Round, Settings, Step};

/// Rank 2 of four, in its first call under leader 0.
struct Two(Rank);

/// Three pieces of 64 bytes, all different.
const RECORD: [u8; 192] = {
    let mut bytes = [0; 192];
    let mut index = 0;
    while index < 192 {
        bytes[index] = index as u8;
        index += 1;
    }
    bytes
};

impl Two {
    fn new(unit_timeout_s: f64) -> Self {
        let settings = Settings {
            unit_timeout_s,
            ..Settings::default()
        };
        let mut rank = Rank::new(2, 4, 7, settings);
        rank.enter(0.0, None);
        rank.poll_sends();
        Self(rank)
    }

    fn receives(&mut self, from: u32, message: &Message) {
        self.0
            .handle_message(0.1, from, &message.encode(1))
            .unwrap();
    }

    fn sends(&mut self) -> Vec<(u32, Message)> {
        let sent = self.0.poll_sends().into_iter();
        sent.map(|(to, bytes)| (to, Message::decode(&bytes).unwrap().1))
            .collect()
    }

    fn steps(&mut self) -> Vec<Step> {
        let step = || Some(self.0.poll_step(0.1)).filter(|step| *step != Step::Wait);
        std::iter::from_fn(step).collect()
    }

    fn fetches(&mut self) -> usize {
        let sent = self.sends().into_iter();
        sent.filter(|sent| *sent == (0, Message::Fetch { first: 0 }))
            .count()
    }

    fn asks_at(&mut self, now: f64) -> usize {
        self.0.handle_tick(now);
        self.fetches()
    }
}

/// The announcement of a record that rank 2 gets from its leader.
fn published(record: &[u8]) -> Message {
    let mut leader = Rank::new(0, 4, 7, Settings::default());
    leader.enter(0.0, None);
    for rank in 1..4 {
        let mut other = Rank::new(rank, 4, 7, Settings::default());
        other.enter(0.0, None);
        let (_, hello) = other.poll_sends().remove(0);
        leader.handle_message(0.0, rank, &hello).unwrap();
    }
    leader.poll_sends();
    assert!(leader.leading().publish(0.0, 0, record.to_vec()));
    let mut sent = leader.poll_sends().into_iter();
    let (_, bytes) = sent.find(|sent| sent.0 == 2).unwrap();
    Message::decode(&bytes).unwrap().1
}

fn piece(leader: u32, index: u32) -> Message {
    Message::Piece(Piece {
        leader,
        iteration: 0,
        index,
        bytes: RECORD[64 * index as usize..][..64].to_vec(),
    })
}

fn assign() -> Message {
    Message::Assign(Assignment {
        round: Round { kind: 0, step: 1 },
        deal: 1,
        units: vec![0, 1],
        alone: false,
    })
}

fn left(leader: u32) -> Message {
    Message::Left(CallEnd {
        leader,
        have: 1,
        payload: b"end".to_vec(),
        last: Some(RECORD.to_vec()),
    })
}

fn applies(steps: &[Step]) -> bool {
    steps
        .iter()
        .any(|step| matches!(step, Step::Apply { iteration: 0, payload } if *payload == RECORD))
}

#[test]
fn a_rank_gets_one_piece_first_and_passes_it_on() {
    let mut two = Two::new(0.0);
    two.receives(0, &published(&RECORD));
    let passed: Vec<_> = two.sends();
    assert_eq!(passed, [(3, piece(0, 1)), (1, piece(0, 1))]);
    two.receives(1, &piece(0, 0));
    assert_eq!(two.steps(), []);
    two.receives(3, &piece(0, 2));
    assert!(applies(&two.steps()));
    two.receives(3, &piece(0, 2));
    assert_eq!((two.steps(), two.sends()), (vec![], vec![]), "late");
}

#[test]
fn pieces_may_arrive_before_the_announcement() {
    let mut two = Two::new(0.0);
    two.receives(3, &piece(0, 2));
    two.receives(1, &piece(0, 0));
    two.receives(0, &published(&RECORD));
    assert!(applies(&two.steps()));
}

#[test]
fn a_rank_that_has_the_record_passes_its_piece_on() {
    let mut two = Two::new(0.0);
    let (iteration, payload) = (0, RECORD.to_vec());
    two.receives(0, &Message::Record { iteration, payload });
    two.receives(0, &published(&RECORD));
    assert_eq!(two.sends(), [(3, piece(0, 1)), (1, piece(0, 1))]);
}

#[test]
fn later_messages_of_the_leader_wait_for_the_record() {
    let mut two = Two::new(0.0);
    two.receives(0, &published(&RECORD));
    let note = |payload: &[u8]| Message::Note {
        payload: payload.to_vec(),
    };
    two.receives(0, &note(b"1"));
    two.receives(0, &note(b"2"));
    assert_eq!(two.steps(), []);
    let stop = Message::Stop { payload: vec![] };
    two.receives(0, &stop);
    assert_eq!(
        two.steps(),
        [Step::Stopped { payload: vec![] }],
        "this does not wait"
    );
    two.receives(1, &piece(0, 0));
    two.receives(3, &piece(0, 2));
    let steps = two.steps();
    assert!(applies(&steps[..1]), "{steps:?}");
    let entry = |payload: &[u8]| Step::Note {
        payload: payload.to_vec(),
    };
    assert_eq!(steps[1..], [entry(b"1"), entry(b"2")]);
}

#[test]
fn a_result_counts_once_the_record_before_it_is_whole() {
    let mut two = Two::new(0.0);
    two.receives(0, &published(&RECORD));
    two.sends();
    let payload = b"end".to_vec();
    two.receives(0, &Message::Finish { have: 1, payload });
    assert_eq!((two.steps(), two.sends()), (vec![], vec![]));
    two.receives(1, &piece(0, 0));
    two.receives(3, &piece(0, 2));
    assert_eq!(two.sends(), [(0, Message::Done { have: 1 })]);
}

#[test]
fn units_assigned_before_a_hello_are_void() {
    let mut two = Two::new(0.0);
    two.receives(0, &published(&RECORD));
    two.receives(0, &assign());
    two.receives(0, &Message::Evict);
    assert_eq!(two.steps(), []);
    assert!(
        two.sends()
            .iter()
            .any(|sent| matches!(sent, (0, Message::Hello(_))))
    );
    two.receives(1, &piece(0, 0));
    two.receives(3, &piece(0, 2));
    let steps = two.steps();
    assert!(applies(&steps) && steps.len() == 1, "{steps:?}");
}

#[test]
fn pieces_of_another_leader_are_ignored() {
    let mut two = Two::new(0.0);
    two.receives(0, &published(&RECORD));
    two.receives(1, &piece(1, 0));
    two.receives(3, &piece(1, 2));
    assert_eq!(two.steps(), []);
    two.0.handle_loss(0.2, 0);
    two.sends();
    two.receives(1, &piece(0, 0));
    two.receives(3, &piece(0, 2));
    assert_eq!(two.steps(), [], "its leader is rank 1 now");
}

#[test]
fn pieces_with_a_wrong_checksum_are_dropped_and_the_record_is_asked_for() {
    let mut two = Two::new(0.0);
    let Message::Published(right) = published(&RECORD) else {
        panic!("a publication")
    };
    let checksum = right.checksum ^ 1;
    two.receives(0, &Message::Published(Published { checksum, ..right }));
    two.sends();
    two.receives(1, &piece(0, 0));
    assert_eq!(two.fetches(), 0);
    two.receives(3, &piece(0, 2));
    assert_eq!((two.steps(), two.fetches()), (vec![], 1));
    let (iteration, payload) = (0, RECORD.to_vec());
    two.receives(0, &Message::Record { iteration, payload });
    assert!(applies(&two.steps()));
}

#[test]
fn a_late_record_is_asked_for_at_doubling_intervals() {
    let mut two = Two::new(0.0);
    two.receives(0, &published(&RECORD));
    two.sends();
    assert_eq!(two.asks_at(0.3), 0);
    assert_eq!(two.asks_at(0.4), 1);
    let asked: usize = (4..4000)
        .map(|tenth| two.asks_at(f64::from(tenth) / 10.0))
        .sum();
    assert!((5..12).contains(&asked), "{asked} times in 400 s");
}

/// A piece is no sign of life: its sender may have slept since it sent it.
#[test]
fn a_late_piece_of_a_lower_rank_does_not_make_it_the_leader() {
    let mut two = Two::new(5.0);
    for tenth in 0..300 {
        two.0.handle_tick(f64::from(tenth) / 10.0);
    }
    assert!(two.0.leads(), "ranks 0 and 1 were silent");
    two.receives(1, &piece(0, 0));
    assert!(two.0.leads());
}

#[test]
fn the_last_record_is_accepted_from_ranks_with_the_same_leader_only() {
    let mut two = Two::new(0.0);
    two.receives(3, &left(0));
    assert!(applies(&two.steps()));
    let mut two = Two::new(0.0);
    two.0.handle_loss(0.2, 0);
    two.sends();
    two.receives(3, &left(0));
    assert_eq!(
        two.steps(),
        [],
        "rank 1 knows that this rank lacks the record, and may make another"
    );
    let mut two = Two::new(0.0);
    two.0.handle_loss(0.2, 0);
    two.0.handle_loss(0.2, 1);
    assert!(two.0.leads());
    two.receives(3, &left(0));
    assert!(applies(&two.steps()), "no other rank would make another");
}

/// The records of others are in a journal that this rank no longer owns, so it takes it over before it applies them.
#[test]
fn a_leader_that_slept_takes_over_again_before_it_applies_the_records_of_others() {
    let mut one = Rank::new(0, 2, 7, Settings::default());
    one.enter(0.0, None);
    assert_eq!(one.poll_step(0.0), Step::Lead);
    let mut other = Rank::new(1, 2, 7, Settings::default());
    other.enter(0.0, None);
    for (iteration, payload) in [(0, vec![1]), (1, vec![2])] {
        let record = Message::Record { iteration, payload };
        other.handle_message(0.0, 0, &record.encode(1)).unwrap();
    }
    other.poll_sends();
    other
        .handle_message(0.0, 0, &Message::Evict.encode(1))
        .unwrap();
    other.poll_step(0.0);
    while let Some((_, bytes)) = other.poll_sends().pop() {
        one.handle_message(0.1, 1, &bytes).unwrap();
        for (_, bytes) in one.poll_sends() {
            other.handle_message(0.1, 0, &bytes).unwrap();
        }
    }
    let steps: Vec<Step> =
        std::iter::from_fn(|| Some(one.poll_step(0.2)).filter(|step| *step != Step::Wait))
            .collect();
    assert_eq!(steps[0], Step::Lead);
    let applied = steps
        .iter()
        .filter(|step| matches!(step, Step::Apply { .. }));
    assert_eq!(applied.count(), 2);
}

#[test]
fn a_record_is_sent_whole_only_once() {
    let mut one = Rank::new(0, 2, 7, Settings::default());
    one.enter(0.0, None);
    assert!(one.leading().restore(0.0, 0, vec![vec![1], vec![2]]));
    let mut other = Rank::new(1, 2, 7, Settings::default());
    other.enter(0.0, None);
    let (_, hello) = other.poll_sends().remove(0);
    one.handle_message(0.1, 1, &hello).unwrap();
    for _ in 0..3 {
        one.handle_message(0.1, 1, &Message::Fetch { first: 0 }.encode(1))
            .unwrap();
    }
    assert_eq!(one.poll_sends().len(), 2);
    one.handle_message(0.1, 1, &hello).unwrap();
    assert_eq!(
        one.poll_sends().len(),
        2,
        "a hello means that it may know nothing"
    );
}

#[test]
fn a_result_is_void_if_the_journal_has_a_further_record() {
    let mut one = Rank::new(0, 1, 7, Settings::default());
    one.enter(0.0, None);
    assert_eq!(one.poll_step(0.0), Step::Lead);
    one.leading().finish(0.0, b"end".to_vec());
    assert!(one.leading().restore(0.0, 0, vec![vec![1]]));
    assert!(matches!(one.poll_step(0.0), Step::Apply { .. }));
    assert_eq!(one.poll_step(0.0), Step::Superseded);
    assert_eq!(one.poll_step(0.0), Step::Wait);
}
