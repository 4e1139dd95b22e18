// SPDX-License-Identifier: MIT OR Apache-2.0
package spaknock;

import java.net.Inet4Address;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.security.Security;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import javax.crypto.AEADBadTagException;
import javax.crypto.Cipher;
import javax.crypto.Mac;
import javax.crypto.spec.IvParameterSpec;
import javax.crypto.spec.SecretKeySpec;

/**
 * Keys, knocks and replies of spa-knock, protocol version 1 (docs/internals/protocol.md; "section" refers to it). Sends
 * nothing: SpaKnockClient does. Needs Java 11 or Android 9. Every error is a KnockException, without a byte of a key.
 */
public final class SpaKnock {
    /** KnockException.code, and the exit code of the program. */
    public static final int REFUSED = 1, USAGE = 2, NO_REPLY = 3, NETWORK = 4, KEY = 5;
    /** Address policies; AUTO chooses one (section 3). */
    public static final int AUTO = -1, OBSERVED = 0, EXACT = 1, LISTED = 2;
    /** The meanings of Reply.status (section 4). */
    public static final List<String> STATUS = Arrays.asList("granted", "done", "unknown action", "not allowed",
            "address refused", "one-time password missing or wrong", "limit reached or key expired", "action failed",
            "argument refused", "not understood");

    // Android's name, and Java's.
    private static final String CIPHER = Security.getAlgorithms("Cipher").contains("CHACHA20/POLY1305/NOPADDING")
            ? "ChaCha20/Poly1305/NoPadding" : "ChaCha20-Poly1305";
    private static final Map<String, String> FORMS = new HashMap<>();

    static {
        String[] forms = {"spa-knock-key", "1", "kind", "pair|root", "client", "[A-Za-z0-9_][A-Za-z0-9._-]{0,31}",
            "server", "[a-z0-9._:-]{1,64}", "address", "(?!-)[A-Za-z0-9._:%-]{1,253}", "port", "[1-9][0-9]{0,4}",
            "secret", "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="};
        for (int at = 0; at < forms.length; at += 2) FORMS.put(forms[at], forms[at + 1]);
    }

    private SpaKnock() {}

    /** Nothing was opened. {@code code} is REFUSED, USAGE, NO_REPLY, NETWORK or KEY; {@code reply} is the refusal. */
    public static final class KnockException extends RuntimeException {
        private static final long serialVersionUID = 1;
        public final int code;
        public final transient Reply reply;

        KnockException(int code, String message, Reply reply) {
            super(message);
            this.code = code;
            this.reply = reply;
        }
    }

    /**
     * What to knock for. {@code seconds} (0: the action's own time) and {@code otp} (a one-time password; -1: none) are
     * below 2^32 - 1. EXACT and LISTED need an address. {@code timeMs} is milliseconds since the Unix epoch; -1: now.
     */
    public static final class Request {
        public String action, argument = "";
        public long seconds = 0, otp = -1, timeMs = -1;
        public int policy = AUTO;
        public Inet4Address ipv4;
        public Inet6Address ipv6;
        public boolean reply = true;

        public Request(String action) { this.action = action; }
    }

    /** The server's reply (section 4): an index of STATUS, the address and port that the knock came from, a remark. */
    public static final class Reply {
        public int status, port;
        public long serverTimeMs, seconds;
        public InetAddress address;
        public String text;
    }

    /** A secret, and the other fields of its key file. A root key, for any server, has no "server". */
    public static final class Key {
        public final Map<String, String> fields;
        private final byte[] secret;

        private Key(Map<String, String> fields) {
            for (Map.Entry<String, String> field : fields.entrySet()) {
                String name = field.getKey(), value = field.getValue();
                check(FORMS.containsKey(name), KEY, "unknown name");
                check(value.matches(FORMS.get(name)), KEY, name + ": not valid");
                check(!name.equals("port") || Integer.parseInt(value) < 65536, KEY, "port: not valid");
            }
            check(fields.keySet().containsAll(Arrays.asList("spa-knock-key", "kind", "secret")), KEY,
                    "one of the lines spa-knock-key, kind and secret is missing");
            check(fields.get("kind").equals("pair") == fields.containsKey("server"), KEY,
                    "a pair key has a server, and a root key has none");
            secret = Base64.getDecoder().decode(fields.remove("secret"));
            check(!Arrays.equals(secret, bytes("example only: everybody has it!!")), KEY,
                    "this is the example key, which is public");
            this.fields = fields;
        }

        /** Parses the text of a key file (section 2). */
        public static Key parse(String text) {
            Map<String, String> fields = new HashMap<>();
            int number = 0;
            for (String line : text.split("\n", -1)) {
                String[] parts = line.trim().split(":", 2);
                number++;
                if (!line.trim().isEmpty() && !line.trim().startsWith("#")) {
                    boolean valid = parts.length == 2 && fields.put(parts[0].trim(), parts[1].trim()) == null;
                    check(valid, KEY, "line " + number + ": not 'name: value', or a duplicate name");
                }
            }
            return new Key(fields);
        }

        /**
         * Parses a token: "spa-knock-" and, in base64url, length (2 bytes), version (1), secret (32), port (2), client,
         * server, address (each a length byte and a text), and 8 bytes of SHA-256 of all these.
         */
        public static Key parseToken(String text) {
            String coded = text.replaceAll("\\s", ""), bad = "token: some characters are missing, added or changed";
            check(coded.matches("spa-knock-[A-Za-z0-9_-]{64,1024}") && coded.length() % 4 != 3, KEY, bad);
            byte[] data = Base64.getUrlDecoder().decode(coded.substring(10));
            byte[] body = Arrays.copyOf(data, data.length - 8);
            byte[] sum = Arrays.copyOf(sure(() -> MessageDigest.getInstance("SHA-256").digest(body)), 8);
            check(coded.equals("spa-knock-" + Base64.getUrlEncoder().withoutPadding().encodeToString(data))
                    && ByteBuffer.wrap(data).getChar() == data.length
                    && Arrays.equals(data, concat(body, sum)), KEY, bad);
            Map<String, String> fields = new HashMap<>();
            fields.put("spa-knock-key", "" + body[2]);
            fields.put("kind", "pair");
            fields.put("secret", Base64.getEncoder().encodeToString(Arrays.copyOfRange(body, 3, 35)));
            fields.put("port", "" + (int) ByteBuffer.wrap(body).getChar(35));
            fields.values().remove("0");
            ByteBuffer rest = ByteBuffer.wrap(body, 37, body.length - 37);
            for (String name : new String[] {"client", "server", "address"}) {
                int length = rest.hasRemaining() ? rest.get() & 255 : 256;
                check(length <= rest.remaining(), KEY, bad);
                byte[] value = new byte[length];
                rest.get(value);
                if (length > 0) fields.put(name, new String(value, StandardCharsets.ISO_8859_1));
            }
            check(!rest.hasRemaining(), KEY, bad);
            return new Key(fields);
        }

        /** Derives the keys for a server id (section 2). */
        public Keys derive(String serverId) {
            check(serverId.matches(FORMS.get("server")), USAGE, serverId + ": not a server id");
            byte[] pair = fields.containsKey("server") ? secret : hkdf("spa-knock/1 pair", secret, serverId);
            Keys keys = new Keys();
            for (String label : new String[] {"hint", "sign", "selector", "seal", "proof", "reply", "id"})
                keys.byLabel.put(label, hkdf("spa-knock/1", pair, label + "\0" + serverId));
            return keys;
        }
    }

    /** The seven keys of a client at a server. The first 8 bytes of "id" are the fingerprint. */
    public static final class Keys {
        final Map<String, byte[]> byLabel = new HashMap<>();

        /** Makes a knock datagram of 228 to 291 bytes, its nonce in bytes 8 to 19 (section 3). No policy AUTO. */
        public byte[] seal(Request request) {
            byte[] nonce = new byte[12];
            SecureRandom random = new SecureRandom();
            random.nextBytes(nonce);
            return seal(request, nonce, random.nextInt(64));
        }

        byte[] seal(Request r, byte[] nonce, int padding) {
            boolean valid = r.action.matches("[a-z0-9_-]{1,32}") && r.argument.matches("[ -~]{0,80}") && r.policy >= 0
                    && r.policy <= LISTED && r.seconds >> 32 == 0 && (r.otp == -1 || r.otp >> 32 == 0);
            check(valid, USAGE, "action, argument, policy, seconds or one-time password: not valid");
            long now = r.timeMs < 0 ? System.currentTimeMillis() : r.timeMs;
            ByteBuffer body = ByteBuffer.allocate(160 + padding).put((byte) 1).put((byte) (r.reply ? 1 : 0));
            body.putLong(now).putInt((int) r.seconds).putInt((int) r.otp).put((byte) r.policy);
            body.put(r.ipv4 == null ? new byte[4] : r.ipv4.getAddress());
            body.put(r.ipv6 == null ? new byte[16] : r.ipv6.getAddress());
            for (String text : new String[] {r.action, r.argument}) body.put((byte) text.length()).put(bytes(text));
            byte[] hint = Arrays.copyOf(hmac(byLabel.get("hint"), number(now / 60_000)), 8);
            byte[] key = hmac(byLabel.get("seal"), nonce);
            byte[] signed = concat(hint, nonce, aead(Cipher.ENCRYPT_MODE, key, nonce, hint, body.array()));
            return concat(signed, hmac(byLabel.get("sign"), signed));
        }

        /** Decrypts the reply to the knock with this nonce (section 4); null if {@code data} is not that. */
        public Reply openReply(byte[] nonce, byte[] data) {
            if (data.length != 124) return null;
            byte[] own = Arrays.copyOf(data, 12), key = hmac(byLabel.get("reply"), own);
            byte[] body = aead(Cipher.DECRYPT_MODE, key, own, nonce, Arrays.copyOfRange(data, 12, 124));
            int length = body == null ? 0 : body[32] & 255;
            if (body == null || body[0] != 1 || (body[1] & 255) >= STATUS.size() || length > 63) return null;
            Reply reply = new Reply();
            reply.address = address(Arrays.copyOfRange(body, 10, 26));
            reply.status = body[1];
            ByteBuffer fields = ByteBuffer.wrap(body);
            reply.serverTimeMs = fields.getLong(2);
            reply.port = fields.getChar(26);
            reply.seconds = fields.getInt(28) & 0xFFFF_FFFFL;
            reply.text = new String(body, 33, length, StandardCharsets.UTF_8).replaceAll("\\p{Cc}", "");
            return reply;
        }

        /**
         * The eight ports of a port sequence (section 7) in the 8192 ports from {@code low} (1 to 57344) on. The
         * address is the client's own, or null for OBSERVED.
         */
        public int[] portSequence(String action, InetAddress address, long unixSeconds, int low) {
            byte[] step = number(unixSeconds / 30), own = address == null ? new byte[16] : address.getAddress();
            if (own.length == 4) own = concat(new byte[10], new byte[] {-1, -1}, own);
            byte[] selector = Arrays.copyOf(hmac(byLabel.get("selector"), step), 4);
            byte[] proof = hmac(byLabel.get("proof"), concat(step, own, bytes(action)));
            ByteBuffer macs = ByteBuffer.wrap(concat(selector, proof));
            int[] ports = new int[8];
            for (int place = 0; place < 8; place++) ports[place] = low + 1024 * place + macs.getChar() % 1024;
            return ports;
        }
    }

    /** The address of 4 or 16 bytes, without a scope; ::ffff:a.b.c.d is an IPv4 address. */
    static InetAddress address(byte[] bytes) { return sure(() -> InetAddress.getByAddress(bytes)); }

    static void check(boolean is, int code, String message) {
        if (!is) throw new KnockException(code, message, null);
    }

    private static byte[] bytes(String text) { return text.getBytes(StandardCharsets.UTF_8); }

    private static byte[] number(long value) { return ByteBuffer.allocate(8).putLong(value).array(); }

    private static byte[] concat(byte[]... parts) {
        int length = 0;
        for (byte[] part : parts) length += part.length;
        ByteBuffer whole = ByteBuffer.allocate(length);
        for (byte[] part : parts) whole.put(part);
        return whole.array();
    }

    /** The result of what fails only on a platform without these algorithms. */
    private static <T> T sure(Callable<T> work) {
        try {
            return work.call();
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    /** HMAC-SHA256 (RFC 2104). */
    private static byte[] hmac(byte[] key, byte[] message) {
        return sure(() -> {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            return mac.doFinal(message);
        });
    }

    /** HKDF-SHA256 (RFC 5869) with one block of output. */
    private static byte[] hkdf(String salt, byte[] secret, String info) {
        return hmac(hmac(bytes(salt), secret), bytes(info + "\1"));
    }

    /** ChaCha20-Poly1305 (RFC 8439); null if the tag is wrong. */
    private static byte[] aead(int mode, byte[] key, byte[] nonce, byte[] aad, byte[] data) {
        return sure(() -> {
            Cipher cipher = Cipher.getInstance(CIPHER);
            cipher.init(mode, new SecretKeySpec(key, "ChaCha20"), new IvParameterSpec(nonce));
            cipher.updateAAD(aad);
            try {
                return cipher.doFinal(data);
            } catch (AEADBadTagException error) {
                return null;
            }
        });
    }
}
