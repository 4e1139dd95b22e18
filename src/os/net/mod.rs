//! Sockets, and what `/proc/net` says of connections.

#[cfg(feature = "server")]
pub mod netlink;
#[cfg(feature = "server")]
pub mod peer;
#[cfg(feature = "server")]
pub mod proc_net;
#[cfg(feature = "server")]
pub mod seqpacket;
pub mod tcp_knock;
#[cfg(feature = "server")]
pub mod udp;
