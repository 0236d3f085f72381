//! Changes of the leader, seen from one rank whose main thread is slower than its machine.

use es_core::schedule::PolicyKind;
use es_core::team::{CallEnd, Fan, Hello, Message, Rank, Round, Settings, Step};

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
    rank.enter(0.0, None);
    rank
}

/// Lets time pass without a message until the leader counts as lost.
fn silence(rank: &mut Rank, start: f64) -> f64 {
    for moment in 1..=8 {
        rank.handle_tick(start + 10.0 * f64::from(moment));
    }
    start + 80.0
}

fn receive(rank: &mut Rank, now: f64, from: u32, message: &Message) {
    rank.handle_message(now, from, &message.encode(1)).unwrap();
}

/// The messages that it sends now.
fn sent(rank: &mut Rank) -> Vec<(u32, Message)> {
    let decoded = |(to, bytes): (u32, Vec<u8>)| (to, Message::decode(&bytes).unwrap().1);
    rank.poll_sends().into_iter().map(decoded).collect()
}

/// The receivers of its hellos now, and whether they report that it led.
fn hellos(rank: &mut Rank) -> Vec<(u32, bool)> {
    let hello = |(to, message)| match message {
        Message::Hello(Hello { led, .. }) => Some((to, led)),
        _ => None,
    };
    sent(rank).into_iter().filter_map(hello).collect()
}

/// All steps of its main thread.
fn steps(rank: &mut Rank, now: f64) -> Vec<Step> {
    std::iter::from_fn(|| Some(rank.poll_step(now)).filter(|step| *step != Step::Wait)).collect()
}

/// Rank 1, which leads since its leader is silent, while its main thread takes the journal over.
fn taking_over(ranks: u32) -> (Rank, f64) {
    let mut one = rank(1, ranks);
    let now = silence(&mut one, 0.0);
    assert_eq!(one.poll_step(now), Step::Lead);
    one.poll_sends();
    (one, now)
}

#[test]
fn records_of_the_journal_that_arrived_in_the_meantime_are_restored_once() {
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
    receive(&mut one, now, 2, &Message::Hello(hello));
    let records = vec![vec![1]];
    let known = Message::Records { first: 0, records };
    receive(&mut one, now, 2, &known);
    assert!(one.leading().restore(now, 0, vec![vec![1], vec![2]]));
    assert_eq!(one.history().since(0), [vec![1], vec![2]]);
    assert!(
        !one.leading().restore(now, 1, vec![vec![3]]),
        "another record in its place"
    );
    assert_eq!(one.history().count(), 2);
}

#[test]
fn calls_of_a_deposed_leader_have_no_effect() {
    let (mut one, now) = taking_over(2);
    receive(&mut one, now, 0, &Message::Beat);
    assert!(one.leading().restore(now, 0, vec![vec![1]]));
    assert!(!one.leading().publish(now, 0, vec![1]));
    one.leading()
        .begin(now, Round { kind: 0, step: 0 }, &[1.0])
        .unwrap();
    one.leading().finish(now, b"end".to_vec());
    assert_eq!(one.history().count(), 0);
    assert_eq!(steps(&mut one, now), [Step::Follow]);
}

#[test]
fn a_takeover_that_was_not_begun_is_dropped() {
    let mut one = rank(1, 2);
    let now = silence(&mut one, 0.0);
    assert!(one.leads());
    receive(&mut one, now, 0, &Message::Beat);
    assert_eq!(hellos(&mut one).last(), Some(&(0, false)));
    assert_eq!(steps(&mut one, now), []);
}

#[test]
fn a_takeover_that_was_running_is_reported_when_it_is_done() {
    let (mut one, now) = taking_over(2);
    receive(&mut one, now, 0, &Message::Beat);
    assert_eq!(hellos(&mut one), [(0, true)], "it may be done already");
    assert_eq!(one.poll_step(now), Step::Follow);
    assert_eq!(hellos(&mut one), [(0, true)], "it is done now");
    one.poll_step(now);
    assert_eq!(hellos(&mut one), []);
}

#[test]
fn each_new_leader_is_informed_once_that_this_rank_led() {
    let mut two = rank(2, 3);
    let now = silence(&mut two, 0.0);
    let now = silence(&mut two, now);
    assert_eq!(steps(&mut two, now), [Step::Lead]);
    two.poll_sends();
    receive(&mut two, now, 1, &Message::Beat);
    assert_eq!(hellos(&mut two), [(1, true)]);
    receive(&mut two, now, 0, &Message::Beat);
    assert_eq!(hellos(&mut two), [(0, true)]);
    receive(&mut two, now, 0, &Message::Evict);
    steps(&mut two, now);
    assert_eq!(hellos(&mut two), [(0, false)]);
}

#[test]
fn a_takeover_is_forgotten_in_the_next_call() {
    let mut two = rank(2, 3);
    let now = silence(&mut two, 0.0);
    let now = silence(&mut two, now);
    steps(&mut two, now);
    receive(&mut two, now, 1, &Message::Beat);
    let payload = b"end".to_vec();
    receive(&mut two, now, 1, &Message::Finish { have: 0, payload });
    receive(&mut two, now, 1, &Message::Release);
    steps(&mut two, now);
    two.enter(now, None);
    two.poll_sends();
    two.handle_message(now, 0, &Message::Beat.encode(2))
        .unwrap();
    assert_eq!(hellos(&mut two), [(0, false)]);
}

#[test]
fn a_leader_that_steps_down_follows_before_it_applies_records() {
    let (mut one, now) = taking_over(2);
    assert!(one.leading().restore(now, 0, vec![vec![1]]));
    receive(&mut one, now, 0, &Message::Beat);
    let found = steps(&mut one, now);
    assert!(
        matches!(found[..], [Step::Follow, Step::Apply { .. }]),
        "{found:?}"
    );
}

#[test]
fn a_new_leader_sends_beats_at_once() {
    let mut zero = rank(0, 3);
    let beats = sent(&mut zero);
    assert_eq!(beats, [(1, Message::Beat), (2, Message::Beat)]);
}

#[test]
fn a_rank_that_learns_the_end_does_not_take_over() {
    let mut one = rank(1, 2);
    let left = Message::Left(CallEnd {
        leader: 0,
        have: 1,
        payload: b"end".to_vec(),
        last: Some(vec![1]),
    });
    receive(&mut one, 0.0, 0, &left);
    let found = steps(&mut one, 0.0);
    assert!(!found.contains(&Step::Lead), "{found:?}");
    assert!(matches!(found.last(), Some(Step::Finished { .. })));
}

#[test]
fn a_leader_that_learns_the_last_record_follows_before_it_applies_it() {
    let (mut one, now) = taking_over(3);
    let left = Message::Left(CallEnd {
        leader: 2,
        have: 1,
        payload: b"end".to_vec(),
        last: Some(vec![1]),
    });
    receive(&mut one, now, 2, &left);
    let found = steps(&mut one, now);
    assert!(
        matches!(
            found[..],
            [Step::Follow, Step::Apply { .. }, Step::Finished { .. }]
        ),
        "{found:?}"
    );
}

#[test]
fn a_rank_that_resigned_accepts_an_end_without_a_result() {
    let mut one = rank(1, 2);
    one.resign(0.0, "out of memory");
    receive(&mut one, 0.0, 0, &Message::Release);
    let payload = Vec::new();
    assert_eq!(steps(&mut one, 0.0), [Step::Finished { payload }]);
}

#[test]
fn a_second_request_to_take_over_again_changes_nothing() {
    let (mut one, now) = taking_over(2);
    one.leading().take_over_again();
    one.leading().take_over_again();
    assert_eq!(steps(&mut one, now), [Step::Lead]);
    let mut two = rank(1, 2);
    two.leading().take_over_again();
    assert_eq!(steps(&mut two, 0.0), [], "it doesn't lead");
}

#[test]
fn a_rank_that_cannot_take_part_reports_why_and_sends_no_hello() {
    let unable = |me, ranks| {
        let mut rank = outside(me, ranks);
        rank.enter(0.0, Some("no file"));
        rank
    };
    for me in 0..3 {
        let found = sent(&mut unable(me, 3));
        let to: Vec<u32> = found.iter().map(|(to, _)| *to).collect();
        assert_eq!(to, (0..3).filter(|&rank| rank != me).collect::<Vec<_>>());
        for (_, message) in found {
            assert!(
                matches!(message, Message::Resign { reason, led: false } if reason == "no file")
            );
        }
    }
    // The last one: the others died, or resigned as well.
    for me in 0..2 {
        let mut alone = unable(me, 2);
        assert_eq!(steps(&mut alone, 0.0), []);
        alone.handle_loss(0.0, 1 - me);
        let stopped = |step: &Step| matches!(step, Step::Stopped { .. });
        assert!(
            std::iter::from_fn(|| Some(alone.poll_step(0.0)))
                .take(9)
                .any(|step| stopped(&step))
        );
    }
}

/// The leader ends the call that a rank is in.
fn end_call(rank: &mut Rank, call: u32, payload: &[u8]) {
    let payload = payload.to_vec();
    let finish = Message::Finish { have: 0, payload };
    for message in [finish, Message::Release] {
        rank.handle_message(0.0, 0, &message.encode(call)).unwrap();
    }
    assert!(matches!(
        steps(rank, 0.0).last(),
        Some(Step::Finished { .. })
    ));
    rank.poll_sends();
}

#[test]
fn a_rank_between_two_calls_answers_messages_of_both() {
    let mut one = rank(1, 3);
    end_call(&mut one, 1, b"first");
    one.enter(0.0, None);
    end_call(&mut one, 2, b"second");
    for (call, end) in [(1, b"first".to_vec()), (2, b"second".to_vec())] {
        let hello = Message::Hello(Hello::default()).encode(call);
        one.handle_message(0.0, 2, &hello).unwrap();
        let (to, bytes) = one.poll_sends().remove(0);
        let (of, answer) = Message::decode(&bytes).unwrap();
        assert_eq!((to, of), (2, call));
        assert!(matches!(answer, Message::Left(CallEnd { payload, .. }) if payload == end));
    }
}

#[test]
fn a_rank_that_left_a_call_takes_no_further_part_in_it() {
    let mut one = rank(1, 3);
    end_call(&mut one, 1, b"end");
    one.handle_loss(0.0, 0);
    one.handle_tick(2.0 * TIMEOUT);
    one.digest(0.0, 0, 7);
    receive(&mut one, 0.0, 2, &Message::Beat);
    assert_eq!((sent(&mut one), steps(&mut one, 0.0)), (vec![], vec![]));
    assert_eq!((one.leader(), one.leads()), (None, false));
    one.enter(0.0, None);
    assert!(one.leads(), "the loss counts in the next call");
}

#[test]
fn messages_before_the_first_call_wait_for_it() {
    let mut one = outside(1, 2);
    let payload = b"hello".to_vec();
    receive(&mut one, 0.0, 0, &Message::Welcome { payload });
    assert_eq!((sent(&mut one), steps(&mut one, 0.0)), (vec![], vec![]));
    one.enter(0.0, None);
    assert!(matches!(steps(&mut one, 0.0)[..], [Step::Welcome { .. }]));
}

#[test]
fn a_rank_that_failed_stops_if_it_enters_a_call_alone() {
    let mut one = rank(1, 2);
    one.resign(0.0, "out of memory");
    receive(&mut one, 0.0, 0, &Message::Release);
    one.poll_step(0.0);
    one.handle_loss(0.0, 0);
    one.enter(0.0, None);
    let payload = Vec::new();
    assert_eq!(steps(&mut one, 0.0), [Step::Stopped { payload }]);
}
