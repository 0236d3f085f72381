//! Leaders that follow each other, seen from one rank whose main thread is slower than its machine.

use es_core::schedule::PolicyKind;
use es_core::team::{Fan, Hello, Message, Rank, Round, Settings, Step};

const TIMEOUT: f64 = 60.0;

/// A rank before its first call.
fn outside(me: u32, ranks: u32) -> Rank {
    let settings = Settings {
        policy: PolicyKind::Dynamic,
        unit_timeout_s: TIMEOUT,
        fan: Fan::default(),
    };
    Rank::new(me, ranks, 7, settings)
}

/// A rank in its first call.
fn rank(me: u32, ranks: u32) -> Rank {
    let mut rank = outside(me, ranks);
    rank.enter(0.0);
    rank
}

/// So much time passes without a word that the leader counts as lost.
fn silence(rank: &mut Rank, start: f64) -> f64 {
    for moment in 1..=8 {
        rank.tick(start + 10.0 * f64::from(moment));
    }
    start + 80.0
}

fn hear(rank: &mut Rank, now: f64, from: u32, message: &Message) {
    rank.receive(now, from, &message.encode(1)).unwrap();
}

/// What it sends now.
fn sent(rank: &mut Rank) -> Vec<(u32, Message)> {
    let decoded = |(to, bytes): (u32, Vec<u8>)| (to, Message::decode(&bytes).unwrap().1);
    rank.take_sends().into_iter().map(decoded).collect()
}

/// To whom it says hello now, and whether it says that it led.
fn hellos(rank: &mut Rank) -> Vec<(u32, bool)> {
    let hello = |(to, message)| match message {
        Message::Hello(Hello { led, .. }) => Some((to, led)),
        _ => None,
    };
    sent(rank).into_iter().filter_map(hello).collect()
}

/// All that its main thread is told.
fn steps(rank: &mut Rank, now: f64) -> Vec<Step> {
    std::iter::from_fn(|| Some(rank.next(now)).filter(|step| *step != Step::Wait)).collect()
}

/// Rank 1, whose leader is silent and which leads; its main thread is at the takeover.
fn taking_over(ranks: u32) -> (Rank, f64) {
    let mut one = rank(1, ranks);
    let now = silence(&mut one, 0.0);
    assert_eq!(one.next(now), Step::Lead);
    one.take_sends();
    (one, now)
}

#[test]
fn what_the_journal_held_is_restored_once_though_it_was_learnt_meanwhile() {
    let (mut one, now) = taking_over(3);
    let have = 1;
    let mut other = es_core::team::History::default();
    other.push(vec![1]);
    let hello = Hello {
        have,
        history: other.checksum(1).unwrap(),
        identity: 7,
        digest: None,
        led: false,
        results: None,
    };
    hear(&mut one, now, 2, &Message::Hello(hello));
    let records = vec![vec![1]];
    let known = Message::Records { first: 0, records };
    hear(&mut one, now, 2, &known);
    assert!(one.restore(now, 0, vec![vec![1], vec![2]]));
    assert_eq!(one.history().since(0), [vec![1], vec![2]]);
    assert!(
        !one.restore(now, 1, vec![vec![3]]),
        "another record in its place"
    );
    assert_eq!(one.history().len(), 2);
}

#[test]
fn what_a_leader_does_when_it_leads_no_more_counts_for_nothing() {
    let (mut one, now) = taking_over(2);
    hear(&mut one, now, 0, &Message::Beat);
    assert!(one.restore(now, 0, vec![vec![1]]));
    assert!(!one.publish(now, 0, vec![1]));
    one.begin(now, Round { kind: 0, step: 0 }, &[1.0]).unwrap();
    one.finish(now, b"end".to_vec());
    assert!(one.history().is_empty());
    assert_eq!(steps(&mut one, now), [Step::Follow]);
}

#[test]
fn a_takeover_that_was_not_begun_is_dropped() {
    let mut one = rank(1, 2);
    let now = silence(&mut one, 0.0);
    assert!(one.leads());
    hear(&mut one, now, 0, &Message::Beat);
    assert_eq!(hellos(&mut one).last(), Some(&(0, false)));
    assert_eq!(steps(&mut one, now), []);
}

#[test]
fn a_takeover_that_was_in_work_is_told_when_it_is_made() {
    let (mut one, now) = taking_over(2);
    hear(&mut one, now, 0, &Message::Beat);
    assert_eq!(hellos(&mut one), [(0, true)], "it may be made already");
    assert_eq!(one.next(now), Step::Follow);
    assert_eq!(hellos(&mut one), [(0, true)], "it is made now");
    one.next(now);
    assert_eq!(hellos(&mut one), []);
}

#[test]
fn each_new_leader_is_told_that_this_rank_led_once() {
    let mut two = rank(2, 3);
    let now = silence(&mut two, 0.0);
    let now = silence(&mut two, now);
    assert_eq!(steps(&mut two, now), [Step::Lead]);
    two.take_sends();
    hear(&mut two, now, 1, &Message::Beat);
    assert_eq!(hellos(&mut two), [(1, true)]);
    hear(&mut two, now, 0, &Message::Beat);
    assert_eq!(hellos(&mut two), [(0, true)]);
    hear(&mut two, now, 0, &Message::Evict);
    steps(&mut two, now);
    assert_eq!(hellos(&mut two), [(0, false)]);
}

#[test]
fn that_it_led_is_a_matter_of_the_call() {
    let mut two = rank(2, 3);
    let now = silence(&mut two, 0.0);
    let now = silence(&mut two, now);
    steps(&mut two, now);
    hear(&mut two, now, 1, &Message::Beat);
    let payload = b"end".to_vec();
    hear(&mut two, now, 1, &Message::Finish { have: 0, payload });
    hear(&mut two, now, 1, &Message::Release);
    steps(&mut two, now);
    two.enter(now);
    two.take_sends();
    two.receive(now, 0, &Message::Beat.encode(2)).unwrap();
    assert_eq!(hellos(&mut two), [(0, false)]);
}

#[test]
fn a_leader_follows_before_it_applies_what_it_learnt_as_leader() {
    let (mut one, now) = taking_over(2);
    assert!(one.restore(now, 0, vec![vec![1]]));
    hear(&mut one, now, 0, &Message::Beat);
    let told = steps(&mut one, now);
    assert!(
        matches!(told[..], [Step::Follow, Step::Apply { .. }]),
        "{told:?}"
    );
}

#[test]
fn a_leader_says_at_once_that_it_lives() {
    let mut zero = rank(0, 3);
    let beats = sent(&mut zero);
    assert_eq!(beats, [(1, Message::Beat), (2, Message::Beat)]);
}

#[test]
fn a_rank_that_learns_the_end_takes_nothing_over() {
    let mut one = rank(1, 2);
    let left = Message::Left {
        leader: 0,
        have: 1,
        payload: b"end".to_vec(),
        last: Some(vec![1]),
    };
    hear(&mut one, 0.0, 0, &left);
    let told = steps(&mut one, 0.0);
    assert!(!told.contains(&Step::Lead), "{told:?}");
    assert!(matches!(told.last(), Some(Step::Finished { .. })));
}

#[test]
fn a_leader_that_learns_the_last_record_follows_before_it_applies_it() {
    let (mut one, now) = taking_over(3);
    let left = Message::Left {
        leader: 2,
        have: 1,
        payload: b"end".to_vec(),
        last: Some(vec![1]),
    };
    hear(&mut one, now, 2, &left);
    let told = steps(&mut one, now);
    assert!(
        matches!(
            told[..],
            [Step::Follow, Step::Apply { .. }, Step::Finished { .. }]
        ),
        "{told:?}"
    );
}

#[test]
fn a_rank_that_resigned_takes_the_end_without_its_result() {
    let mut one = rank(1, 2);
    one.resign(0.0, "out of memory");
    hear(&mut one, 0.0, 0, &Message::Release);
    let payload = Vec::new();
    assert_eq!(steps(&mut one, 0.0), [Step::Finished { payload }]);
}

#[test]
fn a_leader_takes_over_anew_once() {
    let (mut one, now) = taking_over(2);
    one.lead_anew();
    one.lead_anew();
    assert_eq!(steps(&mut one, now), [Step::Lead]);
    let mut two = rank(1, 2);
    two.lead_anew();
    assert_eq!(steps(&mut two, 0.0), [], "it doesn't lead");
}

#[test]
fn a_rank_that_cannot_take_part_says_why_and_no_hello() {
    let unable = |me, ranks| {
        let mut rank = outside(me, ranks);
        rank.enter_unable(0.0, "no file");
        rank
    };
    for me in 0..3 {
        let told = sent(&mut unable(me, 3));
        let to: Vec<u32> = told.iter().map(|(to, _)| *to).collect();
        assert_eq!(to, (0..3).filter(|&rank| rank != me).collect::<Vec<_>>());
        for (_, message) in told {
            assert!(
                matches!(message, Message::Resign { reason, led: false } if reason == "no file")
            );
        }
    }
    // The last one: the others died, or resigned as well.
    for me in 0..2 {
        let mut alone = unable(me, 2);
        assert_eq!(steps(&mut alone, 0.0), []);
        alone.lost(0.0, 1 - me);
        let stopped = |step: &Step| matches!(step, Step::Stopped { .. });
        assert!(
            std::iter::from_fn(|| Some(alone.next(0.0)))
                .take(9)
                .any(|step| stopped(&step))
        );
    }
}
