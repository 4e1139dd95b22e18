//! The jobs of `docs/guide/ci.md`, with `contrib/action.yml` and `contrib/gitlab-ci.yml`, run exactly as written: they
//! download a released client, knock at a real daemon, and log in through the port that was closed.

mod release;
mod steps;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use spa_knock_core::crypto::KeyFile;

use crate::net::{Counter, Daemon, Lab, SERVER4, Site, limited, open_ssh, within};
use crate::ssh::Sshd;
use release::{Fault, Release, is_installed_below, own_archive, own_target};
use steps::{Step, action, gitlab, installation, project, workflow};

/// A server behind a closed gate, and the secrets and variables that a project stores for its jobs.
struct Job {
    lab: Lab,
    site: Site,
    stored: BTreeMap<String, String>,
    _sshd: Sshd,
    _daemon: Daemon,
}

impl Job {
    /// A project that uses this release, served with this fault.
    fn with(release: Release, fault: Option<(&str, Fault)>) -> Option<Self> {
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

    fn new() -> Option<Self> {
        Self::with(Release::of_this_client(), None)
    }

    fn store(&mut self, name: &str, value: &str) {
        self.stored.insert(name.to_owned(), value.to_owned());
    }

    /// Runs the steps as GitHub's runner does: each is a script that stops at its first failure, and its PATH begins
    /// with the folders that earlier steps have added. Returns what the last step that ran printed.
    fn run_on_github(&self, steps: &[Step]) -> Output {
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
    fn run_on_gitlab(&self, shell: &str, options: &[&str]) -> Output {
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
    fn value(&self, text: &str) -> String {
        let Some(inner) = text.strip_prefix("${{ ").and_then(|text| text.strip_suffix(" }}")) else {
            return self.adapt(text);
        };
        let (_, name) = inner.split_once('.').unwrap();
        self.stored.get(name).unwrap_or_else(|| panic!("{text} is not defined")).clone()
    }

    /// The last output of each of the two jobs.
    fn run_on_both(&self) -> [Output; 2] {
        [self.run_on_github(&workflow()), self.run_on_gitlab("bash", &["-eo", "pipefail"])]
    }

    fn has_deployed(&self) -> bool {
        self.site.path("deployed").exists()
    }

    /// Inputs of the composite action, as the documentation gives them, and these.
    fn inputs(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
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

fn message(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_workflow_for_github_deploys_through_a_closed_port() {
    let Some(job) = Job::new() else { return };
    assert!(!job.lab.client.reaches(SERVER4, 22));
    let steps = workflow();
    assert_eq!(steps.len(), 3);
    let output = job.run_on_github(&steps);
    assert!(output.status.success(), "{output:?}");
    assert!(job.has_deployed());
}

#[test]
fn the_job_for_gitlab_deploys_through_a_closed_port_in_each_shell_and_with_each_type_of_variable() {
    for (shell, options) in [("bash", &["-eo", "pipefail"][..]), ("sh", &["-e"])] {
        for is_file in [false, true] {
            let Some(mut job) = Job::new() else { return };
            if is_file {
                job.store("SPA_KNOCK_KEY", &job.site.key_path("laptop").display().to_string());
            }
            assert!(!job.lab.client.reaches(SERVER4, 22));
            let output = job.run_on_gitlab(shell, options);
            assert!(output.status.success(), "{shell}: {output:?}");
            assert!(job.has_deployed(), "{shell}");
        }
    }
}

#[test]
fn the_jobs_accept_a_key_with_the_line_ends_of_windows() {
    let Some(mut job) = Job::new() else { return };
    let key = fs::read_to_string(job.site.key_path("laptop")).unwrap();
    job.store("SPA_KNOCK_KEY", &key.replace('\n', "\r\n"));
    for output in job.run_on_both() {
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn both_files_install_the_client_with_the_same_commands() {
    assert_eq!(installation("contrib/action.yml"), installation("contrib/gitlab-ci.yml"));
}

#[test]
fn the_documentation_lists_every_input_with_its_default() {
    let page = project("docs/guide/ci.md");
    for (name, default) in steps::inputs() {
        let row = page.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        let default = default.map_or("none".to_owned(), |default| format!("`{default}`"));
        assert!(row.is_some_and(|row| row.contains(&format!("| {default} |"))), "{name}: {row:?}");
    }
}

#[test]
fn a_release_that_differs_from_its_checksum_is_not_installed_and_nothing_is_sent() {
    let intact = Release::of_this_client;
    let (archive, other) = (own_archive(), "0".repeat(64));
    let other = other.as_str();
    let sums = "SHA256SUMS";
    let exchanged = || Release::of_this_client().with(&own_target(), b"#!/bin/sh\necho taken over\n");
    let pin = intact().pin();
    let differs = |actual: &str, pin: &str| {
        format!(
            "/SHA256SUMS: its SHA-256 is {actual}, but SPA_KNOCK_SHA256 is {pin}\nhint: for a new version, "
        )
    };
    let damaged = format!("hint: do not use this file: it is damaged or was exchanged\n");
    let lacks = format!("/SHA256SUMS: lists 0 clients for {}, not one\nhint: use a release", own_target());
    let digits = "spa-knock: SPA_KNOCK_SHA256: not 64 lowercase hex digits\nhint: set it to what this prints";
    // The release, the fault of its server, the pin if it is not the release's, and parts of the message.
    let cases: [(Release, Option<(&str, Fault)>, Option<&str>, [&str; 2]); 11] = [
        (intact(), None, Some(other), [&differs(&pin, other), "check the signature"]),
        (
            exchanged(),
            None,
            Some(&pin),
            [&differs(&exchanged().pin(), &pin), "otherwise do not use the file"],
        ),
        (intact(), Some((sums, Fault::Changed)), None, ["/SHA256SUMS: its SHA-256 is ", &pin]),
        (intact(), Some((sums, Fault::SilentlyTruncated)), None, ["/SHA256SUMS: its SHA-256 is ", &pin]),
        (intact(), Some((sums, Fault::Missing)), None, ["/SHA256SUMS: not downloaded\nhint: ", "error: 404"]),
        (
            intact(),
            Some((&archive, Fault::Changed)),
            None,
            [&format!("/{archive}: its SHA-256 is "), &damaged],
        ),
        (intact(), Some((&archive, Fault::SilentlyTruncated)), None, ["but SHA256SUMS lists ", &damaged]),
        (
            intact(),
            Some((&archive, Fault::Truncated)),
            None,
            [&format!("/{archive}: not downloaded\nhint: "), "curl: (18)"],
        ),
        (intact().without_own_archive(), None, None, [&lacks, "build it: docs/guide/ci.md"]),
        (intact(), None, Some(""), [digits, ""]),
        (intact(), None, Some("-"), [digits, ""]),
    ];
    for (release, fault, pin, parts) in cases {
        let Some(mut job) = Job::with(release, fault) else { return };
        if let Some(pin) = pin {
            job.store("SPA_KNOCK_SHA256", pin);
        }
        let arrived = Counter::new(&job.lab.server);
        for output in job.run_on_both() {
            assert_eq!(output.status.code(), Some(1), "{parts:?}: {output:?}");
            let message = message(&output);
            assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
            assert!(output.stdout.is_empty(), "{parts:?}: {output:?}");
        }
        assert_eq!(
            fs::read_to_string(job.site.path("runner/path")).unwrap(),
            "",
            "{parts:?}: nothing in PATH"
        );
        assert!(!is_installed_below(&job.site.path("runner")), "{parts:?}: nothing is left");
        assert_eq!(arrived.packets(), 0, "{parts:?}: nothing is sent");
        assert!(!job.has_deployed(), "{parts:?}");
    }
}

#[test]
fn a_download_that_fails_for_a_moment_is_repeated() {
    let archive = own_archive();
    let Some(job) = Job::with(Release::of_this_client(), Some((&archive, Fault::Recovering))) else { return };
    let output = job.run_on_github(&workflow());
    assert!(output.status.success(), "{output:?}");
    assert!(job.has_deployed());
}

#[test]
fn each_system_gets_its_own_client() {
    let systems = [
        ("Linux", "x86_64", "x86_64-unknown-linux-musl"),
        ("Linux", "aarch64", "aarch64-unknown-linux-musl"),
        ("Darwin", "x86_64", "x86_64-apple-darwin"),
        ("Darwin", "arm64", "aarch64-apple-darwin"),
    ];
    let release = systems.iter().fold(Release::of_this_client(), |release, (_, _, target)| {
        release.with(target, format!("#!/bin/sh\necho {target}\n").as_bytes())
    });
    let Some(job) = Job::with(release, None) else { return };
    let mut steps = action(&job.inputs(&[]));
    for (system, machine, target) in systems {
        pretend(&mut steps, system, machine);
        let output = job.run_on_github(&steps);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{target}\n"), "{output:?}");
    }
    pretend(&mut steps, "FreeBSD", "amd64");
    let output = job.run_on_github(&steps);
    let expected =
        "spa-knock: FreeBSD on amd64: no client is released for it\nhint: build one: docs/guide/ci.md\n";
    assert_eq!(message(&output), expected);
}

/// Makes `uname` of the first step print another system.
fn pretend(steps: &mut [Step], system: &str, machine: &str) {
    let run = &mut steps[0].run;
    let begin = run.find("install_spa_knock() (").unwrap();
    let uname = format!("uname() {{ if [ \"$1\" = -s ]; then echo {system}; else echo {machine}; fi; }}\n");
    run.replace_range(..begin, &uname);
}

#[test]
fn no_input_becomes_an_option_a_command_or_a_line_of_its_own() {
    let Some(job) = Job::new() else { return };
    let url = job.stored["SPA_KNOCK_RELEASE"].clone();
    let command = "\n::add-mask::spa\n";
    let cases = [
        ("server", "--help".to_owned()),
        ("server", "-n".to_owned()),
        ("server", "show".to_owned()),
        ("server", format!("10.77.0.1{command}")),
        ("server", "$(touch taken)".to_owned()),
        ("action", "--help".to_owned()),
        ("action", format!("open-ssh{command}")),
        ("for", "--help".to_owned()),
        ("for", format!("30s{command}")),
        ("wait", "--help".to_owned()),
        ("wait", format!("22{command}")),
        ("key", format!("nonsense{command}")),
        ("sha256", format!("{}{command}", job.stored["SPA_KNOCK_SHA256"])),
        ("release", "--output".to_owned()),
        ("release", "file:///etc".to_owned()),
        ("release", format!("{url}{command}")),
        ("release", format!("{url}/x y")),
    ];
    for (input, value) in cases {
        let output = job.run_on_github(&action(&job.inputs(&[(input, &value)])));
        assert!(!output.status.success(), "{input}: {value}: {output:?}");
        let printed = [&output.stdout[..], &output.stderr[..]].concat();
        let printed = String::from_utf8(printed).unwrap();
        assert!(!printed.is_empty(), "{input}: {value}");
        assert!(!printed.lines().any(|line| line.trim_start().starts_with("::")), "{input}: {printed}");
        assert!(!printed.contains("Usage: spa-knock [OPTIONS] SERVER [ACTION]\n\n"), "{input}: {printed}");
    }
    // `--help` is a possible name of an action, which the server refuses.
    assert!(job.site.audit_of("granted").is_empty());
}

#[test]
fn only_the_knock_has_the_key_in_its_environment() {
    let Some(job) = Job::new() else { return };
    let key = &job.stored["SPA_KNOCK_KEY"];
    for step in workflow() {
        let has_key = step.env.values().any(|value| job.value(value) == *key);
        assert_eq!(has_key, step.run.contains("\nspa-knock --for"), "{}", step.run);
    }
    // Programs that record whether they got the key, before they do their work.
    let bin = job.site.path("bin");
    fs::create_dir(&bin).unwrap();
    let at = job.site.folder().display();
    let programs = ["curl", "tar", "sed", "uname", "ssh"];
    for program in programs {
        let script = format!(
            "#!/bin/sh\necho {program} >> {at}/started\nif env | grep -q -F '{key}'; then echo {program} >> {at}/leaked; fi\n\
             exec /usr/bin/{program} \"$@\"\n"
        );
        fs::write(bin.join(program), script).unwrap();
        fs::set_permissions(bin.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for output in job.run_on_both() {
        assert!(output.status.success(), "{output:?}");
    }
    let started = fs::read_to_string(job.site.path("started")).unwrap();
    for program in programs {
        assert!(started.matches(program).count() >= 2, "{program} is run in each job: {started}");
    }
    assert_eq!(fs::read_to_string(job.site.path("leaked")).unwrap_or_default(), "");
}
