//! A simulated world of ranks in which everything can go wrong.

mod disk;
mod job;
mod main_thread;
mod moment;
mod trouble;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use es_core::schedule::PolicyKind;
use es_core::team::{Fan, Loss, Message, Rank, Settings};

use disk::Disk;
use job::{Draw, ITERATIONS, base, expected};
use main_thread::Program;
use moment::{Moment, What};
pub use trouble::Trouble;

/// A job that has not ended after this number of simulated seconds is stuck.
const STUCK: f64 = 1e5;

const IDENTITY: u64 = 7;

/// One process: the machine and its main thread.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct Process {
    machine: Rank,
    program: Program,
    host: u32,
    /// The seconds that it needs for one unit.
    pace: f64,
    waiting: bool,
    /// Whether it is inside a call. Otherwise messages wait.
    inside: bool,
    calls: usize,
    mailbox: VecDeque<(u32, Vec<u8>)>,
    /// The number of its main thread's turns, so that an event of an old turn is recognized.
    turn: u64,
    frozen_until: f64,
    flip: bool,
    done: bool,
}

impl Process {
    /// The number of the run that it is in.
    fn run(&self) -> usize {
        self.calls - 1
    }

    /// The key of its host's journal of that run.
    fn journal(&self) -> (usize, u32) {
        (self.run(), self.host)
    }
}

pub struct World {
    seed: u64,
    draw: Draw,
    now: f64,
    order: u64,
    moments: BinaryHeap<Moment>,
    processes: Vec<Process>,
    settings: Settings,
    /// The journals, by run and host.
    disks: BTreeMap<(usize, u32), Disk>,
    /// The numbers of records with which ranks ended each run.
    ends: [BTreeSet<u32>; ITERATIONS.len()],
    hosts: u32,
    dead: BTreeSet<u32>,
    /// When the last message of each link arrives. No message overtakes another.
    links: BTreeMap<(u32, u32), f64>,
    /// The time until which each host is cut off.
    cut_until: BTreeMap<u32, f64>,
    units: u32,
    /// The weights are compared after every N iterations.
    digest_steps: u32,
    /// The weights of undisturbed runs.
    expected: Vec<Vec<u64>>,
    trouble: Trouble,
    timeout: f64,
    /// Whether every event is printed.
    traced: bool,
}

impl World {
    pub fn new(seed: u64, trouble: Trouble) -> Self {
        let mut draw = Draw(seed);
        let ranks = 1 + draw.below(6) as u32;
        let units = 1 + draw.below(24) as u32;
        let policy = PolicyKind::ALL[draw.below(2) as usize];
        let timeout = if trouble.freezes + trouble.cuts > 0 || trouble.hangs > 0.0 {
            60.0
        } else {
            0.0
        };
        let settings = Settings {
            policy,
            unit_timeout_s: timeout,
            fan: Fan {
                ranks: 1 + draw.below(4) as u32,
                bytes: 1 + draw.below(64) as u32,
            },
        };
        let hosts = 1 + draw.below(trouble.hosts.max(1)) as u32;
        let digest_steps = 1 + draw.below(trouble.digest_steps.max(1)) as u32;
        let mut world = Self {
            seed,
            draw,
            now: 0.0,
            order: 0,
            moments: BinaryHeap::new(),
            processes: Vec::new(),
            settings,
            disks: BTreeMap::new(),
            ends: Default::default(),
            hosts,
            dead: BTreeSet::new(),
            links: BTreeMap::new(),
            cut_until: BTreeMap::new(),
            units,
            digest_steps,
            expected: (0..ITERATIONS.len())
                .map(|run| expected(run, units))
                .collect(),
            trouble,
            timeout,
            traced: std::env::var_os("ES_LLM_TRACE").is_some(),
        };
        world.start(ranks);
        world
    }

    /// Begins a job: all of its processes, and the events that will happen to them.
    fn start(&mut self, ranks: u32) {
        self.processes.clear();
        for rank in 0..ranks {
            self.processes.push(Process {
                machine: Rank::new(rank, ranks, IDENTITY, self.settings),
                program: Program::default(),
                host: rank * self.hosts / ranks,
                pace: self.draw.skewed(0.1, 4.0),
                waiting: false,
                inside: false,
                calls: 0,
                mailbox: VecDeque::new(),
                turn: 0,
                frozen_until: 0.0,
                flip: false,
                done: false,
            });
        }
        self.plan(ranks);
    }

    /// Kills the whole job. Another job continues from the journal of its first rank's host.
    fn restart(&mut self) {
        self.moments.clear();
        self.links.clear();
        self.cut_until.clear();
        self.dead.clear();
        for disk in self.disks.values_mut() {
            disk.led = false;
        }
        self.trouble.restarts -= 1;
        let ranks = 1 + self.draw.below(6) as u32;
        self.start(ranks);
    }

    /// Plans the events of a job.
    fn plan(&mut self, ranks: u32) {
        for rank in 0..ranks {
            let time = self.now + self.draw.skewed(0.01, 5.0);
            self.at(time, What::Enter { rank });
            self.at(time, What::Tick { rank });
        }
        let (start, long) = (self.now, 8.0 * f64::from(self.units) / f64::from(ranks));
        let any = |draw: &mut Draw| draw.below(u64::from(ranks)) as u32;
        for _ in 0..self.trouble.kills {
            let (time, rank) = (start + long * self.draw.unit(), any(&mut self.draw));
            self.at(time, What::Kill { rank });
        }
        for _ in 0..self.trouble.freezes {
            let (time, rank) = (start + long * self.draw.unit(), any(&mut self.draw));
            let seconds = self.timeout * (0.5 + 2.0 * self.draw.unit());
            self.at(time, What::Freeze { rank, seconds });
        }
        for _ in 0..self.trouble.cuts {
            let time = start + long * self.draw.unit();
            let host = self.draw.below(u64::from(self.hosts)) as u32;
            let seconds = self.timeout * (0.5 + 2.0 * self.draw.unit());
            self.at(time, What::Cut { host, seconds });
        }
        for _ in 0..self.trouble.resigns {
            let (time, rank) = (start + long * self.draw.unit(), any(&mut self.draw));
            self.at(time, What::Resign { rank });
        }
        for _ in 0..self.trouble.halts {
            let (time, rank) = (start + long * self.draw.unit(), any(&mut self.draw));
            self.at(time, What::Halt { rank });
        }
        // A single rank can't compare its weights.
        for _ in 0..self.trouble.flips * u64::from(ranks > 1) {
            let rank = any(&mut self.draw);
            self.processes[rank as usize].flip = true;
        }
        if self.trouble.restarts > 0 {
            let time = start + long * self.draw.unit();
            self.at(time, What::Restart);
        }
    }

    fn at(&mut self, time: f64, what: What) {
        self.order += 1;
        let order = self.order;
        self.moments.push(Moment { time, order, what });
    }

    pub fn run(mut self) {
        let _named = Seed(self.seed);
        while let Some(Moment { time, what, .. }) = self.moments.pop() {
            self.now = self.now.max(time);
            assert!(
                self.now < STUCK,
                "seed {}: stuck, {}",
                self.seed,
                self.situation()
            );
            let of = what.rank();
            let thaw = of.map_or(0.0, |rank| self.processes[rank as usize].frozen_until);
            if thaw > time && !matches!(what, What::Kill { .. }) {
                self.at(thaw, what);
            } else if of.is_none_or(|rank| !self.dead.contains(&rank)) {
                self.happen(what);
            }
            if self.alive().all(|rank| self.processes[rank as usize].done) {
                return self.check();
            }
        }
        panic!(
            "seed {}: nothing more happens, {}",
            self.seed,
            self.situation()
        );
    }

    fn alive(&self) -> impl Iterator<Item = u32> {
        let dead = self.dead.clone();
        (0..self.processes.len() as u32).filter(move |rank| !dead.contains(rank))
    }

    fn resigned(&self, rank: u32) -> bool {
        let losses = self.processes[rank as usize].machine.losses();
        matches!(losses.get(&rank), Some(Loss::Failed(_)))
    }

    fn situation(&self) -> String {
        let describe = |rank: u32| {
            let process = &self.processes[rank as usize];
            format!(
                "rank {rank} call {} done {} inside {} applied {} leader {:?} lost {:?}",
                process.calls,
                process.done,
                process.inside,
                process.program.applied,
                process.machine.leader(),
                process.machine.losses()
            )
        };
        let ranks: Vec<String> = self.alive().map(describe).collect();
        format!("at {:.1}: {}", self.now, ranks.join("; "))
    }

    fn happen(&mut self, what: What) {
        self.trace(&what);
        match what {
            What::Arrive { to, from, bytes } => {
                let process = &mut self.processes[to as usize];
                process.mailbox.push_back((from, bytes));
                self.read(to);
            }
            What::Main { rank, turn } if self.processes[rank as usize].turn == turn => {
                self.main(rank);
            }
            What::Main { .. } => {}
            What::Tick { rank } => {
                if self.processes[rank as usize].inside {
                    self.machine(rank, Rank::handle_tick);
                }
                let pause = 0.1 + 0.2 * self.draw.unit();
                self.at(self.now + pause, What::Tick { rank });
            }
            What::Kill { rank } => self.kill(rank),
            What::Noticed { rank, dead } => {
                self.machine(rank, |machine, now| machine.handle_loss(now, dead));
            }
            What::Freeze { rank, seconds } => {
                self.processes[rank as usize].frozen_until = self.now + seconds;
            }
            What::Cut { host, seconds } => {
                self.cut_until.insert(host, self.now + seconds);
            }
            What::Resign { rank } => {
                let others = self.alive().filter(|other| {
                    let losses = self.processes[*other as usize].machine.losses();
                    *other != rank && !matches!(losses.get(other), Some(Loss::Failed(_)))
                });
                if self.processes[rank as usize].inside && others.count() > 0 {
                    let program = self.program(rank);
                    (program.work, program.taken, program.failed) = (None, None, true);
                    self.machine(rank, |machine, now| machine.resign(now, "out of memory"));
                    self.main_soon(rank, 0.0);
                }
            }
            What::Halt { rank } => {
                if self.processes[rank as usize].inside {
                    self.machine(rank, Rank::halt);
                }
            }
            What::Enter { rank } => self.enter(rank),
            What::Restart => self.restart(),
        }
    }

    fn trace(&self, what: &What) {
        if !self.traced {
            return;
        }
        let now = self.now;
        match what {
            What::Tick { .. } | What::Main { .. } => {}
            What::Arrive { to, from, bytes } => {
                eprintln!("{now:9.3} {from} -> {to}: {:?}", Message::decode(bytes));
            }
            what => eprintln!("{now:9.3} {what:?}"),
        }
    }

    fn enter(&mut self, rank: u32) {
        let process = &mut self.processes[rank as usize];
        process.inside = true;
        process.calls += 1;
        let run = process.run();
        if run > 0 {
            process.machine.renew(IDENTITY + run as u64, self.settings);
        }
        process.program = Program {
            weights: base(run),
            ..Program::default()
        };
        self.machine(rank, |machine, now| machine.enter(now, None));
        self.read(rank);
        self.main_soon(rank, 0.0);
    }

    fn kill(&mut self, rank: u32) {
        let others = |&other: &u32| other != rank && !self.resigned(other);
        let left: Vec<u32> = self.alive().filter(others).collect();
        // A single rank can't compare its weights.
        let trusted = |&rank: &u32| {
            let process = &self.processes[rank as usize];
            let applied = process.program.applied;
            !process.flip
                && (process.calls == 0 || process.program.weights == self.right(rank, applied))
        };
        if left.is_empty()
            || (left.len() == 1 && !left.iter().all(trusted))
            || self.processes[rank as usize].done
        {
            return;
        }
        // Some of its last messages never arrive: on each link, all from one message on.
        let moments = std::mem::take(&mut self.moments).into_sorted_vec();
        let mut cut = BTreeMap::new();
        for moment in moments.into_iter().rev() {
            if let What::Arrive { to, from, .. } = moment.what
                && from == rank
            {
                let gone = cut.entry(to).or_insert(false);
                *gone |= self.draw.chance(0.3);
                if *gone {
                    continue;
                }
            }
            self.moments.push(moment);
        }
        self.gone(rank);
    }

    /// The process of a rank ends, and the others notice it.
    fn gone(&mut self, rank: u32) {
        self.dead.insert(rank);
        for other in self.alive().collect::<Vec<_>>() {
            let delay = self.draw.skewed(0.01, 3.0);
            self.at(
                self.now + delay,
                What::Noticed {
                    rank: other,
                    dead: rank,
                },
            );
        }
    }

    /// Calls the machine and sends its messages. If the main thread waits, it asks for its next step again.
    fn machine(&mut self, rank: u32, call: impl FnOnce(&mut Rank, f64)) {
        let now = self.now;
        let process = &mut self.processes[rank as usize];
        call(&mut process.machine, now);
        for (to, bytes) in process.machine.poll_sends() {
            self.send(rank, to, &bytes);
        }
        let process = &self.processes[rank as usize];
        if process.waiting && process.inside {
            self.main_soon(rank, 0.001);
        }
    }

    fn send(&mut self, from: u32, to: u32, bytes: &[u8]) {
        assert_ne!(from, to, "seed {}", self.seed);
        let hosts = [from, to].map(|rank| self.processes[rank as usize].host);
        let cut = hosts.iter().filter_map(|host| self.cut_until.get(host));
        let cut = if hosts[0] == hosts[1] {
            0.0
        } else {
            cut.fold(0.0, |last: f64, &until| last.max(until))
        };
        let copies = 1 + usize::from(self.draw.chance(self.trouble.repeats));
        for _ in 0..copies {
            let latency = self.draw.skewed(0.001, 1.0);
            let last = self.links.get(&(from, to)).copied().unwrap_or(0.0);
            let time = last.max(self.now.max(cut) + latency);
            self.links.insert((from, to), time);
            self.at(
                time,
                What::Arrive {
                    to,
                    from,
                    bytes: bytes.to_vec(),
                },
            );
        }
    }

    fn read(&mut self, rank: u32) {
        while self.processes[rank as usize].inside {
            let Some((from, bytes)) = self.processes[rank as usize].mailbox.pop_front() else {
                return;
            };
            self.machine(rank, |machine, now| {
                machine
                    .handle_message(now, from, &bytes)
                    .expect("it is a message");
            });
        }
    }

    fn main_soon(&mut self, rank: u32, seconds: f64) {
        let process = &mut self.processes[rank as usize];
        process.waiting = false;
        process.turn += 1;
        let turn = process.turn;
        self.at(self.now + seconds, What::Main { rank, turn });
    }

    fn check(&self) {
        for (run, ends) in self.ends.iter().enumerate() {
            let disks = || self.disks.iter().filter(|(journal, _)| journal.0 == run);
            for iteration in 0..ITERATIONS[run] as usize {
                let kept = disks().filter_map(|(_, disk)| disk.records.get(iteration));
                let different: BTreeSet<&Vec<u8>> = kept.collect();
                assert!(
                    different.len() <= 1,
                    "{run}.{iteration} is the same on all disks"
                );
            }
            // A call that was asked to end soon has fewer records, the same on all ranks. Only a rank that led while the
            // others counted it as silent may know one more: it is in the journal, from which a resumed run continues.
            let all = ends.iter().eq([&ITERATIONS[run]]) || ends.is_empty();
            assert!(all || self.trouble.halts > 0, "run {run}: {ends:?}");
            let slept = self.timeout > 0.0;
            assert!(ends.len() <= 1 || slept, "run {run}: {ends:?}");
        }
    }
}

/// Prints the seed of a world in which anything panics, also the machine itself.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!(
                "seed {seed}: repeat it with ES_LLM_SEEDS={seed}..{}",
                seed + 1
            );
        }
    }
}
