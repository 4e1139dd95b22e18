//! Models of the rule that no knock acts twice, for a model checker that visits every state within small bounds.
//! `docs/internals/models.md` describes what they contain and what they leave out.

pub mod fleet;
pub mod keeper;
pub mod protocol;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};

/// Which states are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All states that can be reached.
    All,
    /// Those up to the first that violates this property.
    Until(&'static str),
}

/// The result of a check.
#[derive(Debug)]
pub struct Findings {
    /// The number of different states that were visited.
    pub states: usize,
    /// The violated properties, sorted by name, each with a sequence of actions that leads to a violation.
    pub violated: Vec<(&'static str, String)>,
    /// The names of states that must be possible and were found, sorted.
    pub found: Vec<&'static str>,
}

impl Findings {
    /// The names of the violated properties.
    #[must_use]
    pub fn violated(&self) -> Vec<&'static str> {
        self.violated.iter().map(|(name, _)| *name).collect()
    }
}

/// Visits the states of a model and prints their number, the time and the violations.
pub fn check<M>(name: &str, model: M, extent: Extent) -> Findings
where
    M: Model + Send + Sync + 'static,
    M::State: Debug + Hash + PartialEq + Send + Sync + Clone,
    M::Action: Debug + PartialEq + Clone + Send + Sync,
{
    let until = match extent {
        Extent::All => HasDiscoveries::All,
        Extent::Until(property) => HasDiscoveries::AnyOf(BTreeSet::from([property])),
    };
    let start = Instant::now();
    // With one thread, each run finds the same sequences.
    let threads = if extent == Extent::All { 2 } else { 1 };
    let checker = model.checker().finish_when(until).threads(threads).spawn_bfs().join();
    let (mut violated, mut found) = (Vec::new(), Vec::new());
    for (property, path) in checker.discoveries() {
        if checker.model().property(property).expectation.discovery_is_failure() {
            let steps = shortened(checker.model(), property, path);
            let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
            violated.push((property, steps.join("\n")));
        } else {
            found.push(property);
        }
    }
    violated.sort();
    found.sort_unstable();
    let states = checker.unique_state_count();
    println!("{name}: {states} states, {:.1} s", start.elapsed().as_secs_f64());
    for (property, steps) in &violated {
        println!(" violated: {property}\n{steps}");
    }
    Findings { states, violated, found }
}

/// Removes actions without which the rest still violates the property.
fn shortened<M>(model: &M, property: &'static str, path: Path<M::State, M::Action>) -> Vec<M::Action>
where
    M: Model,
    M::State: Clone + PartialEq,
    M::Action: Clone + PartialEq,
{
    let condition = model.property(property).condition;
    let start = path.clone().into_states().swap_remove(0);
    let is_violated = |steps: &[M::Action]| {
        let end = steps.iter().try_fold(start.clone(), |state, step| model.next_state(&state, step.clone()));
        end.is_some_and(|end| !condition(model, &end))
    };
    let mut steps = path.into_actions();
    let mut place = 0;
    while place < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(place);
        if is_violated(&fewer) {
            (steps, place) = (fewer, 0);
        } else {
            place += 1;
        }
    }
    steps
}
