//! The way of some packets through the chains that the kernel enters: what closes it, and whether for all of them.
//!
//! An accept ends one base chain, a drop ends everything, whichever priority it has. So each base chain is walked alone.

use super::listing::{Base, Chain, ChainPolicy, Ruleset, RulesetRule};
use super::packet_class::{Match, PacketClass};
use super::rule::{RuleVerdict, steps};

/// As many rules as are looked at from one base chain on: chains that jump and jump are a maze.
const RULES_MAX: u32 = 100_000;
/// Deeper than the kernel lets chains jump (NFT_JUMP_STACK_SIZE is 16).
const DEPTH_MAX: usize = 17;

/// Where the rules of iptables lead to our gate. It has neither tables nor base chains of its own there.
const OUR_CHAIN: &str = "SPA_KNOCK";

/// What ends the packets' way.
#[derive(Debug, Clone, Copy)]
pub(in crate::admin::check) struct Blocker<'r> {
    /// Where the kernel came from.
    pub(in crate::admin::check) base: &'r Chain,
    /// Where it stands.
    pub(in crate::admin::check) chain: &'r Chain,
    /// The rule; none is the base chain's policy.
    pub(in crate::admin::check) rule: Option<&'r RulesetRule>,
    pub(in crate::admin::check) kind: BlockKind,
    pub(in crate::admin::check) share: Coverage,
}

/// What becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::check) enum BlockKind {
    Dropped,
    Rejected,
    /// Led to another host or port.
    Led,
    /// Not tracked as connections.
    Untracked,
}

/// How many of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::check) enum Coverage {
    None,
    /// Those beyond some rate.
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

/// What ends the way of these packets from the base chain on: all that is certain, else the first that may.
pub(in crate::admin::check) fn obstacles<'r>(
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
    // What only drops a flood is not what to name where something else closes.
    let largest = found.iter().map(|obstacle| obstacle.share).max().unwrap_or(Coverage::None);
    found.retain(|obstacle| obstacle.share == largest);
    if largest != Coverage::Whole {
        found.truncate(1);
    }
    found
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin::check) enum PacketGoal {
    /// Drops and rejections by others.
    Closing,
    /// Drops and rejections, ours too.
    AnyClosing,
    /// What leads packets elsewhere.
    Leading,
    /// What keeps them from being tracked.
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

/// What comes out of a chain at its end.
struct Remainder {
    share: Coverage,
    /// Whether anything was decided about any packet that came in.
    touched: bool,
}

impl<'r> Walk<'r> {
    fn through(&mut self, chain: &'r Chain, entering: Coverage, depth: usize) -> Remainder {
        if depth > DEPTH_MAX {
            return Remainder { share: Coverage::Part, touched: true };
        }
        let (mut here, mut returned, mut touched) = (entering, Coverage::None, false);
        for rule in &chain.rules {
            let Some(left) = self.rules_left.checked_sub(1) else { break };
            self.rules_left = left;
            for (matched, verdict) in steps(&self.packets, rule, self.ruleset, &chain.table) {
                let share = here.of(matched);
                if share == Coverage::None {
                    continue;
                }
                match verdict {
                    // Our own chains let these packets through.
                    RuleVerdict::Jump(to) if to == OUR_CHAIN && self.wanted != PacketGoal::AnyClosing => {}
                    RuleVerdict::Jump(to) => {
                        let left = self.enter(chain, &to, share, depth);
                        touched |= left.touched;
                        here = match matched {
                            _ if !left.touched => here,
                            Match::All => left.share,
                            _ => Coverage::Part,
                        };
                    }
                    RuleVerdict::Goto(to) => {
                        let left = self.enter(chain, &to, share, depth);
                        touched |= left.touched;
                        returned = returned.max(left.share);
                        here = here.without(matched);
                    }
                    RuleVerdict::Return => {
                        returned = returned.max(share);
                        here = here.without(matched);
                    }
                    RuleVerdict::Drop | RuleVerdict::Reject | RuleVerdict::Led if matched == Match::Few => {}
                    RuleVerdict::Untracked => self.note(chain, rule, &verdict, share),
                    verdict => {
                        self.note(chain, rule, &verdict, share);
                        touched = true;
                        here = here.without(matched);
                    }
                }
            }
        }
        touched |= self.rules_left == 0;
        match here.max(returned) {
            _ if !touched => Remainder { share: entering, touched },
            Coverage::None => Remainder { share: Coverage::None, touched },
            _ => Remainder { share: Coverage::Part, touched },
        }
    }

    fn enter(&mut self, from: &'r Chain, name: &str, share: Coverage, depth: usize) -> Remainder {
        match self.ruleset.chain(&from.table, name) {
            Some(chain) => self.through(chain, share, depth.saturating_add(1)),
            None => Remainder { share: Coverage::Part, touched: true },
        }
    }

    fn note(&mut self, chain: &'r Chain, rule: &'r RulesetRule, verdict: &RuleVerdict, share: Coverage) {
        let (kind, wanted) = match verdict {
            RuleVerdict::Drop => (BlockKind::Dropped, self.wanted.closes()),
            RuleVerdict::Reject => (BlockKind::Rejected, self.wanted.closes()),
            RuleVerdict::Led => (BlockKind::Led, self.wanted == PacketGoal::Leading),
            RuleVerdict::Untracked => (BlockKind::Untracked, self.wanted == PacketGoal::Untracking),
            _ => return,
        };
        if wanted {
            self.found.push(Blocker { base: self.base, chain, rule: Some(rule), kind, share });
        }
    }
}
