//! The machine and the versions, as the page lists them.

use std::fs;
use std::process::Command;

use crate::programs;
use crate::results::Machine;

/// Reads everything from this machine.
pub(crate) fn read() -> Machine {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = meminfo.split_whitespace().nth(1).unwrap().parse().unwrap();
    let is_virtual = field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let hypervisor = is_virtual.then(|| {
        first_line("systemd-detect-virt", &["--vm"]).unwrap_or_else(|| "an unknown hypervisor".to_owned())
    });
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown");
    let debian = |package: &str| first_line("dpkg-query", &["-W", "-f", "${Version}", package]);
    let letmein = |name: &str| first_line(&programs::letmein(name), &["--version"]);
    let versions = [
        ("spa-knock", first_line(&programs::spa_knock("spa-knockd"), &["--version"])),
        ("fwknop-client", debian("fwknop-client")),
        ("fwknop-server", debian("fwknop-server")),
        ("knockd", debian("knockd")),
        ("letmein", letmein("letmein")),
        ("letmeind", letmein("letmeind")),
        ("letmeinfwd", letmein("letmeinfwd")),
        ("nftables", debian("nftables")),
        ("iptables", first_line("iptables", &["-V"])),
        ("libpcap", debian("libpcap0.8").or_else(|| debian("libpcap0.8t64"))),
        ("rustc", first_line("rustc", &["-V"])),
    ];
    let number = |text: String| {
        let mut words = text.split(' ').map(|word| word.trim_start_matches('v'));
        words.find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(&text).to_owned()
    };
    Machine {
        date: first_line("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default(),
        commit: std::env::var("PEERS_COMMIT").unwrap_or_default(),
        processor: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().unwrap().get(),
        memory_mib: kib / 1_024,
        hypervisor,
        load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        kernel: first_line("uname", &["-sr"]).unwrap_or_default(),
        system: system.trim_matches('"').to_owned(),
        versions: versions
            .into_iter()
            .map(|(name, text)| (name.to_owned(), text.map_or_else(|| "unknown".to_owned(), number)))
            .collect(),
    }
}

fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
