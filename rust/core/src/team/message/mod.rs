//! The messages of ranks to each other, as bytes. They hold scalars and the journal's records: never weights, never text
//! of prompts or completions.
//!
//! ```text
//! call varint | kind u8 | fields        integers as varints (7 bits per byte, lowest first), floats as 8 bytes
//! ```
//! `call` numbers the collective calls of a job, so that a late message of an earlier call is recognized.
//! `docs/coordination.md` lists the messages with their senders and receivers.

mod fields;

use crate::schedule::{RankId, UnitId};

use super::wire::{Field, Reader, WireError, Writer};

/// One round of work: all units of an iteration, or of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round {
    /// The kind of work: 0 is an iteration, the caller chooses the meaning of any other number.
    pub kind: u32,
    /// The number of records in the weights that the units are evaluated with.
    pub step: u32,
}

/// The result of one unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Numbers that the table keeps per unit.
    pub values: Vec<f64>,
    /// Numbers that are summed over all units.
    pub counts: Vec<u64>,
    /// Figures in the caller's own encoding, kept per unit; mostly empty.
    pub figures: Vec<u8>,
}

/// The digest of a rank's master weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightsDigest {
    /// The iteration after which it was computed.
    pub iteration: u32,
    /// The digest.
    pub digest: u64,
    /// The number of times this rank had rebuilt its weights by then. A digest from before a rebuild does not
    /// describe the weights after it.
    pub rebuilds: u32,
}

/// How a rank introduces itself when it enters a call, and to each new leader.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hello {
    /// The number of records it has.
    pub have: u32,
    /// The checksum over them, see [`super::History::checksum`].
    pub history: u64,
    /// A number for everything that must be the same on all ranks.
    pub identity: u64,
    /// The last digest of its weights.
    pub digest: Option<WeightsDigest>,
    /// True if it led in this call and this leader does not know it yet: the journal must be taken over again.
    pub led: bool,
    /// Its results of the round it works on.
    pub results: Option<(Round, Vec<(UnitId, Outcome)>)>,
}

/// Units to evaluate. They follow earlier units of the same deal, and replace those of an earlier deal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The round of the units.
    pub round: Round,
    /// The deal in which they are assigned.
    pub deal: u32,
    /// The units.
    pub units: Vec<UnitId>,
    /// Whether to report each by itself.
    pub alone: bool,
}

/// Results of units, and whether their rank wants more units.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The round of the units.
    pub round: Round,
    /// The deal in which the units were assigned.
    pub deal: u32,
    /// Whether the rank is out of units, or evaluates its last one.
    pub ready: bool,
    /// The values of each unit.
    pub results: Vec<(UnitId, Vec<f64>)>,
    /// The sums of the units' counts.
    pub counts: Vec<u64>,
    /// The figures of the units that have some.
    pub figures: Vec<(UnitId, Vec<u8>)>,
}

/// The announcement of a record, which then arrives in pieces by way of the other ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The iteration of the record.
    pub iteration: u32,
    /// The checksum of the record.
    pub checksum: u64,
    /// The number of its bytes.
    pub length: u32,
    /// The ranks that get it. Their order determines which rank passes which piece on, and to whom.
    pub ranks: Vec<RankId>,
    /// The piece that the receiver is the first to have, if there is one.
    pub piece: Option<Vec<u8>>,
}

/// A piece of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The leader that published the record.
    pub leader: RankId,
    /// The iteration of the record.
    pub iteration: u32,
    /// The index of the piece in the record.
    pub index: u32,
    /// The bytes of the piece.
    pub bytes: Vec<u8>,
}

/// How a call ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallEnd {
    /// The leader that announced the result.
    pub leader: RankId,
    /// The number of records at the end.
    pub have: u32,
    /// The result.
    pub payload: Vec<u8>,
    /// The last record, if there is one.
    pub last: Option<Vec<u8>>,
}

/// Everything that ranks send each other.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are named")]
pub enum Message {
    /// To the leader: this rank takes part.
    Hello(Hello),
    /// To the leader: results.
    Report(Report),
    /// To the leader: the digest of this rank's master weights.
    Digest(WeightsDigest),
    /// To the leader: the records it asked for.
    Records { first: u32, records: Vec<Vec<u8>> },
    /// To the leader: this rank knows the result of the call, and has this number of records.
    Done { have: u32 },
    /// To all: this rank failed. `led`: it may have taken the journal over in this call.
    Resign { reason: String, led: bool },
    /// To all: this rank knows how the call ended, and leaves it.
    Left(CallEnd),
    /// From the leader: what a rank needs to know to take part.
    Welcome { payload: Vec<u8> },
    /// From the leader: units to evaluate.
    Assign(Assignment),
    /// From the leader: another rank evaluated this unit.
    Cancel { round: Round, unit: UnitId },
    /// From the leader: the next record, whole.
    Record { iteration: u32, payload: Vec<u8> },
    /// From the leader: a record comes in pieces.
    Published(Published),
    /// From any rank: a piece of a published record.
    Piece(Piece),
    /// To and from the leader: send me your records from `first` on.
    Fetch { first: u32 },
    /// From the leader: all ranks have this digest.
    Agreed { iteration: u32, digest: u64 },
    /// From the leader: the weights you reported after this number of rebuilds are wrong; rebuild them.
    Rebuild { iteration: u32, rebuilds: u32 },
    /// From the leader: an entry for the journals of other hosts.
    Note { payload: Vec<u8> },
    /// From the leader: the result of the call, after this number of records.
    Finish { have: u32, payload: Vec<u8> },
    /// From the leader: all ranks know the result, leave the call.
    Release,
    /// From the leader: the call ends with this error.
    Stop { payload: Vec<u8> },
    /// From the leader: you count as lost; send a hello to take part again.
    Evict,
    /// To the leader, and from the leader to all: this rank lives.
    Beat,
    /// To the leader: this rank was asked to end the call soon.
    Halt,
}

impl Message {
    /// Whether a rank handles this message only while it leads.
    pub(super) fn is_for_leader(&self) -> bool {
        matches!(
            self,
            Self::Hello(_)
                | Self::Report(_)
                | Self::Digest(_)
                | Self::Records { .. }
                | Self::Done { .. }
                | Self::Halt
        )
    }

    /// The bytes of this message in a call.
    pub fn encode(&self, call: u32) -> Vec<u8> {
        let mut out = Writer::default();
        call.write(&mut out);
        self.write(&mut out);
        out.0
    }

    /// Reads a call number and a message.
    ///
    /// # Errors
    /// If the bytes are not a message.
    pub fn decode(bytes: &[u8]) -> Result<(u32, Self), WireError> {
        let mut from = Reader::new(bytes);
        let call = from.get()?;
        let kind = from.byte()?;
        let message = Self::read(kind, &mut from)?;
        from.end()?;
        Ok((call, message))
    }
}

/// Writes and reads messages by a table: the kind byte of each, and its fields in the order of their bytes.
macro_rules! messages {
    ($($kind:literal $name:ident $(($inner:ident))? $({ $($field:ident),+ })?;)+) => {
        impl Message {
            fn write(&self, out: &mut Writer) {
                match self {
                    $(Self::$name $(($inner))? $({ $($field),+ })? => {
                        out.message($kind, &[$($inner)? $($($field),+)?]);
                    })+
                }
            }

            fn read(kind: u8, from: &mut Reader<'_>) -> Result<Self, WireError> {
                Ok(match kind {
                    $($kind => {
                        $(let $inner = from.get()?;)?
                        $($(let $field = from.get()?;)+)?
                        Self::$name $(($inner))? $({ $($field),+ })?
                    })+
                    kind => return Err(WireError::Kind(kind)),
                })
            }
        }
    };
}

messages! {
    1 Hello(hello);
    2 Report(report);
    3 Digest(digest);
    4 Records { first, records };
    5 Done { have };
    6 Resign { led, reason };
    7 Welcome { payload };
    8 Assign(assignment);
    9 Cancel { round, unit };
    10 Record { iteration, payload };
    11 Fetch { first };
    12 Agreed { iteration, digest };
    13 Rebuild { iteration, rebuilds };
    14 Note { payload };
    15 Finish { have, payload };
    16 Release;
    17 Stop { payload };
    18 Evict;
    19 Beat;
    20 Left(end);
    21 Halt;
    22 Published(published);
    23 Piece(piece);
}
