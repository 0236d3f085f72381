//! Whole jobs in a seeded world: slow ranks, slow and repeated messages, ranks that die, hang and hold wrong weights.
//! Whatever happens, the remaining ranks end with the records of an undisturbed run, each unit counted once.
//!
//! `ES_LLM_SEEDS=first..last` runs other seeds than the 17,000 of the normal run. A failure names its seed.
//! `ES_LLM_TRACE=1` prints every event.

mod world;

use world::{Trouble, World};

/// The seeds to run: those of the normal run, or those of `ES_LLM_SEEDS`.
fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("ES_LLM_SEEDS") {
        Ok(range) => {
            let (first, last) = range.split_once("..").expect("ES_LLM_SEEDS=first..last");
            first.parse().expect("a number")..last.parse().expect("a number")
        }
        Err(_) => 0..count,
    }
}

#[test]
fn calm_jobs_end_and_count_each_unit_once() {
    for seed in seeds(1000) {
        World::new(seed, Trouble::default()).run();
    }
}

#[test]
fn killed_ranks_and_repeated_messages_change_nothing() {
    for seed in seeds(5000) {
        let trouble = Trouble {
            kills: 1 + seed % 5,
            repeats: 0.1,
            hosts: 3,
            ..Trouble::default()
        };
        World::new(seed, trouble).run();
    }
}

#[test]
fn ranks_that_hang_or_freeze_are_lost_and_may_come_back() {
    for seed in seeds(2000) {
        let trouble = Trouble {
            freezes: seed % 3,
            hangs: 0.02,
            kills: seed % 2,
            repeats: 0.05,
            hosts: 1 + seed % 2,
            ..Trouble::default()
        };
        World::new(seed, trouble).run();
    }
}

#[test]
fn hosts_that_are_cut_off_continue_and_meet_again() {
    for seed in seeds(1000) {
        let trouble = Trouble {
            cuts: 1 + seed % 3,
            kills: (seed / 3) % 2,
            hangs: 0.01,
            hosts: 3,
            ..Trouble::default()
        };
        World::new(seed, trouble).run();
    }
}

#[test]
fn jobs_that_are_killed_continue_from_the_journal_on_any_number_of_ranks() {
    for seed in seeds(2000) {
        let trouble = Trouble {
            restarts: 1 + seed % 4,
            kills: seed % 3,
            hosts: 1 + seed % 2,
            ..Trouble::default()
        };
        World::new(seed, trouble).run();
    }
}

#[test]
fn ranks_that_resign_and_the_others_end() {
    for seed in seeds(1000) {
        let trouble = Trouble {
            resigns: 1 + seed % 3,
            kills: seed % 2,
            ..Trouble::default()
        };
        World::new(seed, trouble).run();
    }
}

#[test]
fn wrong_weights_are_found_and_rebuilt() {
    for seed in seeds(1000) {
        let trouble = Trouble {
            flips: 1 + seed % 2,
            kills: seed % 4,
            repeats: 0.05,
            hosts: 1 + (seed / 4) % 2,
            ..Trouble::default()
        };
        World::new(seed, trouble).run();
    }
}

#[test]
fn wrong_weights_beside_ranks_that_hang_do_not_block_the_others() {
    for seed in seeds(1000) {
        let trouble = Trouble {
            flips: 1 + seed % 2,
            digest_steps: 3,
            freezes: seed % 3,
            hangs: 0.02,
            kills: (seed / 2) % 2,
            repeats: 0.05,
            ..Trouble::default()
        };
        World::new(seed, trouble).run();
    }
}

#[test]
fn a_signal_ends_the_call_after_a_record_on_all_ranks() {
    for seed in seeds(1000) {
        let trouble = Trouble {
            halts: 1 + seed % 2,
            kills: seed % 3,
            repeats: 0.05,
            ..Trouble::default()
        };
        World::new(seed, trouble).run();
    }
}

#[test]
fn all_kinds_of_trouble_at_once() {
    for seed in seeds(2000) {
        // On several hosts, a rank that continues alone with wrong weights may have records that others lack.
        let flips = (seed / 32) % 2;
        let trouble = Trouble {
            kills: seed % 3,
            freezes: seed % 2,
            hangs: 0.01,
            resigns: (seed / 2) % 2,
            halts: (seed / 4) % 2,
            repeats: 0.1,
            hosts: 1 + (seed / 8) % 2 * (1 - flips),
            restarts: (seed / 16) % 2,
            flips,
            digest_steps: 1 + (seed / 64) % 3,
            cuts: (seed / 128) % 2,
        };
        World::new(seed, trouble).run();
    }
}
