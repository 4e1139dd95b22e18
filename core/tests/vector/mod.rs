//! Reads values of the vectors of both versions, and the cases of version 2.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;
use spa_knock_core::crypto::Secret;
use spa_knock_core::knock::{AddressPolicy, Knock, ReplyWanted, Timestamp};

/// All cases of a list of version 2.
pub(crate) fn vectors(list: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../vectors/protocol-v2.json")).unwrap();
    let cases = file.get(list).unwrap().as_array().unwrap().clone();
    assert!(cases.len() >= 18, "the vectors are missing");
    cases
}

/// The bytes of a hexadecimal text.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    let hex = value.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The same for a known length.
pub(crate) fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

/// A secret.
pub(crate) fn secret(value: &Value) -> Secret {
    Secret::from_bytes(&array(value))
}

/// The fields of a knock.
pub(crate) fn knock(v: &Value) -> Knock {
    let number = |name: &str| u32::try_from(v[name].as_u64().unwrap()).unwrap();
    Knock {
        timestamp: Timestamp::from_millis(v["timestamp_ms"].as_u64().unwrap()),
        reply: if v["reply_wanted"].as_bool().unwrap() { ReplyWanted::Yes } else { ReplyWanted::No },
        seconds: number("seconds"),
        otp: Some(number("otp")).filter(|&otp| otp != u32::MAX),
        policy: match v["policy"].as_str().unwrap() {
            "observed" => AddressPolicy::Observed,
            "exact" => AddressPolicy::Exact,
            "listed" => AddressPolicy::Listed,
            other => panic!("unknown policy {other}"),
        },
        ipv4: v["ipv4"].as_str().map(|ip| ip.parse::<Ipv4Addr>().unwrap()),
        ipv6: v["ipv6"].as_str().map(|ip| ip.parse::<Ipv6Addr>().unwrap()),
        action: v["action"].as_str().unwrap().parse().unwrap(),
        argument: v["argument"].as_str().unwrap().parse().unwrap(),
    }
}
