//! How a call ends, also for ranks that miss its end.
//!
//! ```text
//! leader --Finish--> all --Done--> leader --Release--> all       every rank knows the result before any rank leaves
//! ```
//! A rank that knows the result and loses its leader leaves at once. It sends `Left` to the others with the last record,
//! since it will not answer requests later. A rank that has the same records then leaves as well. A rank that lacks more
//! records asks for them, or makes them again itself.

use super::message::{CallEnd, Message};

/// A call that this rank has left.
#[derive(Debug)]
pub(super) struct Ended {
    pub call: u32,
    pub end: CallEnd,
    /// All records that this rank had.
    pub records: Vec<Vec<u8>>,
}

impl Ended {
    /// The answer to a rank that is still in the call, if its message is a question.
    pub fn answer(&self, question: &Message) -> Option<Message> {
        match *question {
            Message::Hello(_) => Some(Message::Left(self.end.clone())),
            Message::Fetch { first } => {
                let records = self.records.get(first as usize..);
                let records = records.unwrap_or_default().to_vec();
                Some(Message::Records { first, records })
            }
            _ => None,
        }
    }
}
