//! Options of fwknop's client that are recognized only to be refused, each with a reason.

use std::ffi::OsString;

use clap::Args;

use crate::client::failure::{ClientError, ExitCause};

/// Options that are not supported.
#[derive(Args)]
pub(super) struct UnsupportedArgs {
    #[arg(short = 'l', long, hide = true)]
    last_cmd: bool,
    #[arg(long, hide = true)]
    show_last: bool,
    #[arg(short = 'E', long, hide = true, allow_hyphen_values = true)]
    save_args_file: Option<OsString>,
    #[arg(short = 'B', long, hide = true, allow_hyphen_values = true)]
    save_packet: Option<OsString>,
    #[arg(short = 'b', long, hide = true)]
    save_packet_append: bool,
    #[arg(short = 'S', long, hide = true, allow_hyphen_values = true)]
    source_port: Option<OsString>,
    #[arg(short = 'Q', long, alias = "spoof-src", hide = true, allow_hyphen_values = true)]
    spoof_source: Option<OsString>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    icmp_type: Option<OsString>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    icmp_code: Option<OsString>,
    #[arg(short = 'g', long, hide = true)]
    gpg_encryption: bool,
    #[arg(long, alias = "gpg-recipient", hide = true, allow_hyphen_values = true)]
    gpg_recipient_key: Option<OsString>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    gpg_signer_key: Option<OsString>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    gpg_home_dir: Option<OsString>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    gpg_exe: Option<OsString>,
    #[arg(long, hide = true)]
    gpg_agent: bool,
    #[arg(long, hide = true)]
    gpg_no_signing_pw: bool,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    fault_injection_tag: Option<OsString>,
}

const NOT_KEPT: &str = "arguments are not kept, because they can contain keys";
const USE_STANZAS: &str =
    "save the options as a stanza: --save-rc-stanza -n NAME, then repeat them with -n NAME";
const RAW: &str = "raw packets are not supported";
const USE_UDP: &str = "use -P udp, tcp or http";
const GPG: &str = "GnuPG is not supported";
const USE_KEYS: &str =
    "use two keys instead, here and in the server's access.conf: spa-knock fwknop --key-gen";
const PACKET: &str = "packets are not saved";

impl UnsupportedArgs {
    /// Refuses the first one that is given.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        let options = [
            (self.last_cmd, "-l", NOT_KEPT, USE_STANZAS),
            (self.show_last, "--show-last", NOT_KEPT, USE_STANZAS),
            (self.save_args_file.is_some(), "-E", NOT_KEPT, USE_STANZAS),
            (
                self.save_packet.is_some(),
                "-B",
                PACKET,
                "use -T, which prints the packet instead of sending it",
            ),
            (self.save_packet_append, "-b", PACKET, "use -T, which prints the packet instead of sending it"),
            (self.source_port.is_some(), "-S", RAW, "omit it: fwknop uses it for raw packets only"),
            (self.spoof_source.is_some(), "-Q", RAW, "request access for another address with -a ADDRESS"),
            (self.icmp_type.is_some(), "--icmp-type", RAW, USE_UDP),
            (self.icmp_code.is_some(), "--icmp-code", RAW, USE_UDP),
            (self.gpg_encryption, "-g", GPG, USE_KEYS),
            (self.gpg_recipient_key.is_some(), "--gpg-recipient-key", GPG, USE_KEYS),
            (self.gpg_signer_key.is_some(), "--gpg-signer-key", GPG, USE_KEYS),
            (self.gpg_home_dir.is_some(), "--gpg-home-dir", GPG, USE_KEYS),
            (self.gpg_exe.is_some(), "--gpg-exe", GPG, USE_KEYS),
            (self.gpg_agent, "--gpg-agent", GPG, USE_KEYS),
            (self.gpg_no_signing_pw, "--gpg-no-signing-pw", GPG, USE_KEYS),
            (
                self.fault_injection_tag.is_some(),
                "--fault-injection-tag",
                "there is no fault injection",
                "omit it",
            ),
        ];
        match options.into_iter().find(|(is_given, ..)| *is_given) {
            Some((_, option, reason, hint)) => {
                Err(ClientError::new(ExitCause::Usage, format!("{option}: {reason}")).hint(hint))
            }
            None => Ok(()),
        }
    }
}
