//! A port opens for one address and closes on time, even if the daemon is killed.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use spa_knock_core::knock::Knock;

use crate::net::{
    CLIENT4, Daemon, Lab, SERVER4, SERVER6, Site, ask, assert_on_time, knock, open_ssh, still_echoes,
};

#[test]
fn an_ipv4_port_opens_only_for_the_knocking_address_and_closes_on_time() {
    assert_opens_and_closes(SERVER4);
}

#[test]
fn an_ipv6_port_opens_only_for_the_knocking_address_and_closes_on_time() {
    assert_opens_and_closes(SERVER6);
}

fn assert_opens_and_closes(server: IpAddr) {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    assert!(lab.client.reaches(server, 22), "the port is open before the daemon starts");
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(server, 22), "closed without a knock");

    let sent = Instant::now();
    let output = lab.client.output(&mut site.knock(server, &["open-ssh"]));
    let granted = Instant::now();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut session = lab.client.connect(server, 22).expect("open after the knock");
    assert!(!lab.neighbor.reaches(server, 22), "closed for everyone else");
    let closed = lab.client.wait_until_closed(server, 22);
    assert_on_time((sent, granted), closed, 2);
    assert!(still_echoes(&mut session), "the connection stays");
    assert!(!lab.neighbor.reaches(server, 22), "still closed for everyone else");
}

#[test]
fn the_kernel_closes_the_port_on_time_after_the_daemon_has_been_killed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);

    let sent = Instant::now();
    let output = lab.client.output(&mut site.knock(SERVER4, &["open-ssh"]));
    daemon.kill9();
    let granted = Instant::now();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut session = lab.client.connect(SERVER4, 22).expect("open after the knock");
    assert!(!lab.neighbor.reaches(SERVER4, 22), "closed for everyone else");
    assert_on_time((sent, granted), lab.client.wait_until_closed(SERVER4, 22), 2);
    assert!(still_echoes(&mut session), "the connection stays");
}

#[test]
fn a_grant_outlasts_a_killed_daemon_and_is_taken_over_by_the_next_one() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(4));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let sent = Instant::now();
    assert!(lab.client.output(&mut site.knock(SERVER4, &["open-ssh"])).status.success());
    let granted = Instant::now();
    daemon.kill9();
    let _next = Daemon::start(&lab.server, &site);
    assert!(lab.client.reaches(SERVER4, 22), "a start keeps active grants");
    assert_on_time((sent, granted), lab.client.wait_until_closed(SERVER4, 22), 4);
}

#[test]
fn a_second_knock_renews_the_full_time_without_a_gap() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let (key, socket) = (site.key("laptop"), lab.client.udp(CLIENT4));

    assert!(ask(&socket, SERVER4, &key.good()).is_some());
    let first = Instant::now();
    // The grant is renewed while connections are opened; none of them may fail.
    let again = thread::scope(|scope| {
        let renew = scope.spawn(|| {
            thread::sleep(Duration::from_millis(1_200));
            let sent = Instant::now();
            assert!(ask(&socket, SERVER4, &key.good()).is_some());
            (sent, Instant::now())
        });
        while first.elapsed() < Duration::from_millis(2_700) {
            let since = first.elapsed();
            let stream = lab.client.connect(SERVER4, 22);
            // Each connection waits until the last one has been accepted. If they were simultaneous, the listener's
            // queue could overflow and drop some although the grant has no gap.
            let open = stream.is_some_and(|mut stream| still_echoes(&mut stream));
            assert!(open, "a gap {since:?} after the first knock");
        }
        renew.join().unwrap()
    });
    assert_on_time(again, lab.client.wait_until_closed(SERVER4, 22), 2);
}

#[test]
fn a_client_can_request_a_shorter_time() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let sent = Instant::now();
    let output = lab.client.output(&mut site.knock(SERVER4, &["--for", "1s", "open-ssh"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let granted = Instant::now();
    assert_on_time((sent, granted), lab.client.wait_until_closed(SERVER4, 22), 1);
}

#[test]
fn a_knock_that_requests_no_reply_opens_the_port_without_one() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    let mut quiet = knock("open-ssh");
    quiet.reply = spa_knock_core::knock::ReplyWanted::No;
    let socket = lab.client.udp(CLIENT4);
    assert_eq!(ask(&socket, SERVER4, key.seal(&quiet).as_bytes()), None);
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn the_client_reports_a_grant_as_one_json_object() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let args = ["--output", "json", "--wait", "22", "open-ssh"];
    let output = lab.client.output(&mut site.knock(SERVER4, &args));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["result"], "granted");
    assert_eq!(report["action"], "open-ssh");
    assert_eq!(report["address"], CLIENT4.to_string());
    assert_eq!(report["seconds"], 5);
}

#[test]
fn a_shorter_grant_for_the_same_address_does_not_shorten_a_longer_one() {
    let Some(lab) = Lab::new() else { return };
    let added = "[client.phone]\nkey = \"phone.key\"\nallow = [\"open-ssh\"]\n";
    let site = Site::new("", &(open_ssh(2) + added));
    let phone = site.add_key("phone");
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    let long = Knock { seconds: 6, ..knock("open-ssh") };
    let start = Instant::now();
    assert!(ask(&socket, SERVER4, site.key("laptop").seal(&long).as_bytes()).is_some());
    let granted = Instant::now();
    assert!(ask(&socket, SERVER4, &phone.good()).is_some());
    assert_on_time((start, granted), lab.client.wait_until_closed(SERVER4, 22), 6);
}
