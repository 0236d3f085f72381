//! Messages between ranks: they are read as they were written, other bytes are refused, and a result takes 8 bytes per unit.

use es_core::team::{
    Assignment, CallEnd, Hello, Message, Outcome, Piece, Published, Rank, Report, Round, Settings,
    Step, WeightsDigest, WireError,
};
use proptest::prelude::*;

fn round() -> impl Strategy<Value = Round> {
    (any::<u32>(), any::<u32>()).prop_map(|(kind, step)| Round { kind, step })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..40)
}

/// Values without NaN, which would not equal itself.
fn values() -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec(-1e300..1e300, 0..4)
}

fn units() -> impl Strategy<Value = Vec<u32>> {
    // Short runs and single units, in any order.
    proptest::collection::vec((0..u32::MAX - 8, 1_u32..6), 0..8).prop_map(|runs| {
        runs.into_iter()
            .flat_map(|(first, count)| first..first + count)
            .collect()
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    (
        values(),
        proptest::collection::vec(any::<u64>(), 0..4),
        bytes(),
    )
        .prop_map(|(values, counts, figures)| Outcome {
            values,
            counts,
            figures,
        })
}

fn weights_digest() -> impl Strategy<Value = WeightsDigest> {
    any::<(u32, u64, u32)>().prop_map(|(iteration, digest, rebuilds)| WeightsDigest {
        iteration,
        digest,
        rebuilds,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let results = proptest::collection::vec((any::<u32>(), outcome()), 0..6);
    let hello = (
        any::<(u32, u64, u64)>(),
        (proptest::option::of(weights_digest()), any::<bool>()),
        proptest::option::of((round(), results)),
    );
    let hello = hello.prop_map(|((have, history, identity), (digest, led), results)| {
        Message::Hello(Hello {
            have,
            history,
            identity,
            digest,
            led,
            results,
        })
    });
    let results = proptest::collection::vec((any::<u32>(), values()), 0..6);
    let counts = proptest::collection::vec(any::<u64>(), 0..4);
    let figures = proptest::collection::vec((any::<u32>(), bytes()), 0..3);
    let report = (round(), any::<(u32, bool)>(), results, counts, figures);
    let report = report.prop_map(|(round, (deal, ready), results, counts, figures)| {
        Message::Report(Report {
            round,
            deal,
            ready,
            results,
            counts,
            figures,
        })
    });
    let published = (
        any::<(u32, u64, u32)>(),
        units(),
        proptest::option::of(bytes()),
    );
    let published = published.prop_map(|((iteration, checksum, length), ranks, piece)| {
        Message::Published(Published {
            iteration,
            checksum,
            length,
            ranks,
            piece,
        })
    });
    prop_oneof![
        hello,
        report,
        published,
        (any::<(u32, u32, u32)>(), bytes()).prop_map(|((leader, iteration, index), bytes)| {
            Message::Piece(Piece {
                leader,
                iteration,
                index,
                bytes,
            })
        }),
        weights_digest().prop_map(Message::Digest),
        (any::<u32>(), proptest::collection::vec(bytes(), 0..4))
            .prop_map(|(first, records)| Message::Records { first, records }),
        (".*", any::<bool>()).prop_map(|(reason, led)| Message::Resign { reason, led }),
        (any::<(u32, u32)>(), bytes(), proptest::option::of(bytes())).prop_map(
            |((leader, have), payload, last)| {
                Message::Left(CallEnd {
                    leader,
                    have,
                    payload,
                    last,
                })
            }
        ),
        bytes().prop_map(|payload| Message::Welcome { payload }),
        (round(), any::<(u32, bool)>(), units()).prop_map(|(round, (deal, alone), units)| {
            Message::Assign(Assignment {
                round,
                deal,
                units,
                alone,
            })
        }),
        (round(), any::<u32>()).prop_map(|(round, unit)| Message::Cancel { round, unit }),
        (any::<u32>(), bytes())
            .prop_map(|(iteration, payload)| Message::Record { iteration, payload }),
        any::<u32>().prop_map(|first| Message::Fetch { first }),
        any::<(u32, u64)>().prop_map(|(iteration, digest)| Message::Agreed { iteration, digest }),
        any::<(u32, u32)>().prop_map(|(iteration, rebuilds)| Message::Rebuild {
            iteration,
            rebuilds
        }),
        bytes().prop_map(|payload| Message::Note { payload }),
        (any::<u32>(), bytes()).prop_map(|(have, payload)| Message::Finish { have, payload }),
        bytes().prop_map(|payload| Message::Stop { payload }),
        any::<u32>().prop_map(|have| Message::Done { have }),
        Just(Message::Release),
        Just(Message::Evict),
        Just(Message::Beat),
        Just(Message::Halt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_message_is_read_as_it_was_written(call in any::<u32>(), message in message()) {
        let bytes = message.encode(call);
        prop_assert_eq!(Message::decode(&bytes), Ok((call, message)));
    }

    #[test]
    fn a_message_that_is_cut_or_longer_is_refused(message in message(), extra in any::<u8>()) {
        let mut bytes = message.encode(3);
        for cut in 0..bytes.len() {
            prop_assert!(Message::decode(&bytes[..cut]).is_err(), "cut at {}", cut);
        }
        bytes.push(extra);
        prop_assert!(Message::decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Ok((call, message)) = Message::decode(&bytes) {
            prop_assert_eq!(Message::decode(&message.encode(call)).is_ok(), true);
        }
    }
}

#[test]
fn a_batch_of_results_costs_eight_bytes_a_unit_and_a_batch_of_units_a_few() {
    let round = Round { kind: 0, step: 100 };
    let results = (0..1000).map(|unit| (unit, vec![0.5])).collect();
    let report = Message::Report(Report {
        round,
        deal: 5,
        ready: true,
        results,
        counts: vec![123_456, 1000],
        figures: Vec::new(),
    });
    assert!(report.encode(1).len() <= 8 * 1000 + 32);
    let units = (0..1000).collect();
    let assign = Message::Assign(Assignment {
        round,
        deal: 5,
        units,
        alone: false,
    });
    assert!(assign.encode(1).len() <= 16);
}

/// Found by fuzzing: ten bytes that claimed 2^26 results took 2 GB.
#[test]
fn results_without_values_cost_bytes_as_well() {
    let results = (0..100).map(|unit| (unit, Vec::new())).collect();
    let report = Report {
        round: Round { kind: 0, step: 0 },
        deal: 0,
        ready: true,
        results,
        counts: Vec::new(),
        figures: Vec::new(),
    };
    let bytes = Message::Report(report).encode(1);
    assert!(bytes.len() > 300);
    // Call, kind, round, deal, ready, no counts; one run of 2^26 units from 0 on with no values; no figures.
    let many = [1, 2, 0, 0, 0, 1, 0, 1, 0, 0x80, 0x80, 0x80, 0x20, 0, 0];
    assert_eq!(Message::decode(&many), Err(WireError::Range));
}

/// A busy rank reports its results before its leader counts it as silent.
#[test]
fn results_are_reported_well_within_the_time_limit() {
    for unit_timeout_s in [0.0, 2.0, 40.0] {
        let settings = Settings {
            unit_timeout_s,
            ..Settings::default()
        };
        let mut rank = Rank::new(1, 2, 7, settings);
        rank.enter(0.0, None);
        let round = Round { kind: 0, step: 0 };
        let assign = Message::Assign(Assignment {
            round,
            deal: 1,
            units: (0..1000).collect(),
            alone: false,
        });
        rank.handle_message(0.0, 0, &assign.encode(1)).unwrap();
        let (mut now, mut reported, mut longest) = (0.0, 0.0, 0.0_f64);
        for _ in 0..200 {
            assert!(matches!(rank.poll_step(now), Step::Evaluate { .. }));
            now += 0.1;
            rank.evaluated(now, Outcome::default());
            let sent = rank.poll_sends();
            let reports = sent.iter().map(|sent| Message::decode(&sent.1).unwrap().1);
            if reports
                .into_iter()
                .any(|message| matches!(message, Message::Report(_)))
            {
                longest = longest.max(now - reported);
                reported = now;
            }
        }
        let limit = if unit_timeout_s > 0.0 {
            (unit_timeout_s / 4.0).min(5.0)
        } else {
            5.0
        };
        assert!(
            longest > 0.0 && longest < limit + 0.2,
            "{longest} s with {unit_timeout_s}"
        );
    }
}
