//! Bytes of messages: varints, 8-byte words, counted bytes. Reading never trusts a length.

/// Why some bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WireError {
    #[error("a message ends too early")]
    Short,
    #[error("a message has {0} bytes too many")]
    Long(usize),
    #[error("a message has the unknown kind {0}")]
    Kind(u8),
    #[error("a message has a number out of range")]
    Range,
}

#[derive(Debug, Default)]
pub(super) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn kind(&mut self, kind: u8) {
        self.0.push(kind);
    }

    pub fn word(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn fixed(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        self.0.extend(bytes);
    }

    pub fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.word(u64::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn kind(&mut self) -> Result<u8, WireError> {
        Ok(self.take(1)?[0])
    }

    pub fn word(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(WireError::Range);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Range)
    }

    pub fn small(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.word()?).map_err(|_| WireError::Range)
    }

    pub fn flag(&mut self) -> Result<bool, WireError> {
        match self.word()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Range),
        }
    }

    /// How many things of at least one byte each follow.
    pub fn count(&mut self) -> Result<usize, WireError> {
        let count = self.word()?;
        let count = usize::try_from(count).map_err(|_| WireError::Range)?;
        if count > self.0.len() {
            return Err(WireError::Short);
        }
        Ok(count)
    }

    pub fn fixed(&mut self) -> Result<u64, WireError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    }

    pub fn bytes(&mut self) -> Result<Vec<u8>, WireError> {
        let count = self.count()?;
        Ok(self.take(count)?.to_vec())
    }

    pub fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(WireError::Long(self.0.len()))
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }
}
