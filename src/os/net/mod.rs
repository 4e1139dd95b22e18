//! Sockets, and the connections listed in `/proc/net`.

pub mod agent_socket;
#[cfg(feature = "daemon")]
pub mod netlink;
#[cfg(feature = "daemon")]
pub mod peer;
#[cfg(feature = "daemon")]
pub mod proc_net;
#[cfg(feature = "daemon")]
pub mod seqpacket;
pub mod tcp_knock;
pub mod timed_receive;
#[cfg(feature = "daemon")]
pub mod udp;
