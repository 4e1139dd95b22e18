//! Who has acted on which knock. A knock that was acted on twice, by one member or by two, is what a fleet must never do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The acts of all members. The command of the action `note` appends a line to one file: member and knock.
pub(super) struct Ledger {
    notes: PathBuf,
    audits: Vec<PathBuf>,
}

/// What is in the ledger.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// The number of knocks that were acted on.
    pub(super) acted: usize,
    /// Those that were acted on more than once, with the members.
    pub(super) twice: BTreeMap<String, Vec<String>>,
    /// Those that some member opened a port for, because another one had acted, and that none has acted on.
    pub(super) shared_alone: Vec<String>,
}

impl Ledger {
    /// The file of notes, which is created, and the audit logs of the members.
    pub(super) fn new(notes: PathBuf, audits: Vec<PathBuf>) -> Self {
        fs::write(&notes, "").unwrap();
        Self { notes, audits }
    }

    /// The command that appends the line of a member.
    pub(super) fn command(notes: &Path, member: &str) -> String {
        // One write, at the end of the file.
        format!("[\"/bin/sh\", \"-c\", \"echo {member} $0 >> {}\", \"{{argument}}\"]", notes.display())
    }

    /// Who has run the command, by its argument.
    pub(super) fn commands(&self) -> Findings {
        read_notes(&fs::read_to_string(&self.notes).unwrap())
    }

    /// Who has won a knock and acted, by the knock's id in the audit logs. Contains all actions.
    pub(super) fn wins(&self) -> Findings {
        let logs = self.audits.iter().map(|path| fs::read_to_string(path).unwrap_or_default());
        read_audits(logs.enumerate().map(|(number, text)| (format!("m{}", number + 1), text)))
    }

    /// How long the store took for each claim, as in the audit logs, in milliseconds and in order.
    pub(super) fn store_times(&self) -> Vec<f64> {
        let logs = self.audits.iter().map(|path| fs::read_to_string(path).unwrap_or_default());
        let mut times: Vec<f64> =
            logs.flat_map(|text| records(&text)).filter_map(|record| record["store_ms"].as_f64()).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    /// Why knocks were refused, and how often.
    pub(super) fn refusals(&self) -> BTreeMap<String, u64> {
        let mut refusals = BTreeMap::new();
        for path in &self.audits {
            for record in records(&fs::read_to_string(path).unwrap_or_default()) {
                if matches!(record["event"].as_str(), Some("refused" | "failed")) {
                    let reason = format!("{} {}", record["event"], record["reason"]).replace('"', "");
                    *refusals.entry(reason).or_default() += record["count"].as_u64().unwrap_or(1);
                }
            }
        }
        refusals
    }
}

impl Findings {
    fn of(acts: BTreeMap<String, Vec<String>>) -> Self {
        let acted = acts.len();
        let twice = acts.into_iter().filter(|(_, members)| members.len() > 1).collect();
        Self { acted, twice, shared_alone: Vec::new() }
    }

    /// Asserts that something was acted on, and nothing twice.
    pub(super) fn assert_none_twice(&self, what: &str) {
        assert!(self.acted > 0, "{what}: nothing was acted on");
        assert!(self.twice.is_empty(), "{what}: acted on twice: {:?}", self.twice);
    }
}

fn read_notes(text: &str) -> Findings {
    let mut acts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let (member, knock) = line.split_once(' ').unwrap_or_else(|| panic!("a torn line: {line}"));
        acts.entry(knock.to_owned()).or_default().push(member.to_owned());
    }
    Findings::of(acts)
}

fn read_audits(logs: impl Iterator<Item = (String, String)>) -> Findings {
    let mut acts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut shared = BTreeSet::new();
    for (member, text) in logs {
        for record in records(&text) {
            let (Some("granted" | "done"), Some(knock)) =
                (record["event"].as_str(), record["knock"].as_str())
            else {
                continue;
            };
            // A record of several knocks would name only the last one.
            assert!(record["count"].is_null(), "acts are not combined: {record}");
            match record["claim"].as_str() {
                Some("won") => acts.entry(knock.to_owned()).or_default().push(member.clone()),
                Some("shared") => _ = shared.insert(knock.to_owned()),
                other => panic!("acted on without a claim: {other:?}: {record}"),
            }
        }
    }
    shared.retain(|knock| !acts.contains_key(knock));
    Findings { shared_alone: shared.into_iter().collect(), ..Findings::of(acts) }
}

/// The records of an audit log. The last line can be incomplete if the keeper was killed.
fn records(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_knock_with_two_lines_is_found_also_if_both_are_of_one_member() {
    let findings = read_notes("m1 k1\nm2 k2\nm3 k1\nm2 k2\nm1 k3\n");
    assert_eq!(findings.acted, 3);
    let twice: Vec<_> = findings.twice.iter().map(|(knock, by)| (knock.as_str(), by.join(" "))).collect();
    assert_eq!(twice, [("k1", "m1 m3".to_owned()), ("k2", "m2 m2".to_owned())]);
    assert_eq!(read_notes("m1 k1\nm2 k2\n"), Findings { acted: 2, ..Findings::default() });
}

#[test]
fn a_knock_that_two_audit_logs_have_as_won_is_found() {
    let line = |event: &str, knock: &str, claim: &str| {
        format!("{{\"event\":\"{event}\",\"knock\":\"{knock}\",\"claim\":\"{claim}\"}}\n")
    };
    let granted = |knock: &str| line("granted", knock, "won");
    let shared = |knock: &str| line("granted", knock, "shared");
    let refused = line("failed", "aa", "unknown") + "{\"event\":\"gra";
    let logs = |first: String, second: String| {
        read_audits([("m1".to_owned(), first), ("m2".to_owned(), second)].into_iter())
    };
    let findings = logs(
        granted("aa") + &granted("bb"),
        granted("bb") + &line("done", "cc", "won") + &shared("aa") + &refused,
    );
    assert_eq!((findings.acted, findings.twice.len()), (3, 1));
    assert_eq!(findings.twice["bb"], ["m1", "m2"]);
    assert!(findings.shared_alone.is_empty());
    let findings = logs(granted("aa"), granted("bb") + &shared("cc") + &refused);
    assert!(findings.twice.is_empty());
    assert_eq!(findings.shared_alone, ["cc"]);
}

#[test]
#[should_panic(expected = "acted on twice")]
fn a_finding_fails_the_test() {
    read_notes("m1 k1\nm2 k1\n").assert_none_twice("notes");
}

#[test]
#[should_panic(expected = "nothing was acted on")]
fn a_test_without_acts_fails() {
    read_notes("").assert_none_twice("notes");
}
