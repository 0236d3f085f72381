//! What ranks tell each other, as bytes. Only scalars and the journal's records: never weights, never text of prompts or
//! completions.
//!
//! ```text
//! call varint | kind u8 | fields        integers as varints (7 bits a byte, the lowest first), floats as 8 bytes
//! ```
//! `call` numbers the collective calls of a job, so that a late message of an earlier one is known as such.

mod fields;

use crate::schedule::UnitId;

use super::RankId;
use super::wire::{Reader, WireError, Writer};

/// One round of work: all units of an iteration, or of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round {
    /// What is done: 0 an iteration, and any other number as the caller likes.
    pub kind: u32,
    /// Records that were applied to the weights it is done with.
    pub step: u32,
}

/// The result of one unit: what the table needs, and counts that are only ever summed up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Numbers that the table keeps per unit.
    pub values: Vec<f64>,
    /// Numbers that are added up over all units.
    pub counts: Vec<u64>,
    /// Figures of the caller's own, as it writes them; kept per unit, and mostly none.
    pub figures: Vec<u8>,
}

/// What a rank says of its master weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightsDigest {
    /// After which iteration.
    pub iteration: u32,
    /// Their digest.
    pub digest: u64,
    /// How often they had been made anew by then: what was said before doesn't speak of those made since.
    pub healed: u32,
}

/// What a rank says when it comes, or when it has a new leader.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hello {
    /// Records it has, and a checksum over them.
    pub have: u32,
    /// See [`super::History::checksum`].
    pub history: u64,
    /// Stands for everything that must be the same on all ranks.
    pub identity: u64,
    /// The digest it made last.
    pub digest: Option<WeightsDigest>,
    /// Whether it led in this call, and says so to this leader for the first time: what belongs to the one who leads must be
    /// taken over again.
    pub led: bool,
    /// What it has of the round it was in.
    pub results: Option<(Round, Vec<(UnitId, Outcome)>)>,
}

/// Results of units, and whether their worker wants more.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The round they belong to.
    pub round: Round,
    /// The deal in which the units were assigned.
    pub deal: u32,
    /// Whether the worker will soon hold nothing.
    pub ready: bool,
    /// The units' values.
    pub results: Vec<(UnitId, Vec<f64>)>,
    /// Their counts, summed up.
    pub counts: Vec<u64>,
    /// The figures of units that have some.
    pub figures: Vec<(UnitId, Vec<u8>)>,
}

/// A record that its leader published: it comes in pieces, over the ranks that get it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Which.
    pub iteration: u32,
    /// Its checksum.
    pub checksum: u64,
    /// Its bytes.
    pub length: u32,
    /// The ranks that get it: their order says who passes on which piece to whom.
    pub ranks: Vec<RankId>,
    /// The piece that this rank is the first to have, if it is.
    pub piece: Option<Vec<u8>>,
}

/// Everything that ranks say.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are named")]
pub enum Message {
    /// To the leader: I am here.
    Hello(Hello),
    /// To the leader: results.
    Report(Report),
    /// To the leader: the digest of my master weights after an iteration.
    Digest(WeightsDigest),
    /// To the leader: records it asked for.
    Records { first: u32, records: Vec<Vec<u8>> },
    /// To the leader: I know how the call ended, after these many records.
    Done { have: u32 },
    /// To all: I can't go on; why, and whether I may have taken the journal over in this call.
    Resign { reason: String, led: bool },
    /// To all: I know how the call ended, as its `leader` said, with these many records of which this is the last, and
    /// leave it.
    Left {
        leader: RankId,
        have: u32,
        payload: Vec<u8>,
        last: Option<Vec<u8>>,
    },
    /// From the leader: what a rank must know to take part.
    Welcome { payload: Vec<u8> },
    /// From the leader: units to evaluate, behind those you hold of the same deal, instead of those of an earlier one;
    /// `alone`: report each by itself.
    Assign {
        round: Round,
        deal: u32,
        units: Vec<UnitId>,
        alone: bool,
    },
    /// From the leader: another rank has the result.
    Cancel { round: Round, unit: UnitId },
    /// From the leader: the next record.
    Record { iteration: u32, payload: Vec<u8> },
    /// From the leader: there is a record, in pieces.
    Published(Published),
    /// To those behind me in the tree of this piece of a record that `leader` published.
    Piece {
        leader: RankId,
        iteration: u32,
        piece: u32,
        bytes: Vec<u8>,
    },
    /// From the leader: send me your records from `first` on. To the leader: send me yours.
    Fetch { first: u32 },
    /// From the leader: all ranks have this digest.
    Agreed { iteration: u32, digest: u64 },
    /// From the leader: your weights, which had been made anew so often, are wrong; make them anew.
    Heal { iteration: u32, healed: u32 },
    /// From the leader: for the journals of other nodes.
    Note { payload: Vec<u8> },
    /// From the leader: the call's result, after these many records.
    Finish { have: u32, payload: Vec<u8> },
    /// From the leader: everybody knows it; go.
    Release,
    /// From the leader: the call ends with this error.
    Stop { payload: Vec<u8> },
    /// From the leader: you were taken for lost; say hello.
    Evict,
    /// To the leader, and from it to all: I live.
    Beat,
    /// To the leader: I was asked to end the call soon.
    Halt,
}

impl Message {
    /// Its bytes.
    pub fn encode(&self, call: u32) -> Vec<u8> {
        let mut out = Writer::default();
        out.word(u64::from(call));
        match self {
            Self::Hello(hello) => {
                out.kind(1);
                out.hello(hello);
            }
            Self::Report(report) => {
                out.kind(2);
                out.report(report);
            }
            Self::Digest(digest) => {
                out.kind(3);
                out.weights_digest(*digest);
            }
            Self::Records { first, records } => {
                out.kind(4);
                out.word(u64::from(*first));
                out.word(records.len() as u64);
                for record in records {
                    out.bytes(record);
                }
            }
            Self::Done { have } => out.numbers(5, &[*have]),
            Self::Resign { reason, led } => out.flagged(6, *led, reason.as_bytes()),
            Self::Welcome { payload } => out.blob(7, payload),
            Self::Assign {
                round,
                deal,
                units,
                alone,
            } => {
                out.kind(8);
                out.round(*round);
                out.word(u64::from(*deal));
                out.word(u64::from(*alone));
                out.units(units);
            }
            Self::Cancel { round, unit } => {
                out.kind(9);
                out.round(*round);
                out.word(u64::from(*unit));
            }
            Self::Record { iteration, payload } => {
                out.numbers(10, &[*iteration]);
                out.bytes(payload);
            }
            Self::Fetch { first } => out.numbers(11, &[*first]),
            Self::Agreed { iteration, digest } => out.pair(12, *iteration, *digest),
            Self::Heal { iteration, healed } => out.numbers(13, &[*iteration, *healed]),
            Self::Note { payload } => out.blob(14, payload),
            Self::Finish { have, payload } => {
                out.numbers(15, &[*have]);
                out.bytes(payload);
            }
            Self::Release => out.kind(16),
            Self::Stop { payload } => out.blob(17, payload),
            Self::Evict => out.kind(18),
            Self::Beat => out.kind(19),
            Self::Halt => out.kind(21),
            Self::Published(published) => {
                out.kind(22);
                out.published(published);
            }
            Self::Piece {
                leader,
                iteration,
                piece,
                bytes,
            } => {
                out.numbers(23, &[*leader, *iteration, *piece]);
                out.bytes(bytes);
            }
            Self::Left {
                leader,
                have,
                payload,
                last,
            } => {
                out.numbers(20, &[*leader, *have]);
                out.bytes(payload);
                out.option(last.as_ref(), |out, last| out.bytes(last));
            }
        }
        out.0
    }

    /// The call and the message of some bytes.
    ///
    /// # Errors
    /// If the bytes are no message.
    pub fn decode(bytes: &[u8]) -> Result<(u32, Self), WireError> {
        let mut from = Reader::new(bytes);
        let call = from.small()?;
        let message = match from.kind()? {
            1 => Self::Hello(from.hello()?),
            2 => Self::Report(from.report()?),
            3 => Self::Digest(from.weights_digest()?),
            4 => {
                let (first, count) = (from.small()?, from.count()?);
                let records = (0..count).map(|_| from.bytes()).collect::<Result<_, _>>()?;
                Self::Records { first, records }
            }
            5 => Self::Done {
                have: from.small()?,
            },
            6 => Self::Resign {
                led: from.flag()?,
                reason: String::from_utf8_lossy(&from.bytes()?).into_owned(),
            },
            7 => Self::Welcome {
                payload: from.bytes()?,
            },
            8 => Self::Assign {
                round: from.round()?,
                deal: from.small()?,
                alone: from.flag()?,
                units: from.units()?,
            },
            9 => Self::Cancel {
                round: from.round()?,
                unit: from.small()?,
            },
            10 => Self::Record {
                iteration: from.small()?,
                payload: from.bytes()?,
            },
            11 => Self::Fetch {
                first: from.small()?,
            },
            12 => {
                let (iteration, digest) = from.pair()?;
                Self::Agreed { iteration, digest }
            }
            13 => Self::Heal {
                iteration: from.small()?,
                healed: from.small()?,
            },
            14 => Self::Note {
                payload: from.bytes()?,
            },
            15 => Self::Finish {
                have: from.small()?,
                payload: from.bytes()?,
            },
            16 => Self::Release,
            17 => Self::Stop {
                payload: from.bytes()?,
            },
            18 => Self::Evict,
            19 => Self::Beat,
            20 => Self::Left {
                leader: from.small()?,
                have: from.small()?,
                payload: from.bytes()?,
                last: from.flag()?.then(|| from.bytes()).transpose()?,
            },
            21 => Self::Halt,
            22 => Self::Published(from.published()?),
            23 => Self::Piece {
                leader: from.small()?,
                iteration: from.small()?,
                piece: from.small()?,
                bytes: from.bytes()?,
            },
            kind => return Err(WireError::Kind(kind)),
        };
        from.end()?;
        Ok((call, message))
    }
}
