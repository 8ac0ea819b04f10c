import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * A workload: a server with a thread a connection, and threads that keep the garbage collector and the compiler busy.
 * Args: PORT. Each line is answered by "<lines of this connection> <their hash> <ticks> <calls of the hash>".
 */
public class Counter {
    static final AtomicLong ticks = new AtomicLong(), calls = new AtomicLong();
    static volatile ArrayList<byte[]> kept = new ArrayList<>();

    public static void main(String[] args) throws Exception {
        ScheduledExecutorService timer = Executors.newScheduledThreadPool(3);
        for (int i = 0; i < 3; i++) timer.scheduleAtFixedRate(Counter::work, 0, 2, TimeUnit.MILLISECONDS);
        ServerSocket server = new ServerSocket(Integer.parseInt(args[0]));
        while (true) {
            Socket socket = server.accept();
            new Thread(() -> serve(socket)).start();
        }
    }

    static void work() {
        ArrayList<byte[]> fresh = new ArrayList<>();
        for (int i = 0; i < 50; i++) fresh.add(new byte[1024]);
        kept = fresh;
        for (int i = 0; i < 50; i++) hash(i);
        ticks.incrementAndGet();
    }

    /** Long enough, and called often enough, to be compiled by both of HotSpot's compilers. */
    static long hash(long of) {
        for (int i = 0; i < 100; i++) of = of * 6364136223846793005L + 1442695040888963407L;
        calls.incrementAndGet();
        return of;
    }

    static void serve(Socket socket) {
        try (socket; BufferedReader in = new BufferedReader(new InputStreamReader(socket.getInputStream()))) {
            PrintStream out = new PrintStream(socket.getOutputStream(), true);
            for (int lines = 1; in.readLine() != null; lines++) {
                System.gc();
                out.println(lines + " " + hash(lines) + " " + ticks.get() + " " + calls.get());
            }
        } catch (java.io.IOException error) {
            System.err.println(error);
        }
    }
}
