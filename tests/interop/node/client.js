// A client on grpc-js: `node client.js <endpoint> <seconds>`; ends with status 1 at the first thing that is not right.
"use strict";

const assert = require("node:assert");
const { randomBytes } = require("node:crypto");
const { setTimeout: sleep } = require("node:timers/promises");
const grpc = require("@grpc/grpc-js");

const [endpoint, seconds] = process.argv.slice(2);

const same = (bytes) => bytes;
const method = (name, streams) => ({
  path: `/interop.Echo/${name}`,
  requestStream: streams,
  responseStream: streams,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
});
const Echo = grpc.makeGenericClientConstructor(
  { unary: method("Unary", false), fail: method("Fail", false), never: method("Never", false), bidi: method("Bidi", true) },
  "interop.Echo",
);
const client = new Echo(endpoint, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1,
  "grpc.keepalive_time_ms": 5000,
  "grpc.keepalive_permit_without_calls": 1,
});

function headers(more = {}) {
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries({ "mm-model-id": "m", ...more })) metadata.set(name, value);
  return metadata;
}

function call(name, message, { more, ...options } = {}) {
  return new Promise((done) => {
    client[name](message, headers(more), options, (error, answer) => done({ error, answer }));
  });
}

async function unary(calls, mostBytes, atATime) {
  let left = calls;
  const one = async () => {
    while (left-- > 0) {
      const message = randomBytes(Math.floor(Math.random() * mostBytes));
      const { error, answer } = await call("unary", message);
      assert.ifError(error);
      assert(answer.equals(message), "another answer");
    }
  };
  await Promise.all(Array.from({ length: atATime }, one));
}

function stream(messages, bytes) {
  return new Promise((done, failed) => {
    const open = client.bidi(headers());
    let seen = 0;
    open.on("data", (answer) => {
      if (answer.length !== bytes || answer[0] !== (seen++ & 255)) failed(new Error("another message"));
    });
    open.on("error", failed);
    open.on("end", () => (seen === messages ? done() : failed(new Error(`${seen} of ${messages} messages`))));
    for (let at = 0; at < messages; at++) open.write(Buffer.alloc(bytes, at));
    open.end();
  });
}

async function main() {
  const say = (what) => console.log(`grpc-js: ${what}`);
  await unary(5000, 2000, 100);
  await unary(20, 8 << 20, 4);
  await unary(5000, 3, 300);
  say("messages of all sizes");
  await Promise.all(Array.from({ length: 20 }, () => stream(100, 50_000)));
  say("streams");
  for (let at = 0; at < 50; at++) {
    const { error } = await call("fail", Buffer.alloc(3));
    assert.strictEqual(error.code, grpc.status.FAILED_PRECONDITION);
    assert.strictEqual(error.details, "nein: ü % \n");
    assert(error.metadata.get("x-bin")[0].equals(Buffer.from([0, 1, 2, 255])));
  }
  say("statuses and trailers");
  const late = Array.from({ length: 200 }, (_, at) => call("never", Buffer.alloc(1), { deadline: Date.now() + 20 + at }));
  for (const { error } of await Promise.all(late)) assert.strictEqual(error.code, grpc.status.DEADLINE_EXCEEDED, error.message);
  say("deadlines");
  for (let at = 0; at < 100; at++) {
    const open = client.never(Buffer.alloc(1), headers(), () => {});
    await sleep(at % 4);
    open.cancel();
  }
  await unary(1000, 100, 50);
  say("cancellations");
  const { error } = await call("unary", Buffer.alloc(1), { more: { "x-large": "y".repeat(12_000) } });
  assert.strictEqual(error.code, grpc.status.RESOURCE_EXHAUSTED);
  say("too many headers");
  const until = Date.now() + 1000 * Number(seconds);
  let calls = 0;
  for (; Date.now() < until; calls += 500) await unary(500, 200, 32);
  say(`${calls} calls over connections that age`);
  client.close();
}

main().catch((error) => {
  console.error("grpc-js:", error);
  process.exit(1);
});
