//! The journal's promises: whatever is cut or flipped, reading gives a good prefix or a refusal.

use std::fs;
use std::path::{Path, PathBuf};

use es_core::journal::{Fault, Journal, JournalError, JournalWriter};
use es_core::population::Record;
use proptest::prelude::*;

const HEADER: &str = r#"{"run": "test"}"#;

#[derive(Clone, Debug)]
enum Frame {
    Record(Vec<Option<f64>>),
    Digest(u64),
    Event(String),
}

fn record(iteration: u32, fitness: &[Option<f64>]) -> Record {
    Record {
        run_seed: 42,
        iteration,
        sigma: 1e-3,
        learning_rate: 5e-4,
        cursor: u64::from(iteration) * 64,
        fitness: fitness.to_vec(),
        coefficients: fitness
            .iter()
            .map(|value| value.unwrap_or(0.0).clamp(-9.0, 9.0) / 7.0)
            .collect(),
        rate_folded: false,
    }
}

fn append(writer: &mut JournalWriter, frame: &Frame) -> Result<(), JournalError> {
    match frame {
        Frame::Record(fitness) => writer.append_record(&record(writer.records(), fitness)),
        Frame::Digest(digest) => match writer.records() {
            0 => Ok(()),
            // One digest per iteration: its value follows from the iteration.
            records => writer.append_digest(records - 1, digest ^ u64::from(records)),
        },
        Frame::Event(text) => writer.append_event(text),
    }
}

fn sample() -> Vec<Frame> {
    vec![
        Frame::Record(vec![Some(0.5), None, Some(-1.0)]),
        Frame::Digest(0x0123_4567_89ab_cdef),
        Frame::Event(r#"{"event": "eval", "accuracy": 0.25}"#.to_owned()),
        Frame::Record(vec![Some(1.0); 9]),
        Frame::Record(vec![None; 3]),
    ]
}

/// The bytes of a journal with these frames, and the journal as it was read after each of them.
fn written(frames: &[Frame], path: &Path) -> (Vec<u8>, Vec<Journal>) {
    let mut writer = JournalWriter::create(path, HEADER).unwrap();
    let mut states = vec![Journal::read(path).unwrap()];
    for frame in frames {
        append(&mut writer, frame).unwrap();
        states.push(Journal::read(path).unwrap());
    }
    (fs::read(path).unwrap(), states)
}

fn journal_path() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.journal");
    (directory, path)
}

/// Equal but for the torn bytes.
fn same(one: &Journal, other: &Journal) -> bool {
    let whole = |journal: &Journal| {
        let mut journal = journal.clone();
        journal.torn_bytes = 0;
        journal
    };
    whole(one) == whole(other)
}

#[test]
fn what_was_written_is_read() {
    let (_directory, path) = journal_path();
    let (bytes, states) = written(&sample(), &path);
    let journal = states.last().unwrap();
    assert_eq!(journal.header, HEADER);
    assert_eq!(journal.version, 2);
    assert_eq!(
        journal.records[0],
        record(0, &[Some(0.5), None, Some(-1.0)])
    );
    assert_eq!(journal.records[1], record(1, &[Some(1.0); 9]));
    assert_eq!(journal.records[2], record(2, &[None; 3]));
    assert_eq!(journal.digests[&0], 0x0123_4567_89ab_cdef ^ 1);
    assert_eq!(journal.events, [r#"{"event": "eval", "accuracy": 0.25}"#]);
    assert_eq!(
        (journal.good_bytes, journal.torn_bytes),
        (bytes.len() as u64, 0)
    );
}

#[test]
fn a_cut_at_any_byte_leaves_the_longest_good_prefix_and_appends_go_on() {
    let (directory, path) = journal_path();
    let (bytes, states) = written(&sample(), &path);
    let cut_path = directory.path().join("cut.journal");
    for cut in 0..bytes.len() {
        let (good, last) = (
            states
                .iter()
                .rposition(|state| state.good_bytes <= cut as u64),
            &bytes[..cut],
        );
        let Some(good) = good else {
            assert!(
                Journal::parse(last, &cut_path).is_err(),
                "cut at {cut}, inside the header"
            );
            continue;
        };
        let journal = Journal::parse(last, &cut_path).unwrap();
        assert!(same(&journal, &states[good]), "cut at {cut}");
        assert_eq!(journal.torn_bytes, cut as u64 - states[good].good_bytes);

        fs::write(&cut_path, last).unwrap();
        let mut writer = JournalWriter::open(&cut_path).unwrap();
        for frame in &sample()[good..] {
            append(&mut writer, frame).unwrap();
        }
        assert_eq!(
            fs::read(&cut_path).unwrap(),
            bytes,
            "cut at {cut}, reopened and continued"
        );
    }
}

#[test]
fn a_flip_of_any_byte_is_refused_or_leaves_a_good_prefix() {
    let (_directory, path) = journal_path();
    let (bytes, states) = written(&sample(), &path);
    let last_frame = states[states.len() - 2].good_bytes;
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            match Journal::parse(&damaged, &path) {
                Ok(journal) => {
                    assert!(
                        at as u64 >= last_frame,
                        "byte {at} lies before the last frame"
                    );
                    assert!(same(&journal, &states[states.len() - 2]), "byte {at}");
                }
                Err(error) => match error.fault {
                    Fault::Corrupt { offset, iterations } => {
                        let good = states
                            .iter()
                            .rposition(|state| state.good_bytes <= at as u64);
                        let good = good.expect("the header is good");
                        assert_eq!(offset, states[good].good_bytes, "byte {at}");
                        assert_eq!(iterations, states[good].records.len(), "byte {at}");
                        let frame = format!("at byte {offset}, in frame {}:", good + 1);
                        assert!(error.to_string().contains(&frame), "{error}");
                    }
                    Fault::NotAJournal => assert!(at < 6),
                    Fault::Version => assert!((6..8).contains(&at)),
                    Fault::Header => {
                        assert!((at as u64) < states[0].good_bytes, "byte {at}");
                        assert!(error.to_string().contains("at byte 8:"), "{error}");
                    }
                    // The header frame is the only one: a bad checksum at its end looks like a torn write.
                    _ => panic!("byte {at}: {error}"),
                },
            }
        }
    }
}

#[test]
fn missing_repeated_and_swapped_frames_are_refused() {
    let (_directory, path) = journal_path();
    let (bytes, states) = written(&sample(), &path);
    let ends: Vec<usize> = states
        .iter()
        .map(|state| state.good_bytes as usize)
        .collect();
    let frame = |at: usize| &bytes[ends[at]..ends[at + 1]];
    let frames = ends.len() - 1;
    for at in 0..frames - 1 {
        let without = [&bytes[..ends[at]], &bytes[ends[at + 1]..]].concat();
        assert!(is_corrupt(&without, ends[at]), "frame {at} missing");
        let swapped = [
            &bytes[..ends[at]],
            frame(at + 1),
            frame(at),
            &bytes[ends[at + 2]..],
        ]
        .concat();
        assert!(
            is_corrupt(&swapped, ends[at]),
            "frame {at} after the next one"
        );
    }
    for at in 0..frames {
        let repeated = [&bytes[..ends[at + 1]], frame(at), &bytes[ends[at + 1]..]].concat();
        assert!(is_corrupt(&repeated, ends[at + 1]), "frame {at} twice");
    }
}

fn fault<T>(done: Result<T, JournalError>) -> Option<Fault> {
    done.err().map(|error| error.fault)
}

fn is_corrupt(bytes: &[u8], at: usize) -> bool {
    let fault = fault(Journal::parse(bytes, Path::new("j")));
    matches!(fault, Some(Fault::Corrupt { offset, .. }) if offset == at as u64)
}

#[test]
fn garbage_after_the_last_frame_is_refused_and_zeros_are_torn() {
    let (_directory, path) = journal_path();
    let (bytes, states) = written(&sample(), &path);
    assert!(is_corrupt(&[&bytes[..], &[7; 20]].concat(), bytes.len()));
    let journal = Journal::parse(&[&bytes[..], &[0; 4096]].concat(), &path).unwrap();
    assert!(same(&journal, states.last().unwrap()));
    assert_eq!(journal.torn_bytes, 4096);
}

#[test]
fn create_never_overwrites_and_leaves_nothing_behind() {
    let (directory, path) = journal_path();
    let (bytes, _) = written(&sample(), &path);
    assert_eq!(
        fault(JournalWriter::create(&path, HEADER)),
        Some(Fault::Exists)
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );
    let nowhere = directory.path().join("missing").join("run.journal");
    assert_eq!(
        fault(JournalWriter::create(&nowhere, HEADER)),
        Some(Fault::Io)
    );
    assert_eq!(fault(JournalWriter::open(&nowhere)), Some(Fault::Io));
}

#[test]
fn records_and_digests_come_in_order() {
    let (_directory, path) = journal_path();
    let mut writer = JournalWriter::create(&path, HEADER).unwrap();
    let fitness = [Some(1.0), Some(2.0)];
    let order = writer.append_record(&record(1, &fitness)).unwrap_err();
    assert_eq!(order.fault, Fault::Order);
    let text = "expected the record of iteration 1, got iteration 2";
    assert!(order.to_string().ends_with(text), "{order}");
    let early = writer.append_digest(0, 5).unwrap_err();
    assert_eq!(early.fault, Fault::Order);
    let text = "a digest of iteration 1, whose record isn't written; the journal has 0 iterations";
    assert!(early.to_string().ends_with(text), "{early}");
    writer.append_record(&record(0, &fitness)).unwrap();
    assert_eq!(
        fault(writer.append_record(&record(0, &fitness))),
        Some(Fault::Order)
    );
    writer.append_digest(0, 5).unwrap();
    writer.append_digest(0, 5).unwrap();
    assert_eq!(
        fault(writer.append_digest(0, 6)),
        Some(Fault::DigestDiffers)
    );
    let odd = Record {
        coefficients: vec![0.0; 3],
        ..record(1, &fitness)
    };
    let unwritable = writer.append_record(&odd).unwrap_err();
    assert_eq!(unwritable.fault, Fault::Unwritable);
    let text = "the record of iteration 2 can't be written: ";
    assert!(unwritable.to_string().contains(text), "{unwritable}");
    let infinite = Record {
        sigma: f64::INFINITY,
        ..record(1, &fitness)
    };
    assert_eq!(
        fault(writer.append_record(&infinite)),
        Some(Fault::Unwritable)
    );
    assert_eq!(
        Journal::read(&path).unwrap().records.len(),
        1,
        "refusals leave no bytes"
    );
}

#[test]
fn a_second_writer_and_a_deleted_file_are_noticed() {
    let (_directory, path) = journal_path();
    let mut one = JournalWriter::create(&path, HEADER).unwrap();
    let mut other = JournalWriter::open(&path).unwrap();
    other.append_event("{}").unwrap();
    assert_eq!(fault(one.append_event("{}")), Some(Fault::Changed));
    fs::remove_file(&path).unwrap();
    if cfg!(unix) {
        assert_eq!(fault(other.append_event("{}")), Some(Fault::Deleted));
    }
}

#[test]
fn after_a_takeover_the_new_writer_writes_and_the_old_one_is_refused() {
    let (_directory, path) = journal_path();
    let mut old = JournalWriter::create(&path, HEADER).unwrap();
    old.append_record(&record(0, &[Some(1.0)])).unwrap();
    let mut new = JournalWriter::take_over(&path).unwrap();
    assert_eq!(new.records(), 1);
    // Before and after the new one's first append.
    for iteration in 1..3 {
        let refused = old.append_record(&record(1, &[Some(f64::from(iteration))]));
        let fault = fault(refused);
        assert!(
            matches!(fault, Some(Fault::Changed | Fault::Deleted)),
            "{fault:?}"
        );
        new.append_record(&record(iteration, &[Some(2.0)])).unwrap();
    }
    assert_eq!(Journal::read(&path).unwrap().records.len(), 3);
}

/// A record whose append succeeded stays in the journal, whenever another writer takes the journal over.
#[test]
fn records_reported_as_safe_are_in_the_journal_after_a_takeover() {
    let (_directory, path) = journal_path();
    let mut late = 0;
    for turn in 0..100 {
        let _ = fs::remove_file(&path);
        let mut old = JournalWriter::create(&path, HEADER).unwrap();
        old.append_record(&record(0, &[Some(0.0)])).unwrap();
        let appending = std::thread::spawn(move || {
            let safe = |iteration: &u32| {
                let appended = old.append_record(&record(*iteration, &[Some(1.0)]));
                appended.is_ok()
            };
            (1..10_000).take_while(safe).count()
        });
        for _ in 0..turn * 977 % 20_000 {
            std::hint::spin_loop();
        }
        let before = Journal::read(&path).unwrap().records.len();
        let mut new = JournalWriter::take_over(&path).unwrap();
        let safe = 1 + appending.join().unwrap();
        let have = new.records() as usize;
        assert!(have >= safe, "{have} of {safe} records, turn {turn}");
        late += usize::from(have > before);
        new.append_record(&record(have as u32, &[Some(2.0)]))
            .unwrap();
        assert_eq!(Journal::read(&path).unwrap().records.len(), have + 1);
    }
    assert!(late > 0, "nothing was ever appended meanwhile");
}

/// Of two that take over at once, the one that wins holds all, and the other one is refused.
#[test]
fn two_that_take_over_at_once_lose_nothing() {
    let (_directory, path) = journal_path();
    for turn in 0..100 {
        let _ = fs::remove_file(&path);
        JournalWriter::create(&path, HEADER).unwrap();
        let taker = || {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut writer = JournalWriter::take_over(&path).unwrap();
                let mut safe = Vec::new();
                for _ in 0..3 {
                    let iteration = writer.records();
                    if writer
                        .append_record(&record(iteration, &[Some(1.0)]))
                        .is_ok()
                    {
                        safe.push(iteration);
                    }
                }
                safe
            })
        };
        let takers = [taker(), taker()];
        let safe: Vec<u32> = takers.map(|taker| taker.join().unwrap()).concat();
        let records = Journal::read(&path).unwrap().records.len();
        assert!(
            safe.iter().all(|&iteration| (iteration as usize) < records),
            "turn {turn}"
        );
        let once: std::collections::BTreeSet<u32> = safe.iter().copied().collect();
        assert_eq!(once.len(), safe.len(), "turn {turn}: each record once");
    }
}

#[test]
fn a_torn_end_is_not_taken_over() {
    let (_directory, path) = journal_path();
    let (bytes, states) = written(&sample(), &path);
    for cut in 0..bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let Ok(good) = Journal::parse(&bytes[..cut], &path) else {
            assert!(JournalWriter::take_over(&path).is_err());
            assert_eq!(
                fs::read(&path).unwrap(),
                bytes[..cut],
                "a refusal changes nothing"
            );
            continue;
        };
        let mut writer = JournalWriter::take_over(&path).unwrap();
        writer.append_event("{}").unwrap();
        let journal = Journal::read(&path).unwrap();
        assert_eq!(journal.torn_bytes, 0);
        assert_eq!(journal.records, good.records);
        assert!(states.iter().any(|state| state.records == good.records));
    }
    let names = fs::read_dir(path.parent().unwrap()).unwrap();
    assert_eq!(names.count(), 1, "no temporary file is left");
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let finite = prop_oneof![
        -1e6_f64..1e6,
        Just(0.0),
        Just(f64::MAX),
        Just(f64::MIN_POSITIVE)
    ];
    prop_oneof![
        proptest::collection::vec(proptest::option::weighted(0.8, finite), 0..20)
            .prop_map(Frame::Record),
        Just(Frame::Digest(0xfeed)),
        ".{0,40}".prop_map(Frame::Event),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_survive_any_cut_and_any_flip(
        frames in proptest::collection::vec(any_frame(), 0..8),
        cut in any::<prop::sample::Index>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..=255), 0..3),
    ) {
        let (_directory, path) = journal_path();
        let (mut bytes, states) = written(&frames, &path);
        bytes.truncate(1 + cut.index(bytes.len()));
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        if let Ok(journal) = Journal::parse(&bytes, &path) {
            prop_assert!(states.iter().any(|state| same(state, &journal)));
            prop_assert_eq!(journal.good_bytes + journal.torn_bytes, bytes.len() as u64);
        }
    }
}
