//! The steps of the workflow, the composite action and the GitLab job, taken from the text of `docs/guide/ci.md` and
//! `contrib/`. Reads only the YAML that these use.

use std::collections::BTreeMap;
use std::fs;
use std::iter::Peekable;
use std::path::Path;

/// One step of a job: its environment, whose values may be expressions, and its shell commands.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) run: String,
    /// Whether `shell: bash` is given, with which a pipeline fails if any of its programs fails.
    pub(crate) bash: bool,
}

pub(crate) fn project(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The fenced block of `docs/guide/ci.md` that contains `marker`.
pub(crate) fn snippet(marker: &str) -> String {
    let text = project("docs/guide/ci.md");
    let mut blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(marker)).expect(marker).to_owned()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The following lines that are indented more than `outer`, without their common indentation.
fn block<'a>(lines: &mut Peekable<impl Iterator<Item = &'a str>>, outer: usize) -> String {
    let mut text = String::new();
    let depth = lines.peek().map_or(0, |line| indent(line));
    while let Some(line) = lines.next_if(|line| line.is_empty() || indent(line) > outer) {
        text.push_str(line.get(depth..).unwrap_or_default());
        text.push('\n');
    }
    text
}

/// The pairs of a mapping without nested values.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect()
}

/// The steps of the workflow in the documentation, with those of the composite action in the place of its `uses`.
pub(crate) fn workflow() -> Vec<Step> {
    steps(&snippet("runs-on: "))
}

/// The inputs of the composite action, each with its default.
pub(crate) fn inputs() -> BTreeMap<String, Option<String>> {
    let action = project("contrib/action.yml");
    let (_, rest) = action.split_once("inputs:\n").unwrap();
    let mut inputs = BTreeMap::new();
    let mut lines = rest.lines().peekable();
    while let Some(line) = lines.next_if(|line| indent(line) > 0) {
        let name = line.trim().strip_suffix(':').unwrap().to_owned();
        inputs.insert(name, pairs(&block(&mut lines, 2)).remove("default"));
    }
    inputs
}

/// Every `run:` of a workflow or a composite action, with the `env:` above it.
fn steps(yaml: &str) -> Vec<Step> {
    let mut lines = yaml.lines().peekable();
    let (mut found, mut env, mut bash) = (Vec::new(), BTreeMap::new(), false);
    while let Some(line) = lines.next() {
        let (depth, text) = (indent(line), line.trim_start());
        if text.starts_with("- ") {
            (env, bash) = (BTreeMap::new(), false);
        }
        if text == "- uses: ./.github/actions/spa-knock" {
            assert_eq!(lines.next().map(str::trim), Some("with:"));
            found.extend(action(&pairs(&block(&mut lines, depth + 2))));
        } else if text.starts_with("- uses: ") {
            // Copies the repository, which this test need not do.
            assert!(text.starts_with("- uses: actions/checkout@"), "{text}");
        } else if text == "shell: bash" {
            bash = true;
        } else if text == "env:" {
            env = pairs(&block(&mut lines, depth));
        } else if let Some(run) = text.strip_prefix("run: ") {
            let run =
                if run == "|" || run.starts_with("| #") { block(&mut lines, depth) } else { run.to_owned() };
            found.push(Step { env: std::mem::take(&mut env), run, bash });
        }
    }
    found
}

/// The steps of the composite action with these inputs, and the defaults of the others.
pub(crate) fn action(given: &BTreeMap<String, String>) -> Vec<Step> {
    let inputs = inputs();
    assert!(given.keys().all(|name| inputs.contains_key(name)), "{given:?}");
    let mut all = steps(&project("contrib/action.yml"));
    for step in &mut all {
        // An expression in the shell's text is replaced by the input's text before the shell reads it.
        assert!(!step.run.contains("${{"), "{}", step.run);
        for value in step.env.values_mut() {
            let name = value.strip_prefix("${{ inputs.").and_then(|rest| rest.strip_suffix(" }}")).unwrap();
            let input = given.get(name).or(inputs[name].as_ref());
            *value = input.unwrap_or_else(|| panic!("the input {name} is required")).clone();
        }
    }
    all
}

/// The entries of a list of shell commands in a GitLab job, with those of `.spa-knock` in the place of `!reference`.
fn entries(yaml: &str, key: &str) -> Vec<String> {
    let (_, rest) = yaml.split_once(&format!("  {key}:\n")).unwrap();
    let mut lines = rest.lines().peekable();
    let mut entries = Vec::new();
    while let Some(line) = lines.next_if(|line| indent(line) > 2) {
        let (depth, text) = (indent(line), line.trim_start());
        match text.strip_prefix("- ") {
            Some("|") => entries.push(block(&mut lines, depth)),
            Some(">-") => entries.push(block(&mut lines, depth).trim().replace('\n', " ")),
            Some("!reference [.spa-knock, before_script]") => {
                entries.extend(self::entries(&project("contrib/gitlab-ci.yml"), "before_script"));
            }
            Some(run) => entries.push(run.to_owned()),
            None => assert!(text.starts_with('#'), "{text}"),
        }
    }
    entries
}

/// The GitLab job of the documentation: its commands run in a single shell.
pub(crate) fn gitlab() -> Step {
    let job = snippet("image: ");
    let (_, variables) = job.split_once("  variables:\n").unwrap();
    let env = pairs(&block(&mut variables.lines().peekable(), 2));
    let mut run = entries(&job, "before_script");
    let packages = run.remove(0);
    assert!(packages.starts_with("apt-get update"), "{packages}");
    run.extend(entries(&job, "script"));
    Step { env, run: run.join("\n"), bash: true }
}

/// The part of the installation that both files must have in common.
pub(crate) fn installation(path: &str) -> String {
    let text = project(path);
    let lines = text.lines().map(str::trim_start).skip_while(|line| *line != "install_spa_knock() (");
    let lines: Vec<_> = lines.take_while(|line| *line != ")").collect();
    assert!(lines.len() > 40, "{path}: {lines:?}");
    lines.join("\n")
}
