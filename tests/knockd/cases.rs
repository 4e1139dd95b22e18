//! The cases of `cases.txt`: a config, the packets that arrive, and what is logged and run as a result.

use std::net::IpAddr;
use std::time::Duration;

/// The sequence of door `a`.
const DEFAULT_SEQUENCE: &str = "sequence=7000,8000,9000";
const CASES: &str = include_str!("cases.txt");

/// One case.
#[derive(Debug, Default)]
pub(crate) struct Case {
    /// A short description.
    pub(crate) title: String,
    /// The doors. `DIR` stands for a directory, in which commands write to the file `ran`.
    pub(crate) config: String,
    /// Command-line options.
    pub(crate) options: String,
    /// When the first packet is sent, in milliseconds after a full second.
    pub(crate) start: Option<u64>,
    /// The packets and pauses.
    pub(crate) steps: Vec<Step>,
    /// The events that are logged.
    pub(crate) outcome: String,
    /// The events that Debian's knockd logs.
    pub(crate) knockd: Peer,
    /// `door source` of each command that runs, if it is not one for each OPEN.
    pub(crate) runs: Option<Vec<String>>,
}

/// The outcome of a case with Debian's knockd.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The same as ours.
    #[default]
    Same,
    /// This outcome, which we have fixed.
    Other(String),
    /// It does not support the config.
    Cannot,
}

/// A step of a case.
#[derive(Debug)]
pub(crate) enum Step {
    /// A packet arrives.
    Packet(Sent),
    /// This time passes, instead of the usual few milliseconds.
    Pause(Duration),
    /// The position in the log is marked with `|` in the outcome.
    Look,
}

/// A packet, written `PORT`, or `PORTu` for UDP; before it `SOURCE:`; after it `>DESTINATION`, `(FLAGS)` of `FSRA` if
/// the flags are not just SYN, and `{FORM}`. Addresses are `.N` for 10.77.0.N, `6` for IPv6, or written in full, a
/// source in brackets. `FIRST-LAST/STEP` stands for several packets.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// The source address.
    pub(crate) source: IpAddr,
    /// The destination address.
    pub(crate) destination: IpAddr,
    /// UDP, not TCP.
    pub(crate) udp: bool,
    /// The destination port.
    pub(crate) port: u16,
    /// The TCP flags, as in the header.
    pub(crate) flags: u8,
    /// The unusual property of the frame, if any.
    pub(crate) form: String,
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    let blocks = CASES.split("\n\n").filter(|block| !block.starts_with('#'));
    blocks.map(Case::read).collect()
}

impl Case {
    /// Parses a case.
    pub(crate) fn read(block: &str) -> Self {
        let mut lines = block.lines();
        let title = lines.next().unwrap().to_owned();
        let mut case = Self { title, config: door("a", DEFAULT_SEQUENCE), ..Self::default() };
        for line in lines {
            let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("{line}"));
            let value = value.trim();
            match key {
                "door" => case.config.push_str(&format!("{value}\n")),
                "b" => case.config.push_str(&door("b", &format!("sequence={value}"))),
                "doors" => case.config = value.replace(" ; ", "\n") + "\n",
                "options" => case.options = value.to_owned(),
                "start" => case.start = Some(value.parse().unwrap()),
                "packets" => case.steps = value.split_whitespace().flat_map(steps).collect(),
                "outcome" => case.outcome = value.to_owned(),
                "knockd" if value == "-" => case.knockd = Peer::Cannot,
                "knockd" => case.knockd = Peer::Other(value.to_owned()),
                "runs" => case.runs = Some(if value == "-" { vec![] } else { vec![value.to_owned()] }),
                _ => panic!("{line}"),
            }
        }
        case
    }
}

fn door(name: &str, sequence: &str) -> String {
    format!("[{name}]\n{sequence}\ntcpflags=syn\nseq_timeout=5\nstart_command=echo {name} %IP% >> DIR/ran\n")
}

fn steps(notation: &str) -> Vec<Step> {
    if notation == "?" {
        return vec![Step::Look];
    }
    if let Some(seconds) = notation.strip_prefix('+') {
        return vec![Step::Pause(Duration::from_secs_f64(seconds.parse().unwrap()))];
    }
    if let Some((first, rest)) = notation.split_once('-') {
        let (last, by) = rest.split_once('/').unwrap();
        let (first, last): (u16, u16) = (first.parse().unwrap(), last.parse().unwrap());
        let ports = (first..=last).step_by(by.parse().unwrap());
        return ports.map(|port| Step::Packet(packet(&port.to_string()))).collect();
    }
    vec![Step::Packet(packet(notation))]
}

/// Parses the notation of a packet.
pub(crate) fn packet(notation: &str) -> Sent {
    let bracketed = notation.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    let (source, rest) = bracketed.or_else(|| notation.split_once(':')).unwrap_or((".2", notation));
    let default = if source == "6" { "6" } else { ".1" };
    let (rest, form) =
        rest.split_once('{').map_or((rest, ""), |(rest, form)| (rest, &form[..form.len() - 1]));
    let (rest, destination) = rest.split_once('>').unwrap_or((rest, default));
    let (port, flags) = rest.split_once('(').unwrap_or((rest, "S)"));
    let flags = flags.bytes().map(|flag| match flag {
        b'F' => 0x01,
        b'S' => 0x02,
        b'R' => 0x04,
        b'A' => 0x10,
        _ => 0,
    });
    let (port, udp) = port.strip_suffix('u').map_or((port, false), |port| (port, true));
    Sent {
        source: address(source, 2),
        destination: address(destination, 1),
        udp,
        port: port.parse().unwrap(),
        flags: flags.fold(0, |all, flag| all | flag),
        form: form.to_owned(),
    }
}

fn address(text: &str, last: u8) -> IpAddr {
    match text.strip_prefix('.') {
        Some(number) => IpAddr::from([10, 77, 0, number.parse().unwrap()]),
        None if text == "6" => IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last)]),
        None => text.parse().unwrap(),
    }
}

/// One event of an outcome: the source if it is not the default one, the door if there are several, and the event.
pub(crate) fn outcome_event(source: &str, door: Option<&str>, event: &str) -> String {
    let source = source.strip_prefix("10.77.0").unwrap_or(source);
    let source = if matches!(source, ".2" | "fd77::2") { String::new() } else { format!("{source}:") };
    let door = door.map_or_else(String::new, |door| format!("{door}:"));
    format!("{source}{door}{event}")
}
