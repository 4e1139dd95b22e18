//! Several servers, one knock: what the store process of a fleet needs to talk to etcd.
//!
//! Servers that share one server id (a *fleet*) accept each knock once, together. They agree through **etcd**, which is
//! linearizable and writes to disk before it acknowledges. This crate contains everything about that store and nothing
//! about the daemon: it reads no config file, changes no firewall, and knows no process but its own. It does I/O only
//! through [`client::StoreClient`]; everything else is data in, verdict out.
//!
//! # A knock
//!
//! 1. The keeper checks a knock as it does on a single server. Only a knock that it would grant costs the store anything.
//! 2. It makes a [`claim::KnockClaim`] with a new random attempt id. The store process puts it into its
//!    [`claim::ClaimQueue`].
//! 3. [`claim::Claimer::decide`] sends what waits as one transaction of nested ones. Each compares: no one has claimed
//!    this knock, and the [`floor`] is below its timestamp, and the one-time password is new, and a use is left. Then it
//!    writes claim, password and use count.
//! 4. Only [`claim::ClaimOutcome::Won`], or [`claim::ClaimOutcome::Mine`] after a lost answer, gives the order to act. No
//!    answer within 1,000 ms is a refusal: what is unknown is never acted on.
//! 5. If the grant is for all members, the keeper seals a [`grants::SharedGrant`] with the fleet key ([`seal`]), and
//!    [`grants::publish`] writes it, on a lease from [`leases::LeasePool`]. Not before step 4: it would open a knock that
//!    was refused.
//!
//! # What the others see
//!
//! [`mirror::Mirror`] reads the fleet's keys once and then follows each change: grants ([`grants`]), members
//! ([`members`]), the floor, and the policy, whose entries the administrator seals ([`policy`], [`seal`]) so that the
//! store can neither read nor forge them. [`serials`] recognizes an old entry that the store brings back.
//!
//! # What is relied on, and what is not
//!
//! - etcd's transactions. A missing key fails every comparison of its value, so that a store that was wiped grants
//!   nothing: [`init::create_floor`] writes the first floor.
//! - The floor only rises. [`floor::decide`] sets it below what any member still accepts, and claims up to it are deleted.
//!   A wrong clock can make it rise too far, which refuses good knocks and never grants one twice.
//! - Not leases: a leader that has lost its office can end them early. They end grants and member records, where early is
//!   safe.
//! - Not the store's memory: [`rollback::StoreMark`] recognizes another cluster, an earlier revision and a lower floor. Then
//!   the client answers nothing more until the administrator has accepted the store. A copy of the store that was
//!   restored with the same cluster id, and that has passed the last revision seen before this member asks, is not
//!   recognized.
//!
//! - Not etcd's rights before 3.4.42, 3.5.28 and 3.6.9 (Debian 12 has 3.4.23): in nested transactions it enforces none,
//!   not even a login (CVE-2026-33343). Anyone with a client certificate can delete claims, lower the floor and use up
//!   codes there. Entries that are sealed remain unreadable and can't be forged. [`init::try_rights`] finds this out.
//! - Not etcd's quota: 3.4 does not count what nested transactions write. Claims go on in a full database, but leases and
//!   member records fail. [`client::EndpointReport::is_out_of_space`] reports it.
//! - Not this process: the keeper seals, opens, and keeps serials and marks on disk. A compromised store process can
//!   report a claim as won that was not; then a captured knock works once on this member, and no other one.
//!
//! # What the store process does on time
//!
//! | every | call | why |
//! |---|---|---|
//! | 1 s | [`leases::LeasePool::run_due`] | no claim waits for a lease |
//! | 10 s | [`client::StoreClient::inspect`] | connections stay open, tokens valid; a login takes etcd about 100 ms |
//! | 10 s | [`members::OwnRecord::publish`] | the member lives, and its clock is known |
//! | 10 s | [`floor::decide`], then [`floor::raise`] | claims are deleted |
//!
//! Claims, mirror and the rest run in three threads with one client.
//!
//! Keys and values: [`keys`]. Users and rights: [`init`].

pub mod claim;
pub mod client;
pub mod floor;
pub mod grants;
pub mod init;
pub mod keys;
pub mod leases;
pub mod members;
pub mod mirror;
mod names;
pub mod policy;
pub mod rollback;
pub mod seal;
pub mod serials;

pub use names::{FleetName, InvalidFleetName, MemberName};
