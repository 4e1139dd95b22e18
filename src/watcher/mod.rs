//! The watcher: the unprivileged process that reads packets. Bytes of unauthenticated senders are parsed here and in
//! `packet` and `auth/watcher`, and nowhere else.

pub(crate) mod flood;
pub(crate) mod log_follower;
pub(crate) mod native;
