//! Compatibility with fwknop. Packets, configuration and rights are in the crate `spa-knock-fwknop`; here are the
//! processes that use them.

#[cfg(feature = "daemon")]
pub(crate) mod migrate;
