/work/main/crates/http2/fuzz/target/debug/deps/client-e297184433a000ef.d: targets/client.rs targets/frames.rs

/work/main/crates/http2/fuzz/target/debug/deps/libclient-e297184433a000ef.rmeta: targets/client.rs targets/frames.rs

targets/client.rs:
targets/frames.rs:
