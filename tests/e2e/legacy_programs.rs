//! Programs that are commonly used for knocking, in Debian's versions: each opens the door.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::net::{Knockd, Lab, limited, within};

const DOORS: &str = "[tcp]\nsequence = 7000,8000,9000\ntcpflags = syn\nseq_timeout = 20\ncommand = echo tcp %IP% >> DIR/ran
[mixed]\nsequence = 2001:udp,2002:tcp,2003:udp\ntcpflags = syn\nseq_timeout = 20\ncommand = echo mixed %IP% >> DIR/ran
[flags]\nsequence = 3001,3002\ntcpflags = fin,!syn,!ack\nseq_timeout = 20\ncommand = echo flags %IP% >> DIR/ran\n";

/// Runs these commands in the client. Exit codes are ignored, because the ports are closed.
fn knock(lab: &Lab, lines: &[String]) {
    for line in lines {
        let mut args = line.split(' ');
        let program = match args.next().unwrap() {
            "spa-knock" => env!("CARGO_BIN_EXE_spa-knock"),
            program => program,
        };
        let mut command: Command = limited(program);
        lab.client.output(command.args(args).stdin(Stdio::null()));
    }
}

#[test]
fn every_common_knocking_program_opens_the_door() {
    let Some(lab) = Lab::new() else { return };
    let knockd = Knockd::ours(&lab.server, DOORS, "");
    let each = |line: &str, ports: [&str; 3]| ports.map(|port| line.replace("PORT", port)).to_vec();
    let tcp = ["7000", "8000", "9000"];
    let mixed = "2001:udp 2002:tcp 2003:udp";
    let udp_and_tcp = |udp: &str, tcp: &str| {
        vec![udp.replace("PORT", "2001"), tcp.replace("PORT", "2002"), udp.replace("PORT", "2003")]
    };
    let mut expected = Vec::new();
    for (lines, opened) in [
        (vec!["knock 10.77.0.1 7000 8000 9000".to_owned()], "tcp 10.77.0.2"),
        (vec!["knock -6 fd77::1 7000 8000 9000".to_owned()], "tcp fd77::2"),
        (vec![format!("knock -d 20 10.77.0.1 {mixed}")], "mixed 10.77.0.2"),
        (vec!["spa-knock legacy 10.77.0.1 7000 8000 9000".to_owned()], "tcp 10.77.0.2"),
        (vec![format!("spa-knock legacy -d 20 fd77::1 {mixed}")], "mixed fd77::2"),
        (each("nc -z -w 1 10.77.0.1 PORT", tcp), "tcp 10.77.0.2"),
        (vec!["nc -z -w 1 10.77.0.1 7000 8000 9000".to_owned()], "tcp 10.77.0.2"),
        (each("telnet 10.77.0.1 PORT", tcp), "tcp 10.77.0.2"),
        (each("hping3 -n -q -S -c 1 -p PORT 10.77.0.1", tcp), "tcp 10.77.0.2"),
        (each("hping3 -n -q -S -c 1 -a 203.0.113.77 -p PORT 10.77.0.1", tcp), "tcp 203.0.113.77"),
        (
            udp_and_tcp("hping3 -n -q -2 -c 1 -p PORT 10.77.0.1", "hping3 -n -q -S -c 1 -p PORT 10.77.0.1"),
            "mixed 10.77.0.2",
        ),
        (each("hping3 -n -q -F -c 1 -p PORT 10.77.0.1", ["3001", "3002", "1"]), "flags 10.77.0.2"),
        (vec!["nmap -n -Pn -r -p 6990-9005 10.77.0.1".to_owned()], "tcp 10.77.0.2"),
    ] {
        expected.push(opened.to_owned());
        knock(&lab, &lines);
        let opens = within(Duration::from_secs(3), || knockd.ran().len() >= expected.len());
        assert!(opens, "{lines:?}");
        assert_eq!(knockd.ran(), expected, "{lines:?}");
    }
}
