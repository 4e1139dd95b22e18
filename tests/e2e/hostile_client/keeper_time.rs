//! The keeper's time: knocks of one key that take long do not delay those of another key.

use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use spa_knock_core::knock::ReplyStatus;

use crate::iptables::Host;
use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Key, Lab, NEIGHBOR4, NO_LIMITS, SERVER4, Site, ask, ask_patiently, flood,
    full, knock, within,
};
use crate::strace::Strace;

/// Number of knocks of the other client.
const KNOCKS: usize = 50;

/// `evil` and `good` are both allowed to open a port. `evil` is the text added to the section of client `evil`.
fn site(firewall: &str, evil: &str) -> Site {
    let site = Site::new("", "");
    site.add_key("evil");
    site.add_key("good");
    let rest = format!(
        "[firewall]\n{firewall}\nprotect = [\"tcp/22\"]\n\
         [action.open-ssh]\nopen = [\"tcp/22\"]\nfor = \"20s\"\n\
         [client.good]\nkey = \"good.key\"\nallow = [\"open-ssh\"]\n\
         per-key-limit = {{ burst = 1000, rate = \"100/s\" }}\n\
         [client.evil]\nkey = \"evil.key\"\nallow = [\"open-ssh\"]\n\
         {evil}\n"
    );
    site.write_config("", &rest);
    site
}

/// The time that each knock of `good` took until it was granted, while `evil` sends `rate` different valid knocks per
/// second.
fn times_during_flood(lab: &Lab, site: &Site, rate: usize) -> Vec<Duration> {
    let (evil, good) = (site.key("evil"), site.key("good"));
    let seconds = if full() { 10 } else { 3 };
    let datagrams: Vec<Vec<u8>> = (0..rate * seconds).map(|_| evil.good()).collect();
    let attacker = lab.client.udp(CLIENT4);
    attacker.connect((SERVER4, KNOCK_PORT)).unwrap();
    let pause = Duration::from_secs(seconds.try_into().unwrap()) / u32::try_from(KNOCKS + 10).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| flood(&attacker, &datagrams, rate, datagrams.len()));
        // Wait until the flood has begun.
        thread::sleep(Duration::from_millis(300));
        (0..KNOCKS)
            .map(|n| {
                thread::sleep(pause);
                timed(lab, &good).unwrap_or_else(|| panic!("knock {n} of the other client"))
            })
            .collect()
    })
}

fn timed(lab: &Lab, key: &Key) -> Option<Duration> {
    let datagram = key.seal(&knock("open-ssh"));
    let socket = lab.neighbor.udp(NEIGHBOR4);
    let start = Instant::now();
    // As clients do: a knock that is lost on a busy machine is sent again.
    let reply = ask_patiently(&socket, SERVER4, datagram.as_bytes())?;
    let time = start.elapsed();
    (key.open(&reply, &datagram).status == ReplyStatus::Granted).then_some(time)
}

/// The 99th percentile. When all other tests run at the same time, the median: a busy machine delays some knocks, but a
/// keeper that waits for another key's knocks delays all.
fn most(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() * if full() { 99 } else { 50 } / 100]
}

#[test]
fn use_counts_of_one_key_on_the_disk_do_not_delay_another_key() {
    // First without a limit for the key, so that all knocks reach the keeper; then with the usual limit and a higher
    // rate.
    let without_limit = (600, 250, NO_LIMITS);
    let as_usual = (3_000, 50, "");
    for (rate, limit, evil) in if full() { vec![without_limit, as_usual] } else { vec![without_limit] } {
        let Some(lab) = Lab::new() else { return };
        let site = site("backend = \"nftables\"", &format!("uses = 100000\n{evil}"));
        let _daemon = Daemon::start(&lab.server, &site);
        let mut times = times_during_flood(&lab, &site, rate);
        let most = most(&mut times);
        println!(
            "during {rate} knocks per second with use counts: median {:?}, most {most:?}",
            times[KNOCKS / 2]
        );
        assert!(most < Duration::from_millis(limit), "{times:?}");
    }
}

#[test]
fn grants_of_one_key_in_iptables_do_not_delay_another_key() {
    for host in [Host::Usual, Host::Setless] {
        for rate in if full() { vec![100, 500] } else { vec![200] } {
            let Some(lab) = Lab::new() else { return };
            let site = site("backend = \"iptables\"", NO_LIMITS);
            let _daemon = host.start(&lab, &site);
            let mut times = times_during_flood(&lab, &site, rate);
            let most = most(&mut times);
            println!(
                "{host:?}: during {rate} knocks per second: median {:?}, most {most:?}",
                times[KNOCKS / 2]
            );
            assert!(most < Duration::from_millis(500), "{host:?}: {times:?}");
        }
    }
}

#[test]
fn a_lock_on_the_tables_delays_neither_a_refusal_nor_a_command() {
    let Some(lab) = Lab::new() else { return };
    let site = site("backend = \"iptables\"", NO_LIMITS);
    let note = site.path("note");
    let config = fs::read_to_string(site.path("spa-knockd.toml")).unwrap();
    let run = format!("[action.note]\nrun = [\"/bin/touch\", \"{}\"]\n[client.evil]", note.display());
    let config = config.replace("[client.evil]", &run).replacen("[\"open-ssh\"]", "[\"note\"]", 1);
    fs::write(site.path("spa-knockd.toml"), config).unwrap();
    lab.server.echo(22);
    let daemon = Host::Legacy.start(&lab, &site);
    // Another program holds the lock.
    let lock = File::options().write(true).open(site.path("xtables.lock")).unwrap();
    lock.lock().unwrap();
    let (evil, good) = (site.key("evil"), site.key("good"));
    lab.client.udp(CLIENT4).send_to(&evil.good(), (SERVER4, KNOCK_PORT)).unwrap();
    thread::sleep(Duration::from_millis(200));
    for (action, expected) in [("note", ReplyStatus::Done), ("open-ssh", ReplyStatus::NotAllowed)] {
        let datagram = good.seal(&knock(action));
        let reply = ask(&lab.neighbor.udp(NEIGHBOR4), SERVER4, datagram.as_bytes());
        let reply = reply.unwrap_or_else(|| panic!("{action}: no reply: {}", daemon.log()));
        assert_eq!(good.open(&reply, &datagram).status, expected, "{action}");
    }
    assert!(within(Duration::from_secs(2), || note.exists()), "{}", daemon.log());
    assert!(!lab.client.reaches(SERVER4, 22), "the grant waits");
    drop(lock);
    assert!(within(Duration::from_secs(6), || lab.client.reaches(SERVER4, 22)), "{}", daemon.log());
}

#[test]
fn a_disk_that_does_not_respond_delays_only_knocks_that_need_it() {
    let Some(lab) = Lab::new() else { return };
    let site = site("backend = \"nftables\"", "uses = 100000");
    let lamp = site.add_key("lamp");
    let path = site.path("spa-knockd.toml");
    let config = fs::read_to_string(&path).unwrap()
        + "[action.lamp]\nrun = [\"/bin/true\"]\nundo = [\"/bin/true\"]\nfor = \"10m\"\nmax = \"10m\"\n\
           [client.lamp]\nkey = \"lamp.key\"\nallow = [\"lamp\"]\n";
    fs::write(&path, config).unwrap();
    let daemon = Daemon::start(&lab.server, &site);
    let (evil, good) = (site.key("evil"), site.key("good"));
    // Each flush takes longer than a client waits for a reply.
    let args = ["-f", "-b", "execve", "--trace=fsync", "--inject=fsync:delay_enter=8s"];
    let strace = Strace::attach(daemon.id(), &args, &site.path("calls"));
    let waits = [evil.good(), lamp.seal(&knock("lamp")).as_bytes().to_vec(), evil.good()];
    for datagram in &waits {
        assert!(
            ask(&lab.client.udp(CLIENT4), SERVER4, datagram).is_none(),
            "the use count is not on the disk yet"
        );
        let time = timed(&lab, &good).unwrap_or_else(|| panic!("the other client: {}", daemon.log()));
        println!("with a disk that does not respond: {time:?}");
    }
    // The second failure of a client may be summarized with its first.
    let failed = |client: &str| site.audit_of("failed").iter().any(|record| record["client"] == client);
    let both = || failed("evil") && failed("lamp");
    assert!(within(Duration::from_secs(8), both), "{:?}", site.audit());
    assert!(site.audit_of("granted").iter().all(|record| record["client"] == "good"));
    assert!(site.audit_of("done").is_empty(), "no command ran whose undo task is not on the disk");
    drop(strace);
    let works = || ask(&lab.client.udp(CLIENT4), SERVER4, &evil.good()).is_some();
    assert!(within(Duration::from_secs(12), works), "{}", daemon.log());
    let runs = || ask(&lab.client.udp(CLIENT4), SERVER4, lamp.seal(&knock("lamp")).as_bytes()).is_some();
    assert!(within(Duration::from_secs(12), runs), "{}", daemon.log());
    assert!(within(Duration::from_secs(3), || !site.audit_of("done").is_empty()), "{:?}", site.audit());
}
