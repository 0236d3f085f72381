//! Whole runs without Python, MPI or a model: any number of ranks gives the same records, bit for bit.

use std::collections::BTreeMap;

use es_core::fitness::{FailurePolicy, FitnessTable};
use es_core::journal::encode_record;
use es_core::population::{Member, Population, Record};
use es_core::rank::{RankMachine, Step};
use es_core::schedule::{Unit, plan_units};
use es_core::shaping::ShapingRule;

const MEMBERS: u32 = 6;
const PROMPTS: u32 = 5;
const ITERATIONS: u32 = 4;

/// Results by unit index: what an exchange carries.
type Results = BTreeMap<u32, Vec<Option<f64>>>;

/// One rank with a "model" of one weight.
struct Rank {
    population: Population,
    weight: f64,
    live: Option<Member>,
    own: Results,
    steps: Vec<Step>,
    records: Vec<Record>,
}

impl Rank {
    fn new() -> Self {
        let rule = ShapingRule::ZScore;
        let population =
            Population::new(3, MEMBERS as usize, true, rule, FailurePolicy::Worst).unwrap();
        Self {
            population,
            weight: 1.0,
            live: None,
            own: Results::new(),
            steps: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Follows its machine to the exchange, or for at most `limit` evaluations.
    fn work(&mut self, machine: &mut RankMachine, units: &[Unit], limit: usize) {
        let members = self.population.ask();
        let before = self.own.len();
        while self.own.len() - before < limit {
            let step = machine.next();
            match step {
                Step::Perturb { member } => self.live = Some(members[member as usize]),
                Step::Evaluate { unit } => {
                    let unit = units.iter().find(|other| other.index == unit).unwrap();
                    let live = self.live.expect("perturb comes first");
                    assert_eq!(live.index, unit.member);
                    let rewards = (unit.start..unit.stop)
                        .map(|prompt| self.reward(live, prompt))
                        .collect();
                    assert!(self.own.insert(unit.index, rewards).is_none());
                }
                _ => return,
            }
            self.steps.push(step);
            machine.done(0.0).unwrap();
        }
    }

    /// A pure function of the weight, the member's "noise" and the prompt; some fail.
    fn reward(&self, member: Member, prompt: u32) -> Option<f64> {
        let perturbed =
            self.weight + f64::from(member.sign) * 1e-2 * noise(member.iteration, member.pair);
        let reward = (perturbed * f64::from(prompt + 1)).sin();
        (reward < 0.97).then_some(reward)
    }

    /// Exchange done: the rest of the iteration.
    fn conclude(&mut self, machine: &mut RankMachine, all: &Results, units: &[Unit]) {
        loop {
            let step = machine.next();
            match step {
                Step::Exchange => {}
                Step::Journal => self.records.push(self.tell(all, units)),
                Step::Update => self.update(),
                Step::Digest => assert!(self.weight.is_finite()),
                Step::Finish => break,
                other => panic!("{other:?} after the exchange"),
            }
            self.steps.push(step);
            machine.done(1.0).unwrap();
        }
        assert!(machine.done(2.0).is_err());
        self.own.clear();
        self.live = None;
    }

    fn tell(&self, all: &Results, units: &[Unit]) -> Record {
        let mut table = FitnessTable::new(MEMBERS as usize, PROMPTS as usize).unwrap();
        for unit in units {
            for (prompt, reward) in (unit.start..).zip(&all[&unit.index]) {
                table
                    .set(unit.member as usize, prompt as usize, *reward)
                    .unwrap();
            }
        }
        let fitness = table.fitness(FailurePolicy::DropPrompt).unwrap();
        self.population.tell(&fitness, 1e-2, 5e-2, 0).unwrap()
    }

    fn update(&mut self) {
        let record = self.records.last().unwrap();
        for (pair, coefficient) in record.pairs.iter().zip(&record.coefficients) {
            self.weight += f64::from(*coefficient) * noise(record.iteration, *pair);
        }
        self.population.apply(record).unwrap();
    }
}

/// Stands for the noise kernels: any pure function of the address.
fn noise(iteration: u32, pair: u32) -> f64 {
    f64::from(iteration * 31 + pair * 17 + 5).cos()
}

/// The records of a run on `ranks` ranks, as journal bytes. `loss`: (iteration, rank, units it still evaluates).
fn run(ranks: u32, loss: Option<(u32, u32, usize)>) -> Vec<Vec<u8>> {
    let units = plan_units(MEMBERS, PROMPTS, 2).unwrap();
    let mut living: Vec<Rank> = (0..ranks).map(|_| Rank::new()).collect();
    for iteration in 0..ITERATIONS {
        let mut machines = machines(living.len(), &units);
        let loss = loss.filter(|loss| loss.0 == iteration);
        for (number, (rank, machine)) in living.iter_mut().zip(&mut machines).enumerate() {
            let limit = loss
                .filter(|loss| loss.1 as usize == number)
                .map_or(usize::MAX, |loss| loss.2);
            rank.work(machine, &units, limit);
        }
        if let Some((_, lost, _)) = loss {
            // Its results are gone; the survivors plan what is open anew.
            living.remove(lost as usize);
            let known = exchange(&living);
            let open: Vec<Unit> = units
                .iter()
                .copied()
                .filter(|unit| !known.contains_key(&unit.index))
                .collect();
            machines = self::machines(living.len(), &open);
            for (rank, machine) in living.iter_mut().zip(&mut machines) {
                rank.live = None;
                rank.work(machine, &open, usize::MAX);
            }
        }
        let all = exchange(&living);
        for (rank, machine) in living.iter_mut().zip(&mut machines) {
            rank.conclude(machine, &all, &units);
        }
    }
    for rank in &living {
        assert_eq!(
            rank.records, living[0].records,
            "every rank makes the same records"
        );
        assert_eq!(rank.weight.to_bits(), living[0].weight.to_bits());
    }
    living[0].records.iter().map(encode_record).collect()
}

fn machines(ranks: usize, units: &[Unit]) -> Vec<RankMachine> {
    let machine = |rank| RankMachine::new(rank, ranks as u32, units.to_vec(), true).unwrap();
    (0..ranks as u32).map(machine).collect()
}

/// What an allgather gives: the results of all ranks, each unit once.
fn exchange(ranks: &[Rank]) -> Results {
    let mut all = Results::new();
    for (unit, rewards) in ranks.iter().flat_map(|rank| &rank.own) {
        assert!(
            all.insert(*unit, rewards.clone()).is_none(),
            "unit {unit} came twice"
        );
    }
    all
}

#[test]
fn one_to_eight_ranks_and_more_than_units_make_the_same_records() {
    let alone = run(1, None);
    assert_eq!(alone.len(), ITERATIONS as usize);
    for ranks in (2..=8).chain([18, 25]) {
        assert_eq!(run(ranks, None), alone, "{ranks} ranks");
    }
}

#[test]
fn the_loss_of_any_rank_at_any_time_makes_the_same_records() {
    let alone = run(1, None);
    for ranks in 2..=4 {
        for lost in 0..ranks {
            for evaluated in 0..10 {
                assert_eq!(
                    run(ranks, Some((2, lost, evaluated))),
                    alone,
                    "rank {lost} of {ranks}"
                );
            }
        }
    }
}

#[test]
fn steps_perturb_only_when_the_member_changes() {
    let units = plan_units(2, 4, 2).unwrap();
    let mut machine = RankMachine::new(0, 1, units, false).unwrap();
    let mut steps = Vec::new();
    while machine.next() != Step::Finish {
        assert_eq!(machine.next(), machine.next(), "next changes nothing");
        steps.push(machine.next());
        machine.done(0.0).unwrap();
    }
    let expected = [
        Step::Perturb { member: 0 },
        Step::Evaluate { unit: 0 },
        Step::Evaluate { unit: 1 },
        Step::Perturb { member: 1 },
        Step::Evaluate { unit: 2 },
        Step::Evaluate { unit: 3 },
        Step::Exchange,
        Step::Journal,
        Step::Update,
    ];
    assert_eq!(steps, expected);
}

#[test]
fn a_rank_without_units_goes_to_the_exchange() {
    let units = plan_units(1, 1, 1).unwrap();
    assert_eq!(
        RankMachine::new(1, 2, units, true).unwrap().next(),
        Step::Exchange
    );
    assert_eq!(
        RankMachine::new(0, 1, Vec::new(), true).unwrap().next(),
        Step::Exchange
    );
    assert!(RankMachine::new(2, 2, Vec::new(), true).is_err());
    assert!(RankMachine::new(0, 0, Vec::new(), true).is_err());
}
