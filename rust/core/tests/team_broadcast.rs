//! Records in pieces, as one rank sees them: what it passes on, what waits for a record, what it takes and from whom.

use es_core::team::{Message, Published, Rank, Round, Settings, Step};

/// Rank 2 of four, in its first call under leader 0.
struct Two(Rank);

/// Three pieces of 64 bytes, all different.
const RECORD: [u8; 192] = {
    let mut bytes = [0; 192];
    let mut place = 0;
    while place < 192 {
        bytes[place] = place as u8;
        place += 1;
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
        rank.enter(0.0);
        rank.take_sends();
        Self(rank)
    }

    fn hears(&mut self, from: u32, message: &Message) {
        self.0.receive(0.1, from, &message.encode(1)).unwrap();
    }

    fn says(&mut self) -> Vec<(u32, Message)> {
        let sent = self.0.take_sends().into_iter();
        sent.map(|(to, bytes)| (to, Message::decode(&bytes).unwrap().1))
            .collect()
    }

    fn steps(&mut self) -> Vec<Step> {
        let step = || Some(self.0.next(0.1)).filter(|step| *step != Step::Wait);
        std::iter::from_fn(step).collect()
    }

    fn fetches(&mut self) -> usize {
        let said = self.says().into_iter();
        said.filter(|said| *said == (0, Message::Fetch { first: 0 }))
            .count()
    }

    fn asks_at(&mut self, now: f64) -> usize {
        self.0.tick(now);
        self.fetches()
    }
}

/// The checksum of a record, as a leader of this record says it.
fn published(record: &[u8]) -> Message {
    let mut leader = Rank::new(0, 4, 7, Settings::default());
    leader.enter(0.0);
    for rank in 1..4 {
        let mut other = Rank::new(rank, 4, 7, Settings::default());
        other.enter(0.0);
        let (_, hello) = other.take_sends().remove(0);
        leader.receive(0.0, rank, &hello).unwrap();
    }
    leader.take_sends();
    assert!(leader.publish(0.0, 0, record.to_vec()));
    let mut sent = leader.take_sends().into_iter();
    let (_, bytes) = sent.find(|sent| sent.0 == 2).unwrap();
    Message::decode(&bytes).unwrap().1
}

fn piece(leader: u32, piece: u32) -> Message {
    Message::Piece {
        leader,
        iteration: 0,
        piece,
        bytes: RECORD[64 * piece as usize..][..64].to_vec(),
    }
}

fn assign() -> Message {
    Message::Assign {
        round: Round { kind: 0, step: 1 },
        deal: 1,
        units: vec![0, 1],
        alone: false,
    }
}

fn left(leader: u32) -> Message {
    Message::Left {
        leader,
        have: 1,
        payload: b"end".to_vec(),
        last: Some(RECORD.to_vec()),
    }
}

fn applies(steps: &[Step]) -> bool {
    steps
        .iter()
        .any(|step| matches!(step, Step::Apply { iteration: 0, payload } if *payload == RECORD))
}

#[test]
fn a_rank_gets_one_piece_first_and_passes_it_on() {
    let mut two = Two::new(0.0);
    two.hears(0, &published(&RECORD));
    let passed: Vec<_> = two.says();
    assert_eq!(passed, [(3, piece(0, 1)), (1, piece(0, 1))]);
    two.hears(1, &piece(0, 0));
    assert_eq!(two.steps(), []);
    two.hears(3, &piece(0, 2));
    assert!(applies(&two.steps()));
    two.hears(3, &piece(0, 2));
    assert_eq!((two.steps(), two.says()), (vec![], vec![]), "late");
}

#[test]
fn pieces_may_come_before_the_leader_says_so() {
    let mut two = Two::new(0.0);
    two.hears(3, &piece(0, 2));
    two.hears(1, &piece(0, 0));
    two.hears(0, &published(&RECORD));
    assert!(applies(&two.steps()));
}

#[test]
fn who_has_the_record_passes_its_piece_on() {
    let mut two = Two::new(0.0);
    let (iteration, payload) = (0, RECORD.to_vec());
    two.hears(0, &Message::Record { iteration, payload });
    two.hears(0, &published(&RECORD));
    assert_eq!(two.says(), [(3, piece(0, 1)), (1, piece(0, 1))]);
}

#[test]
fn what_the_leader_says_waits_for_the_record_before() {
    let mut two = Two::new(0.0);
    two.hears(0, &published(&RECORD));
    let note = |payload: &[u8]| Message::Note {
        payload: payload.to_vec(),
    };
    two.hears(0, &note(b"1"));
    two.hears(0, &note(b"2"));
    assert_eq!(two.steps(), []);
    let stop = Message::Stop { payload: vec![] };
    two.hears(0, &stop);
    assert_eq!(
        two.steps(),
        [Step::Stopped { payload: vec![] }],
        "nobody waits for that"
    );
    two.hears(1, &piece(0, 0));
    two.hears(3, &piece(0, 2));
    let steps = two.steps();
    assert!(applies(&steps[..1]), "{steps:?}");
    let told = |payload: &[u8]| Step::Note {
        payload: payload.to_vec(),
    };
    assert_eq!(steps[1..], [told(b"1"), told(b"2")]);
}

#[test]
fn an_end_is_known_once_the_record_before_is() {
    let mut two = Two::new(0.0);
    two.hears(0, &published(&RECORD));
    two.says();
    let payload = b"end".to_vec();
    two.hears(0, &Message::Finish { have: 1, payload });
    assert_eq!((two.steps(), two.says()), (vec![], vec![]));
    two.hears(1, &piece(0, 0));
    two.hears(3, &piece(0, 2));
    assert_eq!(two.says(), [(0, Message::Done { have: 1 })]);
}

#[test]
fn what_was_handed_out_before_a_hello_is_void() {
    let mut two = Two::new(0.0);
    two.hears(0, &published(&RECORD));
    two.hears(0, &assign());
    two.hears(0, &Message::Evict);
    assert_eq!(two.steps(), []);
    assert!(
        two.says()
            .iter()
            .any(|said| matches!(said, (0, Message::Hello(_))))
    );
    two.hears(1, &piece(0, 0));
    two.hears(3, &piece(0, 2));
    let steps = two.steps();
    assert!(applies(&steps) && steps.len() == 1, "{steps:?}");
}

#[test]
fn pieces_of_another_leader_are_not_taken() {
    let mut two = Two::new(0.0);
    two.hears(0, &published(&RECORD));
    two.hears(1, &piece(1, 0));
    two.hears(3, &piece(1, 2));
    assert_eq!(two.steps(), []);
    two.0.lost(0.2, 0);
    two.says();
    two.hears(1, &piece(0, 0));
    two.hears(3, &piece(0, 2));
    assert_eq!(two.steps(), [], "its leader is rank 1 now");
}

#[test]
fn pieces_that_do_not_fit_are_dropped_and_the_record_is_asked_for() {
    let mut two = Two::new(0.0);
    let Message::Published(told) = published(&RECORD) else {
        panic!("a publication")
    };
    let checksum = told.checksum ^ 1;
    two.hears(0, &Message::Published(Published { checksum, ..told }));
    two.says();
    two.hears(1, &piece(0, 0));
    assert_eq!(two.fetches(), 0);
    two.hears(3, &piece(0, 2));
    assert_eq!((two.steps(), two.fetches()), (vec![], 1));
    let (iteration, payload) = (0, RECORD.to_vec());
    two.hears(0, &Message::Record { iteration, payload });
    assert!(applies(&two.steps()));
}

#[test]
fn a_record_that_does_not_come_is_asked_for_ever_more_rarely() {
    let mut two = Two::new(0.0);
    two.hears(0, &published(&RECORD));
    two.says();
    assert_eq!(two.asks_at(0.3), 0);
    assert_eq!(two.asks_at(0.4), 1);
    let asked: usize = (4..4000)
        .map(|tenth| two.asks_at(f64::from(tenth) / 10.0))
        .sum();
    assert!((5..12).contains(&asked), "{asked} times in 400 s");
}

/// It says nothing of who leads: its sender may have slept since.
#[test]
fn a_late_piece_of_a_lower_rank_makes_it_nobodys_leader() {
    let mut two = Two::new(5.0);
    for tenth in 0..300 {
        two.0.tick(f64::from(tenth) / 10.0);
    }
    assert!(two.0.leads(), "ranks 0 and 1 were silent");
    two.hears(1, &piece(0, 0));
    assert!(two.0.leads());
}

#[test]
fn the_last_record_is_taken_from_those_of_the_same_leader_only() {
    let mut two = Two::new(0.0);
    two.hears(3, &left(0));
    assert!(applies(&two.steps()));
    let mut two = Two::new(0.0);
    two.0.lost(0.2, 0);
    two.says();
    two.hears(3, &left(0));
    assert_eq!(
        two.steps(),
        [],
        "rank 1 was told that it hasn't this record, and may make another"
    );
    let mut two = Two::new(0.0);
    two.0.lost(0.2, 0);
    two.0.lost(0.2, 1);
    assert!(two.0.leads());
    two.hears(3, &left(0));
    assert!(
        applies(&two.steps()),
        "nobody but this rank would make another"
    );
}

/// What others made is in a journal that isn't its own any more: it takes that over before it applies them.
#[test]
fn a_leader_that_slept_leads_anew_before_it_applies_what_others_made() {
    let mut one = Rank::new(0, 2, 7, Settings::default());
    one.enter(0.0);
    assert_eq!(one.next(0.0), Step::Lead);
    let mut other = Rank::new(1, 2, 7, Settings::default());
    other.enter(0.0);
    for (iteration, payload) in [(0, vec![1]), (1, vec![2])] {
        let record = Message::Record { iteration, payload };
        other.receive(0.0, 0, &record.encode(1)).unwrap();
    }
    other.take_sends();
    other.receive(0.0, 0, &Message::Evict.encode(1)).unwrap();
    other.next(0.0);
    while let Some((_, bytes)) = other.take_sends().pop() {
        one.receive(0.1, 1, &bytes).unwrap();
        for (_, bytes) in one.take_sends() {
            other.receive(0.1, 0, &bytes).unwrap();
        }
    }
    let steps: Vec<Step> =
        std::iter::from_fn(|| Some(one.next(0.2)).filter(|step| *step != Step::Wait)).collect();
    assert_eq!(steps[0], Step::Lead);
    let applied = steps
        .iter()
        .filter(|step| matches!(step, Step::Apply { .. }));
    assert_eq!(applied.count(), 2);
}

#[test]
fn a_record_is_sent_whole_once_however_often_it_is_asked_for() {
    let mut one = Rank::new(0, 2, 7, Settings::default());
    one.enter(0.0);
    assert!(one.restore(0.0, 0, vec![vec![1], vec![2]]));
    let mut other = Rank::new(1, 2, 7, Settings::default());
    other.enter(0.0);
    let (_, hello) = other.take_sends().remove(0);
    one.receive(0.1, 1, &hello).unwrap();
    for _ in 0..3 {
        one.receive(0.1, 1, &Message::Fetch { first: 0 }.encode(1))
            .unwrap();
    }
    assert_eq!(one.take_sends().len(), 2);
    one.receive(0.1, 1, &hello).unwrap();
    assert_eq!(one.take_sends().len(), 2, "it may know nothing any more");
}

#[test]
fn an_end_is_taken_back_by_a_record_that_the_journal_had() {
    let mut one = Rank::new(0, 1, 7, Settings::default());
    one.enter(0.0);
    assert_eq!(one.next(0.0), Step::Lead);
    one.finish(0.0, b"end".to_vec());
    assert!(one.restore(0.0, 0, vec![vec![1]]));
    assert!(matches!(one.next(0.0), Step::Apply { .. }));
    assert_eq!(one.next(0.0), Step::Superseded);
    assert_eq!(one.next(0.0), Step::Wait);
}
