/work/main/crates/http2/fuzz/target/debug/deps/server-be8b9e4414aa26b9.d: targets/server.rs targets/frames.rs

/work/main/crates/http2/fuzz/target/debug/deps/libserver-be8b9e4414aa26b9.rmeta: targets/server.rs targets/frames.rs

targets/server.rs:
targets/frames.rs:
