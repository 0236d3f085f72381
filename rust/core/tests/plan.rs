//! The plan of an iteration: its units cover every member and prompt once.

use es_core::plan::Plan;
use proptest::prelude::*;

#[test]
fn units_are_chunks_of_members_and_in_them_chunks_of_prompts() {
    let units: Vec<_> = Plan::new(3, 5, 2, 3).unwrap().units().collect();
    let found: Vec<_> = units
        .iter()
        .map(|unit| (unit.index, unit.members.clone(), unit.prompts.clone()))
        .collect();
    assert_eq!(
        found,
        [
            (0, 0..2, 0..3),
            (1, 0..2, 3..5),
            (2, 2..3, 0..3),
            (3, 2..3, 3..5)
        ]
    );
    let whole = Plan::new(1, 3, 1, u32::MAX).unwrap().unit(0).unwrap();
    assert_eq!((whole.members, whole.prompts), (0..1, 0..3));
    for (members, prompts, chunk) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (u32::MAX, u32::MAX, 1)] {
        assert!(Plan::new(members, prompts, 1, chunk).is_err());
    }
}

proptest! {
    #[test]
    fn a_plan_covers_every_cell_once(members in 1_u32..20, prompts in 1_u32..50, rows in 1_u32..30, columns in 1_u32..60) {
        let plan = Plan::new(members, prompts, rows, columns).unwrap();
        let mut cells = vec![0; (members * prompts) as usize];
        for (index, unit) in plan.units().enumerate() {
            prop_assert_eq!(unit.index as usize, index);
            prop_assert!(unit.members.len() as u32 <= rows && unit.prompts.len() as u32 <= columns);
            for member in unit.members.clone() {
                let (units, position) = plan.units_of(member);
                prop_assert!(units.contains(&index));
                prop_assert_eq!(unit.members.start + position as u32, member);
                for prompt in unit.prompts.clone() {
                    cells[(member * prompts + prompt) as usize] += 1;
                }
            }
        }
        prop_assert!(cells.iter().all(|&count| count == 1));
    }
}
