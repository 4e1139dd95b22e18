#!/usr/bin/env node
// SPDX-License-Identifier: MIT OR Apache-2.0
/** A client for spa-knock, protocol version 1 (docs/internals/protocol.md; "section" refers to it). Needs Node.js
 * 18, and nothing else. Every error is a KnockError, and none contains a byte of a key. For example: (await
 * knock(Key.load("laptop.key"), "bastion.example.org", { action: "open-ssh" })).address */
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes, randomInt } from "node:crypto";
import { createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { closeSync, constants, fstatSync, openSync, readFileSync, realpathSync, statSync } from "node:fs";
import { BlockList, isIPv4, isIPv6 } from "node:net";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** KnockError.code; also the exit codes. */
export const REFUSED = 1, USAGE = 2, NO_REPLY = 3, NETWORK = 4, KEY = 5;
/** Address policies; AUTO chooses one (section 3). */
export const OBSERVED = 0, EXACT = 1, LISTED = 2, AUTO = undefined;
/** The meaning of Reply.status (section 4). */
export const STATUS = ["granted", "done", "unknown action", "not allowed", "address refused",
  "one-time password missing or wrong", "limit reached or key expired", "action failed", "argument refused",
  "not understood"];
const RESENDS = [250, 750, 1750], LINGER = 100; // milliseconds: after a knock; before the second knock (section 3)
const FIELDS = {
  "spa-knock-key": /^1$/, kind: /^(pair|root)$/, client: /^[A-Za-z0-9_][A-Za-z0-9._-]{0,31}$/,
  server: /^[a-z0-9._:-]{1,64}$/, address: /^(?!-)[A-Za-z0-9._:%-]{1,253}$/, port: /^[1-9][0-9]{0,4}$/,
  secret: /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/,
};
const version = (address) => (isIPv4(address) ? "ipv4" : "ipv6");
const isGlobal = (address) => !NOT_GLOBAL.check(address, version(address));
const hmac = (key, message) => createHmac("sha256", key).update(message).digest(); // RFC 2104
const hkdf = (salt, secret, info) => hmac(hmac(salt, secret), `${info}\u0001`); // RFC 5869, one block of output
const number = (value, size) => Buffer.from(BigInt(value).toString(16).padStart(2 * size, "0"), "hex");
const claiming = (request, address) =>
  (request.policy === AUTO ? { ...request, policy: EXACT, [version(address)]: address } : request);
const NOT_GLOBAL = new BlockList();
for (const subnet of ["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
  "192.168.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8"])
  NOT_GLOBAL.addSubnet(subnet.split("/")[0], Number(subnet.split("/")[1]), version(subnet.split("/")[0]));

/** Nothing was opened. `code` is REFUSED, USAGE, NO_REPLY, NETWORK or KEY; `reply` is the refusal. */
export class KnockError extends Error {
  constructor(code, message, reply) {
    super(message);
    Object.assign(this, { code, reply });
  }
}

const fail = (...args) => { throw new KnockError(...args); };

/** A secret, and the other fields of its key file as texts. A root key, for any server, has no `server`. */
export class Key {
  #secret;
  constructor(fields) {
    for (const [name, value] of Object.entries(fields)) {
      if (!Object.hasOwn(FIELDS, name)) fail(KEY, "unknown name");
      if (!FIELDS[name].test(value) || (name === "port" && value > 65535)) fail(KEY, `${name}: not valid`);
    }
    const { secret, ...others } = fields;
    if (!others["spa-knock-key"] || !others.kind || !secret)
      fail(KEY, "one of the lines spa-knock-key, kind and secret is missing");
    if ((others.kind === "pair") !== ("server" in others)) fail(KEY, "a pair key has a server, a root key has none");
    this.fields = others;
    this.#secret = Buffer.from(secret, "base64");
    if (this.#secret.toString("latin1") === "example only: everybody has it!!")
      fail(KEY, "this is the example key, which is public");
  }

  /** Parses the text of a key file (section 2). */
  static parse(text) {
    const fields = Object.create(null);
    for (const [index, line] of text.split("\n").entries()) {
      if (!line.trim() || line.trim().startsWith("#")) continue;
      const colon = line.indexOf(":"), name = line.slice(0, colon).trim();
      if (colon < 0 || name in fields) fail(KEY, `line ${index + 1}: not 'name: value', or a duplicate name`);
      fields[name] = line.slice(colon + 1).trim();
    }
    return new Key(fields);
  }

  /** Parses a token: `spa-knock-` and, in base64url, length (2 bytes), version (1), secret (32), port (2), client,
   * server, address (each a length byte and a text), and 8 bytes of SHA-256 of all these. */
  static parseToken(text) {
    const coded = text.replace(/\s/g, ""), data = Buffer.from(coded.slice(10), "base64url");
    const body = data.subarray(0, -8), texts = [];
    let rest = body.subarray(37);
    for (let count = 0; count < 3; count += 1) {
      texts.push(rest.subarray(1, 1 + (rest[0] ?? 0)));
      rest = rest.subarray(1 + texts[count].length);
    }
    if (coded !== `spa-knock-${data.toString("base64url")}` || body.length < 40 || body.readUInt16BE(0) !== data.length
      || !createHash("sha256").update(body).digest().subarray(0, 8).equals(data.subarray(-8))
      || !Buffer.concat(texts.flatMap((one) => [Buffer.of(one.length), one])).equals(body.subarray(37)))
      fail(KEY, "token: some characters are missing, added or changed");
    const [client, server, address] = texts.map((one) => one.toString("latin1"));
    const fields = { "spa-knock-key": `${body[2]}`, kind: "pair", client, server, address,
      port: `${body.readUInt16BE(35)}`, secret: body.subarray(3, 35).toString("base64") };
    return new Key(Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== "" && value !== "0")));
  }

  /** Reads a key file. On POSIX systems, this user or root must own it and its directory, and others must neither
   * have access to it nor be able to replace it. */
  static load(path) {
    let file;
    try {
      const real = realpathSync(path);
      file = openSync(real, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
      const mine = fstatSync(file), folder = statSync(dirname(real)), user = process.geteuid?.();
      const faults = [[!mine.isFile(), "not a regular file"], [mine.size >= 65536, "too long"]];
      if (user !== undefined) faults.push(
        [[mine.uid, folder.uid].some((id) => id && id !== user), "it or its directory belongs to another user"],
        [mine.mode & 0o077, `mode ${(mine.mode & 0o7777).toString(8).padStart(4, "0")} allows others to access it`],
        [(folder.mode & 0o022) && !(folder.mode & 0o1000), "the mode of its directory allows others to replace it"]);
      for (const [, fault] of faults.filter(([is]) => is)) fail(KEY, fault);
      return Key.parse(new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(file)));
    } catch (error) {
      const reason = { KnockError: error.message, TypeError: "not UTF-8 text" }[error.constructor.name] ?? error.code;
      fail(KEY, `key file ${path}: ${reason}`);
    } finally {
      if (file !== undefined) closeSync(file);
    }
  }

  /** Derives the keys for a server id (section 2). Throws a KnockError USAGE. */
  derive(serverId) {
    if (!FIELDS.server.test(serverId)) fail(USAGE, `${serverId}: not a server id`);
    const pair = this.fields.server ? this.#secret : hkdf("spa-knock/1 pair", this.#secret, serverId);
    const labels = ["hint", "sign", "selector", "seal", "proof", "reply", "id"];
    const derived = labels.map((label) => [label, hkdf("spa-knock/1", pair, `${label}\0${serverId}`)]);
    return new Keys(Object.fromEntries(derived));
  }
}

/** The seven keys of a client at a server, in `byLabel`. The first 8 bytes of `id` are the fingerprint. */
export class Keys {
  constructor(byLabel) { this.byLabel = byLabel; }

  /** Makes a knock datagram of 228 to 291 bytes, its nonce in bytes 8 to 19 (section 3). Of the request only
   * `action` is required. `seconds` (0: the action's own time) and `otp` (a one-time password as a number) are
   * below 2**32 - 1; EXACT and LISTED need `ipv4` or `ipv6`; `timestampMs` is in milliseconds since the Unix epoch,
   * by default now. Only tests pass `nonce` (12 bytes) and `padding` (0 to 63). Throws a KnockError USAGE. */
  seal(request, nonce = randomBytes(12), padding = randomInt(64)) {
    const { action, argument = "", seconds = 0, otp = 0xffffffff, policy, ipv4, ipv6 } = request;
    const { reply, timestampMs = Date.now() } = request;
    const isWrong = (value, most = 0xffffffff) => !Number.isSafeInteger(value) || value < 0 || value > most;
    if (!/^[a-z0-9_-]{1,32}$/.test(action) || !/^[ -~]{0,80}$/.test(argument) || isWrong(seconds) || isWrong(otp)
      || isWrong(timestampMs, Infinity) || ![OBSERVED, EXACT, LISTED].includes(policy)
      || (ipv4 && !isIPv4(ipv4)) || (ipv6 && !isIPv6(ipv6)))
      fail(USAGE, "action, argument, policy, address, seconds or one-time password: not valid");
    const body = Buffer.alloc(160 + padding);
    Buffer.concat([Buffer.of(1, reply === false ? 0 : 1), number(timestampMs, 8), number(seconds, 4),
      number(otp, 4), Buffer.of(policy), packed(ipv4 ?? "0.0.0.0").subarray(12), packed(ipv6 ?? "::"),
      ...[action, argument].flatMap((text) => [Buffer.of(text.length), Buffer.from(text)])]).copy(body);
    const hint = hmac(this.byLabel.hint, number(Math.floor(timestampMs / 60_000), 8)).subarray(0, 8);
    const cipher = createCipheriv("chacha20-poly1305", hmac(this.byLabel.seal, nonce), nonce, { authTagLength: 16 });
    cipher.setAAD(hint, { plaintextLength: body.length });
    const signed = Buffer.concat([hint, nonce, cipher.update(body), cipher.final(), cipher.getAuthTag()]);
    return Buffer.concat([signed, hmac(this.byLabel.sign, signed)]);
  }

  /** Decrypts the reply to the knock with this nonce (section 4): `status` (an index of STATUS), `serverTimeMs`,
   * `address` and `port` that the knock came from, `seconds` of the grant, `text`. Returns undefined if `data` is
   * not that reply. */
  openReply(nonce, data) {
    if (data.length !== 124) return undefined;
    const iv = data.subarray(0, 12), key = hmac(this.byLabel.reply, iv);
    const decipher = createDecipheriv("chacha20-poly1305", key, iv, { authTagLength: 16 });
    decipher.setAAD(nonce, { plaintextLength: 96 }).setAuthTag(data.subarray(108));
    const body = decipher.update(data.subarray(12, 108)), length = body[32];
    try {
      decipher.final();
    } catch {
      return undefined;
    }
    if (body[0] !== 1 || body[1] >= STATUS.length || length > 63) return undefined;
    return { status: body[1], serverTimeMs: Number(body.readBigUInt64BE(2)), address: unpacked(body.subarray(10, 26)),
      port: body.readUInt16BE(26), seconds: body.readUInt32BE(28),
      text: body.toString("utf8", 33, 33 + length).replace(/\p{Cc}/gu, "") };
  }

  /** The eight ports of a port sequence (section 7) in the 8192 ports from `low` (1 to 57344) on. `address` is the
   * client's own, or undefined for OBSERVED. Sends nothing. */
  portSequence(action, address, unixSeconds, low = 20480) {
    const step = number(Math.floor(unixSeconds / 30), 8), own = address ? packed(address) : Buffer.alloc(16);
    const proof = hmac(this.byLabel.proof, Buffer.concat([step, own, Buffer.from(action)]));
    const macs = Buffer.concat([hmac(this.byLabel.selector, step).subarray(0, 4), proof]);
    return Array.from({ length: 8 }, (_, place) => low + 1024 * place + (macs.readUInt16BE(2 * place) % 1024));
  }
}

/** Knocks at `server`, a host name or an address. Resolves to the reply to a success, or to undefined if the request
 * has `reply: false`. Takes at most `timeoutMs` milliseconds after the name is resolved. Rejects with a KnockError. */
export async function knock(key, server, request, timeoutMs = 3000) {
  const typed = server.toLowerCase().replace(/\.$/, ""), port = Number(key.fields.port ?? 62201);
  const keys = key.derive(key.fields.server ?? typed);
  const host = key.fields.server === typed ? key.fields.address ?? server : server;
  let failure;
  const found = await lookup(host, { all: true, verbatim: true }).catch((error) => (failure = error, []));
  const isUnnamed = ({ family }) => Number(request.policy === EXACT && !request[`ipv${family}`]);
  for (const { address, family } of found.sort((one, other) => isUnnamed(one) - isUnnamed(other))) {
    const socket = createSocket(`udp${family}`).on("error", () => {}); // ICMP proves nothing: anyone can send it
    try {
      await promisify(socket.connect.bind(socket))(port, address);
      const own = unpacked(packed(socket.address().address));
      const isObserved = request.policy === AUTO && request.reply === false && !isGlobal(own) && isGlobal(address);
      const first = keys.seal(isObserved ? { ...request, policy: OBSERVED } : claiming(request, own));
      await promisify(socket.send.bind(socket))(first);
      return request.reply === false ? undefined : await exchange(socket, keys, request, own, first, timeoutMs, server);
    } catch (error) {
      if (error instanceof KnockError) throw error;
      failure = error;
    } finally {
      socket.close();
    }
  }
  fail(NETWORK, `${host}: ${failure?.code ?? "has no address"}`);
}

/** Resends and awaits the reply. With AUTO, knocks a second time if the server saw another address. */
async function exchange(socket, keys, request, own, first, timeoutMs, server) {
  const inbox = [], sent = [first], start = performance.now(), end = start + timeoutMs;
  const what = `${server}: ${request.action}`;
  let resends = RESENDS.map((after) => start + after), wake, seen, linger;
  socket.on("message", (data) => { inbox.push(data); wake?.(); });
  for (let now = start; now < end; now = performance.now()) {
    if (now >= linger) {
      sent.push(keys.seal(claiming(request, seen)));
      [linger, resends] = [undefined, [now, ...RESENDS.map((after) => now + after)]];
    }
    if (linger === undefined && now >= resends[0]) {
      resends.shift();
      const send = () => promisify(socket.send.bind(socket))(sent.at(-1));
      await send().catch(send).catch(() => {}); // the first error may be about an earlier datagram
    }
    const due = Math.min(end, linger ?? resends[0] ?? end);
    if (!inbox.length) {
      const woken = new Promise((resolve) => { wake = resolve; });
      const timer = setTimeout(wake, Math.max(due - performance.now(), 1));
      await woken;
      clearTimeout(timer);
    }
    const data = inbox.shift() ?? Buffer.alloc(0);
    const replies = sent.map((one) => keys.openReply(one.subarray(8, 20), data));
    const turn = replies.findIndex(Boolean), reply = replies[turn];
    if (reply?.status <= 1) return reply;
    if (turn === 0 && seen) {
      if (reply.address !== seen) fail(REFUSED, `${what}: two replies name different addresses`, reply);
    } else if (turn === 0 && request.policy === AUTO && reply.status === 4
      && ![own, "::", "0.0.0.0"].includes(reply.address)
      && !isGlobal(version(own) === version(reply.address) ? own : await outgoing(reply.address))) {
      [seen, linger] = [reply.address, performance.now() + LINGER];
    } else if (reply) {
      fail(REFUSED, `${what} refused: ${STATUS[reply.status]} ${reply.text}`.trimEnd(), reply);
    }
  }
  fail(NO_REPLY, `${what}: no reply within ${timeoutMs / 1000} s`);
}

/** The own outgoing address toward `seen`; one that is not global without a route. Sends nothing. */
async function outgoing(seen) {
  const socket = createSocket(version(seen).replace("ipv", "udp")).on("error", () => {});
  const connected = promisify(socket.connect.bind(socket))(9, seen);
  const address = await connected.then(() => socket.address().address, () => "::");
  socket.close();
  return unpacked(packed(address));
}

/** 16 bytes; an IPv4 address becomes ::ffff:a.b.c.d. */
function packed(text) {
  const ipv6 = isIPv4(text) ? `::ffff:${text}` : text.split("%")[0];
  const halves = new URL(`http://[${ipv6}]`).hostname.slice(1, -1).split("::");
  const [head, tail = []] = halves.map((half) => half.split(":").filter(Boolean));
  const groups = [...head, ...Array(8 - head.length - tail.length).fill("0"), ...tail];
  return Buffer.from(groups.map((group) => group.padStart(4, "0")).join(""), "hex");
}

function unpacked(bytes) {
  if (bytes.readBigUInt64BE() === 0n && bytes.readUInt32BE(8) === 0xffff) return bytes.subarray(12).join(".");
  return new URL(`http://[${bytes.toString("hex").match(/.{4}/g).join(":")}]`).hostname.slice(1, -1);
}

async function main([option, file, server, action, argument]) {
  if (option !== "--key" || !action || process.argv.length > 7) {
    console.error("usage: spa-knock.mjs --key FILE SERVER ACTION [ARGUMENT]");
    return USAGE;
  }
  try {
    const reply = await knock(Key.load(file), server, { action, argument });
    const until = reply.seconds ? ` to ${reply.address} for ${reply.seconds}s` : "";
    console.log(`spa-knock: ${server}: ${action} ${STATUS[reply.status]}${until}`);
    return 0;
  } catch (error) {
    console.error(`spa-knock: ${error.message}`);
    return error.code;
  }
}

const isProgram = process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url);
if (isProgram) process.exitCode = await main(process.argv.slice(2));
