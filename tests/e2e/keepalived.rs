//! keepalived moves an address from one host to another, and runs `spa-knockd takeover` there.

use std::fs;
use std::net::IpAddr;
use std::process::{Child, Command};
use std::time::Duration;

use crate::net::{
    CLIENT4, Daemon, Lab, Namespace, SOON, Site, ask_patiently, knock, limited, open_ssh, within,
};

const SHARED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 10));

/// A host with its daemon and keepalived.
struct PairedHost {
    space: Namespace,
    site: Site,
    daemon: Daemon,
    keepalived: Option<Child>,
}

impl PairedHost {
    /// Starts the daemon, and writes keepalived's config with this script.
    fn new(client: &Namespace, site: Site, number: u8, script: &str) -> Self {
        let space = Namespace::new();
        let (address, port) = (format!("10.77.0.1{number}/24"), format!("port{number}"));
        space.cable(("eth0", &[&address]), client, (&port, &[]));
        client.ip(&format!("link set {port} master lan"));
        let config = site.path("keepalived.conf");
        let script = script.replace("CONFIG", site.path("spa-knockd.toml").to_str().unwrap());
        let notify = if script.is_empty() { String::new() } else { format!("notify_master \"{script}\"") };
        let text = format!(
            "global_defs {{\n script_user root\n enable_script_security\n vrrp_version 3\n}}\n\
             vrrp_instance bastion {{\n interface eth0\n virtual_router_id 51\n state BACKUP\n priority {}\n\
             advert_int 0.1\n virtual_ipaddress {{\n 10.77.0.10/24\n }}\n {notify}\n}}\n",
            200 - number
        );
        fs::write(&config, text).unwrap();
        let daemon = Daemon::start(&space, &site);
        Self { space, site, daemon, keepalived: None }
    }

    fn run_keepalived(&mut self) {
        let [pid, vrrp] = ["keepalived.pid", "vrrp.pid"].map(|name| self.site.path(name));
        let mut command = limited("keepalived");
        command
            .args(["--dont-fork", "--log-console", "--vrrp", "--use-file"])
            .arg(self.site.path("keepalived.conf"));
        command.arg("--pid").arg(pid).arg("--vrrp_pid").arg(vrrp);
        let log = fs::File::create(self.site.path("keepalived.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.keepalived = Some(self.space.spawn(&mut command));
    }

    fn has_address(&self) -> bool {
        self.space.run("ip -4 -o addr show dev eth0").contains("10.77.0.10/24")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.site.path("keepalived.log")).unwrap_or_default()
    }

    /// Ends keepalived, which gives up the address.
    fn stop_keepalived(&mut self) {
        let Some(mut child) = self.keepalived.take() else { return };
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let _ = child.wait();
    }
}

impl Drop for PairedHost {
    fn drop(&mut self) {
        self.stop_keepalived();
    }
}

/// Without the script, the copy is accepted: so the script makes the difference.
#[test]
fn a_knock_that_the_active_host_has_accepted_is_refused_by_the_host_that_takes_its_address_over() {
    // Only for its check that this user can create namespaces.
    let Some(_) = Lab::new() else { return };
    let takeover = format!("{} -c CONFIG takeover", Daemon::PROGRAM);
    for script in ["", &takeover] {
        let client = Namespace::new();
        client.ip("link add lan type bridge");
        client.ip("link set lan up");
        client.ip(&format!("addr add {CLIENT4}/24 dev lan"));
        let sites = [(), ()].map(|()| Site::new("window = \"10s\"", &open_ssh(30)));
        fs::copy(sites[0].key_path("laptop"), sites[1].key_path("laptop")).unwrap();
        let key = sites[0].key("laptop");
        let [active, standby] = sites;
        let mut active = PairedHost::new(&client, active, 1, script);
        let mut standby = PairedHost::new(&client, standby, 2, script);
        active.run_keepalived();
        assert!(within(SOON, || active.has_address()), "{}", active.log());
        standby.run_keepalived();
        let taken_over = |host: &PairedHost| script.is_empty() || host.daemon.has_logged("takeover");
        assert!(within(SOON, || taken_over(&active)), "{}", active.log());
        // Its own takeover refuses the knocks of one window.
        std::thread::sleep(Duration::from_secs(if script.is_empty() { 0 } else { 11 }));
        let datagram = key.seal(&knock("open-ssh")).as_bytes().to_vec();
        let asked = || ask_patiently(&client.udp(CLIENT4), SHARED, &datagram).is_some();
        assert!(asked(), "{}", active.daemon.log());
        assert!(!standby.has_address());
        active.stop_keepalived();
        assert!(within(SOON, || standby.has_address() && taken_over(&standby)), "{}", standby.log());
        assert_eq!(asked(), script.is_empty(), "{}\n{}", standby.daemon.log(), standby.log());
    }
}
