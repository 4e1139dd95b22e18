//! Changes of our table by other programs: additions open nothing, and removed parts are restored.

use std::fs;
use std::time::Duration;

use crate::net::{CLIENT4, Daemon, Lab, SERVER4, Site, ask, open_ssh, within};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn loading_a_saved_ruleset_restores_no_revoked_grant() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(60));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22));
    let saved = lab.server.nft("list ruleset");
    let output = site.admin(&["revoke", "--all"]).output().unwrap();
    assert!(output.status.success());
    for (name, text) in [("merged", saved.clone()), ("replaced", format!("flush ruleset\n{saved}"))] {
        assert!(!lab.client.reaches(SERVER4, 22));
        let path = site.path(name);
        fs::write(&path, text).unwrap();
        let before = daemon.log().matches("this daemon did not grant").count();
        lab.server.nft(&format!("-f {}", path.display()));
        let noticed = || daemon.log().matches("this daemon did not grant").count() > before;
        assert!(within(SOON, noticed), "{name}: {}", daemon.log());
        assert!(within(SOON, || !lab.client.reaches(SERVER4, 22)), "{name}: {}", daemon.log());
        assert!(!lab.server.nft("list set inet spa_knock grants4").contains("laptop"), "{name}");
    }
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22), "its next knock opens");
}

#[test]
fn a_table_that_another_program_puts_to_sleep_is_restored_with_chains_of_each_kind() {
    let mark = open_ssh(60).replace("[firewall]", "[firewall]\nmode = \"mark\"");
    for (server, rest) in
        [("interfaces = [\"lan0\"]", open_ssh(60)), ("capture = \"udp\"", open_ssh(60)), ("", mark)]
    {
        let Some(lab) = Lab::new() else { return };
        let site = Site::new(server, &rest);
        let daemon = Daemon::start(&lab.server, &site);
        let before = lab.server.nft("list table inet spa_knock").matches("hook").count();
        lab.server.nft("add table inet spa_knock { flags dormant ; }");
        let is_restored = || {
            let table = lab.server.nft("list table inet spa_knock");
            !table.contains("dormant") && table.matches("hook").count() == before
        };
        assert!(within(SOON, is_restored), "{server}: {}", daemon.log());
        assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some(), "{server}");
    }
}

#[test]
fn a_table_that_another_program_has_opened_or_emptied_is_restored() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(60));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    for line in [
        "add table inet spa_knock { flags dormant ; }",
        "insert rule inet spa_knock gate accept",
        "insert rule inet spa_knock input accept",
        "flush chain inet spa_knock input",
    ] {
        lab.server.nft(line);
        assert!(within(SOON, || !lab.neighbor.reaches(SERVER4, 22)), "{line}: {}", daemon.log());
        assert!(lab.client.reaches(SERVER4, 22), "{line}: the grant stays");
    }
    for line in
        ["flush set inet spa_knock grants4", "delete element inet spa_knock grants4 { 10.77.0.2 . tcp . 22 }"]
    {
        lab.server.nft(line);
        assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "{line}: {}", daemon.log());
        assert!(!lab.neighbor.reaches(SERVER4, 22), "{line}");
    }
}
