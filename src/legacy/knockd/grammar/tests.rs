use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Config, String> {
    Config::read(text.as_bytes()).map_err(|error| error.to_string())
}

/// The door of a section with these lines.
fn door(lines: &str) -> Door {
    let config = read(&format!("[d]\nsequence = 1\n{lines}\n")).unwrap();
    config.doors.into_iter().next().unwrap()
}

fn default_door() -> Door {
    Door { sequence: Some(KnockSequence::read(b"1").unwrap()), ..Door::new("d".to_owned()) }
}

#[test]
fn the_config_of_knockds_manual_is_parsed() {
    let config = read(
        "[options]\n\tlogfile = /var/log/knockd.log\n\n[opencloseSSH]\n\tsequence      = 2222:udp,3333:tcp,4444:udp\n\
         \tseq_timeout   = 15\n\ttcpflags      = syn,ack\n\
         \tstart_command = /usr/sbin/iptables -A INPUT -s %IP% -p tcp --syn --dport 22 -j ACCEPT\n\
         \tcmd_timeout   = 5\n\tstop_command  = /usr/sbin/iptables -D INPUT -s %IP% -p tcp --syn --dport 22 -j ACCEPT\n",
    )
    .unwrap();
    let rule = |way: &str| {
        Some(ShellCommand::new(
            format!("/usr/sbin/iptables -{way} INPUT -s %IP% -p tcp --syn --dport 22 -j ACCEPT").as_bytes(),
        ))
    };
    assert_eq!(
        config.options,
        KnockdOptions { log_file: Some("/var/log/knockd.log".into()), ..KnockdOptions::default() }
    );
    assert_eq!(
        config.doors,
        [Door {
            sequence: Some(KnockSequence::read(b"2222:udp,3333,4444:udp").unwrap()),
            sequence_timeout: 15,
            flags: crate::legacy::knockd::flags::FlagTest::default().with(b"syn,ack").unwrap(),
            start: rule("A"),
            command_timeout: 5,
            stop: rule("D"),
            ..Door::new("opencloseSSH".to_owned())
        }]
    );
}

#[test]
fn every_key_of_a_door_has_aliases_and_lenient_values() {
    let command = |text: &str| Some(ShellCommand::new(text.as_bytes()));
    for (lines, expected) in [
        ("", default_door()),
        (
            "SEQUENCE=2\r\n sEquence\t=\t3 \r",
            Door { sequence: KnockSequence::read(b"3").ok(), ..default_door() },
        ),
        ("sequence =", Door { sequence: KnockSequence::read(b"0").ok(), ..default_door() }),
        ("one_time_sequences = /x y", Door { one_time: Some("/x y".into()), ..default_door() }),
        ("timeout = 7s", Door { sequence_timeout: 7, ..default_door() }),
        ("Seq_Timeout = abc", Door { sequence_timeout: 0, ..default_door() }),
        ("timeout = 7\nseq_timeout = -3", Door { sequence_timeout: -3, ..default_door() }),
        ("cmd_timeout = -1", Door { command_timeout: -1, ..default_door() }),
        ("command = a\ncommand = b = \"c\" # d", Door { start: command("b = \"c\" # d"), ..default_door() }),
        ("start_command = x", Door { start: command("x"), ..default_door() }),
        ("Command_6 =", Door { start_6: command(""), ..default_door() }),
        ("start_command_6 = y", Door { start_6: command("y"), ..default_door() }),
        ("stop_command = z", Door { stop: command("z"), ..default_door() }),
        ("stop_command_6 =z", Door { stop_6: command("z"), ..default_door() }),
        (
            "tcpflags = syn\ntcpflags = !ack",
            Door { flags: default_door().flags.with(b"syn,!ack").unwrap(), ..default_door() },
        ),
        ("target = fd77::1", Door { target: DoorTarget::read("fd77::1"), ..default_door() }),
        (
            "target = FD77:0::1",
            Door { target: Some(DoorTarget::Never("FD77:0::1".to_owned())), ..default_door() },
        ),
        (" # comment\n#", default_door()),
        (
            "Source = 203.0.113.0/24, 2001:db8::/32",
            Door { sources: list(b"203.0.113.0/24,2001:db8::/32").unwrap(), ..default_door() },
        ),
        ("AllowDuplicates", Door { allow_duplicates: true, ..default_door() }),
        (
            "Open = tcp/22, udp/53\nFor = 30s",
            Door {
                opening: Some(GrantSpec {
                    ports: list(b"tcp/22,udp/53").unwrap(),
                    term: Duration::from_secs(30),
                }),
                ..default_door()
            },
        ),
    ] {
        assert_eq!(door(lines), expected, "{lines}");
    }
}

#[test]
fn options_can_be_anywhere_and_interfaces_keep_their_order() {
    let config = read(
        "[options]\nlogfile = /a\nInterface =\ninterface = eth1\n[d]\nsequence=1\nusesyslog\n[options]\nLogFile =\n\
         PIDFILE = /p\ninterface = a-name-of-more-than-thirty-one-bytes\nallowduplicates\n[d]\nsequence=2\n",
    )
    .unwrap();
    assert_eq!(
        config.options,
        KnockdOptions {
            syslog: true,
            log_file: Some(PathBuf::new()),
            pid_file: Some("/p".into()),
            interfaces: vec!["eth1".to_owned(), "a-name-of-more-than-thirty-one-".to_owned()],
        }
    );
    assert_eq!(config.doors.iter().map(|door| door.name.as_str()).collect::<Vec<_>>(), ["d", "d"]);
    assert!(config.doors.iter().all(|door| door.allow_duplicates));
}

#[test]
fn a_config_without_doors_is_valid() {
    for text in ["", "\n\n", "# x", "[options]\n", "[options]\nusesyslog"] {
        assert!(read(text).unwrap().doors.is_empty(), "{text}");
    }
}

#[test]
fn errors_are_worded_as_in_knockd() {
    let many = format!("[a]\nsequence = {}", ["1"; 33].join(","));
    for (text, error) in [
        ("x = 1", "config: line 1: all directives must belong to a section"),
        ("include /etc/x", "config: line 1: all directives must belong to a section"),
        ("\u{feff}[options]\n", "config: line 1: all directives must belong to a section"),
        ("[a] # x\n", "config: line 1: all directives must belong to a section"),
        ("[", "config: line 1: all directives must belong to a section"),
        ("[]", "config: line 1: bad section name"),
        ("[options]\n\ninclude x", "config: line 3: syntax error"),
        ("[options]\nusesyslog = yes", "config: line 2: syntax error"),
        ("[options]\nallowduplicates = yes", "config: line 2: syntax error"),
        ("[options]\nsequence = 1", "config: line 2: syntax error"),
        ("[options]\n= 1", "config: line 2: syntax error"),
        ("[options]\n; x", "config: line 2: syntax error"),
        ("[Options]\nlogfile = /x", "config: line 2: syntax error"),
        ("[ options ]", "error: section ' options ' has an empty knock sequence"),
        ("[a]\nlogfile = /x", "config: line 2: syntax error"),
        ("[a]\ninterface = x", "config: line 2: syntax error"),
        ("[a]\nsequence", "config: line 2: syntax error"),
        ("[a]\nkey = x", "config: line 2: syntax error"),
        ("[a]\ntcpflags = syn,x", "config: line 2: unrecognized flag \"X\""),
        ("[a]\ntcpflags = syn, ack", "config: line 2: unrecognized flag \" ACK\""),
        ("[a]\ntcpflags =", "config: line 2: unrecognized flag \"\""),
        (&many, "config: section a: too many ports in knock sequence"),
        ("[a]\nsequence = 1,65536", "config: section a: port 65536 is invalid"),
        ("[a]\nsequence = 1:icmp", "config: section a: unknown protocol in knock sequence"),
        ("[a]\n[b]\nsequence = 1", "error: section 'a' has an empty knock sequence"),
        ("[a]\ntarget = 10.0.0.0/8", "config: line 2: target is not an address"),
        ("[a]\ntarget =", "config: line 2: target is not an address"),
        ("[a]\nopen = 22", "config: line 2: expected a port such as tcp/22 or udp/51820, from 1 to 65535"),
        ("[a]\nfor = 500ms", "config: line 2: expected whole seconds from 1s to 365d"),
        ("[a]\nfor = 30", "config: line 2: expected a duration such as 30s, 5m or 2h"),
        (
            "[a]\nsource = x",
            "config: line 2: expected addresses such as 203.0.113.9, 203.0.113.0/24 or 2001:db8::/32",
        ),
        ("[a]\nsequence=1\nopen=tcp/22", "config: section a: Open requires For, such as For = 30s"),
        ("[a]\nsequence=1\nfor=1s", "config: section a: For requires Open, such as Open = tcp/22"),
        (
            "[a]\nsequence=1\nopen=tcp/22\nfor=1s\ncommand=x",
            "config: section a: use either Open or commands, not both",
        ),
    ] {
        assert_eq!(read(text).err().as_deref(), Some(error), "{text}");
    }
}

#[test]
fn the_rest_of_a_line_over_4095_bytes_is_a_separate_line() {
    let long = |value: usize, rest: &str| format!("[a]\nsequence=1\ncommand={}{rest}\n", "x".repeat(value));
    let length = 4095 - "command=".len();
    assert_eq!(read(&long(length, "")).unwrap().doors[0].start, Some(ShellCommand::new(&vec![b'x'; length])));
    assert_eq!(read(&long(length, "y")), Err("config: line 4: syntax error".to_owned()));
    let config = read(&long(length, "stop_command=z")).unwrap();
    assert_eq!(config.doors[0].stop, Some(ShellCommand::new(b"z")));
    // The line end after a full piece is an empty line.
    assert_eq!(read(&format!("{}]", long(length, ""))), Err("config: line 5: syntax error".to_owned()));
}

#[test]
fn long_names_are_truncated() {
    let named = |length: usize| read(&format!("[{}]\nsequence=1:x", "n".repeat(length)));
    let error = |length: usize| {
        Err(format!("config: section {}: unknown protocol in knock sequence", "n".repeat(length)))
    };
    for (length, kept) in [(127, 127), (128, 127), (254, 127), (300, 127)] {
        assert_eq!(named(length), error(kept));
    }
}

#[test]
fn a_line_ends_at_a_nul_and_commands_keep_other_bytes() {
    let config = Config::read(b"[\xfc]\nsequence=1\0:x\ncommand = \xff %IP%\n").unwrap();
    assert_eq!(config.doors[0].name, "\u{fffd}");
    assert_eq!(config.doors[0].start, Some(ShellCommand::new(b"\xff %IP%")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Config::read(&bytes);
    }

    #[test]
    fn the_doors_of_any_valid_config_can_be_used(lines in proptest::collection::vec(
        prop_oneof![
            Just("[options]".to_owned()), Just("[a]".to_owned()), Just("usesyslog".to_owned()),
            "(sequence|SEQUENCE) ?= ?[0-9:,udp -]{0,12}", "(seq_|cmd_|)timeout = [0-9x-]{0,12}",
            "(start_|stop_|)command(_6|) = [a-z%IP ]{0,12}", "tcpflags = (syn|!ack|x|,){0,3}",
            "target = [0-9a-f.:/]{0,9}", "[a-z_]{0,9} ?=? ?[ -~]{0,9}",
        ], 0..12)
    ) {
        if let Ok(config) = read(&lines.join("\n")) {
            for door in &config.doors {
                prop_assert!(door.sequence.is_some() || door.one_time.is_some());
                let knocks = door.sequence.as_ref().map_or(1, |sequence| sequence.knocks().len());
                prop_assert!((1..=32).contains(&knocks));
                prop_assert!(door.orders([10, 0, 0, 1].into()).is_ok());
            }
        }
    }
}
