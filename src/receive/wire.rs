//! Protobuf as it stands in the bytes: fields of a message, one after the other, nothing copied.

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a message ends in the middle of a field")]
    Short,
    #[error("a number has more than ten bytes")]
    LongNumber,
    #[error("a field has wire type {0}, which no message has")]
    WireType(u8),
    #[error("a field has the number {0}, which no message has")]
    FieldNumber(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed64(u64),
    Fixed32(u32),
}

/// Of one beyond, some readers take the lower bits for another.
const FIELD_NUMBER_MAX: u64 = (1 << 29) - 1;

/// The fields of a message, in their order.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    #[must_use]
    pub fn of(message: &'a [u8]) -> Fields<'a> {
        Fields(message)
    }

    fn number(&mut self) -> Result<u64, WireError> {
        // Most tags and lengths are one byte.
        if let Some((byte, rest)) = self.0.split_first()
            && *byte < 0x80
        {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 { WireError::Short } else { WireError::LongNumber })
    }

    fn bytes(&mut self, len: u64) -> Result<&'a [u8], WireError> {
        let len = usize::try_from(len).map_err(|_| WireError::Short)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), WireError> {
        let tag = self.number()?;
        let value = match (tag & 7) as u8 {
            0 => Value::Number(self.number()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let len = self.number()?;
                Value::Bytes(self.bytes(len)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.fixed()?)),
            other => return Err(WireError::WireType(other)),
        };
        match tag >> 3 {
            number @ 1..=FIELD_NUMBER_MAX => Ok((number, value)),
            other => Err(WireError::FieldNumber(other)),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            // Nothing behind it has a meaning.
            self.0 = &[];
        }
        Some(field)
    }
}
