//! The findings of `check`, and their output.

use crate::config::{ConfigErrors, Problem, ServerConfig};
use crate::console::{counted, own_command};
use crate::os::files::FileError;
use spa_knock_core::auth::ActionPart;

/// The findings so far.
#[derive(Default)]
pub(super) struct CheckReport {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    ok: Vec<String>,
    /// Whether doors or stanzas in `[legacy]` let anyone in.
    pub(super) has_legacy_users: bool,
    /// What stanzas in `[legacy]` forward: their names in messages, and what actions that do the same would have.
    pub(super) legacy_forwards: Vec<(String, Vec<ActionPart>)>,
}

impl CheckReport {
    /// Whether there are no problems. Warnings are not problems.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// The number of problems and warnings so far.
    pub(super) fn remarks(&self) -> usize {
        self.problems.len().saturating_add(self.warnings.len())
    }

    /// Problems, warnings, passed checks if there are no problems, and a line with the numbers of the first two.
    pub(super) fn text(mut self) -> String {
        let (mut problems, mut found) = (String::new(), 0);
        if !self.problems.is_empty() {
            let errors = ConfigErrors::of(self.problems);
            found = errors.problems().len();
            problems = format!("{errors}\n");
        }
        self.warnings.sort();
        self.warnings.dedup();
        let warnings: String = self.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
        let passed = if problems.is_empty() { self.ok } else { Vec::new() };
        let ok: String = passed.iter().map(|line| format!("ok: {line}\n")).collect();
        let counts = format!(
            "{}, {}\n",
            counted_or_no(found, "problem"),
            counted_or_no(self.warnings.len(), "warning")
        );
        format!("{problems}{warnings}{ok}{counts}")
    }

    /// The same as one line of JSON.
    pub(super) fn json(mut self) -> String {
        self.warnings.sort();
        self.warnings.dedup();
        let problems = match self.problems.is_empty() {
            true => Vec::new(),
            false => ConfigErrors::of(self.problems).problems().to_vec(),
        };
        let each = |problems: &[Problem]| problems.iter().map(found).collect::<Vec<_>>();
        let object = serde_json::json!({
            "problems": each(&problems),
            "warnings": each(&self.warnings),
            "ok": self.ok,
        });
        format!("{object}\n")
    }

    /// Adds a passed check.
    pub(super) fn ok(&mut self, line: String) {
        self.ok.push(line);
    }

    /// Adds problems.
    pub(super) fn problems(&mut self, problems: &[Problem]) {
        self.problems.extend_from_slice(problems);
    }

    /// Adds the problem with a file, if there is one.
    pub(super) fn file(&mut self, result: Result<(), FileError>) {
        if let Err(error) = result {
            let hint = error.missing.then(|| format!("`{}` creates it", own_command("init")));
            self.problems.push(Problem::of_file(FileError { hint: error.hint.or(hint), ..error }));
        }
    }

    /// Adds a problem with the config key at this path.
    pub(super) fn problem(&mut self, config: &ServerConfig, place: &[&str], message: String, hint: &str) {
        let place = config.places.of(place).clone();
        self.problems.push(Problem { place, message, hint: Some(hint.to_owned()) });
    }

    /// Adds a warning about the config key at this path.
    pub(super) fn warning(&mut self, config: &ServerConfig, place: &[&str], message: String, hint: &str) {
        let place = config.places.of(place).clone();
        self.warnings.push(Problem { place, message, hint: Some(hint.to_owned()) });
    }
}

fn found(problem: &Problem) -> serde_json::Value {
    serde_json::json!({
        "place": problem.place.to_string(),
        "message": problem.message,
        "hint": problem.hint,
    })
}

fn counted_or_no(count: usize, noun: &str) -> String {
    if count == 0 { format!("no {noun}s") } else { counted(count, noun) }
}
