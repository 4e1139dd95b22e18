//! What `-h` and `--help` print below the options.

/// Below the options of `-h`.
pub(super) const AFTER_HELP: &str = "\
Exit codes:
  0  granted, started or done, by the reply; --no-reply, --ports: sent; --wait: the port accepts;
     --wait-done: the command has ended well
  1  the server refused; --wait-done: the command failed
  2  wrong usage
  3  no answer in time, the --wait port never accepted, or no end was reported to --wait-done
  4  name not resolved, no route, nothing sent
  5  key or profile missing, unreadable, too open to others, malformed

`spa-knock --help` says more.";

/// Below the options of `--help`.
pub(super) const AFTER_LONG_HELP: &str = "\
A knock is one UDP datagram, sealed and signed. The server stays silent towards everybody who has no key; who \
has one gets an answer, and the port opens for one address.

Keys, in this order: --key; $SPA_KNOCK_KEY (a key file's text, or a token); the profile's key or key-command; ~/.config/spa-knock/SERVER.key; \
another key file there that names SERVER as its server or address; ~/.knock.key. A key file must belong to you (or root) and be closed to others (mode 0600), its folder not \
writable by others. For config.toml the same holds, but others may read it.

Where the knock goes: the profile's address; else the key's, if SERVER is the key's server or the key is for \
all servers; else SERVER. A name with several addresses is knocked at one address after the other, each with a knock of \
its own, the next one after 250 ms without an answer: a slow server may get more than one, and counts each. -4 and -6 \
restrict them.

Sources:
  auto              your own address, signed; where it is translated on the way,
                    the server names another, which a second knock then signs
  observed          the address that the datagram comes from; who can send a
                    copy of it first is let in instead
  ADDR[,ADDR]       this address (one IPv4, one IPv6), and only if the datagram
                    comes from it
  listed:ADDR[,…]   these addresses, wherever the datagram comes from; the
                    server must allow it

Examples:
  spa-knock bastion.example.org open-ssh
  spa-knock --key ~/.knock.key server open-ssh && ssh server
  spa-knock --wait 22 server open-ssh && ssh server
  spa-knock --wait-done server restart-web
  spa-knock --for 5m server open-port tcp/8443
  spa-knock --dry-run server open-ssh
  spa-knock --ports --wait 22 server open-ssh
  spa-knock -- show open-ssh              (a server that is called like a subcommand)
  ssh -o ProxyCommand='spa-knock connect %n open-ssh %h %p' server
  spa-knock import spa-knock-AFgB…
  spa-knock doctor --ntp pool.ntp.org server
  spa-knock keygen -o ~/.knock.key --client laptop
  spa-knock derive --server-id bastion.example.org > bastion.key

Files:
  ~/.knock.key                            the key for all servers
  ~/.config/spa-knock/SERVER.key          the key for one server
  ~/.config/spa-knock/config.toml         profiles: [server.NAME] with address, port,
                                          id, key or key-command, action, source,
                                          reply, wait
  ~/.local/state/spa-knock/               addresses learnt from replies, and when --ports
                                          was used

Environment:
  SPA_KNOCK_KEY                           a key file's text, or a token
  XDG_CONFIG_HOME, XDG_STATE_HOME         in place of ~/.config and ~/.local/state

Exit codes:
  0  granted, started or done, by the reply; --no-reply, --ports: sent; --wait: the port accepts;
     --wait-done: the command has ended well
  1  the server refused, or with --wait-done the command failed: the reason is printed
  2  wrong usage
  3  sent, but no answer in time; granted, but the --wait port never accepted; started, but its end
     was not reported to --wait-done in time
  4  name not resolved, no route, nothing sent
  5  key or profile missing, unreadable, too open to others, malformed";
