import io.grpc.HandlerRegistry;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.ServerCallHandler;
import io.grpc.ServerMethodDefinition;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollIoHandler;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollServerDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayOutputStream;
import java.util.concurrent.TimeUnit;

/** A model server on grpc-java, on a unix socket, whose connections age: loads at once, and echoes. */
public final class EchoRuntime {
    private static final long CAPACITY = 1L << 30;
    private static final long SIZE = 1L << 20;

    public static void main(String[] arguments) throws Exception {
        NettyServerBuilder.forAddress(new DomainSocketAddress(arguments[0].replaceFirst("^unix://", "")))
            .channelType(EpollServerDomainSocketChannel.class)
            .bossEventLoopGroup(new MultiThreadIoEventLoopGroup(1, EpollIoHandler.newFactory()))
            .workerEventLoopGroup(new MultiThreadIoEventLoopGroup(1, EpollIoHandler.newFactory()))
            .fallbackHandlerRegistry(new Methods())
            .maxInboundMessageSize(16 << 20)
            .maxConnectionAge(3, TimeUnit.SECONDS)
            .build()
            .start()
            .awaitTermination();
    }

    private static final class Methods extends HandlerRegistry {
        @Override
        public ServerMethodDefinition<byte[], byte[]> lookupMethod(String name, String authority) {
            boolean streams = name.equals(Echo.BIDI.getFullMethodName());
            MethodType type = streams ? MethodType.BIDI_STREAMING : MethodType.UNARY;
            return ServerMethodDefinition.create(Echo.of(name, type), streams ? echoEach() : answer(name));
        }
    }

    private static ServerCallHandler<byte[], byte[]> answer(String name) {
        return ServerCalls.asyncUnaryCall((byte[] request, StreamObserver<byte[]> answer) -> {
            if (name.equals(Echo.NEVER.getFullMethodName())) {
                return;
            }
            if (name.equals(Echo.FAIL.getFullMethodName())) {
                Metadata trailers = new Metadata();
                trailers.put(Echo.BYTES, Echo.TRAILER);
                answer.onError(Status.FAILED_PRECONDITION.withDescription(Echo.MESSAGE).asRuntimeException(trailers));
                return;
            }
            answer.onNext(name.startsWith("mmesh.ModelRuntime/") ? managed(name) : request);
            answer.onCompleted();
        });
    }

    private static ServerCallHandler<byte[], byte[]> echoEach() {
        return ServerCalls.asyncBidiStreamingCall((StreamObserver<byte[]> answer) -> new StreamObserver<byte[]>() {
            @Override
            public void onNext(byte[] message) {
                answer.onNext(message);
            }

            @Override
            public void onError(Throwable error) {}

            @Override
            public void onCompleted() {
                answer.onCompleted();
            }
        });
    }

    /** Answers of the contract, by hand: field number and value in turn. */
    private static byte[] managed(String name) {
        return switch (name.substring(name.indexOf('/') + 1)) {
            case "runtimeStatus" -> fields(1, 1, 2, CAPACITY, 3, 4, 4, 60_000, 5, SIZE, 10, 1);
            case "loadModel", "modelSize", "predictModelSize" -> fields(1, SIZE);
            default -> new byte[0];
        };
    }

    private static byte[] fields(long... numbersAndValues) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (int at = 0; at < numbersAndValues.length; at += 2) {
            varint(out, numbersAndValues[at] << 3);
            varint(out, numbersAndValues[at + 1]);
        }
        return out.toByteArray();
    }

    private static void varint(ByteArrayOutputStream out, long value) {
        for (; value > 127; value >>>= 7) {
            out.write((int) (value & 127 | 128));
        }
        out.write((int) value);
    }
}
