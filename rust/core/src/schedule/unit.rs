//! Units of work: one member and one chunk of prompts. The plan depends on nothing but its arguments, never on ranks.

use super::ScheduleError;

/// One member and the prompts [start, stop), always evaluated together in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its place in the plan.
    pub index: u32,
    /// The member.
    pub member: u32,
    /// The first prompt.
    pub start: u32,
    /// One past the last prompt.
    pub stop: u32,
}

/// The units of an iteration, member by member; only a member's last unit may be smaller.
///
/// # Errors
/// If an argument is 0, or the units are more than a u32 counts.
pub fn plan_units(
    members: u32,
    prompts: u32,
    prompts_per_unit: u32,
) -> Result<Vec<Unit>, ScheduleError> {
    for (name, value) in [
        ("members", members),
        ("prompts", prompts),
        ("prompts_per_unit", prompts_per_unit),
    ] {
        if value == 0 {
            return Err(ScheduleError::Zero { name });
        }
    }
    let chunks = prompts.div_ceil(prompts_per_unit);
    let count = members
        .checked_mul(chunks)
        .ok_or(ScheduleError::TooMany { members, chunks })?;
    let unit = |index: u32| {
        let start = index % chunks * prompts_per_unit;
        let stop = prompts.min(start.saturating_add(prompts_per_unit));
        Unit {
            index,
            member: index / chunks,
            start,
            stop,
        }
    };
    Ok((0..count).map(unit).collect())
}
