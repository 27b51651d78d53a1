import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.AsynchronousSocketChannel;
import java.nio.channels.FileChannel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/** Streams of Java, blocking and NIO: java Streams.java server|client|self PORT. It uses PORT and PORT + 1. */
public class Streams {
    private static final InetAddress HOST = InetAddress.getLoopbackAddress();
    private static int port;

    public static void main(String[] words) throws Exception {
        port = Integer.parseInt(words[1]);
        if (!words[0].equals("client")) {
            ServerSocket blocking = new ServerSocket(port, 200, HOST);
            ServerSocketChannel nio = ServerSocketChannel.open().bind(new InetSocketAddress(HOST, port + 1), 200);
            daemon(() -> serveBlocking(blocking));
            daemon(() -> serveNio(nio));
            if (words[0].equals("server")) {
                Thread.currentThread().join();
            }
        }
        client();
        System.exit(0);
    }

    private interface Work {
        void run() throws Exception;
    }

    private static void daemon(Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Exception error) {
                System.err.println("server: " + error);
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    /** A thread for each connection echoes until the end of the stream. */
    private static void serveBlocking(ServerSocket server) throws IOException {
        while (true) {
            Socket socket = server.accept();
            daemon(() -> {
                try (socket) {
                    socket.getInputStream().transferTo(socket.getOutputStream());
                    socket.shutdownOutput();
                } catch (IOException reset) {
                    // A client that goes away is its own business.
                }
            });
        }
    }

    /** One thread and a selector echo for all connections. */
    private static void serveNio(ServerSocketChannel server) throws IOException {
        Selector selector = Selector.open();
        server.configureBlocking(false);
        server.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            var keys = selector.selectedKeys().iterator();
            while (keys.hasNext()) {
                SelectionKey key = keys.next();
                keys.remove();
                try {
                    if (key.isAcceptable()) {
                        SocketChannel channel = server.accept();
                        channel.configureBlocking(false);
                        ByteBuffer buffer = ByteBuffer.allocateDirect(1 << 16);
                        channel.register(selector, SelectionKey.OP_READ, buffer);
                    } else {
                        echo(key);
                    }
                } catch (IOException reset) {
                    key.cancel();
                    key.channel().close();
                }
            }
        }
    }

    private static void echo(SelectionKey key) throws IOException {
        SocketChannel channel = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        boolean ended = key.isReadable() && channel.read(buffer) < 0;
        buffer.flip();
        channel.write(buffer);
        buffer.compact();
        if (ended && buffer.position() == 0) {
            channel.close();
        } else if (buffer.position() > 0) {
            key.interestOps(SelectionKey.OP_WRITE);
        } else {
            key.interestOps(SelectionKey.OP_READ);
        }
    }

    private static byte[] bytes(int size, long seed) {
        byte[] data = new byte[size];
        new Random(seed).nextBytes(data);
        return data;
    }

    private static String digest(byte[] data) throws Exception {
        byte[] sum = MessageDigest.getInstance("SHA-256").digest(data);
        return data.length + " " + Arrays.hashCode(sum);
    }

    private static void expect(boolean holds, String what) throws IOException {
        if (!holds) {
            throw new IOException(what);
        }
    }

    /** Blocking streams: a thread writes, this one reads until the end. */
    private static String blocking(int port, int size, long seed) throws Exception {
        byte[] sent = bytes(size, seed);
        try (Socket socket = new Socket(HOST, port)) {
            Thread writer = new Thread(() -> {
                try {
                    OutputStream out = socket.getOutputStream();
                    for (int at = 0; at < size; at += 10_000) {
                        out.write(sent, at, Math.min(10_000, size - at));
                    }
                    socket.shutdownOutput();
                } catch (IOException error) {
                    System.err.println("writer: " + error);
                }
            });
            writer.start();
            byte[] got = socket.getInputStream().readAllBytes();
            writer.join();
            expect(Arrays.equals(sent, got), "bytes differ");
            return digest(got);
        }
    }

    /** A channel that does not block, with a selector: gathering writes, scattering reads. */
    private static String selected(int port, int size, long seed) throws Exception {
        byte[] sent = bytes(size, seed);
        byte[] got = new byte[size];
        try (SocketChannel channel = SocketChannel.open(); Selector selector = Selector.open()) {
            channel.configureBlocking(false);
            channel.connect(new InetSocketAddress(HOST, port));
            channel.register(selector, SelectionKey.OP_CONNECT);
            ByteBuffer[] out = {ByteBuffer.wrap(sent, 0, size / 3), ByteBuffer.wrap(sent, size / 3, size - size / 3)};
            ByteBuffer[] in = {ByteBuffer.wrap(got, 0, size / 2), ByteBuffer.wrap(got, size / 2, size - size / 2)};
            boolean over = false;
            while (!over) {
                expect(selector.select(30_000) > 0, "nothing happened for 30 s");
                selector.selectedKeys().clear();
                SelectionKey key = channel.keyFor(selector);
                if (channel.isConnectionPending() && channel.finishConnect()) {
                    key.interestOps(SelectionKey.OP_READ | SelectionKey.OP_WRITE);
                }
                if (out[1].hasRemaining() && channel.isConnected()) {
                    channel.write(out);
                    if (!out[1].hasRemaining()) {
                        channel.shutdownOutput();
                        key.interestOps(SelectionKey.OP_READ);
                    }
                }
                if (key.isReadable()) {
                    over = in[1].hasRemaining() ? channel.read(in) < 0 : channel.read(ByteBuffer.allocate(1)) < 0;
                }
            }
            expect(Arrays.equals(sent, got), "bytes differ");
            return digest(got);
        }
    }

    private static String asynchronous() throws Exception {
        byte[] sent = bytes(200_000, 7);
        try (AsynchronousSocketChannel channel = AsynchronousSocketChannel.open()) {
            channel.connect(new InetSocketAddress(HOST, port + 1)).get(30, TimeUnit.SECONDS);
            ByteBuffer out = ByteBuffer.wrap(sent);
            ByteBuffer in = ByteBuffer.allocate(sent.length);
            while (in.hasRemaining()) {
                Future<Integer> writing = out.hasRemaining() ? channel.write(out) : null;
                expect(channel.read(in).get(30, TimeUnit.SECONDS) > 0, "early end");
                if (writing != null) {
                    writing.get(30, TimeUnit.SECONDS);
                }
            }
            expect(Arrays.equals(sent, in.array()), "bytes differ");
            return digest(in.array());
        }
    }

    /** transferTo is sendfile where it can be. */
    private static String file() throws Exception {
        Path path = Files.createTempFile("streams", null);
        byte[] sent = bytes(2_000_000, 11);
        Files.write(path, sent);
        try (FileChannel file = FileChannel.open(path);
                SocketChannel channel = SocketChannel.open(new InetSocketAddress(HOST, port))) {
            Thread writer = new Thread(() -> {
                try {
                    for (long at = 0; at < sent.length; ) {
                        at += file.transferTo(at, sent.length - at, channel);
                    }
                    channel.shutdownOutput();
                } catch (IOException error) {
                    System.err.println("writer: " + error);
                }
            });
            writer.start();
            byte[] got = channel.socket().getInputStream().readAllBytes();
            writer.join();
            expect(Arrays.equals(sent, got), "bytes differ");
            return digest(got);
        } finally {
            Files.delete(path);
        }
    }

    private static String pingPong() throws Exception {
        try (Socket socket = new Socket(HOST, port)) {
            socket.setTcpNoDelay(true);
            DataOutputStream out = new DataOutputStream(socket.getOutputStream());
            DataInputStream in = new DataInputStream(socket.getInputStream());
            for (int n = 0; n < 5000; n++) {
                out.writeInt(n);
                expect(in.readInt() == n, "another number than " + n);
            }
            return "5000 numbers";
        }
    }

    private static String many(Callable<String> one) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(20);
        List<Future<String>> all = new ArrayList<>();
        for (int n = 0; n < 60; n++) {
            all.add(pool.submit(one));
        }
        for (Future<String> each : all) {
            each.get(60, TimeUnit.SECONDS);
        }
        pool.shutdown();
        return "60 connections";
    }

    private static String readTimeout() throws Exception {
        try (Socket socket = new Socket(HOST, port)) {
            socket.setSoTimeout(200);
            InputStream in = socket.getInputStream();
            try {
                in.read();
                return "read something";
            } catch (SocketTimeoutException expected) {
                socket.getOutputStream().write(65);
                socket.setSoTimeout(20_000);
                return "timeout, then " + in.read();
            }
        }
    }

    /** close() in one thread ends a read that blocks in another. */
    private static String closedWhileReading() throws Exception {
        Socket socket = new Socket(HOST, port);
        String[] seen = {"still reading"};
        Thread reader = new Thread(() -> {
            try {
                seen[0] = "read " + socket.getInputStream().read();
            } catch (IOException error) {
                seen[0] = error.getClass().getSimpleName() + " " + error.getMessage();
            }
        });
        reader.start();
        while (reader.getState() != Thread.State.RUNNABLE) {
            Thread.sleep(1);
        }
        Thread.sleep(100);
        socket.close();
        reader.join(20_000);
        return seen[0];
    }

    /** An interrupt closes a channel whose thread blocks in read(). */
    private static String interrupted() throws Exception {
        SocketChannel channel = SocketChannel.open(new InetSocketAddress(HOST, port));
        String[] seen = {"still reading"};
        Thread reader = new Thread(() -> {
            try {
                seen[0] = "read " + channel.read(ByteBuffer.allocate(10));
            } catch (IOException error) {
                seen[0] = error.getClass().getSimpleName();
            }
        });
        reader.start();
        Thread.sleep(100);
        reader.interrupt();
        reader.join(20_000);
        return seen[0] + " open " + channel.isOpen();
    }

    private static String wakeUp() throws Exception {
        try (Selector selector = Selector.open(); SocketChannel channel = SocketChannel.open(new InetSocketAddress(HOST, port + 1))) {
            channel.configureBlocking(false);
            channel.register(selector, SelectionKey.OP_READ);
            daemon(() -> {
                Thread.sleep(100);
                selector.wakeup();
            });
            int woken = selector.select(20_000);
            channel.write(ByteBuffer.wrap(new byte[] {1, 2, 3}));
            int ready = selector.select(20_000);
            return woken + " then " + ready;
        }
    }

    private static String options() throws Exception {
        try (SocketChannel channel = SocketChannel.open(new InetSocketAddress(HOST, port))) {
            channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
            channel.setOption(StandardSocketOptions.SO_KEEPALIVE, true);
            channel.setOption(StandardSocketOptions.SO_LINGER, 3);
            return channel.getOption(StandardSocketOptions.TCP_NODELAY) + " " + channel.getOption(StandardSocketOptions.SO_KEEPALIVE)
                + " " + channel.getOption(StandardSocketOptions.SO_LINGER) + " "
                + (((InetSocketAddress) channel.getRemoteAddress()).getPort() == port);
        }
    }

    private static String refused() throws Exception {
        try (Socket socket = new Socket(HOST, 1)) {
            return "connected";
        } catch (IOException expected) {
            return expected.getClass().getSimpleName() + " " + expected.getMessage();
        }
    }

    private static void show(String name, Callable<String> one) {
        String seen;
        try {
            seen = one.call();
        } catch (Exception error) {
            seen = "FAILED " + error;
        }
        System.out.println("{\"name\": \"" + name + "\", \"seen\": \"" + seen.replace("\"", "'") + "\"}");
    }

    private static void client() {
        for (int offset = 0; offset < 2; offset++) {
            int at = port + offset;
            String server = offset == 0 ? "threads" : "selector";
            show("blocking client, " + server, () -> blocking(at, 3_000_000, 1));
            show("selecting client, " + server, () -> selected(at, 2_000_001, 2));
            show("many blocking clients, " + server, () -> many(() -> blocking(at, 30_000, 3)));
            show("many selecting clients, " + server, () -> many(() -> selected(at, 30_000, 4)));
        }
        show("asynchronous channel", Streams::asynchronous);
        show("transferTo", Streams::file);
        show("ping-pong", Streams::pingPong);
        show("read timeout", Streams::readTimeout);
        show("close while another thread reads", Streams::closedWhileReading);
        show("interrupt of a channel", Streams::interrupted);
        show("wakeup of a selector", Streams::wakeUp);
        show("options", Streams::options);
        show("a port where nobody listens", Streams::refused);
    }
}
