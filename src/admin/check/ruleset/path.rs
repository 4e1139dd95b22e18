//! The path of some packets through the chains that the kernel enters: which rules drop them, and whether all of them.
//!
//! An accept ends only one base chain, a drop ends the path, in a chain of any priority. So each base chain is walked
//! separately.

use super::listing::{Base, Chain, ChainPolicy, Ruleset, RulesetRule};
use super::packet_class::{Match, PacketClass};
use super::rule::{RuleVerdict, steps};

/// The maximum number of rules that are walked from one base chain: nested jumps can multiply them without limit.
const RULES_MAX: u32 = 100_000;
/// The maximum depth of jumps; the kernel allows fewer (NFT_JUMP_STACK_SIZE is 16).
const DEPTH_MAX: usize = 17;

/// The chain of our gate in iptables, where it has neither tables nor base chains of its own.
const OUR_CHAIN: &str = "SPA_KNOCK";

/// A rule or policy that ends the packets' path.
#[derive(Debug, Clone, Copy)]
pub(in crate::admin::check) struct Blocker<'r> {
    /// The base chain in which the kernel started.
    pub(in crate::admin::check) base: &'r Chain,
    /// The chain that contains it.
    pub(in crate::admin::check) chain: &'r Chain,
    /// The rule; `None` is the base chain's policy.
    pub(in crate::admin::check) rule: Option<&'r RulesetRule>,
    pub(in crate::admin::check) kind: BlockKind,
    pub(in crate::admin::check) share: Coverage,
}

/// What happens to the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::check) enum BlockKind {
    Dropped,
    Rejected,
    /// Redirected to another host or port.
    Redirected,
    /// Not tracked as connections.
    Untracked,
}

/// How many of the packets are affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::check) enum Coverage {
    None,
    /// Packets beyond some rate.
    Few,
    Part,
    Whole,
}

impl Coverage {
    const fn of(self, matched: Match) -> Self {
        match (self, matched) {
            (Self::None, _) | (_, Match::No) => Self::None,
            (share, Match::All) => share,
            (Self::Few, _) => Self::Few,
            _ => Self::Part,
        }
    }

    const fn without(self, matched: Match) -> Self {
        match (self, matched) {
            (Self::None, _) | (_, Match::All) => Self::None,
            (share, Match::No) => share,
            (Self::Few, _) | (_, Match::Most) => Self::Few,
            _ => Self::Part,
        }
    }
}

/// The rules and policies that end the path of these packets in one base chain: all that certainly do, else the first
/// that may.
pub(in crate::admin::check) fn blockers<'r>(
    ruleset: &'r Ruleset,
    base: &'r Chain,
    packets: PacketClass,
    wanted: PacketGoal,
) -> Vec<Blocker<'r>> {
    let mut walk = Walk { ruleset, base, packets, wanted, rules_left: RULES_MAX, found: Vec::new() };
    let left = walk.through(base, Coverage::Whole, 0);
    let drops = matches!(&base.base, Some(Base { policy: ChainPolicy::Drop, .. }));
    if drops && left.share != Coverage::None && wanted.closes() {
        walk.found.push(Blocker {
            base,
            chain: base,
            rule: None,
            kind: BlockKind::Dropped,
            share: left.share,
        });
    }
    let mut found = walk.found;
    // A rule that only drops floods is not reported if another rule drops everything.
    let largest = found.iter().map(|blocker| blocker.share).max().unwrap_or(Coverage::None);
    found.retain(|blocker| blocker.share == largest);
    if largest != Coverage::Whole {
        found.truncate(1);
    }
    found
}

/// The kind of rules to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin::check) enum PacketGoal {
    /// Drops and rejections by rules other than ours.
    Closing,
    /// Drops and rejections, including ours.
    AnyClosing,
    /// Redirections.
    Redirecting,
    /// Rules that prevent connection tracking.
    Untracking,
}

impl PacketGoal {
    const fn closes(self) -> bool {
        matches!(self, Self::Closing | Self::AnyClosing)
    }
}

struct Walk<'r> {
    ruleset: &'r Ruleset,
    base: &'r Chain,
    packets: PacketClass,
    wanted: PacketGoal,
    rules_left: u32,
    found: Vec<Blocker<'r>>,
}

/// The packets that leave a chain at its end.
struct Remainder {
    share: Coverage,
    /// Whether the chain decided about any packet that entered it.
    decided: bool,
}

impl<'r> Walk<'r> {
    fn through(&mut self, chain: &'r Chain, entering: Coverage, depth: usize) -> Remainder {
        if depth > DEPTH_MAX {
            return Remainder { share: Coverage::Part, decided: true };
        }
        let (mut here, mut returned, mut decided) = (entering, Coverage::None, false);
        for rule in &chain.rules {
            let Some(left) = self.rules_left.checked_sub(1) else { break };
            self.rules_left = left;
            for (matched, verdict) in steps(&self.packets, rule, self.ruleset, &chain.table) {
                let share = here.of(matched);
                if share == Coverage::None {
                    continue;
                }
                match verdict {
                    // Our own chains accept these packets.
                    RuleVerdict::Jump(to) if to == OUR_CHAIN && self.wanted != PacketGoal::AnyClosing => {}
                    RuleVerdict::Jump(to) => {
                        let left = self.enter(chain, &to, share, depth);
                        decided |= left.decided;
                        here = match matched {
                            _ if !left.decided => here,
                            Match::All => left.share,
                            _ => Coverage::Part,
                        };
                    }
                    RuleVerdict::Goto(to) => {
                        let left = self.enter(chain, &to, share, depth);
                        decided |= left.decided;
                        returned = returned.max(left.share);
                        here = here.without(matched);
                    }
                    RuleVerdict::Return => {
                        returned = returned.max(share);
                        here = here.without(matched);
                    }
                    RuleVerdict::Drop | RuleVerdict::Reject | RuleVerdict::Redirected
                        if matched == Match::Few => {}
                    RuleVerdict::Untracked => self.note(chain, rule, &verdict, share),
                    verdict => {
                        self.note(chain, rule, &verdict, share);
                        decided = true;
                        here = here.without(matched);
                    }
                }
            }
        }
        decided |= self.rules_left == 0;
        match here.max(returned) {
            _ if !decided => Remainder { share: entering, decided },
            Coverage::None => Remainder { share: Coverage::None, decided },
            _ => Remainder { share: Coverage::Part, decided },
        }
    }

    fn enter(&mut self, from: &'r Chain, name: &str, share: Coverage, depth: usize) -> Remainder {
        match self.ruleset.chain(&from.table, name) {
            Some(chain) => self.through(chain, share, depth.saturating_add(1)),
            None => Remainder { share: Coverage::Part, decided: true },
        }
    }

    fn note(&mut self, chain: &'r Chain, rule: &'r RulesetRule, verdict: &RuleVerdict, share: Coverage) {
        let (kind, wanted) = match verdict {
            RuleVerdict::Drop => (BlockKind::Dropped, self.wanted.closes()),
            RuleVerdict::Reject => (BlockKind::Rejected, self.wanted.closes()),
            RuleVerdict::Redirected => (BlockKind::Redirected, self.wanted == PacketGoal::Redirecting),
            RuleVerdict::Untracked => (BlockKind::Untracked, self.wanted == PacketGoal::Untracking),
            _ => return,
        };
        if wanted {
            self.found.push(Blocker { base: self.base, chain, rule: Some(rule), kind, share });
        }
    }
}
