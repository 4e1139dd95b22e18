//! The steps of `docs/guide/ci.md` and `contrib/action.yml`, run exactly as written, from a closed port to a login.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use spa_knock_core::crypto::KeyFile;

use crate::net::{Daemon, Lab, SERVER4, Site, limited, open_ssh, within};
use crate::ssh::Sshd;

/// One step of a job: its environment and its shell commands.
struct Step {
    env: Vec<(String, String)>,
    run: String,
}

fn project(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The fenced block of `docs/guide/ci.md` that contains `marker`.
fn snippet(marker: &str) -> String {
    let text = project("docs/guide/ci.md");
    let mut blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(marker)).expect(marker).to_owned()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The following lines that are indented more than `outer`, without their common indentation.
fn block<'a>(lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, outer: usize) -> String {
    let mut text = String::new();
    let depth = lines.peek().map_or(0, |line| indent(line));
    while let Some(line) = lines.next_if(|line| line.is_empty() || indent(line) > outer) {
        text.push_str(line.get(depth..).unwrap_or_default());
        text.push('\n');
    }
    text
}

/// The steps of a workflow or a composite action: every `run:`, with the `env:` above it.
fn runs(yaml: &str) -> Vec<Step> {
    let mut lines = yaml.lines().peekable();
    let (mut steps, mut env) = (Vec::new(), Vec::new());
    while let Some(line) = lines.next() {
        let (depth, text) = (indent(line), line.trim_start());
        if text.starts_with("- name:") {
            env = Vec::new();
        } else if text == "env:" {
            let pairs = block(&mut lines, depth);
            env = pairs
                .lines()
                .filter_map(|pair| pair.split_once(": "))
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect();
        } else if text == "run: |" {
            let run = block(&mut lines, depth);
            steps.push(Step { env: std::mem::take(&mut env), run });
        } else if let Some(run) = text.strip_prefix("run: ") {
            steps.push(Step { env: std::mem::take(&mut env), run: run.to_owned() });
        }
    }
    steps
}

/// The entries of `script:` in a GitLab job; each gets the project's variables.
fn script(yaml: &str, variables: &[&str]) -> Vec<Step> {
    let (_, rest) = yaml.split_once("  script:\n").unwrap();
    let mut lines = rest.lines().peekable();
    let mut steps = Vec::new();
    while let Some(line) = lines.next() {
        let (depth, text) = (indent(line), line.trim_start());
        let run = match text.strip_prefix("- ") {
            Some("|") => block(&mut lines, depth),
            Some(run) => run.to_owned(),
            None => continue,
        };
        let env =
            variables.iter().map(|name| ((*name).to_owned(), format!("${{{{ vars.{name} }}}}"))).collect();
        steps.push(Step { env, run });
    }
    steps
}

/// A server behind a closed gate, and the secrets and variables that a project stores for its jobs.
struct Job {
    lab: Lab,
    site: Site,
    stored: BTreeMap<String, String>,
    _sshd: Sshd,
    _daemon: Daemon,
}

impl Job {
    fn new() -> Option<Self> {
        let lab = Lab::new()?;
        let site = Site::new("", &open_ssh(5));
        let sshd = Sshd::start(&lab.server, site.folder());
        assert!(within(Duration::from_secs(5), || lab.client.reaches(SERVER4, 22)), "sshd listens");
        let daemon = Daemon::start(&lab.server, &site);
        let read = |path| fs::read_to_string(path).unwrap();
        let program = env!("CARGO_BIN_EXE_spa-knock");
        let sum = Command::new("sha256sum").arg(program).output().unwrap().stdout;
        let sum = String::from_utf8(sum).unwrap().split(' ').next().unwrap().to_owned();
        let key = read(site.key_path("laptop"));
        let stored = [
            ("SPA_KNOCK_URL", format!("file://{program}")),
            ("SPA_KNOCK_SHA256", sum),
            ("SPA_KNOCK_KEY", KeyFile::parse(&key).ok().unwrap().to_token().unwrap().to_string()),
            ("SSH_KEY", read(site.path("user"))),
            ("KNOWN_HOSTS", format!("{SERVER4} {}", read(site.path("host.pub")))),
        ];
        let stored = stored.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Some(Self { lab, site, stored, _sshd: sshd, _daemon: daemon })
    }

    /// Runs the steps as a runner does: each step is a script that stops at its first failure, and its PATH contains
    /// the folders that earlier steps have added.
    fn run(&self, steps: &[Step], inputs: &BTreeMap<String, String>) {
        let temp = self.site.path("runner");
        fs::create_dir_all(&temp).unwrap();
        let added = temp.join("path");
        fs::write(&added, "").unwrap();
        for step in steps {
            let mut path: Vec<_> = fs::read_to_string(&added).unwrap().lines().map(str::to_owned).collect();
            path.push(std::env::var("PATH").unwrap());
            let mut command = limited("bash");
            command.args(["-e", "-o", "pipefail", "-c"]).arg(self.adapt(&step.run)).env_clear();
            command.env("PATH", path.join(":")).env("HOME", &temp).env("TMPDIR", &temp);
            command.env("RUNNER_TEMP", &temp).env("GITHUB_PATH", &added).stdin(Stdio::null());
            for (name, value) in &step.env {
                command.env(name, self.value(value, inputs));
            }
            let output = self.lab.client.output(&mut command);
            assert!(output.status.success(), "{}: {output:?}", step.run);
        }
    }

    /// Replaces the server, the account and the commands of the documentation by those of this test.
    fn adapt(&self, run: &str) -> String {
        let local = self.site.path("local-bin").display().to_string();
        fs::create_dir_all(&local).unwrap();
        run.replace("bastion.example.org", &SERVER4.to_string())
            .replace("deploy@", "root@")
            .replace(" ./deploy", &format!(" /usr/bin/touch {}", self.site.path("deployed").display()))
            .replace("/usr/local/bin", &local)
            .replace("spa-knock --wait 22 10", &format!("PATH=$PATH:{local} spa-knock --wait 22 10"))
    }

    /// The value of an expression such as `${{ secrets.NAME }}`.
    fn value(&self, text: &str, inputs: &BTreeMap<String, String>) -> String {
        let Some(inner) = text.strip_prefix("${{ ").and_then(|text| text.strip_suffix(" }}")) else {
            return text.to_owned();
        };
        let (kind, name) = inner.split_once('.').unwrap();
        let values = if kind == "inputs" { inputs } else { &self.stored };
        values.get(name).unwrap_or_else(|| panic!("{text} is not defined")).clone()
    }

    fn has_deployed(&self) -> bool {
        self.site.path("deployed").exists()
    }
}

#[test]
fn the_workflow_for_github_deploys_through_a_closed_port() {
    let Some(job) = Job::new() else { return };
    let steps = runs(&snippet("runs-on: "));
    assert_eq!(steps.len(), 3);
    job.run(&steps, &BTreeMap::new());
    assert!(job.has_deployed());
}

#[test]
fn the_job_for_gitlab_deploys_through_a_closed_port() {
    let Some(job) = Job::new() else { return };
    let variables = ["SPA_KNOCK_URL", "SPA_KNOCK_SHA256", "SPA_KNOCK_KEY", "SSH_KEY", "KNOWN_HOSTS"];
    let steps = script(&snippet("image: "), &variables);
    assert_eq!(steps.len(), 3);
    job.run(&steps, &BTreeMap::new());
    assert!(job.has_deployed());
}

#[test]
fn the_composite_action_opens_the_port_with_the_inputs_that_the_documentation_gives() {
    let Some(job) = Job::new() else { return };
    let action = project("contrib/action.yml");
    let used =
        snippet("uses: ./.github/actions/spa-knock").replace("bastion.example.org", &SERVER4.to_string());
    let (_, with) = used.split_once("with:\n").unwrap();
    let given = with.lines().filter_map(|line| line.trim().split_once(": "));
    let mut inputs: BTreeMap<_, _> =
        given.map(|(name, value)| (name.to_owned(), job.value(value, &BTreeMap::new()))).collect();
    // Defaults of all other inputs.
    let mut name = String::new();
    for line in action.lines() {
        match line.trim().split_once(':') {
            Some((key, "")) if indent(line) == 2 => name = key.to_owned(),
            Some(("default", value)) => {
                inputs.entry(name.clone()).or_insert_with(|| value.trim().trim_matches('\'').to_owned());
            }
            _ => {}
        }
    }
    assert!(!job.lab.client.reaches(SERVER4, 22));
    let steps = runs(&action);
    assert_eq!(steps.len(), 2);
    job.run(&steps, &inputs);
    assert!(job.lab.client.reaches(SERVER4, 22));
}
