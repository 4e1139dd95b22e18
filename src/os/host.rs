//! Facts about this host: name, users, interfaces, programs, listening sockets.
#![allow(clippy::disallowed_methods, reason = "reads /proc")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::net::if_::InterfaceFlags;

/// In /proc/net/udp (proc_net(5)): the column of the local address, and the number of columns between it and the inode.
const LOCAL_ADDRESS: usize = 1;
const BETWEEN_LOCAL_AND_INODE: usize = 7;

/// A network interface's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// No such interface.
    Missing,
    /// It exists, but is not up.
    Down,
    /// It is up.
    Up,
}

/// The host name, if it is not empty and UTF-8.
#[must_use]
pub fn name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok().filter(|name| !name.is_empty())
}

/// Whether a user of this name exists.
#[must_use]
pub fn has_user(name: &str) -> bool {
    matches!(nix::unistd::User::from_name(name), Ok(Some(_)))
}

/// The command that creates a user for a daemon: without a password, a home or a shell.
#[must_use]
pub fn command_for_user(name: &str) -> String {
    format!("useradd --system --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin {name}")
}

/// A user account of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user id.
    pub uid: u32,
    /// The home directory.
    pub home: PathBuf,
}

/// The account of this name; `None` if there is none.
#[must_use]
pub fn account(name: &str) -> Option<Account> {
    let user = nix::unistd::User::from_name(name).ok()??;
    Some(Account { uid: user.uid.as_raw(), home: user.dir })
}

/// The id of this boot, which changes with every boot.
#[must_use]
pub fn boot_id() -> Option<String> {
    sysctl("kernel.random.boot_id").filter(|id| !id.is_empty())
}

/// The number of this process's network namespace.
#[must_use]
pub fn network_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/net").ok().map(|namespace| namespace.ino())
}

/// The addresses of this host's interfaces; empty if the system does not list them.
#[must_use]
pub fn own_addresses() -> BTreeSet<IpAddr> {
    nix::ifaddrs::getifaddrs().map(|all| all.filter_map(ip).collect()).unwrap_or_default()
}

/// The addresses of one interface; empty if the system does not list them.
#[must_use]
pub fn addresses_of(interface: &str) -> BTreeSet<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    all.filter(|address| address.interface_name == interface).filter_map(ip).collect()
}

/// The value of a kernel parameter, by its dotted name, without surrounding white space; `None` if it cannot be read.
#[must_use]
pub fn sysctl(name: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
}

/// The kernel parameter that keeps this host from forwarding packets to this address, if it is off.
#[must_use]
pub fn forwarding_off(to: IpAddr) -> Option<&'static str> {
    let parameter = match to {
        IpAddr::V4(_) => "net.ipv4.ip_forward",
        IpAddr::V6(_) => "net.ipv6.conf.all.forwarding",
    };
    sysctl(parameter).is_some_and(|value| value == "0").then_some(parameter)
}

/// How to turn a kernel parameter on, for a hint.
#[must_use]
pub fn forwarding_hint(parameter: &str) -> String {
    format!("sysctl -w {parameter}=1, and add the line `{parameter} = 1` to a file in /etc/sysctl.d/")
}

/// Whether the kernel has a route to this address. Nothing is sent.
#[must_use]
pub fn has_route(to: IpAddr) -> bool {
    let from: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Any port: no datagram is sent.
    UdpSocket::bind((from, 0)).is_ok_and(|socket| socket.connect((to, 9)).is_ok())
}

/// Whether the legacy iptables, which nftables does not show, has rules in the table `filter`.
#[must_use]
pub fn has_legacy_filter() -> bool {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .iter()
        .any(|path| fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line == "filter")))
}

/// Whether the legacy iptables may have rules in this network namespace.
#[must_use]
pub fn has_legacy_tables() -> bool {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .iter()
        .any(|path| fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty()))
}

/// Whether this host forwards packets between networks, IPv4 or IPv6. A setting that cannot be read counts as off.
#[must_use]
pub fn forwards() -> bool {
    ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
        .iter()
        .any(|name| sysctl(name).is_some_and(|value| value != "0"))
}

/// Whether this host has IPv6, on any interface.
#[must_use]
pub fn has_ipv6() -> bool {
    Path::new("/proc/self/net/if_inet6").exists()
}

/// The state of an interface of this network namespace.
#[must_use]
pub fn link(interface: &str) -> LinkState {
    // The list includes interfaces without an address. /sys may show those of another namespace.
    let mut all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    match all.find(|address| address.interface_name == interface) {
        None => LinkState::Missing,
        Some(address) if address.flags.contains(InterfaceFlags::IFF_UP) => LinkState::Up,
        Some(_) => LinkState::Down,
    }
}

/// The first port that needs no privilege, ip-sysctl.
#[must_use]
pub fn first_unprivileged_port() -> u16 {
    let setting = sysctl("net.ipv4.ip_unprivileged_port_start").and_then(|port| port.parse().ok());
    setting.unwrap_or(1024)
}

/// The path of a program in the standard folders for system programs.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let is_program = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    folders.into_iter().map(|folder| Path::new(folder).join(name)).find(is_program)
}

/// The names of the programs that have a UDP socket on `port`; `?` for a program that this process is not allowed to
/// see.
#[must_use]
pub fn programs_on_udp(port: u16) -> Vec<String> {
    let tables = ["/proc/net/udp", "/proc/net/udp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: Vec<u64> = tables.iter().flat_map(|table| inodes_on(table, port)).collect();
    let mut names: Vec<String> =
        inodes.into_iter().map(|inode| program_of_socket(inode).unwrap_or_else(|| "?".to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

/// The name of a running process.
#[must_use]
pub fn process_name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

fn ip(interface: nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

fn inodes_on(table: &str, port: u16) -> Vec<u64> {
    let inode = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(LOCAL_ADDRESS);
        let (_, hex) = columns.next()?.rsplit_once(':')?;
        let here = u16::from_str_radix(hex, 16).ok()? == port;
        let inode = columns.nth(BETWEEN_LOCAL_AND_INODE)?;
        if here { inode.parse().ok() } else { None }
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn program_of_socket(inode: u64) -> Option<String> {
    let target = PathBuf::from(format!("socket:[{inode}]"));
    let holds_it = |process: &PathBuf| {
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| link == target)
    };
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let process = processes.filter(|path| path.join("comm").exists()).find(holds_it)?;
    Some(fs::read_to_string(process.join("comm")).ok()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_on_a_port_are_found_in_the_kernel_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref\n\
             1: 00000000:F2F5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n\
             2: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0 0\n\
             broken\n";
        assert_eq!(inodes_on(table, 62_197), [4711]);
        assert_eq!(inodes_on(table, 53), [4712]);
        assert_eq!(inodes_on(table, 54), [0_u64; 0]);
    }

    #[test]
    fn our_own_socket_is_found_with_our_program_name() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(address) else { continue };
            let names = programs_on_udp(socket.local_addr().unwrap().port());
            let comm = fs::read_to_string("/proc/self/comm").unwrap();
            assert_eq!(names, [comm.trim_end()]);
        }
    }

    #[test]
    fn the_loopback_interface_is_found_and_an_unknown_one_is_missing() {
        assert_ne!(link("lo"), LinkState::Missing);
        assert_eq!(link("no-such-link"), LinkState::Missing);
        assert!(program("sh").is_some());
        assert_eq!(program("no-such-program"), None);
    }
}
