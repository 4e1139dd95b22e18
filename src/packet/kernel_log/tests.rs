use proptest::prelude::*;

use super::*;

const MAC: &str = "MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00 ";
const SYN: &str = "IN=eth0 OUT= MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00 SRC=10.77.0.2 DST=10.77.0.1 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=54321 DF PROTO=TCP SPT=40000 DPT=7000 WINDOW=64240 RES=0x00 SYN URGP=0 ";
const SYN_6: &str = "IN=eth0 OUT= MAC=52:54:00:12:34:56:52:54:00:65:43:21:86:dd SRC=fd77:0000:0000:0000:0000:0000:0000:0002 DST=fd77:0000:0000:0000:0000:0000:0000:0001 LEN=80 TC=0 HOPLIMIT=64 FLOWLBL=123456 PROTO=TCP SPT=40000 DPT=7000 WINDOW=64800 RES=0x00 SYN URGP=0 ";
const EMPTY: &str = "IN=eth0 OUT= SRC=10.77.0.2 DST=10.77.0.1 LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=UDP SPT=40000 DPT=7000 LEN=8 ";

/// A short description of a line's packet: addresses, ports, protocol, and flags or payload.
fn described(message: &str) -> Option<String> {
    let KernelLogLine { packet, interface } = KernelLogLine::read(message, "")?;
    let transport = match packet.transport {
        Transport::Tcp { flags } => format!("tcp {:#04x}", flags.byte()),
        Transport::Udp { payload: Some([]) } => "udp empty".to_owned(),
        Transport::Udp { payload: None } => "udp".to_owned(),
        Transport::Udp { .. } => unreachable!("a log has no payload"),
    };
    Some(format!("{} > {} {transport} {interface}", packet.source, packet.destination))
}

#[test]
fn a_line_of_the_kernel_is_parsed() {
    for (message, packet) in [
        (SYN.to_owned(), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0"),
        (SYN.trim_end().to_owned(), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0"),
        (SYN_6.to_owned(), "[fd77::2]:40000 > [fd77::1]:7000 tcp 0x02 eth0"),
        (EMPTY.to_owned(), "10.77.0.2:40000 > 10.77.0.1:7000 udp empty eth0"),
        (EMPTY.replace("LEN=8 ", "LEN=9 "), "10.77.0.2:40000 > 10.77.0.1:7000 udp eth0"),
        // The first fragment.
        (EMPTY.replace("ID=1 ", "ID=1 MF "), "10.77.0.2:40000 > 10.77.0.1:7000 udp eth0"),
        (SYN.replace("SYN ", "URG ACK PSH RST SYN FIN "), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x3f eth0"),
        (SYN.replace("SYN ", ""), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x00 eth0"),
        (SYN.replace("SYN ", "AE CWR ECE SYN "), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0"),
        // --log-tcp-sequence, --log-tcp-options, --log-ip-options, --log-uid, a mark, forwarded, a bridge, a VLAN.
        (SYN.replace("WINDOW", "SEQ=1 ACK=0 WINDOW"), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0"),
        (format!("{SYN}OPT (020405B40402080A) "), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0"),
        (SYN.replace("DF ", "CE DF OPT (94040000) "), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0"),
        (
            SYN_6.replace("PROTO", "OPT ( ) OPT ( AH SPI=0x1 ) PROTO"),
            "[fd77::2]:40000 > [fd77::1]:7000 tcp 0x02 eth0",
        ),
        (format!("{SYN}UID=0 GID=0 MARK=0x1 "), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0"),
        (SYN.replace("OUT=", "OUT=lan0"), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0"),
        (SYN.replace("OUT= ", "OUT= PHYSIN=tap0 "), "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0"),
        (
            SYN.replace(MAC, "MACSRC=52:54:00:65:43:21 MACDST=52:54:00:12:34:56 MACPROTO=0800 "),
            "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0",
        ),
        (
            SYN.replace(MAC, &format!("{MAC}VPROTO=8100 VID=7 ")),
            "10.77.0.2:40000 > 10.77.0.1:7000 tcp 0x02 eth0",
        ),
    ] {
        assert_eq!(described(&message).as_deref(), Some(packet), "{message}");
    }
}

#[test]
fn recorded_lines_of_a_kernel_are_the_packets_that_were_sent() {
    // Recorded on Linux 6.1 with iptables' LOG target. Sent by knock(1) and manually: TCP to 7000, 9000 and 7001 (with
    // all options of LOG), UDP to 8000 with one byte, empty, and in fragments. The others are ICMP errors in response.
    let lines = include_str!("linux-6.1.log").lines();
    let packets: Vec<Option<String>> = lines
        .map(|line| match SyslogLine::read(&format!("Nov 24 14:20:24 bastion kernel: {line}")) {
            SyslogLine::Kernel(message) => described(message.strip_prefix("knock: ").unwrap()),
            other => panic!("{other:?}"),
        })
        .collect();
    let v4 = |from: u16, to: &str| Some(format!("10.77.0.1:{from} > 10.77.0.1:{to} lo"));
    let v6 = |from: u16, to: &str| Some(format!("[fd77::1]:{from} > [fd77::1]:{to} lo"));
    assert_eq!(
        packets,
        [
            v4(39_196, "7000 tcp 0x02"),
            v4(47_828, "8000 udp"),
            None,
            v4(53_388, "9000 tcp 0x02"),
            v4(54_718, "7001 tcp 0x02"),
            v4(55_102, "8000 udp"),
            None,
            v6(52_070, "7000 tcp 0x02"),
            v6(54_934, "9000 tcp 0x02"),
            v6(45_396, "7001 tcp 0x02"),
            v4(35_196, "8000 udp empty"),
            None,
            v6(43_632, "8000 udp empty"),
            v6(43_632, "8000 udp"),
        ]
    );
}

#[test]
fn a_line_that_the_kernel_does_not_log_for_an_incoming_packet_is_rejected() {
    let inside = SYN.replace("IN=eth0 OUT= ", "").replace(MAC, "");
    for message in [
        String::new(),
        SYN.replace("IN=eth0", "IN="),
        SYN.replace("IN=eth0 ", ""),
        format!("  {SYN}"),
        format!("x {SYN}"),
        SYN.replace(' ', "  "),
        SYN.replace(" SYN", " SYN SYN"),
        SYN.replace("SYN ", "FIN SYN "),
        SYN.replace("SYN ", "SRC=10.77.0.9 "),
        SYN.replace("SRC=10.77.0.2", "SRC=10.77.0.2 SRC=10.77.0.9"),
        SYN.replace("SRC=10.77.0.2 DST=10.77.0.1", "DST=10.77.0.1 SRC=10.77.0.2"),
        SYN.replace("SRC=10.77.0.2", "SRC=fd77::2"),
        SYN.replace("SRC=10.77.0.2", "SRC=example.org"),
        SYN.replace("DPT=7000", "DPT=70000"),
        SYN.replace("DPT=7000", "DPT="),
        SYN.replace("SPT=40000 ", ""),
        SYN.replace("PROTO=TCP", "PROTO=6"),
        SYN.replace("PROTO=TCP", "PROTO=UDPLITE"),
        SYN.replace("WINDOW=64240 ", ""),
        SYN.replace("SPT=40000 DPT=7000", "INCOMPLETE [4 bytes]"),
        SYN.replace("DF ", "FRAG:64 "),
        SYN_6.replace("PROTO", "FRAG:0 INCOMPLETE ID:0000002a PROTO"),
        SYN_6.replace("PROTO", "FRAG:8 ID:0000002a PROTO"),
        SYN_6.replace("PROTO", "OPT ( PROTO"),
        SYN.replace("URGP=0 ", ""),
        // The kernel logs the contents of an ICMP error in brackets.
        format!(
            "IN=eth0 OUT= {MAC}SRC=10.77.0.9 DST=10.77.0.1 LEN=88 TOS=0x00 PREC=0xC0 TTL=64 ID=7 PROTO=ICMP TYPE=3 CODE=1 [{inside}] "
        ),
        format!(
            "IN=eth0 OUT= {MAC}SRC=10.77.0.9 DST=10.77.0.1 LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=ICMP TYPE=8 CODE=0 ID=7000 SEQ=1 SPT=1 DPT=7000 LEN=8 "
        ),
    ] {
        assert_eq!(described(&message), None, "{message}");
    }
}

#[test]
fn the_prefix_must_be_that_of_the_rule() {
    for (written, prefix, is_used) in [
        ("", "", true),
        ("knock: ", "knock: ", true),
        ("knock: ", "knock:", true),
        ("[UFW BLOCK] ", "[UFW BLOCK]", true),
        ("knock: ", "", false),
        ("", "knock: ", false),
        ("other: ", "knock: ", false),
        ("usb 1-1: Product: ", "", false),
        ("knock: knock: ", "knock: ", false),
    ] {
        let message = format!("{written}{SYN}");
        assert_eq!(KernelLogLine::read(&message, prefix).is_some(), is_used, "{written:?} {prefix:?}");
    }
}

#[test]
fn only_a_line_with_the_kernel_in_the_programs_position_is_from_the_kernel() {
    use SyslogLine::{Kernel, Other, Unclear};
    for (line, expected) in [
        ("Nov 24 14:20:24 bastion kernel: [12345.678901] IN=", Kernel("IN=")),
        ("Nov  4 14:20:24 bastion kernel: [    0.000000] IN=", Kernel("IN=")),
        ("Nov  4 14:20:24 bastion kernel: IN=", Kernel("IN=")),
        ("2026-11-24T14:20:24.123456+00:00 bastion kernel: [12345.678901] IN=", Kernel("IN=")),
        ("2026-11-24T14:20:24Z bastion kernel: IN=", Kernel("IN=")),
        ("2026-11-24T14:20:24Z bastion kernel: [    1.5][    T1] IN=", Kernel("IN=")),
        ("2026-11-24T14:20:24Z bastion kernel: [UFW BLOCK] IN=", Kernel("[UFW BLOCK] IN=")),
        ("Nov 24 14:20:24 bastion kern.warn kernel: [12345.678901] IN=", Kernel("IN=")),
        ("Nov 24 14:20:24 bastion kernel: [x] IN=", Kernel("[x] IN=")),
        ("Nov 24 14:20:24 bastion kernel:", Kernel("")),
        ("Nov 24 14:20:24 bastion sshd[7]: Invalid user kernel: IN=", Other),
        ("Nov 24 14:20:24 bastion sshd[7]: kernel: IN=", Other),
        ("Nov 24 14:20:24 bastion user.notice kernel: IN=", Other),
        ("Nov 24 14:20:24 bastion User.notice kernel: IN=", Unclear),
        ("Nov 24 14:20:24 bastion .notice kernel: IN=", Unclear),
        ("Nov 24 14:20:24 bastion kern.Warn kernel: IN=", Unclear),
        ("Nov 24 14:20:24 bastion kern. kernel: IN=", Unclear),
        ("Nov 24 14:20:24 bastion kernel[7]: IN=", Other),
        ("Nov 24 14:20:24 bastion kernel.sh: IN=", Other),
        ("Nov 24 14:20:24 bastion last message repeated 2 times", Unclear),
        ("Nov 24 14:20:24 kernel: IN=", Unclear),
        ("Nov 24 14:20:24  kernel: IN=", Unclear),
        ("kernel: IN=", Unclear),
        ("Nov 24 14:20:24 sshd: kernel: IN=", Unclear),
        ("Nov 24 14:20:24 sshd[7] kernel: IN=", Unclear),
        ("x Nov 24 14:20:24 bastion kernel: IN=", Unclear),
        (" Nov 24 14:20:24 bastion kernel: IN=", Unclear),
        ("24 Nov 14:20:24 bastion kernel: IN=", Unclear),
        ("2026-11-24 14:20:24 bastion kernel: IN=", Unclear),
        ("2026-11-24T14:20:24,5-0330 bastion kernel: IN=", Kernel("IN=")),
        ("2026-11-24T14:20:24 bastion kernel: IN=", Kernel("IN=")),
        ("2026-11-24T14:20:24.123456x: bastion kernel: IN=", Unclear),
        ("2026-11-24T14:20:24sshd: bastion kernel: IN=", Unclear),
        ("2026-11-24T14:20:24. bastion kernel: IN=", Unclear),
        ("2026-11-24T14:20:24+01:0 bastion kernel: IN=", Unclear),
        ("", Unclear),
    ] {
        assert_eq!(SyslogLine::read(line), expected, "{line}");
    }
}

/// Writes a packet in the kernel's format.
fn write(packet: &Packet<'_>, interface: &str) -> String {
    let Packet { source, destination, .. } = packet;
    let rest = match packet.transport {
        Transport::Udp { payload } => format!(
            "PROTO=UDP SPT={} DPT={} LEN={} ",
            source.port(),
            destination.port(),
            if payload.is_some() { 8 } else { 30 }
        ),
        Transport::Tcp { flags } => {
            let names = [("URG", 0x20), ("ACK", 0x10), ("PSH", 8), ("RST", 4), ("SYN", 2), ("FIN", 1)];
            let names = names.into_iter().filter(|(_, bit)| flags.byte() & bit != 0);
            let names: String = names.map(|(name, _)| format!("{name} ")).collect();
            format!(
                "PROTO=TCP SPT={} DPT={} WINDOW=512 RES=0x00 {names}URGP=0 ",
                source.port(),
                destination.port()
            )
        }
    };
    let addresses = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            format!("SRC={from} DST={to} LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=0 DF ")
        }
        (from, to) => {
            let long = |address: IpAddr| {
                let IpAddr::V6(address) = address else { unreachable!("both are IPv6") };
                address.segments().map(|part| format!("{part:04x}")).join(":")
            };
            format!("SRC={} DST={} LEN=60 TC=0 HOPLIMIT=64 FLOWLBL=0 ", long(from), long(to))
        }
    };
    format!("IN={interface} OUT= {MAC}{addresses}{rest}")
}

fn packets() -> impl Strategy<Value = Packet<'static>> {
    let addresses = prop_oneof![
        any::<[[u8; 4]; 2]>().prop_map(|both| both.map(IpAddr::from)),
        // Not mapped addresses, because they are parsed as IPv4.
        any::<[[u16; 8]; 2]>().prop_map(|both| both.map(|parts| IpAddr::from([
            0xFD00 | parts[0],
            parts[1],
            parts[2],
            parts[3],
            parts[4],
            parts[5],
            parts[6],
            parts[7]
        ]))),
    ];
    let transport = prop_oneof![
        (0_u8..64).prop_map(|flags| Transport::Tcp { flags: TcpFlags::of(flags) }),
        any::<bool>().prop_map(|empty| Transport::Udp { payload: empty.then_some(&[][..]) }),
    ];
    (addresses, any::<[u16; 2]>(), transport).prop_map(|([from, to], [from_port, to_port], transport)| {
        Packet {
            source: (from, from_port).into(),
            destination: (to, to_port).into(),
            interface: None,
            transport,
        }
    })
}

proptest! {
    #[test]
    fn every_packet_is_parsed_from_its_line(packet in packets(), interface in "[a-z]{1,8}[0-9=.]{0,4}") {
        let line = write(&packet, &interface);
        prop_assert_eq!(KernelLogLine::read(&line, ""), Some(KernelLogLine { packet, interface: &interface }));
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in ".{0,200}", cut in 0_usize..250) {
        let _ = KernelLogLine::read(&text, "");
        let _ = SyslogLine::read(&text);
        // A truncated line may or may not contain all necessary fields.
        let _ = KernelLogLine::read(SYN.get(..cut).unwrap_or(SYN), "");
    }

    #[test]
    fn a_program_cannot_forge_a_kernel_line(program in "[a-zA-Z0-9_./()-]{1,12}(\\[[0-9]{1,5}\\])?", text in ".{0,30}") {
        prop_assume!(program != "kernel");
        let line = format!("Nov 24 14:20:24 bastion {program}: {text}kernel: {SYN}");
        prop_assert!(!matches!(SyslogLine::read(&line), SyslogLine::Kernel(_)), "{}", line);
    }
}
