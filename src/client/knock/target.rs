//! The destination of a knock and the server's id, from command line, profile and key, in this order of precedence.

use crate::client::failure::{ClientError, ExitCause};
use crate::config::{KNOCK_PORT, Profile};
use spa_knock_core::knock::ServerId;

/// Where to knock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct Destination {
    /// A host name or an address, not resolved yet.
    pub(in crate::client) host: String,
    /// The knock port.
    pub(in crate::client) port: u16,
    /// The server id that the knock is bound to.
    pub(in crate::client) id: ServerId,
}

/// The parts of the destination on the command line.
pub(in crate::client) struct FromArgs<'a> {
    /// SERVER, as typed.
    pub(in crate::client) server: &'a str,
    /// `--port`.
    pub(in crate::client) port: Option<u16>,
    /// `--server-id`.
    pub(in crate::client) id: Option<&'a ServerId>,
}

/// The parts of the destination in the key file.
pub(in crate::client) struct FromKey<'a> {
    /// The server of a pair key.
    pub(in crate::client) server: Option<&'a ServerId>,
    /// The host name or address of that server.
    pub(in crate::client) address: Option<&'a str>,
    /// Its knock port.
    pub(in crate::client) port: Option<u16>,
}

impl Destination {
    /// Combines them: the command line takes precedence over the profile, the profile over the key, and the key over
    /// SERVER.
    ///
    /// # Errors
    /// If no server id is given, and SERVER is not a valid one.
    pub(in crate::client) fn new(
        args: &FromArgs<'_>,
        profile: &Profile,
        key: &FromKey<'_>,
    ) -> Result<Self, ClientError> {
        let typed = ServerId::from_typed(args.server);
        // A pair key's address belongs to its server. If SERVER is another name, and no profile of that name has the server's
        // id, the knock goes to that name.
        let is_meant = |server| typed.as_ref() == Ok(server) || profile.id.as_ref() == Some(server);
        let keyed = key.address.filter(|_| key.server.is_some_and(is_meant));
        let host = profile.address.as_deref().or(keyed).unwrap_or(args.server).to_owned();
        let port = args.port.or(profile.port).or(key.port).unwrap_or(KNOCK_PORT);
        let id = match args.id.or(profile.id.as_ref()).or(key.server) {
            Some(id) => id.clone(),
            None => typed.map_err(|rule| {
                ClientError::new(ExitCause::Usage, format!("{}: {rule}", args.server))
                    .hint("pass the server's id with --server-id")
            })?,
        };
        Ok(Self { host, port, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ServerId {
        text.parse().unwrap()
    }

    fn args(server: &str) -> FromArgs<'_> {
        FromArgs { server, port: None, id: None }
    }

    const ROOT: FromKey<'_> = FromKey { server: None, address: None, port: None };

    #[test]
    fn the_typed_server_is_the_destination_and_the_id_by_default() {
        let target = Destination::new(&args("Bastion.Example.org."), &Profile::default(), &ROOT).unwrap();
        assert_eq!((target.host.as_str(), target.port), ("Bastion.Example.org.", 62201));
        assert_eq!(target.id, id("bastion.example.org"));
    }

    #[test]
    fn a_pair_keys_address_is_used_for_its_own_server_only() {
        let bastion = id("bastion");
        let key = FromKey { server: Some(&bastion), address: Some("192.0.2.7"), port: Some(4000) };
        for (typed, host) in [("bastion", "192.0.2.7"), ("BASTION.", "192.0.2.7"), ("other", "other")] {
            let target = Destination::new(&args(typed), &Profile::default(), &key).unwrap();
            assert_eq!((target.host.as_str(), target.port, &target.id), (host, 4000, &bastion), "{typed}");
        }
        let root = FromKey { server: None, ..key };
        assert_eq!(Destination::new(&args("other"), &Profile::default(), &root).unwrap().host, "other");
    }

    #[test]
    fn the_command_line_takes_precedence_over_the_profile_and_the_profile_over_the_key() {
        let (keyed, typed) = (id("keyed"), id("typed"));
        let key = FromKey { server: Some(&keyed), address: Some("k.example"), port: Some(1) };
        let profile = Profile {
            address: Some("p.example".to_owned()),
            port: Some(2),
            id: Some(id("profiled")),
            ..Profile::default()
        };
        let target = Destination::new(&args("keyed"), &profile, &key).unwrap();
        assert_eq!((target.host.as_str(), target.port, target.id.as_str()), ("p.example", 2, "profiled"));
        let args = FromArgs { server: "keyed", port: Some(3), id: Some(&typed) };
        let target = Destination::new(&args, &profile, &key).unwrap();
        assert_eq!((target.port, target.id), (3, typed));
    }

    #[test]
    fn an_address_with_a_scope_needs_a_server_id() {
        let failure = Destination::new(&args("fe80::1%eth0"), &Profile::default(), &ROOT).unwrap_err();
        assert_eq!(failure.cause(), ExitCause::Usage);
        let bastion = id("bastion");
        let args = FromArgs { id: Some(&bastion), ..args("fe80::1%eth0") };
        assert_eq!(Destination::new(&args, &Profile::default(), &ROOT).unwrap().host, "fe80::1%eth0");
    }

    #[test]
    fn a_keys_address_is_used_for_a_profile_with_the_id_of_its_server() {
        let server = id("bastion");
        let key = FromKey { server: Some(&server), address: Some("192.0.2.1"), port: None };
        let profile = |id: &str| Profile { id: Some(id.parse().unwrap()), ..Profile::default() };
        let host = |profile: &Profile| Destination::new(&args("work"), profile, &key).unwrap().host;
        assert_eq!(host(&profile("bastion")), "192.0.2.1");
        assert_eq!(host(&profile("another")), "work");
    }
}
