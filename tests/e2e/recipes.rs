//! The jobs of `docs/guide/ci.md`, with `contrib/action.yml` and `contrib/gitlab-ci.yml`, run exactly as written: they
//! download a released client, knock at a real daemon, and log in through the port that was closed.

mod job;
mod release;
mod steps;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::net::{Counter, SERVER4};
use job::Job;
use release::{Fault, Release, is_installed_below, own_archive, own_target};
use steps::{Step, action, installation, project, workflow};

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
fn the_jobs_accept_a_key_as_windows_and_web_pages_store_it() {
    let Some(mut job) = Job::new() else { return };
    let file = fs::read_to_string(job.site.key_path("laptop")).unwrap().replace('\n', "\r\n");
    let token = format!("{}\r\n", job.stored["SPA_KNOCK_KEY"]);
    for key in [&file, &token, &format!("\n{file}\n")] {
        job.store("SPA_KNOCK_KEY", key);
        for output in job.run_on_both() {
            assert!(output.status.success(), "{output:?}");
        }
    }
}

#[test]
fn a_job_without_the_secret_fails_before_it_looks_for_another_key() {
    let Some(mut job) = Job::new() else { return };
    job.store("SPA_KNOCK_KEY", "");
    // The key of the user that the runner has.
    fs::copy(job.site.key_path("laptop"), job.site.path("runner/.knock.key")).unwrap();
    let arrived = Counter::new(&job.lab.server);
    let [github, gitlab] = job.run_on_both();
    assert_eq!(github.status.code(), Some(5));
    let expected =
        "spa-knock: key: empty\nhint: create the secret; jobs for forks of the repository do not get it\n";
    assert_eq!(message(&github), expected);
    assert!(!gitlab.status.success());
    let expected = "SPA_KNOCK_KEY: empty; create the variable, and if it is protected, protect the branch\n";
    assert!(message(&gitlab).ends_with(expected), "{gitlab:?}");
    assert_eq!(arrived.packets(), 0, "nothing is sent");
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

/// A release, the fault of its server, the pin if it is not the release's, and parts of the message.
type Case<'a> = (Release, Option<(&'a str, Fault)>, Option<&'a str>, [&'a str; 2]);

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
    let damaged = "hint: do not use this file: it is damaged or was exchanged\n";
    let lacks = format!("/SHA256SUMS: lists 0 clients for {}, not one\nhint: use a release", own_target());
    let digits = "spa-knock: SPA_KNOCK_SHA256: not 64 lowercase hex digits\nhint: set it to what this prints";
    let cases: [Case; 11] = [
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
            [&format!("/{archive}: its SHA-256 is "), damaged],
        ),
        (intact(), Some((&archive, Fault::SilentlyTruncated)), None, ["but SHA256SUMS lists ", damaged]),
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
    let taken = job.site.path("taken");
    let url = job.stored["SPA_KNOCK_RELEASE"].clone();
    let command = "\n::add-mask::spa\n";
    let cases = [
        ("server", "--help".to_owned()),
        ("server", "-n".to_owned()),
        ("server", "show".to_owned()),
        ("server", format!("10.77.0.1{command}")),
        ("server", format!("$(mkdir {})", taken.display())),
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
    assert!(!taken.exists());
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
