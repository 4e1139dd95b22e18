//! The help of `spa-knock fwknop`.

pub(super) const ABOUT: &str = "Send a packet to fwknopd, with the options of fwknop's client";

pub(super) const LONG_ABOUT: &str = "\
Sends one packet that a fwknopd understands, with the options and the ~/.fwknoprc of fwknop's client. With it, one \
program serves while some servers still run fwknopd.

fwknopd sends no reply, so the program cannot report whether a port has opened. The packet needs an HMAC key: without \
one, fwknopd accepts a copied packet again if one character is added. If the server runs spa-knockd, knock at it with a \
key of its own instead: `spa-knock SERVER ACTION`. `spa-knock import --fwknoprc` makes the profiles.";

pub(super) const AFTER_HELP: &str = "\
Addresses:
  Packets contain an IPv4 address: that of -a, that of -R, or none with -s. They are sent to the
  first IPv4 address of SERVER, or to its first IPv6 address if it has no other; fwknopd itself
  listens on IPv4 only.

Keys:
  From the first of these: --key-…, the stanza, --get-key, --stdin or --fd, a prompt. Files must
  be your own, and no one else may have access to them (mode 0600). --key-gen prints the lines for
  the stanza of the server's access.conf; write them into ~/.fwknoprc, too.

~/.fwknoprc:
  [default]
  ALLOW_IP         resolve

  [office]
  SPA_SERVER       office.example.org
  ACCESS           tcp/22
  KEY_BASE64       (from --key-gen)
  HMAC_KEY_BASE64  (from --key-gen)

  The variables of [office] have precedence over those of [default]. The file is never created
  unless --save-rc-stanza is given.

Limits:
  fwknopd reads packets of up to 399 characters: about eleven ports, or a command of about
  120 characters. A longer packet is refused here. GnuPG, raw packets (-P tcpraw, udpraw, icmp) and
  modes other than CBC are not supported.

Exit codes:
  0  sent; whether fwknopd accepted it is unknown
  2  invalid usage; nothing was sent
  4  name or public address not found, no route, or the connection failed
  5  ~/.fwknoprc or a key missing, unreadable, accessible to others, or malformed

Examples:
  spa-knock fwknop -n office
  spa-knock fwknop -A tcp/22 -R -D office.example.org --use-hmac    (asks for both keys)
  spa-knock fwknop -A tcp/22 -R -D office.example.org --key-gen --save-rc-stanza -n office
  spa-knock fwknop -n office -N 192.168.10.2:22 --nat-rand-port
  spa-knock fwknop -n office -C 'systemctl restart nginx'
  spa-knock fwknop -n office -T";
