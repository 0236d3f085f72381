//! ask / tell / apply, and the fitness table, as their callers see them.

use es_core::fitness::{FailurePolicy, FitnessError, FitnessTable};
use es_core::population::{Population, PopulationError, Record};
use es_core::shaping::ShapingRule;
use proptest::prelude::*;

fn population(size: usize, antithetic: bool, policy: FailurePolicy) -> Population {
    Population::new(7, size, antithetic, ShapingRule::ZScore, policy).unwrap()
}

fn some(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().copied().map(Some).collect()
}

#[test]
fn plain_members_have_their_own_pair() {
    let members = population(3, false, FailurePolicy::Worst).ask();
    let found: Vec<_> = members
        .iter()
        .map(|m| (m.iteration, m.index, m.pair, m.sign))
        .collect();
    assert_eq!(found, [(0, 0, 0, 1), (0, 1, 1, 1), (0, 2, 2, 1)]);
}

#[test]
fn antithetic_members_share_pairs() {
    let members = population(4, true, FailurePolicy::Worst).ask();
    let found: Vec<_> = members.iter().map(|m| (m.index, m.pair, m.sign)).collect();
    assert_eq!(found, [(0, 0, 1), (1, 0, -1), (2, 1, 1), (3, 1, -1)]);
}

#[test]
fn sizes_out_of_range_are_refused() {
    let make = |size, antithetic| {
        Population::new(
            0,
            size,
            antithetic,
            ShapingRule::ZScore,
            FailurePolicy::Worst,
        )
    };
    assert!(matches!(make(0, false), Err(PopulationError::Size(0))));
    assert!(matches!(make(1, false), Err(PopulationError::Size(1))));
    assert!(matches!(make(5, true), Err(PopulationError::Odd(5))));
    assert!(make(5, false).is_ok());
}

#[test]
fn coefficient_is_rounded_once_from_f64() {
    let record = population(3, false, FailurePolicy::Worst)
        .tell(&some(&[1.0, 2.0, 4.0]), 1e-3, 5e-4, 12)
        .unwrap();
    let mean = (1.0 + 2.0 + 4.0) / 3.0_f64;
    let squares = (1.0 - mean).powi(2) + (2.0 - mean).powi(2) + (4.0 - mean).powi(2);
    let spread = (squares / 3.0).sqrt() + 1e-8;
    let expected = [1.0, 2.0, 4.0].map(|reward| (5e-4 / 3.0 * ((reward - mean) / spread)) as f32);
    assert_eq!(record.coefficients, expected);
    assert_eq!(record.pairs, [0, 1, 2]);
    assert_eq!((record.iteration, record.cursor), (0, 12));
}

#[test]
fn antithetic_pair_takes_the_difference_of_its_scores() {
    let fitness = some(&[1.0, 0.0, 0.5, 0.5]);
    let record = population(4, true, FailurePolicy::Worst)
        .tell(&fitness, 1e-3, 0.1, 0)
        .unwrap();
    let scores = ShapingRule::ZScore.scores(&[1.0, 0.0, 0.5, 0.5]);
    let expected = [(0.1 / 4.0 * (scores[0] - scores[1])) as f32, 0.0];
    assert_eq!(record.coefficients, expected);
    assert_eq!(record.coefficients[1].to_bits(), 0.0_f32.to_bits());
    assert_eq!(
        record.pairs,
        [0, 1],
        "pairs with coefficient 0 stay in the list"
    );
}

#[test]
fn failed_members_follow_the_policy() {
    let fitness = [Some(1.0), None, Some(3.0), Some(f64::NAN)];
    let tell = |policy| population(4, false, policy).tell(&fitness, 1e-3, 0.1, 0);

    let zero = tell(FailurePolicy::Zero).unwrap();
    assert_eq!(zero.fitness, [Some(1.0), None, Some(3.0), None]);
    let scores = ShapingRule::ZScore.scores(&[1.0, 3.0]);
    let expected = [
        (0.1 / 4.0 * scores[0]) as f32,
        0.0,
        (0.1 / 4.0 * scores[1]) as f32,
        0.0,
    ];
    assert_eq!(
        zero.coefficients, expected,
        "survivors are shaped among themselves, N stays 4"
    );
    assert_eq!(tell(FailurePolicy::DropPrompt).unwrap(), zero);

    let worst = tell(FailurePolicy::Worst).unwrap();
    assert_eq!(
        worst.fitness, zero.fitness,
        "the record keeps what was told"
    );
    let told = population(4, false, FailurePolicy::Raise)
        .tell(&some(&[1.0, 1.0, 3.0, 1.0]), 1e-3, 0.1, 0)
        .unwrap();
    assert_eq!(worst.coefficients, told.coefficients);

    let error = tell(FailurePolicy::Raise).unwrap_err();
    assert!(matches!(
        error,
        PopulationError::Failed {
            count: 2,
            members: 4,
            first: 1
        }
    ));
}

#[test]
fn all_failed_moves_nothing() {
    for policy in [
        FailurePolicy::Zero,
        FailurePolicy::Worst,
        FailurePolicy::DropPrompt,
    ] {
        let record = population(3, false, policy)
            .tell(&[None; 3], 1e-3, 0.1, 0)
            .unwrap();
        assert_eq!(record.coefficients, [0.0; 3]);
    }
}

#[test]
fn tell_refuses_bad_arguments() {
    let population = population(2, false, FailurePolicy::Worst);
    let fitness = some(&[1.0, 2.0]);
    for bad in [0.0, -0.1, f64::NAN, f64::INFINITY, 1e-60, 1e60] {
        assert!(
            population.tell(&fitness, bad, 0.1, 0).is_err(),
            "sigma {bad}"
        );
        assert!(
            population.tell(&fitness, 0.1, bad, 0).is_err(),
            "learning_rate {bad}"
        );
    }
    assert!(population.tell(&fitness[..1], 0.1, 0.1, 0).is_err());
}

#[test]
fn apply_goes_on_only_with_a_record_of_this_iteration_and_shape() {
    let mut live = population(2, false, FailurePolicy::Worst);
    let record = live.tell(&some(&[1.0, 2.0]), 0.1, 0.1, 0).unwrap();
    assert_eq!(live.iteration(), 0, "tell changes nothing");
    let wrong = [
        Record {
            iteration: 1,
            ..record.clone()
        },
        Record {
            fitness: vec![Some(1.0); 3],
            ..record.clone()
        },
        Record {
            pairs: vec![1, 0],
            ..record.clone()
        },
        Record {
            pairs: vec![0],
            ..record.clone()
        },
        Record {
            coefficients: vec![0.0],
            ..record.clone()
        },
    ];
    for record in wrong {
        assert!(live.apply(&record).is_err(), "{record:?}");
        assert_eq!(live.iteration(), 0);
    }
    live.apply(&record).unwrap();
    assert_eq!(live.iteration(), 1);
    assert!(live.apply(&record).is_err(), "a record counts once");
    assert_eq!(live.ask()[0].iteration, 1);
}

#[test]
fn table_takes_each_cell_once() {
    let mut table = FitnessTable::new(2, 2).unwrap();
    table.set(1, 0, Some(1.0)).unwrap();
    assert!(matches!(
        table.set(1, 0, Some(1.0)),
        Err(FitnessError::Twice {
            member: 1,
            prompt: 0
        })
    ));
    assert!(matches!(
        table.set(2, 0, None),
        Err(FitnessError::Outside { .. })
    ));
    assert!(matches!(
        table.set(0, 2, None),
        Err(FitnessError::Outside { .. })
    ));
    let error = table.fitness(FailurePolicy::Zero).unwrap_err();
    assert!(matches!(
        error,
        FitnessError::Incomplete {
            missing: 3,
            cells: 4,
            member: 0,
            prompt: 0
        }
    ));
    assert!(!table.complete());
    assert!(FitnessTable::new(0, 1).is_err() && FitnessTable::new(1, 0).is_err());
    assert!(FitnessTable::new(usize::MAX, 2).is_err());
}

#[test]
fn table_is_filled_at_once_or_not_at_all() {
    let mut table = FitnessTable::new(2, 2).unwrap();
    assert!(matches!(
        table.fill(&[1.0; 3]),
        Err(FitnessError::Length {
            expected: 4,
            got: 3
        })
    ));
    table.fill(&[1.0, f64::NAN, f64::INFINITY, 4.0]).unwrap();
    assert!(table.complete());
    assert_eq!(table.failures(), 2);
    assert_eq!(
        table.fitness(FailurePolicy::Zero).unwrap(),
        [Some(0.5), Some(2.0)]
    );
    assert!(matches!(
        table.fill(&[1.0; 4]),
        Err(FitnessError::Twice {
            member: 0,
            prompt: 0
        })
    ));
}

#[test]
fn table_follows_the_policy() {
    let table = filled(&[&[Some(1.0), Some(f64::NAN)], &[Some(-2.0), Some(4.0)]]);
    assert_eq!(table.failures(), 1);
    assert_eq!(
        table.fitness(FailurePolicy::Zero).unwrap(),
        [Some(0.5), Some(1.0)]
    );
    assert_eq!(
        table.fitness(FailurePolicy::Worst).unwrap(),
        [Some(-0.5), Some(1.0)]
    );
    assert_eq!(
        table.fitness(FailurePolicy::DropPrompt).unwrap(),
        [Some(1.0), Some(-2.0)]
    );
    let error = table.fitness(FailurePolicy::Raise).unwrap_err();
    assert!(matches!(
        error,
        FitnessError::Failed {
            failures: 1,
            cells: 4,
            member: 0,
            prompt: 1
        }
    ));
}

#[test]
fn table_without_a_reward_gives_no_fitness() {
    let nothing = filled(&[&[None], &[None]]);
    let no_whole_prompt = filled(&[&[None, Some(1.0)], &[Some(1.0), None]]);
    for policy in [
        FailurePolicy::Zero,
        FailurePolicy::Worst,
        FailurePolicy::DropPrompt,
    ] {
        assert_eq!(nothing.fitness(policy).unwrap(), [None, None]);
    }
    assert_eq!(
        no_whole_prompt.fitness(FailurePolicy::DropPrompt).unwrap(),
        [None, None]
    );
    assert!(nothing.fitness(FailurePolicy::Raise).is_err());
}

#[test]
fn mean_of_huge_rewards_is_finite() {
    let table = filled(&[&[Some(f64::MAX); 3], &[Some(f64::MIN); 3]]);
    let fitness = table.fitness(FailurePolicy::Raise).unwrap();
    assert!(
        fitness.iter().all(|value| value.unwrap().abs() >= 1e308),
        "{fitness:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_of_filling_never_matters(
        rewards in proptest::collection::vec(proptest::option::weighted(0.8, -1e3_f64..1e3), 12),
        order in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let fill = |order: &[usize]| {
            let mut table = FitnessTable::new(4, 3).unwrap();
            for &at in order {
                table.set(at / 3, at % 3, rewards[at]).unwrap();
            }
            table
        };
        let (one, other) = (fill(&order), fill(&(0..12).collect::<Vec<_>>()));
        for policy in [FailurePolicy::Zero, FailurePolicy::Worst, FailurePolicy::DropPrompt] {
            prop_assert_eq!(one.fitness(policy).unwrap(), other.fitness(policy).unwrap());
        }
    }

    #[test]
    fn coefficients_are_finite_and_failed_members_move_nothing(
        fitness in proptest::collection::vec(proptest::option::of(proptest::num::f64::ANY), 2..40),
        centered in any::<bool>(),
    ) {
        let rule = if centered { ShapingRule::CenteredRank } else { ShapingRule::ZScore };
        let population = Population::new(0, fitness.len(), false, rule, FailurePolicy::Zero).unwrap();
        let record = population.tell(&fitness, 1e-3, 1e-2, 0).unwrap();
        for (value, coefficient) in fitness.iter().zip(&record.coefficients) {
            prop_assert!(coefficient.is_finite());
            if !value.is_some_and(f64::is_finite) {
                prop_assert_eq!(coefficient.to_bits(), 0);
            }
        }
    }
}

fn filled(rows: &[&[Option<f64>]]) -> FitnessTable {
    let mut table = FitnessTable::new(rows.len(), rows[0].len()).unwrap();
    for (member, row) in rows.iter().enumerate() {
        for (prompt, reward) in row.iter().enumerate() {
            table.set(member, prompt, *reward).unwrap();
        }
    }
    table
}
