import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptors;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.util.Arrays;
import java.util.Queue;
import java.util.Random;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** A client on grpc-java: {@code Client <endpoint> <seconds>}; ends with status 1 at the first thing that is not right. */
public final class Client {
    private static final int CHANNELS = 4;

    public static void main(String[] arguments) throws Exception {
        ManagedChannel[] channels = new ManagedChannel[CHANNELS];
        Channel[] ways = new Channel[CHANNELS];
        for (int at = 0; at < CHANNELS; at++) {
            channels[at] = NettyChannelBuilder.forTarget(arguments[0])
                .usePlaintext()
                .maxInboundMessageSize(16 << 20)
                .keepAliveTime(10, TimeUnit.SECONDS)
                .keepAliveWithoutCalls(true)
                .build();
            ways[at] = with(channels[at], "mm-model-id", "m");
        }
        unary(ways, 10_000, 2000, 200, CallOptions.DEFAULT);
        unary(ways, 40, 8 << 20, 6, CallOptions.DEFAULT);
        unary(ways, 1000, 20_000, 20, CallOptions.DEFAULT.withCompression("gzip"));
        unary(ways, 5000, 3, 500, CallOptions.DEFAULT.withDeadlineAfter(60, TimeUnit.SECONDS));
        say("messages of all sizes");
        streams(ways[0], 40, 300, 100);
        streams(ways[1], 8, 60, 300_000);
        say("streams");
        failures(ways);
        say("statuses and trailers");
        deadlines(ways);
        say("deadlines");
        cancellations(ways);
        unary(ways, 2000, 100, 50, CallOptions.DEFAULT);
        say("cancellations");
        tooManyHeaders(ways[2]);
        say("too many headers");
        long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(Long.parseLong(arguments[1]));
        int calls = 0;
        for (; System.nanoTime() < until; calls += 2000) {
            unary(ways, 2000, 200, 64, CallOptions.DEFAULT);
        }
        say(calls + " calls over connections that age");
        for (ManagedChannel channel : channels) {
            check(channel.shutdown().awaitTermination(5, TimeUnit.SECONDS), "a channel does not end");
        }
    }

    private static void say(String what) {
        System.out.println("grpc-java: " + what);
    }

    private static void check(boolean right, Object what) {
        if (!right) {
            System.err.println("grpc-java: " + what);
            System.exit(1);
        }
    }

    private static Channel with(Channel channel, String header, String value) {
        Metadata metadata = new Metadata();
        metadata.put(Metadata.Key.of(header, Metadata.ASCII_STRING_MARSHALLER), value);
        return ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
    }

    private static void unary(Channel[] ways, int calls, int mostBytes, int atATime, CallOptions options) throws Exception {
        Random random = new Random(5);
        Semaphore places = new Semaphore(atATime);
        Queue<String> wrong = new ConcurrentLinkedQueue<>();
        for (int at = 0; at < calls; at++) {
            byte[] message = new byte[random.nextInt(mostBytes)];
            random.nextBytes(message);
            places.acquire();
            ClientCalls.asyncUnaryCall(ways[at % ways.length].newCall(Echo.UNARY, options), message, new StreamObserver<>() {
                private boolean same;

                @Override
                public void onNext(byte[] answer) {
                    same = Arrays.equals(answer, message);
                }

                @Override
                public void onError(Throwable error) {
                    wrong.add(error.toString());
                    places.release();
                }

                @Override
                public void onCompleted() {
                    if (!same) {
                        wrong.add("another answer");
                    }
                    places.release();
                }
            });
        }
        check(places.tryAcquire(atATime, 60, TimeUnit.SECONDS), "calls hang");
        check(wrong.isEmpty(), wrong.size() + " of " + calls + " calls: " + wrong.peek());
    }

    private static void streams(Channel way, int streams, int messages, int bytes) throws Exception {
        CountDownLatch open = new CountDownLatch(streams);
        Queue<String> wrong = new ConcurrentLinkedQueue<>();
        for (int stream = 0; stream < streams; stream++) {
            AtomicInteger seen = new AtomicInteger();
            StreamObserver<byte[]> requests =
                ClientCalls.asyncBidiStreamingCall(way.newCall(Echo.BIDI, CallOptions.DEFAULT), new StreamObserver<>() {
                    @Override
                    public void onNext(byte[] answer) {
                        if (answer.length != bytes || answer[0] != (byte) seen.getAndIncrement()) {
                            wrong.add("another message");
                        }
                    }

                    @Override
                    public void onError(Throwable error) {
                        wrong.add(error.toString());
                        open.countDown();
                    }

                    @Override
                    public void onCompleted() {
                        open.countDown();
                    }
                });
            for (int at = 0; at < messages; at++) {
                byte[] message = new byte[bytes];
                message[0] = (byte) at;
                requests.onNext(message);
            }
            requests.onCompleted();
        }
        check(open.await(60, TimeUnit.SECONDS), "streams hang");
        check(wrong.isEmpty(), wrong.peek());
    }

    private static StatusRuntimeException failure(Channel way, io.grpc.MethodDescriptor<byte[], byte[]> method, CallOptions options) {
        try {
            ClientCalls.blockingUnaryCall(way, method, options, new byte[1]);
            throw new AssertionError(method.getFullMethodName() + " succeeds");
        } catch (StatusRuntimeException error) {
            return error;
        }
    }

    private static void failures(Channel[] ways) {
        for (int at = 0; at < 200; at++) {
            StatusRuntimeException error = failure(ways[at % ways.length], Echo.FAIL, CallOptions.DEFAULT);
            Status status = error.getStatus();
            check(status.getCode() == Status.Code.FAILED_PRECONDITION, status);
            check(Echo.MESSAGE.equals(status.getDescription()), status);
            check(Arrays.equals(error.getTrailers().get(Echo.BYTES), Echo.TRAILER), error.getTrailers());
        }
    }

    private static void deadlines(Channel[] ways) {
        for (int at = 0; at < 200; at++) {
            CallOptions soon = CallOptions.DEFAULT.withDeadlineAfter(20, TimeUnit.MILLISECONDS);
            Status status = failure(ways[at % ways.length], Echo.NEVER, soon).getStatus();
            check(status.getCode() == Status.Code.DEADLINE_EXCEEDED, status);
        }
    }

    private static void cancellations(Channel[] ways) throws Exception {
        for (int at = 0; at < 200; at++) {
            ClientCall<byte[], byte[]> call = ways[at % ways.length].newCall(Echo.NEVER, CallOptions.DEFAULT);
            ClientCalls.futureUnaryCall(call, new byte[1]);
            Thread.sleep(at % 4);
            call.cancel("enough", null);
        }
    }

    /** The runtime takes 8 KiB, as grpc-java does by itself. */
    private static void tooManyHeaders(Channel way) throws Exception {
        CountDownLatch others = new CountDownLatch(1);
        StreamObserver<byte[]> open =
            ClientCalls.asyncBidiStreamingCall(way.newCall(Echo.BIDI, CallOptions.DEFAULT), new StreamObserver<>() {
                @Override
                public void onNext(byte[] answer) {}

                @Override
                public void onError(Throwable error) {
                    check(false, "another call is hurt: " + error);
                }

                @Override
                public void onCompleted() {
                    others.countDown();
                }
            });
        open.onNext(new byte[1]);
        for (int at = 0; at < 20; at++) {
            Status status = failure(with(way, "x-large", "y".repeat(12_000)), Echo.UNARY, CallOptions.DEFAULT).getStatus();
            check(status.getCode() == Status.Code.RESOURCE_EXHAUSTED, status);
        }
        open.onNext(new byte[1]);
        open.onCompleted();
        check(others.await(10, TimeUnit.SECONDS), "another call hangs");
    }
}
