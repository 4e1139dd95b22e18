#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A client for spa-knock, protocol version 1 (docs/internals/protocol.md; "section" refers to it).

Needs Python 3.10 and `cryptography` 38. Every error is a KnockError, and none contains a byte of a key. For example:
knock(Key.load("laptop.key"), "bastion.example.org", Request("open-ssh")).address
"""

import base64
import functools
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
import stat
import struct
import sys
import time
import unicodedata
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

REFUSED, USAGE, NO_REPLY, NETWORK, KEY = 1, 2, 3, 4, 5  # KnockError.code; also the exit codes
OBSERVED, EXACT, LISTED, AUTO = 0, 1, 2, None  # address policies; AUTO chooses one (section 3)
STATUS = ("granted", "done", "unknown action", "not allowed", "address refused", "one-time password missing or wrong",
          "limit reached or key expired", "action failed", "argument refused", "not understood")
_hmac = functools.partial(hmac.digest, digest="sha256")  # key, message (RFC 2104)
_RESENDS, _LINGER = (0.25, 0.75, 1.75), 0.1  # seconds: after a knock; before the second knock (section 3)
_FIELDS = {"spa-knock-key": r"1", "kind": r"pair|root", "client": r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}",
           "server": r"[a-z0-9._:-]{1,64}", "address": r"(?!-)[A-Za-z0-9._:%-]{1,253}",
           "port": r"[1-9][0-9]{0,4}", "secret": r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="}
_NOT_GLOBAL = [ipaddress.ip_network(text) for text in (
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 "
    "224.0.0.0/4 255.255.255.255/32 ::/128 ::1/128 fc00::/7 fe80::/10 ff00::/8").split()]


class KnockError(Exception):
    """Nothing was opened. `code` is REFUSED, USAGE, NO_REPLY, NETWORK or KEY; `reply` is the refusal."""
    def __init__(self, code, message, reply=None):
        super().__init__(message)
        self.code, self.reply = code, reply


@dataclass(frozen=True)
class Request:
    """What to knock for. `seconds` (0: the action's own time) and `otp` (a one-time password) are below 2**32 - 1.
    EXACT and LISTED need `ipv4` or `ipv6`. `timestamp_ms` is in milliseconds since the Unix epoch; None: now."""
    action: str
    argument: str = ""
    seconds: int = 0
    otp: int | None = None
    policy: int | None = AUTO
    ipv4: ipaddress.IPv4Address | None = None
    ipv6: ipaddress.IPv6Address | None = None
    reply: bool = True
    timestamp_ms: int | None = None

    def claiming(self, address) -> "Request":
        """The same; AUTO becomes EXACT, with this address."""
        return self if self.policy is not AUTO else replace(self, policy=EXACT, **{f"ipv{address.version}": address})


@dataclass(frozen=True)
class Reply:
    """A reply (section 4). `status` is an index of STATUS, the knock came from `address` and `port`, the grant lasts
    `seconds`, and `text` is the server's remark."""
    status: int
    server_time_ms: int
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    seconds: int
    text: str


class Key:
    """A secret, and the other fields of its key file as texts. A root key, for any server, has no "server"."""
    def __init__(self, fields):
        for name, value in fields.items():
            if not re.fullmatch(_FIELDS.get(name, "(?!)"), value) or name == "port" and int(value) > 65535:
                raise KnockError(KEY, f"{name}: not valid" if name in _FIELDS else "unknown name")
        if not {"spa-knock-key", "kind", "secret"} <= fields.keys():
            raise KnockError(KEY, "one of the lines spa-knock-key, kind and secret is missing")
        if (fields["kind"] == "pair") != ("server" in fields):
            raise KnockError(KEY, "a pair key has a server, and a root key has none")
        self._secret = base64.b64decode(fields["secret"])
        if self._secret == b"example only: everybody has it!!":
            raise KnockError(KEY, "this is the example key, which is public")
        self.fields = {name: value for name, value in fields.items() if name != "secret"}

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Parses the text of a key file (section 2)."""
        fields = {}
        for number, line in enumerate(text.split("\n"), 1):
            name, colon, value = (part.strip() for part in line.partition(":"))
            if line.strip() and not name.startswith("#"):
                if not colon or name in fields:
                    raise KnockError(KEY, f"line {number}: not 'name: value', or a duplicate name")
                fields[name] = value
        return cls(fields)

    @classmethod
    def parse_token(cls, text: str) -> "Key":
        """Parses a token: `spa-knock-` and, in base64url, length (2 bytes), version (1), secret (32), port
        (2), client, server, address (each a length byte and a text), and 8 bytes of SHA-256 of all these."""
        match = re.fullmatch(r"spa-knock-((?:[\w-]{4})*(?:[\w-]{2,3})?)", "".join(text.split()), re.ASCII)
        data = base64.urlsafe_b64decode(match[1] + "==") if match else b""
        body, rest, texts = data[:-8], data[37:-8], []
        for _ in range(3):
            texts.append(rest[1:1 + rest[0]] if rest else b"")
            rest = rest[1 + len(texts[-1]):]
        if (not match or base64.urlsafe_b64encode(data).decode().rstrip("=") != match[1] or len(body) < 40
                or int.from_bytes(body[:2], "big") != len(data) or hashlib.sha256(body).digest()[:8] != data[-8:]
                or b"".join(bytes([len(text)]) + text for text in texts) != body[37:]):
            raise KnockError(KEY, "token: some characters are missing, added or changed")
        values = [str(body[2]), "pair", base64.b64encode(body[3:35]).decode(),
                  str(int.from_bytes(body[35:37], "big")), *(text.decode("latin-1") for text in texts)]
        names = ("spa-knock-key", "kind", "secret", "port", "client", "server", "address")
        return cls({name: value for name, value in zip(names, values) if value not in ("", "0")})

    @classmethod
    def load(cls, path: str) -> "Key":
        """Reads a key file. On POSIX systems, this user or root must own it and its directory, and others must
        neither have access to it nor be able to replace it."""
        try:
            real = os.path.realpath(path)
            with open(os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
                mine, folder = os.fstat(file.fileno()), os.stat(os.path.dirname(real))
                faults = {"not a regular file": not stat.S_ISREG(mine.st_mode), "too long": mine.st_size >= 65536}
                if os.name == "posix":
                    others, swap = mine.st_mode & 0o077, folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
                    faults |= {
                        "it or its directory belongs to another user": {mine.st_uid, folder.st_uid} - {0, os.geteuid()},
                        f"mode {mine.st_mode & 0o7777:04o} allows others to access it": others,
                        "the mode of its directory allows others to replace it": swap}
                for fault in filter(faults.get, faults):
                    raise KnockError(KEY, fault)
                return cls.parse(file.read().decode())
        except (OSError, KnockError, UnicodeDecodeError) as error:
            reason = "not UTF-8 text" if isinstance(error, ValueError) else getattr(error, "strerror", error)
            raise KnockError(KEY, f"key file {path}: {reason}") from None

    def derive(self, server_id: str) -> "Keys":
        """Derives the keys for a server id (section 2). Raises KnockError USAGE."""
        if not re.fullmatch(_FIELDS["server"], server_id):
            raise KnockError(USAGE, f"{server_id}: not a server id")
        is_pair = "server" in self.fields
        pair = self._secret if is_pair else _hkdf(b"spa-knock/1 pair", self._secret, server_id.encode())
        return Keys((label, _hkdf(b"spa-knock/1", pair, f"{label}\0{server_id}".encode())) for label in
                    ("hint", "sign", "selector", "seal", "proof", "reply", "id"))


class Keys(dict):
    """The seven keys of a client at a server, by label. The first 8 bytes of "id" are the fingerprint."""
    def seal(self, request: Request, nonce: bytes | None = None, padding: int | None = None) -> bytes:
        """Makes a knock datagram of 228 to 291 bytes, its nonce in bytes 8 to 19 (section 3). Only tests pass `nonce`
        (12 bytes) and `padding` (0 to 63). Raises KnockError USAGE."""
        otp = 2**32 - 1 if request.otp is None else request.otp
        now = time.time_ns() // 1_000_000 if request.timestamp_ms is None else request.timestamp_ms
        if (not re.fullmatch("[a-z0-9_-]{1,32}", request.action) or not re.fullmatch("[ -~]{0,80}", request.argument)
                or request.policy not in (0, 1, 2) or not 0 <= now < 2**64
                or not 0 <= request.seconds < 2**32 or not 0 <= otp < 2**32):
            raise KnockError(USAGE, "action, argument, policy, seconds, one-time password or time: not valid")
        nonce, padding = nonce or secrets.token_bytes(12), secrets.randbelow(64) if padding is None else padding
        body = struct.pack(">BBQIIB", 1, request.reply, now, request.seconds, otp, request.policy)
        body += (request.ipv4 or ipaddress.IPv4Address(0)).packed + (request.ipv6 or ipaddress.IPv6Address(0)).packed
        texts = b"".join(bytes([len(text)]) + text.encode() for text in (request.action, request.argument))
        hint = _hmac(self["hint"], (now // 60_000).to_bytes(8, "big"))[:8]
        cipher = ChaCha20Poly1305(_hmac(self["seal"], nonce))
        signed = hint + nonce + cipher.encrypt(nonce, (body + texts).ljust(160 + padding, b"\0"), hint)
        return signed + _hmac(self["sign"], signed)

    def open_reply(self, nonce: bytes, data: bytes) -> Reply | None:
        """Decrypts the reply to the knock with this nonce (section 4); None if `data` is not that."""
        if len(data) != 124:
            return None
        try:
            body = ChaCha20Poly1305(_hmac(self["reply"], data[:12])).decrypt(data[:12], data[12:], nonce)
        except InvalidTag:
            return None
        version, status, server_time, packed, port, seconds, length = struct.unpack_from(">BBQ16sHIB", body)
        if version != 1 or status >= len(STATUS) or length > 63:
            return None
        text = "".join(c for c in body[33:33 + length].decode(errors="replace") if unicodedata.category(c) != "Cc")
        return Reply(status, server_time, _address(packed), port, seconds, text)

    def port_sequence(self, action: str, address, unix_seconds: int, low: int = 20480) -> list[int]:
        """The eight ports of a port sequence (section 7) in the 8192 ports from `low` (1 to 57344) on. `address` is
        the client's own, or None for OBSERVED. Sends nothing."""
        step = (unix_seconds // 30).to_bytes(8, "big")
        packed = address.packed.rjust(6, b"\xff").rjust(16, b"\0") if address else bytes(16)
        macs = _hmac(self["selector"], step)[:4] + _hmac(self["proof"], step + packed + action.encode())[:12]
        return [low + 1024 * place + number % 1024 for place, number in enumerate(struct.unpack(">8H", macs))]


def knock(key: Key, server: str, request: Request, timeout: float = 3.0) -> Reply | None:
    """Knocks at `server`, a host name or an address. Returns the reply to a success; None if none is wanted.
    Takes at most `timeout` seconds after the name is resolved. Raises KnockError."""
    typed = server.lower().removesuffix(".")
    keys = key.derive(key.fields.get("server", typed))
    host = key.fields.get("address", server) if key.fields.get("server") == typed else server
    named = {socket.AF_INET: request.ipv4, socket.AF_INET6: request.ipv6}
    try:
        found = socket.getaddrinfo(host, int(key.fields.get("port", 62201)), type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise KnockError(NETWORK, f"{host}: {getattr(error, 'strerror', 'not a host name')}") from None
    found.sort(key=lambda one: request.policy == EXACT and not named.get(one[0]))
    for family, _, _, _, target in found:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect(target)
                own, peer = _address(sock.getsockname()[0]), _address(target[0])
                observed = request.policy is AUTO and not (request.reply or _is_global(own)) and _is_global(peer)
                sent = [keys.seal(replace(request, policy=OBSERVED) if observed else request.claiming(own))]
                sock.send(sent[0])
                return _await(sock, keys, request, own, sent, timeout, server) if request.reply else None
            except OSError as error:  # _await raises none
                failure = error
    raise KnockError(NETWORK, f"{host}: {failure.strerror}")


def _await(sock, keys, request, own, sent, timeout, server):
    """Resends and awaits the reply. With AUTO, knocks a second time if the server saw another address."""
    start, what = time.monotonic(), f"{server}: {request.action}"
    seen, linger, resends = None, None, [start + after for after in _RESENDS]
    while (now := time.monotonic()) < start + timeout:
        if linger and now >= linger:
            sent.append(keys.seal(request.claiming(seen)))
            linger, resends = None, [now, *(now + after for after in _RESENDS)]
        if not linger and resends and now >= resends[0]:
            resends.pop(0)
            _try(sock.send, sent[-1]) or _try(sock.send, sent[-1])  # an error may be about an earlier datagram
        sock.settimeout(max(min([start + timeout] + ([linger] if linger else resends[:1])) - now, 0.001))
        data = _try(sock.recv, 125) or b""
        turn, reply = next(((turn, reply) for turn, one in enumerate(sent)
                            if (reply := keys.open_reply(one[8:20], data))), (None, None))
        if reply and reply.status <= 1:
            return reply
        if reply and turn == 0 and seen:
            if reply.address != seen:
                raise KnockError(REFUSED, f"{what}: two replies name different addresses", reply)
        elif (reply and turn == 0 and request.policy is AUTO and reply.status == 4
              and reply.address != own and not reply.address.is_unspecified
              and not _is_global(own if own.version == reply.address.version else _own(reply.address))):
            seen, linger = reply.address, time.monotonic() + _LINGER
        elif reply:
            raise KnockError(REFUSED, f"{what} refused: {STATUS[reply.status]} {reply.text}".rstrip(), reply)
    raise KnockError(NO_REPLY, f"{what}: no reply within {timeout:g} s")


def _address(packed_or_text):
    address = ipaddress.ip_address(packed_or_text.split("%")[0] if type(packed_or_text) is str else packed_or_text)
    return getattr(address, "ipv4_mapped", None) or address


def _is_global(address):
    return not any(address in network for network in _NOT_GLOBAL)


def _own(seen):
    """The own outgoing address toward `seen`; an address that is not global without a route. Sends nothing."""
    with socket.socket(socket.AF_INET if seen.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        _try(sock.connect, (str(seen), 9))
        return _address(sock.getsockname()[0])


def _try(call, argument):
    try:
        return call(argument)
    except OSError:
        return time.sleep(0.001)  # so that a lasting error is no busy loop


def _hkdf(salt, secret, info):
    """HKDF-SHA256 (RFC 5869) with one block of output."""
    return _hmac(_hmac(salt, secret), info + b"\1")


def main(args: list[str]) -> int:
    if len(args) not in (4, 5) or args[0] != "--key":
        print("usage: spa_knock.py --key FILE SERVER ACTION [ARGUMENT]", file=sys.stderr)
        return USAGE
    try:
        reply = knock(Key.load(args[1]), args[2], Request(*args[3:]))
    except KnockError as error:
        print(f"spa-knock: {error}", file=sys.stderr)
        return error.code
    until = f" to {reply.address} for {reply.seconds}s" if reply.seconds else ""
    print(f"spa-knock: {args[2]}: {args[3]} {STATUS[reply.status]}{until}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
