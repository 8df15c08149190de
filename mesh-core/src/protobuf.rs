//! The wire form of protobuf, read field by field: what the few messages read here need of it.
//!
//! Nothing is copied and nothing recurses: a nested message is a slice that whoever knows its type
//! reads on. Source: Protocol Buffers, "Encoding".

use std::fmt;

pub(crate) const VARINT: u64 = 0;
pub(crate) const FIXED64: u64 = 1;
pub(crate) const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// `int32`, `bool`, an enumeration and the like.
    Number(u64),
    /// The bits of a `double`, `fixed64` or `sfixed64`.
    Fixed(u64),
    /// A text, bytes, or a message.
    Bytes(&'a [u8]),
    /// Something else, passed over.
    Other,
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    Truncated,
    /// A number of more than 64 bits.
    Number,
    /// A type of field that there is not (any more), or a field without number.
    Field,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "it ends too early",
            Self::Number => "a number has more than 64 bits",
            Self::Field => "it is no protobuf message",
        })
    }
}

/// The fields of a message in their order, to the first error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) const fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 {
            return Err(Malformed::Field);
        }
        let value = match tag & 7 {
            VARINT => Value::Number(self.varint()?),
            FIXED64 => {
                let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
                self.0 = rest;
                Value::Fixed(u64::from_le_bytes(*bytes))
            }
            BYTES => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Truncated)?;
                Value::Bytes(self.take(length)?)
            }
            FIXED32 => {
                self.take(4)?;
                Value::Other
            }
            _ => return Err(Malformed::Field),
        };
        Ok((number, value))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::Number)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_their_order_and_end_with_the_first_error() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 1, 2, 3, 4, 0x21]
            .into_iter()
            .chain(1.5_f64.to_le_bytes());
        let message: Vec<u8> = message.collect();
        let read: Vec<_> = Fields::of(&message).collect();
        let expected = [
            (1, Value::Number(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Other),
            (4, Value::Fixed(1.5_f64.to_bits())),
        ];
        assert_eq!(read, expected.map(Ok));
        for (bytes, why) in [
            (&[0x08][..], Malformed::Truncated),
            (&[0x12, 3, b'h', b'i'], Malformed::Truncated),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], Malformed::Truncated),
            (&[0x1d, 1], Malformed::Truncated),
            (&[0x21, 1], Malformed::Truncated),
            (&[0xff; 11], Malformed::Number),
            (&[0x0b], Malformed::Field),
            (&[0x00, 0x00], Malformed::Field),
        ] {
            assert_eq!(Fields::of(bytes).collect::<Vec<_>>(), [Err(why)], "{bytes:?}");
        }
    }
}
