//! ask / tell / apply, and the fitness table, as their callers see them.

use std::sync::Arc;

use es_core::fitness::{FailurePolicy, FitnessError, FitnessTable, unit_sums};
use es_core::plan::Plan;
use es_core::population::{Member, Population, PopulationError, Record};
use es_core::shaping::Shaping;
use proptest::prelude::*;

fn population(size: usize, antithetic: bool, policy: FailurePolicy) -> Population {
    Population::new(7, size, antithetic, zscore(), policy).unwrap()
}

fn zscore() -> Shaping {
    Shaping::named("zscore").unwrap()
}

fn some(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().copied().map(Some).collect()
}

#[test]
fn plain_members_have_their_own_pair() {
    let members = population(3, false, FailurePolicy::Worst).ask(0.5).unwrap();
    let found: Vec<_> = members
        .iter()
        .map(|m| (m.iteration, m.index, m.pair, m.sign))
        .collect();
    assert_eq!(found, [(0, 0, 0, 1), (0, 1, 1, 1), (0, 2, 2, 1)]);
    let is_whole =
        |member: &Member| (member.run_seed, member.sigma.to_bits()) == (7, 0.5_f64.to_bits());
    assert!(members.iter().all(is_whole), "a member is a whole address");
}

#[test]
fn antithetic_members_share_pairs() {
    let members = population(4, true, FailurePolicy::Worst).ask(0.5).unwrap();
    let found: Vec<_> = members.iter().map(|m| (m.index, m.pair, m.sign)).collect();
    assert_eq!(found, [(0, 0, 1), (1, 0, -1), (2, 1, 1), (3, 1, -1)]);
}

#[test]
fn sizes_out_of_range_are_refused() {
    let make =
        |size, antithetic| Population::new(0, size, antithetic, zscore(), FailurePolicy::Worst);
    assert!(matches!(make(0, false), Err(PopulationError::Size(0))));
    assert!(matches!(make(1, false), Err(PopulationError::Size(1))));
    assert!(matches!(make(5, true), Err(PopulationError::Odd(5))));
    assert!(make(5, false).is_ok());
}

#[test]
fn coefficients_are_z_and_the_step_of_sgd_is_rounded_once() {
    let record = population(3, false, FailurePolicy::Worst)
        .tell(&some(&[1.0, 2.0, 4.0]), 1e-3, 5e-4, 12)
        .unwrap();
    let mean = (1.0 + 2.0 + 4.0) / 3.0_f64;
    let squares = (1.0 - mean).powi(2) + (2.0 - mean).powi(2) + (4.0 - mean).powi(2);
    let spread = (squares / 3.0).sqrt() + 1e-8;
    let z = [1.0, 2.0, 4.0].map(|reward| (reward - mean) / spread);
    assert_eq!(record.coefficients, z);
    let steps = z.map(|z| (5e-4 / 3.0 * z) as f32);
    assert_eq!(record.sgd_coefficients(), steps);
    assert_eq!(
        (record.run_seed, record.iteration, record.cursor),
        (7, 0, 12)
    );
    let folded = Record {
        rate_folded: true,
        coefficients: steps.map(f64::from).to_vec(),
        ..record
    };
    assert_eq!(
        folded.sgd_coefficients(),
        steps,
        "as version-1 journals have them"
    );
}

#[test]
fn an_antithetic_pair_takes_the_difference_of_its_z() {
    let fitness = some(&[1.0, 0.0, 0.5, 0.5]);
    let record = population(4, true, FailurePolicy::Worst)
        .tell(&fitness, 1e-3, 0.1, 0)
        .unwrap();
    let z = zscore().shape(&[1.0, 0.0, 0.5, 0.5]).unwrap();
    assert_eq!(
        record.coefficients,
        [z[0] - z[1], 0.0],
        "a pair without effect stays"
    );
    let steps = record.sgd_coefficients();
    assert_eq!(steps, [(0.1 / 4.0 * (z[0] - z[1])) as f32, 0.0]);
    assert_eq!(steps[1].to_bits(), 0.0_f32.to_bits());
}

#[test]
fn failed_members_follow_the_policy() {
    let fitness = [Some(1.0), None, Some(3.0), Some(f64::NAN)];
    let tell = |policy| population(4, false, policy).tell(&fitness, 1e-3, 0.1, 0);

    let zero = tell(FailurePolicy::Zero).unwrap();
    assert_eq!(zero.fitness, [Some(1.0), None, Some(3.0), None]);
    let z = zscore().shape(&[1.0, 3.0]).unwrap();
    let message = "survivors are shaped among themselves, N stays 4";
    assert_eq!(zero.coefficients, [z[0], 0.0, z[1], 0.0], "{message}");
    let steps = [
        (0.1 / 4.0 * z[0]) as f32,
        0.0,
        (0.1 / 4.0 * z[1]) as f32,
        0.0,
    ];
    assert_eq!(zero.sgd_coefficients(), steps, "{message}");
    assert_eq!(tell(FailurePolicy::DropPrompt).unwrap(), zero);

    let worst = tell(FailurePolicy::Worst).unwrap();
    assert_eq!(
        worst.fitness, zero.fitness,
        "the record keeps the fitness as it came"
    );
    let filled = population(4, false, FailurePolicy::Raise)
        .tell(&some(&[1.0, 1.0, 3.0, 1.0]), 1e-3, 0.1, 0)
        .unwrap();
    assert_eq!(worst.coefficients, filled.coefficients);

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
        assert!(population.ask(bad).is_err(), "sigma {bad}");
        assert!(
            population.tell(&fitness, 0.1, bad, 0).is_err(),
            "learning_rate {bad}"
        );
    }
    assert!(population.tell(&fitness[..1], 0.1, 0.1, 0).is_err());
    let overflow = population.tell(&fitness, 0.1, 3e38, 0);
    assert!(overflow.is_ok(), "3e38 / 2 still fits");
}

#[test]
fn a_step_that_overflows_is_refused() {
    let huge = Shaping::Custom("huge".into(), Arc::new(|_| Ok(vec![-1e300, 1e300])));
    let population = Population::new(7, 2, false, huge, FailurePolicy::Worst).unwrap();
    let error = population
        .tell(&some(&[1.0, 2.0]), 0.1, 1e38, 0)
        .unwrap_err();
    assert!(
        matches!(error, PopulationError::Overflow { pair: 0, .. }),
        "{error}"
    );
    let text = "the step of pair 0 overflows float32: learning_rate 1e38, coefficient -1e300";
    assert_eq!(error.to_string(), text);
    let error = population.ask(1e300).unwrap_err().to_string();
    assert!(error.ends_with("float32, got 1e300"), "{error}");
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
            run_seed: 8,
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
    assert_eq!(live.ask(0.1).unwrap()[0].iteration, 1);
}

#[test]
fn a_table_takes_each_unit_once() {
    let mut table = FitnessTable::new(Plan::new(2, 3, 1, 2).unwrap(), FailurePolicy::Zero);
    table.set(2, &[1.0]).unwrap();
    let refused = |table: &mut FitnessTable, unit, values: &[f64]| {
        table.set(unit, values).unwrap_err().to_string()
    };
    assert!(refused(&mut table, 2, &[1.0]).contains("unit 2 is filled already"));
    assert!(refused(&mut table, 4, &[1.0]).contains("outside the table of 4 units"));
    for values in [
        &[][..],
        &[f64::NAN],
        &[1.0, 0.0],
        &[1.0, 3.0],
        &[1.0, 0.5],
        &[1.0, 1.0, 1.0],
    ] {
        let message = refused(&mut table, 0, values);
        assert!(
            message.contains("unit 0 (members 0..1, prompts 0..2)"),
            "{message}"
        );
    }
    let error = table.fitness().unwrap_err();
    assert!(matches!(
        error,
        FitnessError::Incomplete {
            missing: 3,
            units: 4,
            unit: 0
        }
    ));
    assert!(!table.complete());
}

#[test]
fn unit_sums_are_few_numbers() {
    let rewards = [Some(1.5), None, Some(-2.0), Some(f64::INFINITY)];
    assert_eq!(unit_sums(&rewards, 1, FailurePolicy::Zero), [-0.5, 2.0]);
    assert_eq!(
        unit_sums(&rewards, 1, FailurePolicy::Worst),
        [-0.5, -2.0, 2.0]
    );
    assert_eq!(unit_sums(&rewards[..1], 1, FailurePolicy::Raise), [1.5]);
    assert_eq!(
        unit_sums(&rewards[..1], 1, FailurePolicy::Worst),
        [1.5, 1.5]
    );
    assert_eq!(
        unit_sums(&rewards[1..2], 1, FailurePolicy::Worst),
        [0.0, f64::INFINITY, 1.0]
    );
    let cells = unit_sums(&rewards, 1, FailurePolicy::DropPrompt);
    assert!(cells[1].is_nan() && cells[3].is_nan());
    assert_eq!((cells[0], cells[2], cells.len()), (1.5, -2.0, 4));
}

#[test]
fn unit_sums_of_several_members_are_separate() {
    let rewards = [Some(1.5), Some(0.5), Some(-2.0), None];
    assert_eq!(
        unit_sums(&rewards, 2, FailurePolicy::Zero),
        [2.0, -2.0, 0.0, 1.0]
    );
    assert_eq!(
        unit_sums(&rewards, 2, FailurePolicy::Worst),
        [2.0, -2.0, 0.5, -2.0, 0.0, 1.0]
    );
    assert_eq!(
        unit_sums(&rewards[..2], 2, FailurePolicy::Worst),
        [1.5, 0.5, 1.5, 0.5]
    );
    let mut table = FitnessTable::new(Plan::new(2, 2, 2, 2).unwrap(), FailurePolicy::Zero);
    for values in [
        &[1.0][..],
        &[1.0, 2.0, 0.0, 0.0],
        &[1.0, 2.0, 0.0, 3.0],
        &[1.0, 2.0, 1.0],
    ] {
        assert!(table.set(0, values).is_err(), "{values:?}");
    }
    table.set(0, &[2.0, -2.0, 0.0, 1.0]).unwrap();
    assert_eq!(table.fitness().unwrap(), [Some(1.0), Some(-1.0)]);
    assert_eq!(table.failures(), 1);
}

#[test]
fn a_table_follows_the_policy() {
    let rows = [[Some(1.0), Some(f64::NAN)], [Some(-2.0), Some(4.0)]];
    for per_unit in [1, 2] {
        let fitness = |policy| filled(&rows, per_unit, policy).fitness();
        assert_eq!(filled(&rows, per_unit, FailurePolicy::Zero).failures(), 1);
        assert_eq!(
            fitness(FailurePolicy::Zero).unwrap(),
            [Some(0.5), Some(1.0)]
        );
        assert_eq!(
            fitness(FailurePolicy::Worst).unwrap(),
            [Some(-0.5), Some(1.0)]
        );
        assert_eq!(
            fitness(FailurePolicy::DropPrompt).unwrap(),
            [Some(1.0), Some(-2.0)]
        );
        let error = fitness(FailurePolicy::Raise).unwrap_err();
        assert!(matches!(
            error,
            FitnessError::Failed {
                failures: 1,
                rewards: 4,
                member: 0,
                ..
            }
        ));
    }
}

#[test]
fn a_table_without_a_reward_gives_no_fitness() {
    for policy in [
        FailurePolicy::Zero,
        FailurePolicy::Worst,
        FailurePolicy::DropPrompt,
    ] {
        assert_eq!(
            filled(&[[None], [None]], 1, policy).fitness().unwrap(),
            [None, None]
        );
    }
    let no_whole_prompt = [[None, Some(1.0)], [Some(1.0), None]];
    let fitness = filled(&no_whole_prompt, 2, FailurePolicy::DropPrompt).fitness();
    assert_eq!(fitness.unwrap(), [None, None]);
    assert!(
        filled(&[[None]], 1, FailurePolicy::Raise)
            .fitness()
            .is_err()
    );
}

#[test]
fn means_of_huge_rewards_are_finite() {
    let rows = [
        [Some(f64::MAX), Some(f64::MAX), None],
        [Some(f64::MIN), Some(f64::MIN), None],
    ];
    for policy in [
        FailurePolicy::Zero,
        FailurePolicy::Worst,
        FailurePolicy::DropPrompt,
    ] {
        let fitness = filled(&rows, 2, policy).fitness().unwrap();
        assert!(
            fitness.iter().all(|value| value.unwrap().is_finite()),
            "{fitness:?}"
        );
        assert!(fitness[0] > fitness[1]);
    }
}

/// The definition, over all rewards at once; exact for the dyadic rewards of the test below.
fn naive(rewards: &[Option<f64>], prompts: usize, policy: FailurePolicy) -> Vec<Option<f64>> {
    let rows = || rewards.chunks(prompts);
    let worst = rewards
        .iter()
        .flatten()
        .copied()
        .fold(f64::INFINITY, f64::min);
    let whole = |prompt: &usize| rows().all(|row| row[*prompt].is_some());
    let kept: Vec<usize> = match policy {
        FailurePolicy::DropPrompt => (0..prompts).filter(whole).collect(),
        _ => (0..prompts).collect(),
    };
    let failed = if policy == FailurePolicy::Worst {
        worst
    } else {
        0.0
    };
    let none = kept.is_empty() || rewards.iter().all(Option::is_none);
    let mean = |row: &[Option<f64>]| {
        let sum: f64 = kept
            .iter()
            .map(|&prompt| row[prompt].unwrap_or(failed))
            .sum();
        sum / kept.len() as f64
    };
    rows().map(|row| (!none).then(|| mean(row))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn units_in_any_order_give_the_mean_over_all_rewards(
        rewards in proptest::collection::vec(proptest::option::weighted(0.8, -4096_i32..4096), 20),
        per_unit in 1_u32..7,
        members_per_unit in 1_u32..6,
        order in Just((0..20_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let rewards: Vec<_> = rewards.iter().map(|reward| reward.map(|value| f64::from(value) / 64.0)).collect();
        for policy in [FailurePolicy::Zero, FailurePolicy::Worst, FailurePolicy::DropPrompt] {
            let plan = Plan::new(4, 5, members_per_unit, per_unit).unwrap();
            let mut table = FitnessTable::new(plan, policy);
            for unit in order.iter().filter_map(|&index| plan.unit(index)) {
                let row = |member| unit.prompts.clone().map(move |prompt| 5 * member + prompt);
                let cells: Vec<_> = unit.members.clone().flat_map(row).map(|cell| rewards[cell as usize]).collect();
                table.set(unit.index as usize, &unit_sums(&cells, unit.members.len(), policy)).unwrap();
            }
            prop_assert!(table.complete());
            prop_assert_eq!(table.failures(), rewards.iter().filter(|reward| reward.is_none()).count() as u64);
            prop_assert_eq!(table.fitness().unwrap(), naive(&rewards, 5, policy));
        }
    }

    #[test]
    fn coefficients_are_finite_and_failed_members_move_nothing(
        fitness in proptest::collection::vec(proptest::option::of(proptest::num::f64::ANY), 2..40),
        centered in any::<bool>(),
    ) {
        let rule = Shaping::named(if centered { "centered_rank" } else { "zscore" }).unwrap();
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

fn filled<const N: usize>(
    rows: &[[Option<f64>; N]],
    per_unit: u32,
    policy: FailurePolicy,
) -> FitnessTable {
    let plan = Plan::new(rows.len() as u32, N as u32, 1, per_unit).unwrap();
    let mut table = FitnessTable::new(plan, policy);
    for unit in plan.units() {
        let prompts = unit.prompts.start as usize..unit.prompts.end as usize;
        let rewards = &rows[unit.members.start as usize][prompts];
        let sums = unit_sums(rewards, 1, policy);
        table.set(unit.index as usize, &sums).unwrap();
    }
    table
}
