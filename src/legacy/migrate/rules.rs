//! Recognizes commands of iptables, nft and ufw that only admit `%IP%` to ports of this host, or that undo this.
//!
//! Any command that is not understood completely is not recognized.

use std::iter::Peekable;
use std::path::Path;
use std::slice::Iter;

use super::shell;
use spa_knock_core::knock::{PortRange, Protocol};

/// The effect of a recognized command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IptablesRule {
    /// Admits the source to these ports.
    Open(Vec<PortRange>),
    /// Removes a rule that admits the source to these ports.
    Close(Vec<PortRange>),
}

type ShellWords<'a> = Peekable<Iter<'a, String>>;

/// Parses `text`. `None` unless it is a single command that is understood completely.
pub(super) fn read(text: &str) -> Option<IptablesRule> {
    let words = shell::words(text)?;
    let words: Vec<String> = words.into_iter().skip_while(|word| word == "sudo").collect();
    let mut rest = words.iter().peekable();
    match Path::new(rest.next()?).file_name()?.to_str()? {
        "iptables" | "ip6tables" | "iptables-nft" | "ip6tables-nft" | "iptables-legacy"
        | "ip6tables-legacy" => read_iptables(rest),
        "nft" => read_nft(rest),
        "ufw" => read_ufw(rest),
        _ => None,
    }
}

/// Whether `text` undoes a rule that opens `ports`. nft deletes rules by handle, which only a shell command can find,
/// so any nft command that deletes a rule by handle is accepted.
pub(super) fn closes(text: &str, ports: &[PortRange]) -> bool {
    match read(text) {
        Some(IptablesRule::Close(closed)) => closed == ports,
        Some(IptablesRule::Open(_)) => false,
        None => text.contains("nft ") && text.contains("delete rule ") && text.contains("handle"),
    }
}

/// Parses `-A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT`, in any order, with options that make no difference here.
fn read_iptables(mut words: ShellWords<'_>) -> Option<IptablesRule> {
    let (mut opens, mut source, mut accepts) = (None, false, false);
    let (mut protocol, mut ports) = (None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-A" | "--append" | "-I" | "--insert" | "-D" | "--delete" => {
                if words.next()? != "INPUT" || opens.is_some() {
                    return None;
                }
                opens = Some(!matches!(word.as_str(), "-D" | "--delete"));
                words.next_if(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
            }
            "-s" | "--source" | "--src" => source = is_source(words.next()?),
            "-p" | "--protocol" | "--proto" => protocol = Some(read_protocol(words.next()?)?),
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
                ports = Some(words.next()?)
            }
            "-j" | "--jump" => accepts = words.next()? == "ACCEPT",
            "-m" | "--match" => {
                let known = ["tcp", "udp", "state", "conntrack", "multiport", "comment"];
                known.contains(&words.next()?.as_str()).then_some(())?;
            }
            "--state" | "--ctstate" => words.next()?.split(',').any(|state| state == "NEW").then_some(())?,
            "--comment" => drop(words.next()?),
            "-t" | "--table" => (words.next()? == "filter").then_some(())?,
            "-w" | "--wait" => drop(words.next_if(|word| word.bytes().all(|byte| byte.is_ascii_digit()))),
            "--syn" | "-4" | "-6" => {}
            _ => return None,
        }
    }
    let ports = read_ports(&[protocol?], ports?, ':')?;
    (source && accepts).then_some(if opens? { IptablesRule::Open(ports) } else { IptablesRule::Close(ports) })
}

/// Parses `add rule inet filter input ip saddr %IP% tcp dport 22 accept`.
fn read_nft(mut words: ShellWords<'_>) -> Option<IptablesRule> {
    matches!(words.next()?.as_str(), "add" | "insert").then_some(())?;
    (words.next()? == "rule").then_some(())?;
    words.next_if(|word| matches!(word.as_str(), "ip" | "ip6" | "inet"));
    let (_table, chain) = (words.next()?, words.next()?);
    chain.eq_ignore_ascii_case("input").then_some(())?;
    if words.next_if(|word| matches!(word.as_str(), "position" | "handle" | "index")).is_some() {
        words.next()?;
    }
    let (mut source, mut accepts, mut ports) = (false, false, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            _ if accepts => match word.as_str() {
                "comment" => drop(words.next()?),
                _ => return None,
            },
            "ip" | "ip6" => {
                (words.next()? == "saddr").then_some(())?;
                source = is_source(words.next()?);
            }
            "tcp" | "udp" => {
                (words.next()? == "dport").then_some(())?;
                ports = Some(read_ports(&[read_protocol(word)?], &read_set(&mut words)?, '-')?);
            }
            "ct" => {
                (words.next()? == "state").then_some(())?;
                read_set(&mut words)?.split(',').any(|state| state == "new").then_some(())?;
            }
            "counter" => {}
            "accept" => accepts = true,
            _ => return None,
        }
    }
    (source && accepts).then_some(IptablesRule::Open(ports?))
}

/// Parses `allow from %IP% to any port 22 proto tcp`, with or without `delete` before it.
fn read_ufw(mut words: ShellWords<'_>) -> Option<IptablesRule> {
    words.next_if(|word| *word == "--force");
    let closes = words.next_if(|word| *word == "delete").is_some();
    if words.next_if(|word| *word == "insert").is_some() {
        words.next()?;
    }
    words.next_if(|word| *word == "prepend");
    (words.next()? == "allow").then_some(())?;
    words.next_if(|word| *word == "in");
    let (mut source, mut protocols, mut ports) = (false, vec![Protocol::Tcp, Protocol::Udp], None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "from" => source = is_source(words.next()?),
            "to" => (words.next()? == "any").then_some(())?,
            "port" => ports = Some(words.next()?),
            "proto" => protocols = vec![read_protocol(words.next()?)?],
            "comment" => drop(words.next()?),
            _ => return None,
        }
    }
    let ports = read_ports(&protocols, ports?, ':')?;
    source.then_some(if closes { IptablesRule::Close(ports) } else { IptablesRule::Open(ports) })
}

fn is_source(word: &str) -> bool {
    matches!(word, "%IP%" | "%IP%/32" | "%IP%/128")
}

fn read_protocol(word: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.as_str() == word)
}

/// Reads one word, or several words in braces, and returns them as one list with commas.
fn read_set(words: &mut ShellWords<'_>) -> Option<String> {
    let first = words.next()?;
    let Some(inside) = first.strip_prefix('{') else { return Some(first.clone()) };
    let mut set = inside.to_owned();
    while !set.ends_with('}') {
        set.push_str(words.next()?);
    }
    set.pop();
    Some(set)
}

/// Parses a list of ports and ranges, and repeats it for each of `protocols`.
fn read_ports(protocols: &[Protocol], list: &str, range: char) -> Option<Vec<PortRange>> {
    let with_protocol = |protocol: &Protocol| {
        let protocol = protocol.as_str();
        list.split(',').map(move |item| format!("{protocol}/{}", item.replacen(range, "-", 1)).parse().ok())
    };
    protocols.iter().flat_map(with_protocol).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(text: &str) -> Option<String> {
        let list =
            |ports: Vec<PortRange>| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        Some(match read(text)? {
            IptablesRule::Open(ports) => format!("open {}", list(ports)),
            IptablesRule::Close(ports) => format!("close {}", list(ports)),
        })
    }

    #[test]
    fn only_a_rule_that_admits_just_the_source_is_recognized() {
        for (text, rule) in [
            ("/usr/sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", "open tcp/22"),
            ("/sbin/iptables -I INPUT 1 -p tcp -s %IP%/32 --dport ssh -j ACCEPT", "nothing"),
            ("iptables -w 5 -I INPUT 1 -p udp -s %IP%/32 --dport 1194:1200 -j ACCEPT", "open udp/1194-1200"),
            ("sudo ip6tables -D INPUT -s %IP% -p tcp --syn --dport 22 -j ACCEPT", "close tcp/22"),
            (
                "iptables -t filter -A INPUT -m state --state NEW -m multiport -p tcp --dports 80,443,8000:8010 \
                 -s %IP% -m comment --comment 'a knock' -j ACCEPT -w",
                "open tcp/80 tcp/443 tcp/8000-8010",
            ),
            (
                "nft add rule inet filter input ip saddr %IP% tcp dport 22 ct state new counter accept",
                "open tcp/22",
            ),
            (
                "/usr/sbin/nft insert rule filter INPUT ip saddr %IP% tcp dport { 22, 80-90 } accept",
                "open tcp/22 tcp/80-90",
            ),
            ("ufw allow from %IP% to any port 22", "open tcp/22 udp/22"),
            ("ufw --force delete allow proto tcp from %IP% to any port 22,80:90", "close tcp/22 tcp/80-90"),
            ("/usr/sbin/ufw insert 1 allow from %IP% to any port 22 proto tcp comment 'x y'", "open tcp/22"),
            // Rules that admit other sources, apply to other chains or interfaces, or do something else as well.
            ("iptables -A INPUT -p tcp --dport 22 -j ACCEPT", "nothing"),
            ("iptables -A INPUT -s 10.0.0.1 -p tcp --dport 22 -j ACCEPT", "nothing"),
            ("iptables -A INPUT -s %IP% -j ACCEPT", "nothing"),
            ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j DROP", "nothing"),
            ("iptables -A FORWARD -s %IP% -p tcp --dport 22 -j ACCEPT", "nothing"),
            ("iptables -A INPUT ! -s %IP% -p tcp --dport 22 -j ACCEPT", "nothing"),
            ("iptables -A INPUT -i eth0 -s %IP% -p tcp --dport 22 -j ACCEPT", "nothing"),
            ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; logger x", "nothing"),
            ("iptables -A INPUT -s %IP% -p tcp --dport 0 -j ACCEPT", "nothing"),
            ("iptables -A INPUT -s", "nothing"),
            ("nft add element inet filter knock { %IP% timeout 30s }", "nothing"),
            ("nft add rule inet filter input tcp dport 22 accept", "nothing"),
            ("nft add rule inet filter input ip saddr %IP% tcp dport 22 drop", "nothing"),
            ("ufw allow 22", "nothing"),
            ("ufw allow from %IP%", "nothing"),
            ("ufw allow in on eth0 from %IP% to any port 22", "nothing"),
            ("/usr/local/bin/iptables-wrapper -A INPUT", "nothing"),
            ("", "nothing"),
        ] {
            assert_eq!(effect(text).as_deref().unwrap_or("nothing"), rule, "{text}");
        }
    }

    #[test]
    fn a_rule_is_undone_by_its_deletion_or_by_an_nft_handle() {
        let ssh: Vec<PortRange> = vec!["tcp/22".parse().unwrap()];
        let delete =
            "nft delete rule inet filter input handle $(nft -a list chain inet filter input | grep %IP%)";
        for (text, undoes) in [
            ("iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", true),
            ("iptables -D INPUT -s %IP% -p tcp --dport 23 -j ACCEPT", false),
            ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", false),
            (delete, true),
            ("/bin/true", false),
        ] {
            assert_eq!(closes(text, &ssh), undoes, "{text}");
        }
    }
}
