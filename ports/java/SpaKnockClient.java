// SPDX-License-Identifier: MIT OR Apache-2.0
package spaknock;

import java.io.IOException;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.Inet4Address;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnknownHostException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import spaknock.SpaKnock.Key;
import spaknock.SpaKnock.Keys;
import spaknock.SpaKnock.KnockException;
import spaknock.SpaKnock.Reply;
import spaknock.SpaKnock.Request;

/**
 * Sends knocks of {@link SpaKnock} and receives the replies. For example:
 * {@code SpaKnockClient.knock(SpaKnockClient.load("laptop.key"), "bastion.example.org", new Request("open-ssh"), 3000)}
 */
public final class SpaKnockClient {
    private static final long[] SENDS = {0, 250, 750, 1750}; // milliseconds after a knock
    private static final long LINGER = 100; // milliseconds for a contradictory reply before the second knock

    private SpaKnockClient() {}

    /** Reads a key file. On POSIX systems, others must neither have access to it nor be able to replace it. */
    public static Key load(String path) {
        try {
            Path real = Paths.get(path).toRealPath();
            boolean usable = Files.isRegularFile(real) && Files.size(real) < 65536;
            SpaKnock.check(usable, SpaKnock.KEY, "not a regular file, or too long");
            if (real.getFileSystem().supportedFileAttributeViews().contains("unix")) {
                int mode = (Integer) Files.getAttribute(real, "unix:mode");
                int folder = (Integer) Files.getAttribute(real.getParent(), "unix:mode");
                String reason = String.format("mode %04o allows others to access it", mode & 07777);
                SpaKnock.check((mode & 077) == 0, SpaKnock.KEY, reason);
                boolean safe = (folder & 022) == 0 || (folder & 01000) != 0;
                SpaKnock.check(safe, SpaKnock.KEY, "others can replace it in its directory");
            }
            ByteBuffer text = ByteBuffer.wrap(Files.readAllBytes(real));
            return Key.parse(StandardCharsets.UTF_8.newDecoder().decode(text).toString());
        } catch (IOException | KnockException error) {
            String reason = error instanceof KnockException ? error.getMessage() : error.getClass().getSimpleName();
            throw new KnockException(SpaKnock.KEY, "key file " + path + ": " + reason, null);
        }
    }

    /**
     * Knocks at {@code server}, a host name or an address. Returns the reply to a success, or null if the request wants
     * none. Blocks for at most {@code timeoutMs} milliseconds (usually 3000) after the name is resolved.
     */
    public static Reply knock(Key key, String server, Request request, long timeoutMs) {
        String typed = server.toLowerCase(Locale.ROOT).replaceFirst("\\.$", ""), id = key.fields.get("server");
        String host = typed.equals(id) && key.fields.containsKey("address") ? key.fields.get("address") : server;
        Keys keys = key.derive(id == null ? typed : id);
        int port = key.fields.containsKey("port") ? Integer.parseInt(key.fields.get("port")) : 62201;
        String failure = "no address of this IP version";
        try {
            for (InetAddress address : InetAddress.getAllByName(host)) {
                boolean four = address instanceof Inet4Address;
                if (request.policy == SpaKnock.EXACT && (four ? request.ipv4 : request.ipv6) == null) continue;
                try (DatagramSocket socket = new DatagramSocket()) {
                    socket.connect(new InetSocketAddress(address, port));
                    return exchange(socket, keys, request, timeoutMs, server + ": " + request.action);
                } catch (IOException error) {
                    failure = error.getMessage();
                }
            }
        } catch (UnknownHostException error) {
            failure = "cannot be resolved";
        }
        throw new KnockException(SpaKnock.NETWORK, host + ": " + failure, null);
    }

    /** Sends and resends, and awaits the reply. With AUTO, knocks a second time if the server saw another address. */
    private static Reply exchange(DatagramSocket socket, Keys keys, Request request, long timeoutMs, String what)
            throws IOException {
        InetAddress own = SpaKnock.address(socket.getLocalAddress().getAddress()), seen = null;
        List<byte[]> sent = new ArrayList<>();
        Request first = claiming(request, own);
        boolean hidden = !request.reply && !isGlobal(own) && isGlobal(socket.getInetAddress());
        if (request.policy == SpaKnock.AUTO && hidden) first.policy = SpaKnock.OBSERVED;
        sent.add(keys.seal(first));
        socket.send(new DatagramPacket(sent.get(0), sent.get(0).length));
        if (!request.reply) return null;
        long start = System.nanoTime() / 1_000_000, begin = start;
        int turn = 1; // of SENDS
        for (long now = start; now - start < timeoutMs; now = System.nanoTime() / 1_000_000) {
            boolean lingers = seen != null && sent.size() == 1;
            if (lingers && now - begin >= LINGER) {
                sent.add(keys.seal(claiming(request, seen)));
                begin = now;
                turn = 0;
                lingers = false;
            }
            if (!lingers && turn < SENDS.length && now - begin >= SENDS[turn]) {
                turn++;
                byte[] latest = sent.get(sent.size() - 1);
                if (!send(socket, latest)) send(socket, latest); // the first error may be about an earlier datagram
            }
            byte[] data = receive(socket);
            for (int number = 0; number < sent.size(); number++) {
                Reply reply = keys.openReply(Arrays.copyOfRange(sent.get(number), 8, 20), data);
                if (reply == null) continue;
                if (reply.status <= 1) return reply;
                if (number == 0 && seen != null) {
                    if (reply.address.equals(seen)) continue;
                    throw new KnockException(SpaKnock.REFUSED, what + ": two replies name different addresses", reply);
                }
                boolean isOther = number == 0 && request.policy == SpaKnock.AUTO && reply.status == 4
                        && !reply.address.equals(own) && !reply.address.isAnyLocalAddress();
                if (!isOther || isGlobal(outgoing(own, reply.address))) {
                    String reason = what + " refused: " + SpaKnock.STATUS.get(reply.status) + " " + reply.text;
                    throw new KnockException(SpaKnock.REFUSED, reason.trim(), reply);
                }
                seen = reply.address;
                begin = now = System.nanoTime() / 1_000_000;
            }
        }
        throw new KnockException(SpaKnock.NO_REPLY, what + ": no reply within " + timeoutMs + " ms", null);
    }

    private static boolean send(DatagramSocket socket, byte[] datagram) {
        try {
            socket.send(new DatagramPacket(datagram, datagram.length));
            return true;
        } catch (IOException error) {
            return false;
        }
    }

    /** The next datagram; none after 20 ms, or after an error: ICMP proves nothing, as anyone can send it. */
    private static byte[] receive(DatagramSocket socket) {
        DatagramPacket packet = new DatagramPacket(new byte[125], 125);
        try {
            socket.setSoTimeout(20);
            socket.receive(packet);
            return Arrays.copyOf(packet.getData(), packet.getLength());
        } catch (IOException error) {
            return new byte[0];
        }
    }

    /** The same request; AUTO becomes EXACT, with this address. */
    private static Request claiming(Request request, InetAddress address) {
        if (request.policy != SpaKnock.AUTO) return request;
        Request exact = new Request(request.action);
        exact.argument = request.argument;
        exact.seconds = request.seconds;
        exact.otp = request.otp;
        exact.timeMs = request.timeMs;
        exact.reply = request.reply;
        exact.policy = SpaKnock.EXACT;
        if (address instanceof Inet4Address) exact.ipv4 = (Inet4Address) address;
        else exact.ipv6 = (Inet6Address) address;
        return exact;
    }

    /** The own outgoing address of another one's IP version; one that is not global without a route. Sends nothing. */
    private static InetAddress outgoing(InetAddress own, InetAddress address) {
        if (own.getClass() == address.getClass()) return own;
        try (DatagramSocket socket = new DatagramSocket()) {
            socket.connect(new InetSocketAddress(address, 9));
            return SpaKnock.address(socket.getLocalAddress().getAddress());
        } catch (IOException error) {
            return SpaKnock.address(new byte[4]);
        }
    }

    /** Whether the protocol counts an address as global (section 3). */
    static boolean isGlobal(InetAddress address) {
        byte[] bytes = address.getAddress();
        int a = bytes[0] & 255, b = bytes[1] & 255;
        if (bytes.length == 4)
            return a != 0 && a != 10 && a != 127 && (a & 0xF0) != 224
                    && !Arrays.equals(bytes, new byte[] {-1, -1, -1, -1})
                    && !(a == 100 && (b & 0xC0) == 64) && !(a == 169 && b == 254) && !(a == 172 && (b & 0xF0) == 16)
                    && !(a == 192 && b == 168);
        return !address.isAnyLocalAddress() && !address.isLoopbackAddress() && a != 255 && (a & 0xFE) != 0xFC
                && !(a == 0xFE && (b & 0xC0) == 0x80);
    }

    /** The command line. */
    public static void main(String[] args) {
        int code = SpaKnock.USAGE;
        if (args.length < 4 || args.length > 5 || !args[0].equals("--key")) {
            System.err.println("usage: SpaKnockClient --key FILE SERVER ACTION [ARGUMENT]");
            System.exit(code);
        }
        Request request = new Request(args[3]);
        if (args.length == 5) request.argument = args[4];
        try {
            Reply reply = knock(load(args[1]), args[2], request, 3000);
            String until = " to " + reply.address.getHostAddress() + " for " + reply.seconds + "s";
            System.out.printf("spa-knock: %s: %s %s%s%n", args[2], args[3], SpaKnock.STATUS.get(reply.status),
                    reply.seconds > 0 ? until : "");
            code = 0;
        } catch (KnockException error) {
            System.err.println("spa-knock: " + error.getMessage());
            code = error.code;
        }
        System.exit(code);
    }
}
