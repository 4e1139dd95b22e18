//! fwknop's client: packets for a fwknopd, with the options and the stanzas of fwknop's client. The crate
//! `spa-knock-fwknop` reads the stanzas and creates the packets.

mod args;
mod created_keys;
mod help_text;
pub(super) mod hints;
mod import;
mod key_sources;
mod packet;
mod public_address;
mod saved_stanza;
mod stanza_file;
mod transport;
mod unsupported;

use std::fmt::Write as _;

use spa_knock_fwknop::ClientOptions;

pub(super) use args::FwknopArgs;
pub(super) use import::import;

use super::failure::{ClientError, ExitCause};
use super::report::{Reporter, print};
use created_keys::CreatedKeys;
use key_sources::PacketKeys;
use packet::{FwknopPacket, requested};
use stanza_file::StanzaFile;
use transport::PacketRoute;

/// Sends a packet, or does what else is requested.
pub(super) fn send(args: &FwknopArgs) -> Result<(), ClientError> {
    args.check()?;
    let given = args.options()?;
    if let Some(option) = args.keys.visible_key() {
        Reporter::PLAIN.note(&format!(
            "warning: {option}: other users of this host can see the key in the process list\nhint: put keys into \
             ~/.fwknoprc (mode 0600), or pass them with --stdin"
        ));
    }
    if args.stanzas.stanza_list {
        return print_stanzas(args);
    }
    if args.keys.creates() {
        let created = CreatedKeys::new(args.keys.key_len, args.keys.hmac_key_len)?;
        return match args.stanzas.save_rc_stanza {
            true => saved_stanza::save(args, created.options().or(&given)),
            false => created.write(args.keys.key_gen_file.as_deref()),
        };
    }
    if args.stanzas.save_rc_stanza {
        saved_stanza::save(args, given.clone())?;
        // Without -n, all options are those of the command line.
        return send_with(args, &given);
    }
    let options = match StanzaFile::read(&args.stanzas)? {
        Some(file) => file.options(args.stanzas.named_config.as_deref(), given)?,
        None => given,
    };
    send_with(args, &options)
}

fn send_with(args: &FwknopArgs, options: &ClientOptions) -> Result<(), ClientError> {
    let report = if options.verbose == Some(true) { Reporter::DETAILED } else { Reporter::PLAIN };
    let server = options.server.as_deref();
    if server.is_none() && !args.test {
        return Err(ClientError::new(ExitCause::Usage, "no server is given")
            .hint("add -D SERVER, or SPA_SERVER to the stanza"));
    }
    // Everything is checked before keys are asked for, and before a web site is.
    let (content, nat_port) = requested(options, args.server_cmd.as_deref())?;
    public_address::check(options)?;
    key_sources::check_hmac(options)?;
    let route = server
        .map(|server| PacketRoute::new(server, options, args.sending.http_proxy.as_deref()))
        .transpose()?;
    let keys = PacketKeys::read(&args.keys, options)?;
    let allow = public_address::allowed(options, &report)?;
    let packet = FwknopPacket::new(options, content, allow, &keys)?;
    if let Some(notice) = nat_port {
        print(notice.as_bytes())?;
    }
    if args.test {
        let to = route.as_ref().map(ToString::to_string);
        return print(format!("{}nothing was sent (--test)\n", packet.text(to.as_deref(), true)).as_bytes());
    }
    let Some(route) = route else { return Ok(()) };
    report.detail(|| packet.text(Some(&route.to_string()), false).trim_end().to_owned());
    let address = route.send(packet.wire(), &report)?;
    report.note(&format!(
        "{}: packet sent to {address} over {}; fwknopd sends no reply",
        server.unwrap_or_default(),
        route.transport()
    ));
    Ok(())
}

fn print_stanzas(args: &FwknopArgs) -> Result<(), ClientError> {
    let Some(file) = StanzaFile::read(&args.stanzas)? else {
        return Err(ClientError::new(ExitCause::Files, "there is no ~/.fwknoprc")
            .hint("create one: spa-knock fwknop --key-gen --save-rc-stanza -n NAME -D SERVER -A tcp/22 -R"));
    };
    let mut text = String::new();
    for name in file.names() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}");
    }
    print(text.as_bytes())
}
