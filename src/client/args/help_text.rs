//! The text that `-h` and `--help` print below the options.

/// For `-h`.
pub(super) const AFTER_HELP: &str = "\
Exit codes:
  0  granted, started or done, as confirmed by the reply; with --no-reply or --ports: sent;
     with --wait: the port accepts connections; with --wait-done: the command succeeded
  1  refused by the server; with --wait-done: the command failed
  2  invalid usage
  3  no reply in time; with --wait: the port never accepted a connection;
     with --wait-done: the end of the command was not reported in time
  4  name not resolved, no route, or nothing sent
  5  key or profile missing, unreadable, accessible to others, or malformed;
     no signature by the SSH key, if the key file or --sign names one

`spa-knock --help` prints more details.";

/// For `--help`.
pub(super) const AFTER_LONG_HELP: &str = "\
A knock is one UDP datagram, encrypted and HMAC-signed. The server does not answer unknown clients. A client that has \
a key gets a reply, and the port opens for one address.

The key is the first of these that exists:
  --key FILE
  $SPA_KNOCK_KEY: text of a key file, or a token
  the profile's key or key-command
  ~/.config/spa-knock/SERVER.key
  another key file in that directory whose server or address is SERVER
  ~/.knock.key

A key file must be owned by you or by root, and no one else may have access to it (mode 0600). Its directory must not \
be writable by others. The same applies to config.toml, except that others may read it.

If the key file names an SSH key (ssh-key: SHA256:…), or with --sign FILE, a signature by that key is in each knock. \
ssh-agent makes it: $SSH_AUTH_SOCK, or the socket that the profile names. FILE is a public key file; a private key is \
never read. A FIDO key must be touched for each knock. Do not forward the agent to other hosts (ssh -A).

The knock goes to the profile's address; else to the key's address, if SERVER is the key's server; else to SERVER. \
If a name has several addresses, they are tried one after the other, each with a knock of its own; the next one \
follows after 250 ms without a reply. A slow server may therefore receive more than one knock, and counts each. \
-4 and -6 restrict the addresses.

With --all, all addresses get a knock simultaneously. A profile can do that for one server (addresses = \"all\"), or for \
a group of servers (servers = [\"b1\", \"b2\"]). The first grant is the result; a server that has not replied after about \
300 ms is not waited for. Each server grants, and counts the knock, for itself. With --wait and in connect, the first \
server that grants and accepts a connection is used. With --wait-done, the exit code is 0 only if every command that \
started ended well.

Sources:
  auto              your own address, signed; if it is translated on the way (NAT),
                    the server reports the address that it sees, and a second
                    knock signs that one; with an SSH key, only if you confirm
                    it on the terminal
  observed          the address that the datagram comes from; anyone who sends a
                    copy of it first gets access instead
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
  spa-knock -- show open-ssh              (a server named like a subcommand)
  ssh -o ProxyCommand='spa-knock connect %n open-ssh %h %p' server
  spa-knock keep server open-ssh -- ./deploy.sh
  spa-knock import                        (asks for the token)
  spa-knock --sign ~/.ssh/id_ed25519.pub server open-ssh
  spa-knock import --fwknoprc ~/.fwknoprc
  spa-knock doctor --ntp pool.ntp.org server
  spa-knock fwknop -n office              (a server that runs fwknopd)
  spa-knock keygen -o ~/.knock.key --client laptop
  (umask 077; spa-knock derive --server-id bastion.example.org > bastion.key)

Files:
  ~/.knock.key                            root key, for all servers
  ~/.config/spa-knock/SERVER.key          key for one server
  ~/.config/spa-knock/config.toml         profiles: [server.NAME] with address, port,
                                          id, key or key-command, action, source,
                                          for, reply, wait, addresses, sign, agent, learn;
                                          or a group: servers
  ~/.local/state/spa-knock/               addresses learned from replies, and time steps
                                          that --ports has used

Environment:
  SPA_KNOCK_KEY                           text of a key file, or a token
  SSH_AUTH_SOCK                           socket of ssh-agent (not on Windows)
  XDG_CONFIG_HOME, XDG_STATE_HOME         replace ~/.config and ~/.local/state

Exit codes:
  0  granted, started or done, as confirmed by the reply; with --no-reply or --ports: sent;
     with --wait: the port accepts connections; with --wait-done: the command succeeded
  1  refused by the server; with --wait-done: the command failed; the reason is printed
  2  invalid usage
  3  sent, but no reply in time; with --wait: granted, but the port never accepted a connection;
     with --wait-done: started, but the end of the command was not reported in time
  4  name not resolved, no route, or nothing sent
  5  key or profile missing, unreadable, accessible to others, or malformed;
     no signature by the SSH key, if the key file or --sign names one";
