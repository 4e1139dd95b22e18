//! What `check` has found, and how it is told.

use crate::config::{ConfigErrors, Problem, ServerConfig};
use crate::os::files::FileError;

/// What has been found.
#[derive(Default)]
pub(super) struct CheckReport {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    ok: Vec<String>,
}

impl CheckReport {
    /// Whether there is no problem. Warnings are none.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// How many problems and warnings there are so far.
    pub(super) fn remarks(&self) -> usize {
        self.problems.len().saturating_add(self.warnings.len())
    }

    /// Problems, warnings, what is fine if nothing is wrong, and how many there are of the first two.
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
        let fine = if problems.is_empty() { self.ok } else { Vec::new() };
        let ok: String = fine.iter().map(|line| format!("ok: {line}\n")).collect();
        let counts = format!("{}, {}\n", counted(found, "problem"), counted(self.warnings.len(), "warning"));
        format!("{problems}{warnings}{ok}{counts}")
    }

    /// The same as one JSON object on a line.
    pub(super) fn json(mut self) -> String {
        self.warnings.sort();
        self.warnings.dedup();
        let problems = match self.problems.is_empty() {
            true => Vec::new(),
            false => ConfigErrors::of(self.problems).problems().to_vec(),
        };
        let each = |problems: &[Problem]| problems.iter().map(found).collect::<Vec<_>>();
        let whole = serde_json::json!({
            "problems": each(&problems),
            "warnings": each(&self.warnings),
            "ok": self.ok,
        });
        format!("{whole}\n")
    }

    /// Something that is fine.
    pub(super) fn ok(&mut self, line: String) {
        self.ok.push(line);
    }

    /// Problems with their places.
    pub(super) fn problems(&mut self, problems: &[Problem]) {
        self.problems.extend_from_slice(problems);
    }

    /// A problem with a file, if it is one.
    pub(super) fn file(&mut self, result: Result<(), FileError>) {
        if let Err(error) = result {
            let hint = error.missing.then(|| "spa-knockd init makes it".to_owned());
            self.problems.push(Problem::of_file(FileError { hint: error.hint.or(hint), ..error }));
        }
    }

    /// A problem with the key of the config that these names reach.
    pub(super) fn problem(&mut self, config: &ServerConfig, place: &[&str], message: String, hint: &str) {
        let place = config.places.of(place).clone();
        self.problems.push(Problem { place, message, hint: Some(hint.to_owned()) });
    }

    /// The same for what is odd but not wrong.
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

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
