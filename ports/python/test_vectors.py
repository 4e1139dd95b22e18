#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compares spa_knock.py with the vectors of the protocol, and tries to break its parsers.

    test_vectors.py [VECTORS]    (default: core/tests/vectors/protocol-v1.json)
"""

import base64
import hashlib
import ipaddress
import json
import os
import random
import socket
import sys
import tempfile
from pathlib import Path

import spa_knock
from spa_knock import Key, Keys, KnockError, Request

TOP = Path(__file__).resolve().parents[2]
MUTATIONS = 10_000


def ip(text):
    return None if text is None else ipaddress.ip_address(text)


def key_text(secret, server=None, *lines):
    kind = ["kind: root"] if server is None else ["kind: pair", f"server: {server}"]
    return "\n".join(["# a comment", "spa-knock-key: 1", *kind, *lines, f"secret: {base64.b64encode(secret).decode()}", ""])


def token_of(body):
    data = (len(body) + 10).to_bytes(2, "big") + body
    data += hashlib.sha256(data).digest()[:8]
    return "spa-knock-" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def refuses(work, code):
    try:
        work()
    except KnockError as error:
        assert error.code == code, error
        return str(error)
    raise AssertionError("accepted")


def keys_of(case):
    return Key.parse(key_text(bytes.fromhex(case["pair"]), case["server_id"])).derive(case["server_id"])


def test_keys(case):
    expected = {label: bytes.fromhex(key) for label, key in case["keys"].items()}
    assert keys_of(case) == expected
    if case["root"]:
        assert Key.parse(key_text(bytes.fromhex(case["root"]))).derive(case["server_id"]) == expected


def test_knock(case):
    fields = case["knock"]
    policy = {"observed": spa_knock.OBSERVED, "exact": spa_knock.EXACT, "listed": spa_knock.LISTED}[fields["policy"]]
    request = Request(fields["action"], fields["argument"], fields["seconds"],
                      None if fields["otp"] == 2**32 - 1 else fields["otp"], policy, ip(fields["ipv4"]),
                      ip(fields["ipv6"]), fields["reply_wanted"], fields["timestamp_ms"])
    made = keys_of(case).seal(request, bytes.fromhex(fields["nonce"]), fields["padding"])
    assert made.hex() == fields["datagram"]


def test_reply(case):
    keys, nonce = keys_of(case), bytes.fromhex(case["knock"]["nonce"])
    body, datagram = (bytes.fromhex(case["reply"][name]) for name in ("body", "datagram"))
    reply = keys.open_reply(nonce, datagram)
    address = ipaddress.IPv6Address(body[10:26])
    assert reply == spa_knock.Reply(
        body[1], int.from_bytes(body[2:10], "big"), address.ipv4_mapped or address, int.from_bytes(body[26:28], "big"),
        int.from_bytes(body[28:32], "big"), body[33:33 + body[32]].decode())
    refused = [datagram[:length] for length in range(124)] + [datagram + b"\0", datagram * 2]
    for bit in range(124 * 8):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 1 << bit % 8
        refused.append(bytes(flipped))
    assert all(keys.open_reply(nonce, data) is None for data in refused)
    assert keys.open_reply(bytes(12), datagram) is None, "another knock"
    assert Keys(keys, reply=keys["seal"]).open_reply(nonce, datagram) is None, "a wrong key"


def test_ports(case):
    for sequence in case["ports"]:
        found = keys_of(case).port_sequence(sequence["action"], ip(sequence["address"]), sequence["unix_seconds"],
                                            sequence["low"])
        assert found == sequence["ports"], sequence


def test_mutations(cases, dice):
    """No change to a reply is accepted."""
    for _ in range(MUTATIONS):
        case = dice.choice(cases)
        datagram = bytes.fromhex(case["reply"]["datagram"])
        changed = bytearray(datagram)
        for _ in range(dice.randint(1, 8)):
            place, kind = dice.randrange(len(changed)), dice.randrange(4)
            if kind == 0:
                changed[place] = dice.randrange(256)
            elif kind == 1:
                changed[place] ^= 1 << dice.randrange(8)
            elif kind == 2:
                changed[place:] = changed[place:][::-1] or b"\0"
            else:
                changed = changed[place:] + changed[:place]
        if bytes(changed) != datagram:
            assert keys_of(case).open_reply(bytes.fromhex(case["knock"]["nonce"]), bytes(changed)) is None


def test_bodies(case):
    """A reply under the right key with a body that this version does not know is ignored, text is cleaned."""
    keys, nonce = keys_of(case), bytes.fromhex(case["knock"]["nonce"])

    def sealed(body):
        cipher = spa_knock.ChaCha20Poly1305(spa_knock._hmac(keys["reply"], nonce))
        return nonce + cipher.encrypt(nonce, body.ljust(96, b"\0"), nonce)

    head = bytes([1, 0]) + bytes(30)
    assert keys.open_reply(nonce, sealed(head + b"\x04a\x1b\x00b")).text == "ab"
    assert keys.open_reply(nonce, sealed(head + b"\x02\xc2\x85")).text == "", "a control character of two bytes"
    assert keys.open_reply(nonce, sealed(head + bytes([63]) + b"x" * 63)).text == "x" * 63
    for body in (b"\x02" + head[1:], b"\0" + head[1:], b"\x01\x0a" + head[2:], b"\x01\xff" + head[2:], head + bytes([64])):
        assert keys.open_reply(nonce, sealed(body)) is None, body


def test_requests(case):
    keys = keys_of(case)
    for wrong in (Request("", policy=0), Request("x" * 33, policy=0), Request("Open", policy=0), Request("a\n", policy=0),
                  Request("a", "\n", policy=0), Request("a", "x" * 81, policy=0), Request("a", "ä", policy=0),
                  Request("a", seconds=2**32, policy=0), Request("a", seconds=-1, policy=0), Request("a", otp=2**32, policy=0),
                  Request("a"), Request("a", policy=3), Request("a", policy=0, timestamp_ms=-1),
                  Request("a", policy=0, timestamp_ms=2**64)):
        refuses(lambda wrong=wrong: keys.seal(wrong), spa_knock.USAGE)
    good = Request("a", policy=0)
    made = {keys.seal(good) for _ in range(2_000)}
    assert {len(datagram) for datagram in made} == set(range(228, 292)), "every length"
    assert len({datagram[8:20] for datagram in made}) == 2_000, "every nonce is new"


def test_key_files():
    secret = bytes(range(32))
    text = key_text(secret, "a.b", "client: laptop", "address: 203.0.113.1", "port: 4000")
    assert Key.parse(text).fields == {"spa-knock-key": "1", "kind": "pair", "server": "a.b", "client": "laptop",
                                      "address": "203.0.113.1", "port": "4000"}
    assert Key.parse(text.replace("\n", "\r\n").replace("port: ", "  port :  ")).fields["port"] == "4000"
    encoded = base64.b64encode(secret).decode()
    pair = key_text(secret, "a")
    wrong = ["", encoded, pair + pair, pair + "password: x", pair.replace("key: 1", "key: 2"), key_text(bytes(31), "a"),
             key_text(bytes(33), "a"), pair.replace("8=", "9="), pair.replace(encoded, encoded[:-1]), pair.replace("pair", "both"),
             pair.replace("pair", "root"), key_text(secret).replace("root", "pair"), key_text(secret, "A"),
             key_text(secret, "x" * 65), key_text(secret, ""), "no colon\n" + pair]
    wrong += [pair + line for line in ("port: 0", "port: 65536", "port: -1", "port: +1", "port: ٣", "client: ../x", "client: -x",
                                       "address: -oProxy", "address: a b", "client:", "kind: pair", "kind", "password:")]
    for text in wrong:
        message = refuses(lambda text=text: Key.parse(text), spa_knock.KEY)
        assert encoded[:8] not in message, message
    example = (TOP / "keys.example").read_text(encoding="utf-8")
    assert "example key" in refuses(lambda: Key.parse(example), spa_knock.KEY)
    assert "Key object" in repr(Key.parse(pair)), "no secret in a debugger's view"


def test_tokens(dice):
    body = b"\1" + b"\7" * 32 + (4000).to_bytes(2, "big") + b"\6laptop\x13bastion.example.org\x0b203.0.113.1"
    token = token_of(body)
    key = Key.parse_token(f" {token[:40]}\r\n  {token[40:]}\n")
    assert key.fields == {"spa-knock-key": "1", "kind": "pair", "server": "bastion.example.org", "client": "laptop",
                          "address": "203.0.113.1", "port": "4000"}
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=."
    for place, character in enumerate(token):
        before, after = token[:place], token[place + 1:]
        others = [other for other in dice.sample(alphabet, 8) if other != character]
        for text in (before + after, before + character * 2 + after, *(before + other + after for other in others)):
            refuses(lambda text=text: Key.parse_token(text), spa_knock.KEY)
    refuses(lambda: Key.parse_token("spa-knock-" + "A" * 1_000_000), spa_knock.KEY)
    small = b"\1" + b"\7" * 32 + b"\0\0" + b"\0" + b"\1a" + b"\0"
    assert Key.parse_token(token_of(small)).fields == {"spa-knock-key": "1", "kind": "pair", "server": "a"}
    for wrong in (b"\2" + small[1:], small + b"\0", small[:-1], small[:-1] + b"\1", small[:-1] + b"\1 ", small[:36] + b"\0\0",
                  small[:36] + b"\2a\0", small[:36] + b"\1A\0", small[:35] + b"\1/\1a\0", small[:20], b"",
                  b"\1example only: everybody has it!!" + small[33:]):
        refuses(lambda wrong=wrong: Key.parse_token(token_of(wrong)), spa_knock.KEY)


def test_no_reply():
    """A knock without a reply is one datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        key = Key.parse(key_text(bytes(32), "a", f"port: {server.getsockname()[1]}"))
        assert spa_knock.knock(key, "127.0.0.1", Request("a", reply=False)) is None
        assert 228 <= len(server.recv(512)) <= 291


def test_permissions():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.key")
        path.write_text(key_text(bytes(32), "a"), encoding="utf-8")
        for mode, folder_mode, reason in ((0o600, 0o700, None), (0o640, 0o700, "mode 0640"), (0o604, 0o700, "mode 0604"),
                                          (0o600, 0o770, "replace it"), (0o600, 0o707, "replace it"), (0o600, 0o1777, None)):
            os.chmod(path, mode)
            os.chmod(folder, folder_mode)
            if reason is None:
                assert Key.load(path).fields["server"] == "a"
            else:
                assert reason in refuses(lambda: Key.load(path), spa_knock.KEY)
        os.chmod(folder, 0o700)
        os.mkfifo(f"{folder}/fifo", 0o600)
        assert "not a regular file" in refuses(lambda: Key.load(f"{folder}/fifo"), spa_knock.KEY)
        assert "directory" in refuses(lambda: Key.load(folder), spa_knock.KEY)
        assert "No such file" in refuses(lambda: Key.load(f"{folder}/none"), spa_knock.KEY)
        path.write_bytes(b"\xff")
        assert "UTF-8" in refuses(lambda: Key.load(path), spa_knock.KEY)
        path.write_text("#" * 65536, encoding="utf-8")
        assert "too long" in refuses(lambda: Key.load(path), spa_knock.KEY)


def main():
    default = TOP / "core/tests/vectors/protocol-v1.json"
    cases = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else default).read_text(encoding="utf-8"))
    assert len(cases) >= 24
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    for case in cases:
        for test in (test_keys, test_knock, test_reply, test_ports):
            test(case)
    test_mutations(cases, dice)
    test_bodies(cases[0])
    test_requests(cases[0])
    test_key_files()
    test_tokens(dice)
    test_no_reply()
    test_permissions()
    print(f"{len(cases)} vectors, {MUTATIONS} changed replies")


if __name__ == "__main__":
    main()
