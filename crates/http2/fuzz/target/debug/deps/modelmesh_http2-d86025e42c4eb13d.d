/work/main/crates/http2/fuzz/target/debug/deps/modelmesh_http2-d86025e42c4eb13d.d: /work/main/crates/http2/src/lib.rs /work/main/crates/http2/src/client.rs /work/main/crates/http2/src/connection.rs /work/main/crates/http2/src/error.rs /work/main/crates/http2/src/fields.rs /work/main/crates/http2/src/frame.rs /work/main/crates/http2/src/handles.rs /work/main/crates/http2/src/head.rs /work/main/crates/http2/src/hpack.rs /work/main/crates/http2/src/hpack/decoder.rs /work/main/crates/http2/src/hpack/encoder.rs /work/main/crates/http2/src/hpack/huffman.rs /work/main/crates/http2/src/hpack/table.rs /work/main/crates/http2/src/output.rs /work/main/crates/http2/src/receive.rs /work/main/crates/http2/src/send.rs /work/main/crates/http2/src/server.rs /work/main/crates/http2/src/settings.rs /work/main/crates/http2/src/state.rs /work/main/crates/http2/src/stream.rs

/work/main/crates/http2/fuzz/target/debug/deps/libmodelmesh_http2-d86025e42c4eb13d.rmeta: /work/main/crates/http2/src/lib.rs /work/main/crates/http2/src/client.rs /work/main/crates/http2/src/connection.rs /work/main/crates/http2/src/error.rs /work/main/crates/http2/src/fields.rs /work/main/crates/http2/src/frame.rs /work/main/crates/http2/src/handles.rs /work/main/crates/http2/src/head.rs /work/main/crates/http2/src/hpack.rs /work/main/crates/http2/src/hpack/decoder.rs /work/main/crates/http2/src/hpack/encoder.rs /work/main/crates/http2/src/hpack/huffman.rs /work/main/crates/http2/src/hpack/table.rs /work/main/crates/http2/src/output.rs /work/main/crates/http2/src/receive.rs /work/main/crates/http2/src/send.rs /work/main/crates/http2/src/server.rs /work/main/crates/http2/src/settings.rs /work/main/crates/http2/src/state.rs /work/main/crates/http2/src/stream.rs

/work/main/crates/http2/src/lib.rs:
/work/main/crates/http2/src/client.rs:
/work/main/crates/http2/src/connection.rs:
/work/main/crates/http2/src/error.rs:
/work/main/crates/http2/src/fields.rs:
/work/main/crates/http2/src/frame.rs:
/work/main/crates/http2/src/handles.rs:
/work/main/crates/http2/src/head.rs:
/work/main/crates/http2/src/hpack.rs:
/work/main/crates/http2/src/hpack/decoder.rs:
/work/main/crates/http2/src/hpack/encoder.rs:
/work/main/crates/http2/src/hpack/huffman.rs:
/work/main/crates/http2/src/hpack/table.rs:
/work/main/crates/http2/src/output.rs:
/work/main/crates/http2/src/receive.rs:
/work/main/crates/http2/src/send.rs:
/work/main/crates/http2/src/server.rs:
/work/main/crates/http2/src/settings.rs:
/work/main/crates/http2/src/state.rs:
/work/main/crates/http2/src/stream.rs:
