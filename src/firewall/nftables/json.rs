//! Addresses in the JSON output of nft.

use std::net::IpAddr;

use serde_json::Value;

use spa_knock_core::knock::Prefix;

/// Parses addresses in nft's JSON form: `"10.0.0.1"` or `{"prefix": {"addr": "10.0.0.0", "len": 8}}`.
#[must_use]
pub fn prefix_from_json(value: &Value) -> Option<Prefix> {
    if let Some(address) = value.as_str() {
        return address.parse().ok();
    }
    let prefix = value.get("prefix")?;
    let address: IpAddr = prefix.get("addr")?.as_str()?.parse().ok()?;
    Some(Prefix::of(address, u8::try_from(prefix.get("len")?.as_u64()?).ok()?))
}
