//! How values become bytes: varints, 8-byte words, counted bytes. Reading never trusts a length.

/// Why some bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the error texts describe them")]
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

/// A value with a form in bytes.
pub(super) trait Field {
    fn write(&self, out: &mut Writer);

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError>
    where
        Self: Sized;
}

#[derive(Debug, Default)]
pub(super) struct Writer(pub Vec<u8>);

impl Writer {
    /// Writes the kind of a message and its fields.
    pub fn message(&mut self, kind: u8, fields: &[&dyn Field]) {
        self.0.push(kind);
        for field in fields {
            field.write(self);
        }
    }

    /// An integer with 7 bits per byte, the lowest bits first.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn fixed(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn floats(&mut self, values: &[f64]) {
        for value in values {
            self.fixed(value.to_bits());
        }
    }
}

pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field, of the type that the caller expects.
    pub fn get<T: Field>(&mut self) -> Result<T, WireError> {
        T::read(self)
    }

    pub fn byte(&mut self) -> Result<u8, WireError> {
        Ok(self.take(1)?[0])
    }

    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
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

    /// The number of items that follow, each of at least one byte.
    pub fn count(&mut self) -> Result<usize, WireError> {
        let count = usize::try_from(self.varint()?).map_err(|_| WireError::Range)?;
        if count > self.0.len() {
            return Err(WireError::Short);
        }
        Ok(count)
    }

    pub fn fixed(&mut self) -> Result<u64, WireError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    pub fn floats(&mut self, count: usize) -> Result<Vec<f64>, WireError> {
        (0..count)
            .map(|_| Ok(f64::from_bits(self.fixed()?)))
            .collect()
    }

    pub fn end(&self) -> Result<(), WireError> {
        match self.0.len() {
            0 => Ok(()),
            rest => Err(WireError::Long(rest)),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl Field for u32 {
    fn write(&self, out: &mut Writer) {
        out.varint(u64::from(*self));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Self::try_from(from.varint()?).map_err(|_| WireError::Range)
    }
}

/// Checksums and digests. Their bits are random, so a varint would be longer.
impl Field for u64 {
    fn write(&self, out: &mut Writer) {
        out.fixed(*self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        from.fixed()
    }
}

impl Field for bool {
    fn write(&self, out: &mut Writer) {
        out.varint(u64::from(*self));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        match from.varint()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Range),
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, out: &mut Writer) {
        self.is_some().write(out);
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        bool::read(from)?.then(|| T::read(from)).transpose()
    }
}

impl Field for Vec<u8> {
    fn write(&self, out: &mut Writer) {
        out.varint(self.len() as u64);
        out.0.extend(self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = from.count()?;
        Ok(from.take(count)?.to_vec())
    }
}

impl Field for String {
    fn write(&self, out: &mut Writer) {
        self.as_bytes().to_vec().write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self::from_utf8_lossy(&from.get::<Vec<u8>>()?).into_owned())
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn write(&self, out: &mut Writer) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((from.get()?, from.get()?))
    }
}

/// A value of at least one byte that stands in lists. Lists of numbers have shorter forms.
pub(super) trait Item: Field {}

impl Item for Vec<u8> {}

impl<T: Item> Field for Vec<T> {
    fn write(&self, out: &mut Writer) {
        out.varint(self.len() as u64);
        for item in self {
            item.write(out);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        (0..from.count()?).map(|_| from.get()).collect()
    }
}
