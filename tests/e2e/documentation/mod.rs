//! Every command, config and output that README and the book print, run in the order of each page.

mod hosts;

#[path = "../../documents/mod.rs"]
mod documents;

use documents::source::project;
use documents::{End, Machine, Step, matches, pages, steps};
use hosts::Hosts;

/// One test for each page, so that they run side by side. A page without commands needs none.
macro_rules! pages {
    ($($test:ident $page:literal)*) => {
        /// The pages that have a test.
        const TESTED: &[&str] = &[$($page),*];
        $(#[test]
        fn $test() {
            run($page);
        })*
    };
}

pages! {
    every_command_of_readme_runs "README.md"
    every_command_of_guide_actions_runs "docs/guide/actions.md"
    every_command_of_guide_ci_runs "docs/guide/ci.md"
    every_command_of_guide_clients_and_keys_runs "docs/guide/clients-and-keys.md"
    every_command_of_guide_containers_runs "docs/guide/containers.md"
    every_command_of_guide_firewalls_runs "docs/guide/firewalls.md"
    every_command_of_guide_from_fwknop_runs "docs/guide/from-fwknop.md"
    every_command_of_guide_from_knockd_runs "docs/guide/from-knockd.md"
    every_command_of_guide_install_runs "docs/guide/install.md"
    every_command_of_guide_keep_runs "docs/guide/keep.md"
    every_command_of_guide_lockout_runs "docs/guide/lockout.md"
    every_command_of_guide_monitoring_runs "docs/guide/monitoring.md"
    every_command_of_guide_packet_log_runs "docs/guide/packet-log.md"
    every_command_of_guide_port_sequences_runs "docs/guide/port-sequences.md"
    every_command_of_guide_profiles_runs "docs/guide/profiles.md"
    every_command_of_guide_quick_start_runs "docs/guide/quick-start.md"
    every_command_of_guide_several_servers_runs "docs/guide/several-servers.md"
    every_command_of_guide_ssh_runs "docs/guide/ssh.md"
    every_command_of_guide_systemd_runs "docs/guide/systemd.md"
    every_command_of_guide_troubleshooting_runs "docs/guide/troubleshooting.md"
    every_command_of_guide_visitors_and_one_time_passwords_runs "docs/guide/visitors-and-one-time-passwords.md"
    every_command_of_reference_exit_codes_runs "docs/reference/exit-codes.md"
    every_command_of_reference_json_runs "docs/reference/json.md"
    every_command_of_reference_metrics_runs "docs/reference/metrics.md"
    every_command_of_reference_nftables_runs "docs/reference/nftables.md"
    every_command_of_reference_status_runs "docs/reference/status.md"
}

#[test]
fn every_page_with_commands_has_a_test() {
    let is_run = |page: &String| {
        let steps = steps(&text(page)).unwrap_or_else(|(line, problem)| panic!("{page}:{line}: {problem}"));
        steps.iter().any(|(_, step)| !matches!(step, Step::NotRun | Step::Output(_)))
    };
    let untested: Vec<String> =
        pages().into_iter().filter(|page| is_run(page) && !TESTED.contains(&page.as_str())).collect();
    assert!(untested.is_empty(), "{untested:#?}");
}

fn text(page: &str) -> String {
    std::fs::read_to_string(project(page)).unwrap()
}

fn run(page: &str) {
    let Some(hosts) = Hosts::new() else { return };
    let steps = steps(&text(page)).unwrap_or_else(|(line, problem)| panic!("{page}:{line}: {problem}"));
    let (mut printed, mut on_server, mut input) = (String::new(), String::new(), None);
    for (line, step) in steps {
        let at = format!("{page}:{line}");
        match step {
            Step::NotRun => {}
            Step::Output(text) => assert!(
                matches(&printed, &text),
                "{at}: the page has\n{text}\nbut this was printed:\n{printed}"
            ),
            Step::TransferOutput => {
                let is_token = |line: &&str| line.starts_with("spa-knock-") && !line.contains([' ', ':']);
                let token = on_server
                    .lines()
                    .rfind(is_token)
                    .unwrap_or_else(|| panic!("{at}: no token: {on_server}"));
                input = Some(format!("{token}\n"));
            }
            Step::Transfer { from, to } => {
                let copied = hosts.read(from.0, &from.1);
                hosts.write(to.0, &to.1, &copied);
            }
            Step::File { machine, path, text } => hosts.write(machine, &path, &text),
            Step::Config { machine, toml } => hosts.set_config(machine, &toml, &at),
            Step::Run { machine, end, script } => {
                let (succeeded, output) = match end {
                    End::Stopped => hosts.run_until_stopped(machine, &script),
                    End::Success | End::Failure => hosts.run(machine, &script, input.take()),
                };
                let expected = end != End::Failure;
                assert_eq!(succeeded, expected, "{at}:\n{script}\nprinted:\n{output}\n{}", hosts.log());
                if machine == Machine::Server {
                    on_server.push_str(&output);
                }
                printed = output;
            }
        }
    }
}
