//! AMF0 (Action Message Format, version 0): the values in commands and metadata, read within limits.

/// The error of a message that is not valid AMF0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed AMF0: {0}")]
pub(crate) struct AmfError(&'static str);

/// Maximum nesting of values.
const MAX_DEPTH: usize = 16;
/// Maximum number of values in one message, nested ones included.
const MAX_VALUES: usize = 4096;

/// A value (AMF0 specification, section 2). Objects keep the order of their fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Number(f64),
    Boolean(bool),
    /// A short or long string; the form on the wire follows from the length.
    String(String),
    Object(Vec<(String, Self)>),
    Null,
    Undefined,
    EcmaArray(Vec<(String, Self)>),
    StrictArray(Vec<Self>),
    /// Milliseconds since 1970, and a time zone that is reserved and should be 0.
    Date(f64, i16),
    /// A class name, and its fields.
    Typed(String, Vec<(String, Self)>),
    Xml(String),
}

impl Value {
    /// Makes a string.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::String(text.into())
    }

    /// Makes an object with fields in this order.
    pub(crate) fn object<const N: usize>(fields: [(&str, Self); N]) -> Self {
        Self::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns a field of an object or array.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(fields) | Self::EcmaArray(fields) | Self::Typed(_, fields) => {
                fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// Appends the value in its wire format.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                out.push(marker::NUMBER);
                out.extend(number.to_be_bytes());
            }
            Self::Boolean(truth) => out.extend([marker::BOOLEAN, u8::from(*truth)]),
            Self::String(text) => match u16::try_from(text.len()) {
                Ok(length) => {
                    out.push(marker::STRING);
                    out.extend(length.to_be_bytes());
                    out.extend(text.as_bytes());
                }
                Err(_) => write_long(marker::LONG_STRING, text, out),
            },
            Self::Object(fields) => {
                out.push(marker::OBJECT);
                write_fields(fields, out);
            }
            Self::Null => out.push(marker::NULL),
            Self::Undefined => out.push(marker::UNDEFINED),
            Self::EcmaArray(fields) => {
                out.push(marker::ECMA_ARRAY);
                out.extend(u32::try_from(fields.len()).unwrap_or(u32::MAX).to_be_bytes());
                write_fields(fields, out);
            }
            Self::StrictArray(values) => {
                out.push(marker::STRICT_ARRAY);
                out.extend(u32::try_from(values.len()).unwrap_or(u32::MAX).to_be_bytes());
                for value in values {
                    value.write(out);
                }
            }
            Self::Date(millis, zone) => {
                out.push(marker::DATE);
                out.extend(millis.to_be_bytes());
                out.extend(zone.to_be_bytes());
            }
            Self::Typed(class, fields) => {
                out.push(marker::TYPED_OBJECT);
                write_name(class, out);
                write_fields(fields, out);
            }
            Self::Xml(text) => write_long(marker::XML, text, out),
        }
    }
}

/// The type markers (section 2.1).
mod marker {
    pub(super) const NUMBER: u8 = 0x00;
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const STRING: u8 = 0x02;
    pub(super) const OBJECT: u8 = 0x03;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const UNDEFINED: u8 = 0x06;
    pub(super) const REFERENCE: u8 = 0x07;
    pub(super) const ECMA_ARRAY: u8 = 0x08;
    pub(super) const OBJECT_END: u8 = 0x09;
    pub(super) const STRICT_ARRAY: u8 = 0x0a;
    pub(super) const DATE: u8 = 0x0b;
    pub(super) const LONG_STRING: u8 = 0x0c;
    pub(super) const UNSUPPORTED: u8 = 0x0d;
    pub(super) const XML: u8 = 0x0f;
    pub(super) const TYPED_OBJECT: u8 = 0x10;
    /// A value of AMF3 follows.
    pub(super) const AVM_PLUS: u8 = 0x11;
}

fn write_long(marker: u8, text: &str, out: &mut Vec<u8>) {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    out.push(marker);
    out.extend(length.to_be_bytes());
    out.extend(&text.as_bytes()[..length as usize]);
}

/// Writes a name: it has no marker, and at most 65 535 bytes.
fn write_name(name: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(&name.as_bytes()[..usize::from(length)]);
}

fn write_fields(fields: &[(String, Value)], out: &mut Vec<u8>) {
    for (name, value) in fields {
        write_name(name, out);
        value.write(out);
    }
    out.extend([0, 0, marker::OBJECT_END]);
}

/// Reads all values of a message.
///
/// # Errors
/// [`AmfError`] for a message that is truncated, nests too deep, has too many values, or holds unknown types.
pub(crate) fn read_all(bytes: &[u8]) -> Result<Vec<Value>, AmfError> {
    let mut reader = ValueReader { rest: bytes, left: MAX_VALUES };
    let mut values = Vec::new();
    while !reader.rest.is_empty() {
        values.push(reader.value(0)?);
    }
    Ok(values)
}

/// Writes values one after the other.
pub(crate) fn write_all(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        value.write(&mut out);
    }
    out
}

struct ValueReader<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> ValueReader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], AmfError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(AmfError("truncated"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AmfError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn short(&mut self) -> Result<String, AmfError> {
        let length = u16::from_be_bytes(self.array()?);
        self.text(usize::from(length))
    }

    fn long(&mut self) -> Result<String, AmfError> {
        let length = u32::from_be_bytes(self.array()?);
        self.text(length as usize)
    }

    /// Reads a string. Encoders use their system's encoding: what is not UTF-8 is replaced, not refused.
    fn text(&mut self, length: usize) -> Result<String, AmfError> {
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self, depth: usize) -> Result<Value, AmfError> {
        self.left = self.left.checked_sub(1).ok_or(AmfError("too many values"))?;
        if depth > MAX_DEPTH {
            return Err(AmfError("nested too deeply"));
        }
        Ok(match self.array::<1>()?[0] {
            marker::NUMBER => Value::Number(f64::from_be_bytes(self.array()?)),
            marker::BOOLEAN => Value::Boolean(self.array::<1>()?[0] != 0),
            marker::STRING => Value::String(self.short()?),
            marker::LONG_STRING => Value::String(self.long()?),
            marker::OBJECT => Value::Object(self.fields(depth)?),
            marker::NULL => Value::Null,
            marker::UNDEFINED | marker::UNSUPPORTED => Value::Undefined,
            marker::REFERENCE => {
                // A reference to an earlier object; nothing that RTMP needs uses it.
                self.array::<2>()?;
                Value::Undefined
            }
            marker::ECMA_ARRAY => {
                self.array::<4>()?; // a count that encoders get wrong: the end marker decides
                Value::EcmaArray(self.fields(depth)?)
            }
            marker::STRICT_ARRAY => {
                let count = u32::from_be_bytes(self.array()?) as usize;
                if count > self.left {
                    return Err(AmfError("too many values"));
                }
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(depth + 1)?);
                }
                Value::StrictArray(values)
            }
            marker::DATE => Value::Date(f64::from_be_bytes(self.array()?), i16::from_be_bytes(self.array()?)),
            marker::XML => Value::Xml(self.long()?),
            marker::TYPED_OBJECT => Value::Typed(self.short()?, self.fields(depth)?),
            marker::AVM_PLUS => {
                // Clients with AMF3 send objects so. No command that a server has to understand needs one, and the
                // length is not known without reading it: the values before it are what is read.
                self.rest = &[];
                Value::Undefined
            }
            _ => return Err(AmfError("unknown type marker")),
        })
    }

    /// Reads fields up to the end marker, which some encoders omit at the end of a message.
    fn fields(&mut self, depth: usize) -> Result<Vec<(String, Value)>, AmfError> {
        let mut fields = Vec::new();
        while !self.rest.is_empty() {
            let name = self.short()?;
            if name.is_empty() && self.rest.first() == Some(&marker::OBJECT_END) {
                self.take(1)?;
                break;
            }
            fields.push((name, self.value(depth + 1)?));
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<f64>().prop_filter("equal to itself", |n| !n.is_nan()).prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,40}".prop_map(Value::String),
            Just(Value::Null),
            Just(Value::Undefined),
            (0.0..1e15, any::<i16>()).prop_map(|(ms, zone)| Value::Date(ms, zone)),
            ".{0,20}".prop_map(Value::Xml),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            let fields = prop::collection::vec(("[a-z]{1,12}", inner.clone()), 0..6);
            prop_oneof![
                fields.clone().prop_map(Value::Object),
                fields.clone().prop_map(Value::EcmaArray),
                ("[a-z]{1,5}", fields).prop_map(|(class, fields)| Value::Typed(class, fields)),
                prop::collection::vec(inner, 0..6).prop_map(Value::StrictArray),
            ]
        })
    }

    #[test]
    fn amf0_values_before_one_of_amf3_are_read() {
        let amf3 = [0x11, 0x0a, 0x0b, 0x01, 0x09, b'n', b'a', b'm', b'e', 0x06, 0x03, b'x', 0x01];
        let command = [Value::text("call"), Value::Number(4.0), Value::Null];
        let bytes = [&write_all(&command)[..], &amf3].concat();
        let read = read_all(&bytes).unwrap();
        assert_eq!((&read[..3], &read[3..]), (&command[..], &[Value::Undefined][..]));
        let nested = [&[0x03, 0, 1, b'a'][..], &amf3].concat();
        assert_eq!(read_all(&nested).unwrap(), [Value::Object(vec![("a".into(), Value::Undefined)])]);
    }

    proptest! {
        #[test]
        fn amf0_values_round_trip(values in prop::collection::vec(values(), 0..5)) {
            prop_assert_eq!(read_all(&write_all(&values)).unwrap(), values);
        }

        #[test]
        fn amf0_reader_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_all(&bytes);
        }
    }

    #[test]
    fn amf0_long_strings_use_their_marker() {
        let long = Value::text("x".repeat(70_000));
        let bytes = write_all(std::slice::from_ref(&long));
        assert_eq!(bytes[..5], [marker::LONG_STRING, 0, 1, 0x11, 0x70]);
        assert_eq!(read_all(&bytes).unwrap(), [long]);
    }

    #[test]
    fn amf0_limits_depth_and_number_of_values() {
        let nested = [marker::OBJECT, 0, 1, b'a'].repeat(2_500_000); // ten megabytes
        assert_eq!(read_all(&nested), Err(AmfError("nested too deeply")));
        let arrays = [marker::STRICT_ARRAY, 0, 0, 0, 1].repeat(2_000_000);
        assert_eq!(read_all(&arrays), Err(AmfError("nested too deeply")));
        assert_eq!(read_all(&[marker::NULL; MAX_VALUES + 1]), Err(AmfError("too many values")));
        assert_eq!(read_all(&[marker::STRICT_ARRAY, 0xff, 0xff, 0xff, 0xff]), Err(AmfError("too many values")));
    }

    #[test]
    fn amf0_object_without_end_marker_is_read() {
        let mut bytes = write_all(&[Value::object([("app", Value::text("live"))])]);
        bytes.truncate(bytes.len() - 3);
        let read = read_all(&bytes).unwrap();
        assert_eq!(read[0].field("app").and_then(Value::as_text), Some("live"));
    }
}
