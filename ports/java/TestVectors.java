// SPDX-License-Identifier: MIT OR Apache-2.0
package spaknock;

import java.io.IOException;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.Inet4Address;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import javax.crypto.Cipher;
import javax.crypto.Mac;
import javax.crypto.spec.IvParameterSpec;
import javax.crypto.spec.SecretKeySpec;
import spaknock.SpaKnock.Key;
import spaknock.SpaKnock.Keys;
import spaknock.SpaKnock.KnockException;
import spaknock.SpaKnock.Reply;
import spaknock.SpaKnock.Request;

/** Compares SpaKnock with the vectors of the protocol, and tries to break its parsers: TestVectors TOP [VECTORS]. */
public final class TestVectors {
    private static final int MUTATIONS = 10_000;
    private static final long SEED = System.nanoTime();
    private static final Random DICE = new Random(SEED);
    private static String top;

    private TestVectors() {}

    public static void main(String[] args) throws Exception {
        top = args[0];
        Path path = Paths.get(args.length > 1 ? args[1] : top + "/core/tests/vectors/protocol-v1.json");
        List<?> cases = (List<?>) new Json(new String(Files.readAllBytes(path), StandardCharsets.UTF_8)).value();
        System.out.println("seed " + SEED);
        is(cases.size() >= 24, "the vectors are missing");
        for (Object one : cases) {
            Map<?, ?> vector = (Map<?, ?>) one;
            testKeys(vector);
            testKnock(vector);
            testReply(vector);
            testPorts(vector);
        }
        testMutations(cases);
        Map<?, ?> first = (Map<?, ?>) cases.get(0);
        testBodies(first);
        testRequests(keysOf(first));
        testKeyFiles();
        testTokens();
        testNoReply();
        testPermissions();
        testGlobal();
        System.out.println(cases.size() + " vectors, " + MUTATIONS + " changed replies");
    }

    private static void is(boolean condition, String message) {
        if (!condition) throw new AssertionError(message);
    }

    private static String refused(Runnable work, int code) {
        try {
            work.run();
        } catch (KnockException error) {
            is(error.code == code, error.getMessage());
            return error.getMessage();
        }
        throw new AssertionError("accepted");
    }

    private static byte[] hex(Object text) {
        ByteBuffer bytes = ByteBuffer.allocate(text.toString().length() / 2);
        for (int at = 0; at < text.toString().length(); at += 2)
            bytes.put((byte) Integer.parseInt(text.toString().substring(at, at + 2), 16));
        return bytes.array();
    }

    private static InetAddress ip(Object text) throws IOException {
        return text == null ? null : InetAddress.getByName(text.toString());
    }

    private static String keyText(byte[] secret, String server, String... lines) {
        String kind = server == null ? "kind: root\n" : "kind: pair\nserver: " + server + "\n";
        StringBuilder text = new StringBuilder("# a comment\nspa-knock-key: 1\n").append(kind);
        for (String line : lines) text.append(line).append('\n');
        return text + "secret: " + Base64.getEncoder().encodeToString(secret) + "\n";
    }

    private static Keys keysOf(Map<?, ?> vector) {
        String server = (String) vector.get("server_id");
        return Key.parse(keyText(hex(vector.get("pair")), server)).derive(server);
    }

    private static void testKeys(Map<?, ?> vector) {
        List<Keys> all = new ArrayList<>(Collections.singletonList(keysOf(vector)));
        if (vector.get("root") != null)
            all.add(Key.parse(keyText(hex(vector.get("root")), null)).derive((String) vector.get("server_id")));
        Map<?, ?> expected = (Map<?, ?>) vector.get("keys");
        for (Keys keys : all) {
            is(keys.byLabel.keySet().equals(expected.keySet()), "labels");
            for (Map.Entry<?, ?> key : expected.entrySet())
                is(Arrays.equals(keys.byLabel.get(key.getKey()), hex(key.getValue())), "key " + key.getKey());
        }
    }

    private static void testKnock(Map<?, ?> vector) throws IOException {
        Map<?, ?> knock = (Map<?, ?>) vector.get("knock");
        Request request = new Request((String) knock.get("action"));
        request.argument = (String) knock.get("argument");
        request.seconds = (Long) knock.get("seconds");
        request.otp = (Long) knock.get("otp");
        if (request.otp == 0xFFFF_FFFFL) request.otp = -1;
        request.policy = Arrays.asList("observed", "exact", "listed").indexOf(knock.get("policy"));
        request.ipv4 = (Inet4Address) ip(knock.get("ipv4"));
        request.ipv6 = (Inet6Address) ip(knock.get("ipv6"));
        request.reply = (Boolean) knock.get("reply_wanted");
        request.timeMs = (Long) knock.get("timestamp_ms");
        byte[] made = keysOf(vector).seal(request, hex(knock.get("nonce")), ((Long) knock.get("padding")).intValue());
        is(Arrays.equals(made, hex(knock.get("datagram"))), "datagram");
    }

    private static void testReply(Map<?, ?> vector) throws IOException {
        Keys keys = keysOf(vector);
        byte[] nonce = hex(((Map<?, ?>) vector.get("knock")).get("nonce"));
        Map<?, ?> expected = (Map<?, ?>) vector.get("reply");
        byte[] datagram = hex(expected.get("datagram"));
        ByteBuffer body = ByteBuffer.wrap(hex(expected.get("body")));
        Reply reply = keys.openReply(nonce, datagram);
        is(reply.status == body.get(1) && reply.serverTimeMs == body.getLong(2) && reply.port == body.getChar(26)
                && reply.seconds == (body.getInt(28) & 0xFFFF_FFFFL), "numbers");
        is(reply.address.equals(InetAddress.getByAddress(Arrays.copyOfRange(body.array(), 10, 26))), "address");
        is(reply.text.equals(new String(body.array(), 33, body.get(32), StandardCharsets.UTF_8)), "text");
        List<byte[]> wrong = new ArrayList<>(Collections.singletonList(Arrays.copyOf(datagram, 125)));
        for (int length = 0; length < 124; length++) wrong.add(Arrays.copyOf(datagram, length));
        for (int bit = 0; bit < 8 * 124; bit++) {
            byte[] flipped = datagram.clone();
            flipped[bit / 8] ^= 1 << bit % 8;
            wrong.add(flipped);
        }
        for (byte[] data : wrong) is(keys.openReply(nonce, data) == null, "accepted");
        is(keys.openReply(new byte[12], datagram) == null, "the reply to another knock");
        keys.byLabel.put("reply", keys.byLabel.get("seal"));
        is(keys.openReply(nonce, datagram) == null, "a wrong key");
    }

    private static void testPorts(Map<?, ?> vector) throws IOException {
        for (Object one : (List<?>) vector.get("ports")) {
            Map<?, ?> sequence = (Map<?, ?>) one;
            int[] ports = keysOf(vector).portSequence((String) sequence.get("action"), ip(sequence.get("address")),
                    (Long) sequence.get("unix_seconds"), ((Long) sequence.get("low")).intValue());
            List<Long> found = new ArrayList<>();
            for (int port : ports) found.add((long) port);
            is(found.equals(sequence.get("ports")), "ports " + found);
        }
    }

    private static void testMutations(List<?> cases) {
        for (int count = 0; count < MUTATIONS; count++) {
            Map<?, ?> vector = (Map<?, ?>) cases.get(DICE.nextInt(cases.size()));
            byte[] datagram = hex(((Map<?, ?>) vector.get("reply")).get("datagram")), changed = datagram.clone();
            for (int changes = DICE.nextInt(8); changes >= 0; changes--) {
                int place = DICE.nextInt(changed.length), kind = DICE.nextInt(3);
                if (kind == 0) changed[place] = (byte) DICE.nextInt(256);
                else if (kind == 1) changed[place] ^= 1 << DICE.nextInt(8);
                else changed = rotated(changed, place);
            }
            byte[] nonce = hex(((Map<?, ?>) vector.get("knock")).get("nonce"));
            if (!Arrays.equals(changed, datagram)) is(keysOf(vector).openReply(nonce, changed) == null, "accepted");
        }
    }

    private static byte[] rotated(byte[] bytes, int by) {
        ByteBuffer whole = ByteBuffer.allocate(bytes.length);
        return whole.put(bytes, by, bytes.length - by).put(bytes, 0, by).array();
    }

    private static Reply opened(Keys keys, int... start) throws Exception {
        byte[] nonce = new byte[12], body = new byte[96];
        for (int at = 0; at < start.length; at++) body[at] = (byte) start[at];
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(keys.byLabel.get("reply"), "HmacSHA256"));
        Cipher cipher = Cipher.getInstance("ChaCha20-Poly1305");
        cipher.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(mac.doFinal(nonce), "ChaCha20"), new IvParameterSpec(nonce));
        cipher.updateAAD(nonce);
        return keys.openReply(nonce, ByteBuffer.allocate(124).put(nonce).put(cipher.doFinal(body)).array());
    }

    private static int[] withText(int... text) {
        int[] start = new int[32 + text.length];
        start[0] = 1;
        System.arraycopy(text, 0, start, 32, text.length);
        return start;
    }

    /** A reply under the right key with a body that this version does not know is ignored, and its text is cleaned. */
    private static void testBodies(Map<?, ?> vector) throws Exception {
        Keys keys = keysOf(vector);
        is(opened(keys, withText(6, 'a', 27, 0, 0xC2, 0x85, 'b')).text.equals("ab"), "text");
        is(opened(keys, withText(1, 0xFF)).text.equals("\uFFFD"), "text that is not UTF-8");
        is(opened(keys, withText(63)).text.isEmpty(), "zeros");
        is(opened(keys, withText(64)) == null, "a text that is too long");
        for (int[] start : new int[][] {{0, 0}, {2, 0}, {1, 10}, {1, 255}}) is(opened(keys, start) == null, "accepted");
        is(opened(keys, 1, 9).status == 9, "status");
    }

    private static void testRequests(Keys keys) {
        List<Request> wrong = new ArrayList<>();
        for (String action : new String[] {"", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "Open", "a\n"}) wrong.add(new Request(action));
        for (String argument : new String[] {"\n", "ä", new String(new char[81]).replace('\0', 'x')}) {
            wrong.add(new Request("a"));
            wrong.get(wrong.size() - 1).argument = argument;
        }
        for (long number : new long[] {1L << 32, -2, Long.MIN_VALUE}) {
            wrong.add(new Request("a"));
            wrong.get(wrong.size() - 1).seconds = number;
            wrong.add(new Request("a"));
            wrong.get(wrong.size() - 1).otp = number;
        }
        for (Request request : wrong) {
            request.policy = SpaKnock.OBSERVED;
            refused(() -> keys.seal(request), SpaKnock.USAGE);
        }
        Request good = new Request("a");
        refused(() -> keys.seal(good), SpaKnock.USAGE);
        good.policy = SpaKnock.OBSERVED;
        Set<Integer> lengths = new HashSet<>();
        Set<String> nonces = new HashSet<>();
        for (int count = 0; count < 2_000; count++) {
            byte[] made = keys.seal(good);
            is(made.length >= 228 && made.length <= 291, "length");
            lengths.add(made.length);
            nonces.add(Arrays.toString(Arrays.copyOfRange(made, 8, 20)));
        }
        is(lengths.size() == 64 && nonces.size() == 2_000, "every length, and no nonce twice");
    }

    private static void testKeyFiles() throws IOException {
        byte[] secret = new byte[32];
        for (int at = 0; at < 32; at++) secret[at] = (byte) at;
        String text = keyText(secret, "a.b", "client: laptop", "address: 203.0.113.1", "  port :  4000").replace("\n", "\r\n");
        is(Key.parse(text).fields.equals(fields("kind", "pair", "server", "a.b", "client", "laptop", "address", "203.0.113.1",
                "port", "4000")), "fields");
        String encoded = Base64.getEncoder().encodeToString(secret), pair = keyText(secret, "a"), root = keyText(secret, null);
        List<String> wrong = new ArrayList<>(Arrays.asList("", encoded, pair + pair, pair.replace("key: 1", "key: 2"),
                keyText(new byte[31], "a"), keyText(new byte[33], "a"), pair.replace("8=", "9="), pair.replace("8=", "8"),
                pair.replace("pair", "both"), pair.replace("pair", "root"), root.replace("root", "pair"), keyText(secret, "A"),
                keyText(secret, ""), keyText(secret, new String(new char[65]).replace('\0', 'x')), "no colon\n" + pair,
                pair.replace("kind: pair\n", ""), ":\n" + pair));
        for (String line : new String[] {"port: 0", "port: 65536", "port: -1", "port: +1", "port: \u0663", "client: ../x",
            "client: -x", "address: -oProxy", "address: a b", "client:", "kind: pair", "kind", "password: x", "password:"})
            wrong.add(pair + line);
        for (String one : wrong) is(!refused(() -> Key.parse(one), SpaKnock.KEY).contains(encoded.substring(0, 8)), one);
        String example = new String(Files.readAllBytes(Paths.get(top, "keys.example")), StandardCharsets.UTF_8);
        is(refused(() -> Key.parse(example), SpaKnock.KEY).contains("example key"), "example");
    }

    private static Map<String, String> fields(String... pairs) {
        Map<String, String> fields = new HashMap<>(Collections.singletonMap("spa-knock-key", "1"));
        for (int at = 0; at < pairs.length; at += 2) fields.put(pairs[at], pairs[at + 1]);
        return fields;
    }

    /** Each character of the text is one byte. */
    private static String tokenOf(String body) throws Exception {
        byte[] bytes = body.getBytes(StandardCharsets.ISO_8859_1);
        byte[] whole = ByteBuffer.allocate(bytes.length + 2).putChar((char) (bytes.length + 10)).put(bytes).array();
        byte[] sum = Arrays.copyOf(MessageDigest.getInstance("SHA-256").digest(whole), 8);
        byte[] data = ByteBuffer.allocate(whole.length + 8).put(whole).put(sum).array();
        return "spa-knock-" + Base64.getUrlEncoder().withoutPadding().encodeToString(data);
    }

    private static void testTokens() throws Exception {
        String head = "\1" + new String(new char[32]).replace('\0', '\7');
        String token = tokenOf(head + "\u000f\u00a0" + "\6laptop\u0013bastion.example.org\u000b203.0.113.1");
        Key key = Key.parseToken(" " + token.substring(0, 40) + "\r\n  " + token.substring(40) + "\n");
        is(key.fields.equals(fields("kind", "pair", "server", "bastion.example.org", "client", "laptop", "address", "203.0.113.1",
                "port", "4000")), "fields");
        String alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=.";
        for (int place = 0; place < token.length(); place++) {
            String before = token.substring(0, place), here = token.substring(place, place + 1), after = token.substring(place + 1);
            for (int count = 0; count < 10; count++) {
                char other = alphabet.charAt(DICE.nextInt(alphabet.length()));
                String middle = count == 0 ? "" : count == 1 ? here + here : "" + other;
                if (!middle.equals(here)) refused(() -> Key.parseToken(before + middle + after), SpaKnock.KEY);
            }
        }
        String huge = new String(new char[1_000_000]).replace('\0', 'A');
        refused(() -> Key.parseToken("spa-knock-" + huge), SpaKnock.KEY);
        String small = head + "\0\0";
        is(Key.parseToken(tokenOf(small + "\0\1a\0")).fields.equals(fields("kind", "pair", "server", "a")), "small");
        for (String body : new String[] {"", "\2" + small.substring(1) + "\0\1a\0", small, small + "\0\1a\0\0", small + "\0\1a",
            small + "\0\1a\1", small + "\0\1a\1 ", small + "\0\0\0", small + "\0\2a\0", small + "\0\1A\0", small + "\1/\1a\0",
            small.substring(0, 20), "\1example only: everybody has it!!\0\0\0\1a\0"}) {
            String wrong = tokenOf(body);
            refused(() -> Key.parseToken(wrong), SpaKnock.KEY);
        }
    }

    /** A knock without a reply is one datagram. */
    private static void testNoReply() throws IOException {
        try (DatagramSocket server = new DatagramSocket(0, InetAddress.getByName("127.0.0.1"))) {
            server.setSoTimeout(10_000);
            Key key = Key.parse(keyText(new byte[32], "a", "port: " + server.getLocalPort()));
            Request request = new Request("a");
            request.reply = false;
            is(SpaKnockClient.knock(key, "127.0.0.1", request, 1000) == null, "no reply");
            DatagramPacket packet = new DatagramPacket(new byte[512], 512);
            server.receive(packet);
            is(packet.getLength() >= 228 && packet.getLength() <= 291, "length");
        }
    }

    private static void testPermissions() throws IOException {
        Path folder = Files.createTempDirectory("spa-knock-"), path = folder.resolve("a.key");
        try {
            Files.write(path, keyText(new byte[32], "a").getBytes(StandardCharsets.UTF_8));
            for (String[] one : new String[][] {{"rw-------", "rwx------", ""}, {"rw-r-----", "rwx------", "mode 0640"},
                {"rw----r--", "rwx------", "mode 0604"}, {"rw-------", "rwxrwx---", "replace it"},
                {"rw-------", "rwx---rwx", "replace it"}}) {
                Files.setPosixFilePermissions(path, PosixFilePermissions.fromString(one[0]));
                Files.setPosixFilePermissions(folder, PosixFilePermissions.fromString(one[1]));
                if (one[2].isEmpty()) is(SpaKnockClient.load(path.toString()).fields.get("server").equals("a"), "server");
                else is(refused(() -> SpaKnockClient.load(path.toString()), SpaKnock.KEY).contains(one[2]), one[2]);
            }
            Files.setPosixFilePermissions(folder, PosixFilePermissions.fromString("rwx------"));
            refused(() -> SpaKnockClient.load(folder.toString()), SpaKnock.KEY);
            refused(() -> SpaKnockClient.load(folder + "/none"), SpaKnock.KEY);
            Files.write(path, new byte[] {-1});
            refused(() -> SpaKnockClient.load(path.toString()), SpaKnock.KEY);
            Files.write(path, new byte[65536]);
            is(refused(() -> SpaKnockClient.load(path.toString()), SpaKnock.KEY).contains("too long"), "too long");
        } finally {
            Files.delete(path);
            Files.delete(folder);
        }
    }

    private static void testGlobal() throws IOException {
        for (String text : ("0.1.2.3 10.1.1.1 100.64.0.1 100.127.255.255 127.0.0.2 169.254.1.1 172.16.0.1 172.31.0.1 192.168.1.1 "
                + "224.0.0.1 239.1.1.1 255.255.255.255 :: ::1 fc00::1 fdff::1 fe80::1 febf::1 ff02::1").split(" "))
            is(!SpaKnockClient.isGlobal(InetAddress.getByName(text)), text);
        for (String text : ("1.1.1.1 100.63.0.1 100.128.0.1 169.253.1.1 172.15.0.1 172.32.0.1 192.167.1.1 203.0.113.1 240.0.0.1 "
                + "255.255.255.254 ::2 2001:db8::1 fec0::1 fbff::1").split(" "))
            is(SpaKnockClient.isGlobal(InetAddress.getByName(text)), text);
    }

    /** As much of JSON (RFC 8259) as the vectors use: no escapes, and numbers without a fraction. */
    private static final class Json {
        private final String text;
        private int at;

        Json(String text) { this.text = text; }

        private char next() {
            while (Character.isWhitespace(text.charAt(at)) || text.charAt(at) == ',' || text.charAt(at) == ':') at++;
            return text.charAt(at);
        }

        Object value() {
            char first = next();
            if (first == '{') {
                Map<String, Object> map = new HashMap<>();
                for (at++; next() != '}';) map.put((String) value(), value());
                at++;
                return map;
            }
            if (first == '[') {
                List<Object> list = new ArrayList<>();
                for (at++; next() != ']';) list.add(value());
                at++;
                return list;
            }
            int start = at++;
            if (first == '"') {
                while (text.charAt(at) != '"') at++;
                return text.substring(start + 1, at++);
            }
            while (Character.isLetterOrDigit(text.charAt(at))) at++;
            String word = text.substring(start, at);
            return word.equals("null") ? null : word.equals("true") || word.equals("false") ? (Object) word.equals("true") : Long.valueOf(word);
        }
    }
}
