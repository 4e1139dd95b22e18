//! How etcd's gateway writes 64-bit numbers (as text) and bytes (as base64) in JSON. Fields with a default value are
//! missing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The JSON of a request. It is wiped when it is dropped, and was never in another place unless it is long: passwords are
/// not.
pub(crate) fn body(request: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let mut body = Zeroizing::new(Vec::with_capacity(4 << 10));
    serde_json::to_writer(&mut *body, request)?;
    Ok(body)
}

/// Serializes bytes as base64.
pub(super) fn bytes_out<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&encode(bytes))
}

/// Serializes a number as text.
pub(super) fn number_out<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Deserializes base64.
pub(super) fn bytes_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
    STANDARD.decode(text.as_bytes()).map_err(|_| D::Error::custom("not base64"))
}

/// Deserializes a number that is written as text, or as a number. A negative number becomes 0: etcd uses these for "none".
pub(super) fn number_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct NumberVisitor;
    impl Visitor<'_> for NumberVisitor {
        type Value = u64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number, or a number as text")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
            Ok(u64::try_from(number).unwrap_or(0))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            if let Ok(number) = text.parse() {
                return Ok(number);
            }
            let negative = text.parse::<i64>().map_err(|_| E::custom("not a number"))?;
            self.visit_i64(negative)
        }
    }
    deserializer.deserialize_any(NumberVisitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Pair {
        #[serde(deserialize_with = "number_in")]
        n: u64,
        #[serde(deserialize_with = "bytes_in")]
        b: Vec<u8>,
    }

    #[test]
    fn numbers_are_read_as_text_and_as_numbers() {
        for (text, number) in
            [("\"18446744073709551615\"", u64::MAX), ("7", 7), ("\"7\"", 7), ("-1", 0), ("\"-1\"", 0)]
        {
            let pair: Pair = serde_json::from_str(&format!("{{\"n\":{text},\"b\":\"AP8=\"}}")).unwrap();
            assert_eq!((pair.n, pair.b.as_slice()), (number, &[0, 0xff][..]), "{text}");
        }
        for bad in ["\"x\"", "1.5", "null", "\"18446744073709551616\""] {
            assert!(serde_json::from_str::<Pair>(&format!("{{\"n\":{bad},\"b\":\"\"}}")).is_err(), "{bad}");
        }
    }
}
