//! A project with its secrets and variables, a machine that runs its jobs, and a server behind a closed gate.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use spa_knock_core::crypto::KeyFile;

use super::release::{Fault, Release};
use super::steps::{Step, gitlab, workflow};
use crate::net::{Daemon, Lab, SERVER4, Site, limited, open_ssh, within};
use crate::ssh::Sshd;

/// A server behind a closed gate, and the secrets and variables that a project stores for its jobs.
pub(crate) struct Job {
    pub(crate) lab: Lab,
    pub(crate) site: Site,
    pub(crate) stored: BTreeMap<String, String>,
    _sshd: Sshd,
    _daemon: Daemon,
}

impl Job {
    /// A project that uses this release, served with this fault.
    pub(crate) fn with(release: Release, fault: Option<(&str, Fault)>) -> Option<Self> {
        let lab = Lab::new()?;
        let site = Site::new("", &open_ssh(5));
        let sshd = Sshd::start(&lab.server, site.folder());
        assert!(within(Duration::from_secs(5), || lab.client.reaches(SERVER4, 22)), "sshd listens");
        let daemon = Daemon::start(&lab.server, &site);
        let read = |path| fs::read_to_string(path).unwrap();
        let key = read(site.key_path("laptop"));
        let pin = release.pin();
        let stored = [
            ("SPA_KNOCK_RELEASE", release.serve(&lab.client, fault)),
            ("SPA_KNOCK_SHA256", pin),
            ("SPA_KNOCK_KEY", KeyFile::parse(&key).ok().unwrap().to_token().unwrap().to_string()),
            ("SSH_KEY", read(site.path("user"))),
            ("KNOWN_HOSTS", format!("{SERVER4} {}", read(site.path("host.pub")))),
        ];
        let stored = stored.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        fs::create_dir(site.path("runner")).unwrap();
        Some(Self { lab, site, stored, _sshd: sshd, _daemon: daemon })
    }

    pub(crate) fn new() -> Option<Self> {
        Self::with(Release::of_this_client(), None)
    }

    pub(crate) fn store(&mut self, name: &str, value: &str) {
        self.stored.insert(name.to_owned(), value.to_owned());
    }

    /// Runs the steps as GitHub's runner does: each is a script that stops at its first failure, and its PATH begins
    /// with the folders that earlier steps have added. Returns what the last step that ran printed.
    pub(crate) fn run_on_github(&self, steps: &[Step]) -> Output {
        let added = self.site.path("runner").join("path");
        fs::write(&added, "").unwrap();
        let mut last = None;
        for step in steps {
            let options: &[&str] =
                if step.bash { &["--noprofile", "--norc", "-eo", "pipefail"] } else { &["-e"] };
            let mut command = self.shell("bash", options, step);
            let mut path: Vec<_> =
                fs::read_to_string(&added).unwrap().lines().rev().map(str::to_owned).collect();
            path.push(self.path());
            command.env("PATH", path.join(":")).env("GITHUB_PATH", &added);
            for (name, value) in &step.env {
                command.env(name, self.value(value));
            }
            let output = self.lab.client.output(&mut command);
            let failed = !output.status.success();
            last = Some(output);
            if failed {
                break;
            }
        }
        last.expect("a step")
    }

    /// Runs the commands of a GitLab job, which has all variables of the project.
    pub(crate) fn run_on_gitlab(&self, shell: &str, options: &[&str]) -> Output {
        let job = gitlab();
        let mut command = self.shell(shell, options, &job);
        command.env("PATH", self.path()).envs(&self.stored);
        for (name, value) in &job.env {
            command.env(name, self.value(value));
        }
        self.lab.client.output(&mut command)
    }

    /// A shell that runs the commands of a step from a file.
    fn shell(&self, shell: &str, options: &[&str], step: &Step) -> Command {
        let temp = self.site.path("runner");
        let script = temp.join("script");
        fs::write(&script, self.adapt(&step.run)).unwrap();
        let mut command = limited(shell);
        command.args(options).arg(script).env_clear().stdin(Stdio::null());
        command.env("HOME", &temp).env("TMPDIR", &temp).env("RUNNER_TEMP", &temp);
        command
    }

    /// The PATH of the machine that runs jobs, on which a test can replace programs.
    fn path(&self) -> String {
        format!("{}:{}", self.site.path("bin").display(), std::env::var("PATH").unwrap())
    }

    /// Replaces the server, the account and the command of the documentation by those of this test.
    fn adapt(&self, run: &str) -> String {
        run.replace("bastion.example.org", &SERVER4.to_string())
            .replace("deploy@", "root@")
            .replace(" ./deploy", &format!(" /usr/bin/touch {}", self.site.path("deployed").display()))
    }

    /// The value of an expression such as `${{ secrets.NAME }}`, or of other text.
    pub(crate) fn value(&self, text: &str) -> String {
        let Some(inner) = text.strip_prefix("${{ ").and_then(|text| text.strip_suffix(" }}")) else {
            return self.adapt(text);
        };
        let (_, name) = inner.split_once('.').unwrap();
        self.stored.get(name).unwrap_or_else(|| panic!("{text} is not defined")).clone()
    }

    /// The last output of each of the two jobs.
    pub(crate) fn run_on_both(&self) -> [Output; 2] {
        [self.run_on_github(&workflow()), self.run_on_gitlab("bash", &["-eo", "pipefail"])]
    }

    pub(crate) fn has_deployed(&self) -> bool {
        self.site.path("deployed").exists()
    }

    /// Inputs of the composite action, as the documentation gives them, and these.
    pub(crate) fn inputs(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let server = SERVER4.to_string();
        let given = [
            ("release", "${{ vars.SPA_KNOCK_RELEASE }}"),
            ("sha256", "${{ vars.SPA_KNOCK_SHA256 }}"),
            ("key", "${{ secrets.SPA_KNOCK_KEY }}"),
            ("server", &*server),
        ];
        let all = given.iter().chain(more);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }
}
