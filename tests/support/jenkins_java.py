"""An inbound agent in Java, packed as a controller serves it: the outside of what remoting's Launcher and Engine do, and then an echo."""

import subprocess
from pathlib import Path

_SOURCE = """
import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.ByteBuffer;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;

public class Agent {
    static final Map<String, String> options = new HashMap<>();

    public static void main(String[] words) throws Exception {
        for (int at = 0; at < words.length; at++) {
            String value = at + 1 < words.length && !words[at + 1].startsWith("-") ? words[at + 1] : "";
            options.put(words[at], value.startsWith("@") ? Files.readString(Path.of(value.substring(1))).strip() : value);
        }
        Files.createDirectories(Path.of(options.get("-workDir"), "remoting"));
        System.err.println("INFO: secret is given by " + (String.join(" ", words).contains("-secret @") ? "file" : "value"));
        do {
            if (options.containsKey("-webSocket")) webSocket(options.get("-url")); else tcp();
            System.err.println("INFO: Terminated");
        } while (!options.containsKey("-noReconnect"));
    }

    static HttpResponse<Void> ask(String url) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
        return HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.discarding());
    }

    static void webSocket(String url) throws Exception {
        if (ask(url + "login").statusCode() != 200) throw new IOException("no controller at " + url);
        CountDownLatch over = new CountDownLatch(1);
        HttpClient.newHttpClient().newWebSocketBuilder()
            .header("Node-Name", options.get("-name")).header("Secret-Key", options.get("-secret"))
            .buildAsync(URI.create(url.replaceFirst("http", "ws") + "wsagents/"), new WebSocket.Listener() {
                public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer data, boolean last) {
                    return socket.sendBinary(data, last).thenAccept(next -> next.request(1));
                }
                public CompletionStage<?> onClose(WebSocket socket, int code, String reason) { over.countDown(); return null; }
                public void onError(WebSocket socket, Throwable error) { error.printStackTrace(); over.countDown(); }
            }).get();
        over.await();
    }

    static void tcp() throws Exception {
        String place = options.getOrDefault("-direct", options.get("-tunnel"));
        if (place == null) {
            String port = ask(options.get("-url") + "tcpSlaveAgentListener/").headers().firstValue("X-Jenkins-JNLP-Port").get();
            place = URI.create(options.get("-url")).getHost() + ":" + port;
        }
        int colon = place.lastIndexOf(':');
        try (Socket socket = new Socket(place.substring(0, colon), Integer.parseInt(place.substring(colon + 1)))) {
            DataOutputStream out = new DataOutputStream(socket.getOutputStream());
            DataInputStream in = new DataInputStream(socket.getInputStream());
            out.writeUTF("Protocol:JNLP4-connect");
            out.writeUTF("ACK");
            if (!in.readUTF().equals("ACK")) throw new IOException("no ACK");
            out.writeUTF(options.get("-name"));
            out.writeUTF(options.get("-secret"));
            out.flush();
            in.transferTo(out);
        }
    }
}
"""


def build(directory: Path) -> bytes:
    """Return the agent's jar, made by the JDK of this machine."""
    (directory / "Agent.java").write_text(_SOURCE)
    for argv in (["javac", "Agent.java"], ["sh", "-c", "jar --create --file agent.jar --main-class Agent Agent*.class"]):
        done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return (directory / "agent.jar").read_bytes()
