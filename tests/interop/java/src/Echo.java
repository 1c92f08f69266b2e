import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;

/** The service that both sides speak; messages are bytes. */
final class Echo {
    static final String SERVICE = "interop.Echo/";
    static final Metadata.Key<byte[]> BYTES = Metadata.Key.of("x-bin", Metadata.BINARY_BYTE_MARSHALLER);
    static final byte[] TRAILER = {0, 1, 2, (byte) 255};
    static final String MESSAGE = "nein: ü % \n";

    static final MethodDescriptor<byte[], byte[]> UNARY = method("Unary", MethodType.UNARY);
    static final MethodDescriptor<byte[], byte[]> FAIL = method("Fail", MethodType.UNARY);
    static final MethodDescriptor<byte[], byte[]> NEVER = method("Never", MethodType.UNARY);
    static final MethodDescriptor<byte[], byte[]> BIDI = method("Bidi", MethodType.BIDI_STREAMING);

    private Echo() {}

    private static MethodDescriptor<byte[], byte[]> method(String name, MethodType type) {
        return of(SERVICE + name, type);
    }

    static MethodDescriptor<byte[], byte[]> of(String fullName, MethodType type) {
        return MethodDescriptor.<byte[], byte[]>newBuilder()
            .setType(type)
            .setFullMethodName(fullName)
            .setRequestMarshaller(new Bytes())
            .setResponseMarshaller(new Bytes())
            .build();
    }

    private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] bytes) {
            return new ByteArrayInputStream(bytes);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }
}
