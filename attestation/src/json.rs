//! Strict parsing of untrusted JSON (RFC 8259): duplicate members are rejected at every level, and
//! depth and size are bounded (T19, T83).

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value};

/// The deepest nesting of arrays and objects.
const MAX_DEPTH: usize = 16;

/// The reasons to reject a JSON document.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The document is not JSON, has a duplicate member, is nested too deeply, or is not of the
    /// expected type.
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    /// The document has more bytes than the caller allows.
    #[error("larger than {0} bytes")]
    TooLarge(usize),
}

/// Parses one JSON document of at most `limit` bytes; bytes after it are an error.
pub fn parse(document: &[u8], limit: usize) -> Result<Value, JsonError> {
    if document.len() > limit {
        return Err(JsonError::TooLarge(limit));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(document);
    let value = Strict(MAX_DEPTH).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Parses one JSON document of at most `limit` bytes into a type.
pub fn read<T: DeserializeOwned>(document: &[u8], limit: usize) -> Result<T, JsonError> {
    Ok(T::deserialize(parse(document, limit)?)?)
}

/// A deserializer of values with this many levels left.
struct Strict(usize);

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<Strict, E> {
        self.0
            .checked_sub(1)
            .map(Strict)
            .ok_or_else(|| E::custom("nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.deeper()?)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self.deeper()?)?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("duplicate member"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_depth_and_trailing_bytes_are_refused() {
        for bad in [
            "{\"a\":1,\"a\":1}",
            "{\"b\":{\"a\":1,\"\\u0061\":2}}",
            "{} x",
            "",
            &"[".repeat(40),
            &format!("{}1{}", "[".repeat(17), "]".repeat(17)),
        ] {
            assert!(parse(bad.as_bytes(), 1000).is_err(), "{bad} was taken");
        }
        assert!(parse(b"[1]", 2).is_err());
        assert_eq!(
            parse(br#"{"a":[1,null,"x",true,1.5]}"#, 100).ok(),
            serde_json::from_str(r#"{"a":[1,null,"x",true,1.5]}"#).ok()
        );
    }
}
