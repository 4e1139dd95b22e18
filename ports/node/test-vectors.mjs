#!/usr/bin/env node
// SPDX-License-Identifier: MIT OR Apache-2.0
/** Compares spa-knock.mjs with the vectors of the protocol, and tries to break its parsers.
 * test-vectors.mjs [VECTORS] (default: core/tests/vectors/protocol-v1.json) */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createCipheriv, createHash, createHmac, randomInt } from "node:crypto";
import { createSocket } from "node:dgram";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { SocketAddress } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { EXACT, KEY, Key, Keys, KnockError, LISTED, OBSERVED, USAGE, knock } from "./spa-knock.mjs";

const top = fileURLToPath(new URL("../..", import.meta.url));
const MUTATIONS = 10_000;
const hex = (text) => Buffer.from(text, "hex");
const pick = (list) => list[randomInt(list.length)];

function keyText(secret, server, ...lines) {
  const kind = server === undefined ? ["kind: root"] : ["kind: pair", `server: ${server}`];
  return ["# a comment", "spa-knock-key: 1", ...kind, ...lines, `secret: ${secret.toString("base64")}`, ""].join("\n");
}

function tokenOf(body) {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(body.length + 10);
  const data = Buffer.concat([length, body]);
  const sum = createHash("sha256").update(data).digest().subarray(0, 8);
  return `spa-knock-${Buffer.concat([data, sum]).toString("base64url")}`;
}

function refuses(work, code) {
  try {
    work();
  } catch (error) {
    assert(error instanceof KnockError, error);
    assert.equal(error.code, code);
    return error.message;
  }
  return assert.fail("accepted");
}

const keysOf = (testCase) => Key.parse(keyText(hex(testCase.pair), testCase.server_id)).derive(testCase.server_id);

function testKeys(testCase) {
  const expected = Object.fromEntries(Object.entries(testCase.keys).map(([label, key]) => [label, hex(key)]));
  assert.deepEqual(keysOf(testCase).byLabel, expected);
  if (testCase.root) assert.deepEqual(Key.parse(keyText(hex(testCase.root))).derive(testCase.server_id).byLabel, expected);
}

function testKnock(testCase) {
  const { knock } = testCase;
  const request = {
    action: knock.action, argument: knock.argument, seconds: knock.seconds, policy: { observed: OBSERVED, exact: EXACT, listed: LISTED }[knock.policy],
    otp: knock.otp === 0xffffffff ? undefined : knock.otp, ipv4: knock.ipv4 ?? undefined, ipv6: knock.ipv6 ?? undefined,
    reply: knock.reply_wanted, timestampMs: knock.timestamp_ms,
  };
  assert.equal(keysOf(testCase).seal(request, hex(knock.nonce), knock.padding).toString("hex"), knock.datagram);
}

function testReply(testCase) {
  const keys = keysOf(testCase), nonce = hex(testCase.knock.nonce);
  const body = hex(testCase.reply.body), datagram = hex(testCase.reply.datagram);
  const { address, ...reply } = keys.openReply(nonce, datagram);
  assert.deepEqual(reply, {
    status: body[1], serverTimeMs: Number(body.readBigUInt64BE(2)), port: body.readUInt16BE(26), seconds: body.readUInt32BE(28),
    text: body.toString("utf8", 33, 33 + body[32]),
  });
  const groups = body.toString("hex", 10, 26).match(/.{4}/g).join(":"), mapped = "0000:0000:0000:0000:0000:ffff:";
  const expected = groups.startsWith(mapped) ? body.subarray(22, 26).join(".") : new SocketAddress({ address: groups, family: "ipv6" }).address;
  assert.equal(address, expected);
  const refused = [Buffer.concat([datagram, Buffer.of(0)]), Buffer.concat([datagram, datagram])];
  for (let length = 0; length < 124; length += 1) refused.push(datagram.subarray(0, length));
  for (let bit = 0; bit < 124 * 8; bit += 1) {
    const flipped = Buffer.from(datagram);
    flipped[bit >> 3] ^= 1 << (bit & 7);
    refused.push(flipped);
  }
  for (const data of refused) assert.equal(keys.openReply(nonce, data), undefined);
  assert.equal(keys.openReply(Buffer.alloc(12), datagram), undefined, "another knock");
  assert.equal(new Keys({ ...keys.byLabel, reply: keys.byLabel.seal }).openReply(nonce, datagram), undefined, "a wrong key");
}

function testPorts(testCase) {
  for (const { action, address, unix_seconds: seconds, low, ports } of testCase.ports)
    assert.deepEqual(keysOf(testCase).portSequence(action, address ?? undefined, seconds, low), ports);
}

/** No change to a reply is accepted. */
function testMutations(cases) {
  const known = cases.map((testCase) => [keysOf(testCase), hex(testCase.knock.nonce), hex(testCase.reply.datagram)]);
  for (let count = 0; count < MUTATIONS; count += 1) {
    const [keys, nonce, datagram] = pick(known);
    let changed = Buffer.from(datagram);
    for (let changes = randomInt(1, 9); changes > 0; changes -= 1) {
      const place = randomInt(changed.length), kind = randomInt(4);
      if (kind === 0) changed[place] = randomInt(256);
      else if (kind === 1) changed[place] ^= 1 << randomInt(8);
      else if (kind === 2) changed.subarray(place).reverse();
      else changed = Buffer.concat([changed.subarray(place), changed.subarray(0, place)]);
    }
    if (!changed.equals(datagram)) assert.equal(keys.openReply(nonce, changed), undefined);
  }
}

/** A reply under the right key with a body that this version does not know is ignored, and its text is cleaned. */
function testBodies(testCase) {
  const keys = keysOf(testCase), nonce = hex(testCase.knock.nonce);
  const sealed = (...bytes) => {
    const body = Buffer.alloc(96);
    Buffer.from(bytes).copy(body);
    const key = createHmac("sha256", keys.byLabel.reply).update(nonce).digest();
    const cipher = createCipheriv("chacha20-poly1305", key, nonce, { authTagLength: 16 });
    cipher.setAAD(nonce, { plaintextLength: 96 });
    return Buffer.concat([nonce, cipher.update(body), cipher.final(), cipher.getAuthTag()]);
  };
  const rest = Array(30).fill(0), text = (...bytes) => keys.openReply(nonce, sealed(1, 0, ...rest, ...bytes)).text;
  assert.equal(text(4, 97, 27, 0, 98), "ab");
  assert.equal(text(2, 0xc2, 0x85), "", "a control character of two bytes");
  assert.equal(text(63, ...Buffer.alloc(63, "x")), "x".repeat(63));
  const mapped = keys.openReply(nonce, sealed(1, 0, ...Array(18).fill(0), 0xff, 0xff, 192, 0, 2, 7));
  assert.equal(mapped.address, "192.0.2.7");
  for (const head of [[2, 0], [0, 0], [1, 10], [1, 255]]) assert.equal(keys.openReply(nonce, sealed(...head, ...rest, 0)), undefined);
  assert.equal(keys.openReply(nonce, sealed(1, 0, ...rest, 64)), undefined);
}

function testRequests(testCase) {
  const keys = keysOf(testCase), policy = OBSERVED;
  for (const wrong of [{ action: "" }, { action: "x".repeat(33) }, { action: "Open" }, { action: "a\n" }, { argument: "\n" }, { argument: "x".repeat(81) },
    { argument: "ä" }, { seconds: 2 ** 32 }, { seconds: -1 }, { seconds: 0.5 }, { otp: 2 ** 32 }, { policy: undefined }, { policy: 3 },
    { timestampMs: -1 }, { timestampMs: NaN }, { timestampMs: 0.5 }, { ipv4: "::1" }, { ipv4: "x" }, { ipv6: "127.0.0.1" }])
    refuses(() => keys.seal({ action: "a", policy, ...wrong }), USAGE);
  const made = Array.from({ length: 2000 }, () => keys.seal({ action: "a", policy }));
  assert.equal(new Set(made.map((datagram) => datagram.length)).size, 64, "every length");
  assert(made.every((datagram) => datagram.length >= 228 && datagram.length <= 291));
  assert.equal(new Set(made.map((datagram) => datagram.toString("hex", 8, 20))).size, 2000, "every nonce is new");
}

function testKeyFiles() {
  const secret = Buffer.from(Array.from({ length: 32 }, (_, index) => index)), encoded = secret.toString("base64");
  const text = keyText(secret, "a.b", "client: laptop", "address: 203.0.113.1", "port: 4000");
  const fields = { "spa-knock-key": "1", kind: "pair", server: "a.b", client: "laptop", address: "203.0.113.1", port: "4000" };
  assert.deepEqual(Key.parse(text).fields, fields);
  assert.equal(Key.parse(text.replaceAll("\n", "\r\n").replace("port: ", "  port :  ")).fields.port, "4000");
  const pair = keyText(secret, "a"), root = keyText(secret);
  const wrong = ["", encoded, pair + pair, pair.replace("key: 1", "key: 2"), keyText(secret.subarray(1), "a"), pair.replace("8=", "9="),
    keyText(Buffer.concat([secret, secret]), "a"), pair.replace(encoded, encoded.slice(0, -1)), pair.replace("pair", "both"),
    pair.replace("pair", "root"), root.replace("root", "pair"), keyText(secret, "A"), keyText(secret, "x".repeat(65)), keyText(secret, ""),
    `no colon\n${pair}`];
  for (const line of ["port: 0", "port: 65536", "port: -1", "port: +1", "port: ٣", "client: ../x", "client: -x", "address: -oProxy", "address: a b",
    "client:", "kind: pair", "kind", "password: x", "password:", "constructor: x", "__proto__: x"]) wrong.push(pair + line);
  for (const one of wrong) assert(!refuses(() => Key.parse(one), KEY).includes(encoded.slice(0, 8)), one);
  assert.match(refuses(() => Key.parse(readFileSync(join(top, "keys.example"), "utf8")), KEY), /example key/);
  assert(!inspect(Key.parse(pair), { depth: 9, showHidden: true }).includes("00 01 02"), "no secret in a debugger's view");
}

function testTokens() {
  const body = Buffer.concat([Buffer.of(1), Buffer.alloc(32, 7), Buffer.of(15, 160), Buffer.from("\x06laptop\x13bastion.example.org\x0b203.0.113.1")]);
  const token = tokenOf(body), fields = { "spa-knock-key": "1", kind: "pair", client: "laptop", server: "bastion.example.org", address: "203.0.113.1", port: "4000" };
  assert.deepEqual(Key.parseToken(` ${token.slice(0, 40)}\r\n  ${token.slice(40)}\n`).fields, fields);
  const alphabet = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=."];
  for (let place = 0; place < token.length; place += 1) {
    const before = token.slice(0, place), here = token[place], after = token.slice(place + 1);
    const others = Array.from({ length: 8 }, () => pick(alphabet)).filter((other) => other !== here);
    for (const middle of ["", here + here, ...others]) refuses(() => Key.parseToken(before + middle + after), KEY);
  }
  refuses(() => Key.parseToken(`spa-knock-${"A".repeat(1_000_000)}`), KEY);
  const small = Buffer.concat([Buffer.of(1), Buffer.alloc(32, 7), Buffer.of(0, 0, 0, 1, 97, 0)]);
  assert.deepEqual(Key.parseToken(tokenOf(small)).fields, { "spa-knock-key": "1", kind: "pair", server: "a" });
  const tail = (...bytes) => Buffer.concat([small.subarray(0, 35), Buffer.from(bytes)]);
  for (const wrong of [Buffer.concat([Buffer.of(2), small.subarray(1)]), Buffer.concat([small, Buffer.of(0)]), small.subarray(0, -1), tail(0, 1, 97, 1),
    tail(0, 1, 97, 1, 32), tail(0, 0, 0), tail(0, 2, 97, 0), tail(0, 1, 65, 0), tail(1, 47, 1, 97, 0), small.subarray(0, 20), Buffer.alloc(0),
    Buffer.concat([Buffer.from("\x01example only: everybody has it!!"), small.subarray(33)])])
    refuses(() => Key.parseToken(tokenOf(wrong)), KEY);
}

/** A knock without a reply is one datagram. */
async function testNoReply() {
  const server = createSocket("udp4");
  await new Promise((resolve) => { server.bind(0, "127.0.0.1", resolve); });
  const received = new Promise((resolve) => { server.once("message", resolve); });
  const key = Key.parse(keyText(Buffer.alloc(32), "a", `port: ${server.address().port}`));
  assert.equal(await knock(key, "127.0.0.1", { action: "a", reply: false }), undefined);
  const { length } = await received;
  assert(length >= 228 && length <= 291);
  server.close();
}

function testPermissions() {
  const folder = mkdtempSync(join(tmpdir(), "spa-knock-")), path = join(folder, "a.key");
  try {
    writeFileSync(path, keyText(Buffer.alloc(32), "a"));
    for (const [mode, folderMode, reason] of [[0o600, 0o700], [0o640, 0o700, /mode 0640/], [0o604, 0o700, /mode 0604/], [0o600, 0o770, /replace it/],
      [0o600, 0o707, /replace it/], [0o600, 0o1777]]) {
      chmodSync(path, mode);
      chmodSync(folder, folderMode);
      if (reason) assert.match(refuses(() => Key.load(path), KEY), reason);
      else assert.equal(Key.load(path).fields.server, "a");
    }
    chmodSync(folder, 0o700);
    execFileSync("mkfifo", ["-m", "600", join(folder, "fifo")]);
    assert.match(refuses(() => Key.load(join(folder, "fifo")), KEY), /not a regular file/);
    assert.match(refuses(() => Key.load(folder), KEY), /not a regular file/);
    assert.match(refuses(() => Key.load(join(folder, "none")), KEY), /ENOENT/);
    writeFileSync(path, Buffer.of(0xff));
    assert.match(refuses(() => Key.load(path), KEY), /UTF-8/);
    writeFileSync(path, "#".repeat(65536));
    assert.match(refuses(() => Key.load(path), KEY), /too long/);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const cases = JSON.parse(readFileSync(process.argv[2] ?? join(top, "core/tests/vectors/protocol-v1.json"), "utf8"));
assert(cases.length >= 24);
for (const testCase of cases) for (const test of [testKeys, testKnock, testReply, testPorts]) test(testCase);
testMutations(cases);
testBodies(cases[0]);
testRequests(cases[0]);
testKeyFiles();
testTokens();
await testNoReply();
testPermissions();
console.log(`${cases.length} vectors, ${MUTATIONS} changed replies`);
