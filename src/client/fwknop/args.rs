//! The options of fwknop's client, and its help.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::RangedI64ValueParser;
use spa_knock_fwknop::{
    AllowedAddress, ClientOptions, ClientTimeout, Digest, InvalidValue, KeyBytes, NatHost, NatPort,
    PacketTransport, PortList, TimeOffset,
};
use zeroize::Zeroizing;

use super::help_text::{ABOUT, AFTER_HELP, LONG_ABOUT};
use super::unsupported::UnsupportedArgs;
use crate::client::failure::{ClientError, ExitCause};

/// The options of fwknop's client.
#[derive(Args)]
#[command(about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP, infer_long_args = true, version)]
#[command(
    arg_required_else_help = true,
    override_usage = "spa-knock fwknop -A PORTS (-a ADDRESS | -R | -s) -D SERVER [OPTIONS]\n       spa-knock fwknop -n STANZA [OPTIONS]\n       spa-knock fwknop --key-gen | --stanza-list"
)]
pub(in crate::client) struct FwknopArgs {
    /// Ports to request, e.g. tcp/22,udp/53
    #[arg(short = 'A', long, value_name = "PORTS")]
    pub(super) access: Option<PortList>,
    /// Server: a host name or an address
    #[arg(short = 'D', long, value_name = "SERVER")]
    pub(super) destination: Option<String>,
    /// IPv4 address that gets access; it is encrypted in the packet
    #[arg(short, long, value_name = "ADDRESS", value_parser = AllowedAddress::address)]
    pub(super) allow_ip: Option<AllowedAddress>,
    /// Find your public address with wget, and request access for it
    #[arg(short = 'R', long, alias = "resolve-ip-http", conflicts_with = "allow_ip")]
    pub(super) resolve_ip_https: bool,
    /// Request access for the address that the packet comes from; anyone who sends a copy of it first gets access instead
    #[arg(short, long, conflicts_with_all = ["allow_ip", "resolve_ip_https"])]
    pub(super) source_ip: bool,
    /// For how many seconds, 0 to 65536 [default: 0: set by the server]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) fw_timeout: Option<ClientTimeout>,
    /// Request that the server runs a command, instead of access
    #[arg(short = 'C', long, value_name = "COMMAND", conflicts_with_all = ["access", "nat_access", "nat_local"])]
    pub(super) server_cmd: Option<String>,
    /// Request that connections are forwarded to HOST behind the server, to its port PORT [default: the requested port]
    #[arg(short = 'N', long, value_name = "HOST[:PORT]")]
    pub(super) nat_access: Option<NatHost>,
    /// Request that connections are forwarded to a port of the server itself
    #[arg(long)]
    pub(super) nat_local: bool,
    /// Port of the server that leads there, instead of the requested one
    #[arg(long, value_name = "PORT", value_parser = port())]
    pub(super) nat_port: Option<u16>,
    /// Choose this port at random from 10000 to 65534, and print it
    #[arg(long, conflicts_with = "nat_port")]
    pub(super) nat_rand_port: bool,
    /// User name in the packet [default: $SPOOF_USER, else $LOGNAME, else your account]
    #[arg(short = 'U', long, value_name = "NAME")]
    pub(super) spoof_user: Option<String>,
    /// Print the packet and its fields; send nothing
    #[arg(short = 'T', long)]
    pub(super) test: bool,
    /// Print details
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,

    #[command(flatten)]
    pub(super) sending: SendingArgs,
    #[command(flatten)]
    pub(super) resolving: ResolvingArgs,
    #[command(flatten)]
    pub(super) keys: KeyArgs,
    #[command(flatten)]
    pub(super) stanzas: StanzaArgs,

    #[command(flatten)]
    unsupported: UnsupportedArgs,
}

/// How the packet is sent.
#[derive(Args)]
#[command(next_help_heading = "Sending")]
pub(super) struct SendingArgs {
    /// Port of the server that the packet is sent to [default: 62201]
    #[arg(short = 'p', long, value_name = "PORT", value_parser = port())]
    server_port: Option<u16>,
    /// udp, tcp (over a connection) or http (in a request) [default: udp]
    #[arg(short = 'P', long, value_name = "PROTOCOL")]
    server_proto: Option<PacketTransport>,
    /// Send to a random port from 10000 to 65534; the server's PCAP_FILTER must include it
    #[arg(short, long)]
    rand_port: bool,
    /// Send an HTTP request through this proxy; implies -P http
    #[arg(short = 'H', long, value_name = "HOST[:PORT]")]
    pub(super) http_proxy: Option<String>,
    /// User-Agent of HTTP requests [default: Fwknop/2.6.10]
    #[arg(short, long, value_name = "TEXT")]
    user_agent: Option<String>,
    /// Use only IPv4 addresses of the server
    #[arg(long)]
    server_resolve_ipv4: bool,
    /// Digest in the packet: MD5, SHA1, SHA256, SHA384, SHA512, SHA3_256 or SHA3_512 [default: SHA256]
    #[arg(short = 'm', long, value_name = "DIGEST")]
    digest_type: Option<Digest>,
    /// Mode of encryption; only CBC is supported
    #[arg(short = 'M', long, value_name = "MODE")]
    encryption_mode: Option<String>,
    /// Add this to the time in the packet, if the server's clock is ahead, e.g. 60sec, 60min, 2hours, 2days
    #[arg(long, value_name = "TIME")]
    time_offset_plus: Option<TimeOffset>,
    /// Subtract this, if the server's clock is behind
    #[arg(long, value_name = "TIME", conflicts_with = "time_offset_plus")]
    time_offset_minus: Option<TimeOffset>,
}

/// How the public address is found.
#[derive(Args)]
#[command(next_help_heading = "Public address (-R)")]
pub(super) struct ResolvingArgs {
    /// Web site that prints your address; implies -R [default: https://www.cipherdyne.org/cgi-bin/myip]
    #[arg(long, value_name = "URL")]
    resolve_url: Option<String>,
    /// Ask it over HTTP, without wget: anyone on the way can change its reply
    #[arg(long)]
    resolve_http_only: bool,
    /// The wget program [default: wget]
    #[arg(short, long, value_name = "FILE")]
    wget_cmd: Option<String>,
    /// Send wget's own User-Agent
    #[arg(long)]
    use_wget_user_agent: bool,
}

/// Keys.
#[derive(Args)]
#[command(next_help_heading = "Keys")]
pub(super) struct KeyArgs {
    /// Read the encryption key from the line "SERVER: KEY" of a file (mode 0600)
    #[arg(short = 'G', long, value_name = "FILE")]
    get_key: Option<String>,
    /// Read the HMAC key from the line "SERVER: KEY" of a file (mode 0600)
    #[arg(long, value_name = "FILE")]
    get_hmac_key: Option<String>,
    /// Read the keys that are not in a stanza from standard input: one line for each, the encryption key first
    #[arg(long, conflicts_with = "fd")]
    pub(super) stdin: bool,
    /// The same, from this file descriptor
    #[arg(long, value_name = "NUMBER")]
    pub(super) fd: Option<u32>,
    /// Ask for the HMAC key if there is none
    #[arg(long)]
    use_hmac: bool,
    /// Digest of the HMAC [default: SHA256]
    #[arg(long, value_name = "DIGEST")]
    hmac_digest_type: Option<Digest>,
    /// Encryption key; other users can see it in the process list
    #[arg(long, value_name = "KEY")]
    key_rijndael: Option<KeyText>,
    /// The same in base64
    #[arg(long, value_name = "KEY")]
    key_base64_rijndael: Option<KeyText>,
    /// HMAC key; other users can see it in the process list
    #[arg(long, value_name = "KEY")]
    key_hmac: Option<KeyText>,
    /// The same in base64
    #[arg(long, value_name = "KEY")]
    key_base64_hmac: Option<KeyText>,
    /// Create an encryption key and an HMAC key, and print them
    #[arg(short, long)]
    pub(super) key_gen: bool,
    /// Write them to this file (mode 0600), which must not exist yet; implies --key-gen
    #[arg(short = 'K', long, value_name = "FILE")]
    pub(super) key_gen_file: Option<PathBuf>,
    /// Length of the encryption key in bytes, 1 to 32 [default: 32]
    #[arg(hide_default_value = true, long, value_name = "BYTES", default_value = "32", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(super) key_len: u8,
    /// Length of the HMAC key in bytes, 1 to 128 [default: 64]
    #[arg(hide_default_value = true, long, value_name = "BYTES", default_value = "64", value_parser = clap::value_parser!(u8).range(1..=128))]
    pub(super) hmac_key_len: u8,
}

/// Stanzas of `.fwknoprc`.
#[derive(Args)]
#[command(next_help_heading = "Stanzas")]
pub(super) struct StanzaArgs {
    /// Use this stanza of ~/.fwknoprc; options on the command line have precedence
    #[arg(short, long, value_name = "STANZA")]
    pub(super) named_config: Option<String>,
    /// Use this file instead of ~/.fwknoprc
    #[arg(long, value_name = "FILE")]
    pub(super) rc_file: Option<PathBuf>,
    /// Use no such file
    #[arg(long, conflicts_with_all = ["rc_file", "named_config", "stanza_list", "save_rc_stanza"])]
    pub(super) no_rc_file: bool,
    /// Look for no file in the home directory
    #[arg(long)]
    pub(super) no_home_dir: bool,
    /// Print the names of the stanzas
    #[arg(long)]
    pub(super) stanza_list: bool,
    /// Save the options of this command line as stanza -n [default: SERVER]; with --key-gen, also new keys
    #[arg(long)]
    pub(super) save_rc_stanza: bool,
    /// With --save-rc-stanza, replace a stanza of this name
    #[arg(long, requires = "save_rc_stanza")]
    pub(super) force_stanza: bool,
    /// Accepted: arguments are never saved
    #[arg(long, hide = true)]
    no_save_args: bool,
}

/// A key on the command line. It is wiped on drop and has no `Debug`.
#[derive(Clone)]
pub(super) struct KeyText(Zeroizing<String>);

impl FromStr for KeyText {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

fn port() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

impl FwknopArgs {
    /// Refuses options that have no effect here, and modes that are not supported.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        self.unsupported.check()?;
        match &self.sending.encryption_mode {
            Some(mode) if !mode.eq_ignore_ascii_case("CBC") => {
                Err(ClientError::new(ExitCause::Usage, "-M: only CBC is supported")
                    .hint("omit it, and remove ENCRYPTION_MODE from the stanza of the server's access.conf"))
            }
            _ => Ok(()),
        }
    }

    /// The options of the command line.
    pub(super) fn options(&self) -> Result<ClientOptions, ClientError> {
        let Self { sending, resolving, keys, .. } = self;
        let allow = match self.allow_ip {
            Some(address) => Some(address),
            None if self.source_ip => Some(AllowedAddress::Source),
            None if self.resolve_ip_https || resolving.resolve_url.is_some() => Some(AllowedAddress::Resolve),
            None => None,
        };
        let minus = sending.time_offset_minus.map(TimeOffset::negated);
        let transport = sending.http_proxy.as_ref().map(|_| PacketTransport::Http);
        if transport.is_some() && sending.server_proto.is_some_and(|given| Some(given) != transport) {
            return Err(ClientError::new(ExitCause::Usage, "-H: a proxy needs -P http")
                .hint("omit -P, or write -P http"));
        }
        Ok(ClientOptions {
            server: self.destination.clone(),
            server_port: sending.server_port,
            transport: sending.server_proto.or(transport),
            random_port: flag(sending.rand_port),
            ipv4_only: flag(sending.server_resolve_ipv4),
            access: self.access.clone(),
            allow,
            timeout: self.fw_timeout,
            resolve_url: resolving.resolve_url.clone(),
            resolve_http_only: flag(resolving.resolve_http_only),
            wget: resolving.wget_cmd.clone(),
            user_agent: sending.user_agent.clone(),
            wget_user_agent: flag(resolving.use_wget_user_agent),
            user: self.spoof_user.clone(),
            time_offset: sending.time_offset_plus.or(minus),
            nat: self.nat_access.clone(),
            nat_local: flag(self.nat_local),
            nat_port: self.nat_port.map(NatPort::Number).or(self.nat_rand_port.then_some(NatPort::Random)),
            digest: sending.digest_type,
            key: keys.key(
                "--key-base64-rijndael",
                keys.key_rijndael.as_ref(),
                keys.key_base64_rijndael.as_ref(),
            )?,
            key_file: keys.get_key.clone(),
            use_hmac: flag(keys.use_hmac),
            hmac_key: keys.key("--key-base64-hmac", keys.key_hmac.as_ref(), keys.key_base64_hmac.as_ref())?,
            hmac_key_file: keys.get_hmac_key.clone(),
            hmac_digest: keys.hmac_digest_type,
            verbose: flag(self.verbose > 0),
        })
    }
}

impl KeyArgs {
    /// The first option that has a key as its value.
    pub(super) fn visible_key(&self) -> Option<&'static str> {
        [
            (&self.key_rijndael, "--key-rijndael"),
            (&self.key_base64_rijndael, "--key-base64-rijndael"),
            (&self.key_hmac, "--key-hmac"),
            (&self.key_base64_hmac, "--key-base64-hmac"),
        ]
        .into_iter()
        .find_map(|(key, option)| key.as_ref().map(|_| option))
    }

    /// Whether keys must be created.
    pub(super) const fn creates(&self) -> bool {
        self.key_gen || self.key_gen_file.is_some()
    }

    fn key(
        &self,
        option: &str,
        passphrase: Option<&KeyText>,
        base64: Option<&KeyText>,
    ) -> Result<Option<KeyBytes>, ClientError> {
        if let Some(text) = passphrase {
            return Ok(Some(KeyBytes::from_passphrase(&text.0)));
        }
        let key = base64.map(|text| KeyBytes::from_base64(&text.0)).transpose();
        key.map_err(|error: InvalidValue| ClientError::new(ExitCause::Usage, format!("{option}: {error}")))
    }
}

/// An absent flag leaves the decision to the stanza.
const fn flag(given: bool) -> Option<bool> {
    if given { Some(true) } else { None }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use spa_knock_fwknop::{Port, Transport};

    use super::*;
    use crate::client::args::{Cli, ClientSubcommand};

    fn parse(line: &str) -> Result<Box<FwknopArgs>, clap::Error> {
        let line = format!("spa-knock fwknop {line}");
        match Cli::try_parse_from(line.split_whitespace())?.command {
            Some(ClientSubcommand::Fwknop(args)) => Ok(args),
            _ => panic!("{line}"),
        }
    }

    #[test]
    fn options_are_written_as_for_fwknops_client() {
        for line in [
            "-A tcp/22 -a 192.0.2.7 -D h -f 30 -p 4000 -P tcp -N 10.0.0.1:22 -U bob -m md5 --hmac-digest-type sha1",
            "-Atcp/22 -a192.0.2.7 -Dh -f30 -p4000 -PTCP -N10.0.0.1,22 -Ubob -mMD5 --hmac-digest SHA1",
            "--access=tcp/22 --allow-ip 192.0.2.7 --dest h --fw-time=30 --server-port 4000 --server-proto tcp \
             --nat-access 10.0.0.1:22 --spoof-user bob --digest-type=md5 --hmac-digest-type=sha1",
        ] {
            let options = parse(line).unwrap_or_else(|error| panic!("{error}")).options().ok().unwrap();
            assert_eq!(
                options.access,
                Some(PortList(vec![Port { transport: Transport::Tcp, number: 22 }])),
                "{line}"
            );
            assert_eq!(options.allow, AllowedAddress::address("192.0.2.7").ok(), "{line}");
            assert_eq!((options.server.as_deref(), options.server_port), (Some("h"), Some(4000)), "{line}");
            assert_eq!(
                (options.timeout, options.user.as_deref()),
                (Some(ClientTimeout(30)), Some("bob")),
                "{line}"
            );
            assert_eq!(options.transport, Some(PacketTransport::Tcp), "{line}");
            assert_eq!(options.nat.map(|nat| nat.to_string()).as_deref(), Some("10.0.0.1,22"), "{line}");
            assert_eq!(
                (options.digest, options.hmac_digest),
                (Some(Digest::Md5), Some(Digest::Sha1)),
                "{line}"
            );
        }
    }

    #[test]
    fn the_address_is_resolved_with_each_spelling_of_the_option() {
        for line in ["-R", "--resolve-ip-https", "--resolve-ip-http", "--resolve-url http://192.0.2.1"] {
            assert_eq!(
                parse(line).unwrap().options().unwrap().allow,
                Some(AllowedAddress::Resolve),
                "{line}"
            );
        }
        assert_eq!(parse("-s -D h").unwrap().options().unwrap().allow, Some(AllowedAddress::Source));
        assert_eq!(
            parse("-a 192.0.2.7 --resolve-url u").unwrap().options().unwrap().allow,
            "192.0.2.7".parse().ok()
        );
        for line in
            ["-R -s", "-R -a 192.0.2.7", "-s -a 192.0.2.7", "-C ls -A tcp/22", "--nat-port 5 --nat-rand-port"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_absent_option_leaves_the_decision_to_the_stanza() {
        let options = parse("-n office").unwrap().options().unwrap();
        assert_eq!((options.random_port, options.ipv4_only, options.nat_local), (None, None, None));
        assert_eq!((options.use_hmac, options.verbose, options.resolve_http_only), (None, None, None));
        let lower = ClientOptions { verbose: Some(true), use_hmac: Some(true), ..ClientOptions::default() };
        assert_eq!(options.or(&lower).use_hmac, Some(true));
        let minus = parse("-n office --time-offset-minus 60min").unwrap().options().unwrap();
        assert_eq!(minus.time_offset, Some(TimeOffset(-3_600)));
    }

    #[test]
    fn every_option_that_is_not_supported_is_refused_with_a_hint() {
        for line in [
            "-l",
            "--last-cmd",
            "--show-last",
            "-E f",
            "--save-args-file f",
            "-B f",
            "-b",
            "-S 5",
            "-Q 192.0.2.1",
            "--spoof-src 192.0.2.1",
            "--icmp-type 8",
            "--icmp-code 0",
            "-g",
            "--gpg-recipient-key x",
            "--gpg-recipient x",
            "--gpg-signer-key x",
            "--gpg-home-dir x",
            "--gpg-exe x",
            "--gpg-agent",
            "--gpg-no-signing-pw",
            "--fault-injection-tag x",
            "-M legacy",
            "-M ECB",
        ] {
            let failure = parse(line).unwrap_or_else(|error| panic!("{error}")).check().unwrap_err();
            assert_eq!(failure.cause(), ExitCause::Usage, "{line}");
            let option = line.split(' ').next().unwrap_or_default();
            let is_named = option.starts_with("--") || failure.reason().starts_with(&format!("{option}: "));
            assert!(is_named && !failure.advice().is_empty(), "{line}: {}", failure.reason());
        }
        for line in ["-n office --no-save-args", "-n office -M cbc", "-D h -H proxy -P http"] {
            let args = parse(line).unwrap_or_else(|error| panic!("{error}"));
            assert!(args.check().is_ok() && args.options().is_ok(), "{line}");
        }
        assert!(parse("-D h -H proxy -P tcp").unwrap().options().is_err());
    }
}
