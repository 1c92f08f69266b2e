//! A load generator for HTTP/1.1 with keep-alive: the same request again and again on some connections, one at a time on each.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use modelmesh_bench_kit::arguments::Arguments;
use modelmesh_bench_kit::cpu::{self, Process};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

const USAGE: &str = "\
Sends one request again and again, and prints what came back as JSON.
  --target host:port
  --path PATH                       default /
  --body-file FILE                  POST with this body; else GET
  --header name=value               repeatable
  --connections N                   default 64
  --warmup S --seconds S            default 1 and 5
  --pid name=PID                    repeatable: whose CPU is measured";

/// What one connection has seen in the measured time.
struct Seen {
    micros: Histogram<u64>,
    wrong: u64,
}

fn main() {
    let arguments = Arguments::read(USAGE);
    let Some(target) = arguments.get::<String>("--target") else { arguments.fail("--target is needed") };
    let request: &'static [u8] = Box::leak(request(&arguments, &target).into_boxed_slice());
    let processes: Vec<_> = arguments
        .all("--pid")
        .iter()
        .map(|text| Process::parse(text).unwrap_or_else(|error| arguments.fail(&error)))
        .collect();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    LocalSet::new().block_on(&tokio, async move {
        let from = Instant::now() + Duration::from_secs_f64(arguments.get_or("--warmup", 1.0));
        let seconds: f64 = arguments.get_or("--seconds", 5.0);
        let until = from + Duration::from_secs_f64(seconds);
        let connections: Vec<_> = (0..arguments.get_or("--connections", 64_usize))
            .map(|_| tokio::task::spawn_local(ask(target.clone(), request, from, until)))
            .collect();
        tokio::time::sleep_until(from.into()).await;
        let before: Vec<_> = processes.iter().map(Process::sample).collect();
        tokio::time::sleep_until(until.into()).await;
        let after: Vec<_> = processes.iter().map(Process::sample).collect();
        let mut micros = Histogram::<u64>::new(3).expect("a histogram");
        let mut wrong = 0;
        for connection in connections {
            match connection.await {
                Ok(Ok(seen)) => {
                    micros.add(&seen.micros).expect("histograms of one kind");
                    wrong += seen.wrong;
                }
                Ok(Err(error)) => arguments.fail(&format!("a connection broke: {error}")),
                Err(error) => arguments.fail(&format!("a connection's task ended: {error}")),
            }
        }
        let calls = micros.len();
        let cpu: serde_json::Map<_, _> = processes
            .iter()
            .zip(before.iter().zip(&after))
            .map(|(process, (before, after))| (process.name.clone(), cpu::used(before, after, calls)))
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let per_second = calls as f64 / seconds;
        let quantile = |share| micros.value_at_quantile(share);
        println!(
            "{}",
            json!({
                "calls": calls, "wrong": wrong, "seconds": seconds, "per_second": per_second, "cpu": cpu,
                "p50_us": quantile(0.5), "p99_us": quantile(0.99),
            })
        );
    });
}

fn request(arguments: &Arguments, target: &str) -> Vec<u8> {
    let path: String = arguments.get_or("--path", "/".to_owned());
    let body = arguments.get::<String>("--body-file").map(|file| {
        std::fs::read(&file).unwrap_or_else(|error| arguments.fail(&format!("--body-file {file}: {error}")))
    });
    let method = if body.is_some() { "POST" } else { "GET" };
    // Writing to a string cannot fail.
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {target}\r\n");
    for header in arguments.all("--header") {
        let Some((name, value)) = header.split_once('=') else {
            arguments.fail(&format!("--header {header}: not name=value"))
        };
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if let Some(body) = &body {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    let mut request = (head + "\r\n").into_bytes();
    request.extend(body.unwrap_or_default());
    request
}

async fn ask(target: String, request: &[u8], from: Instant, until: Instant) -> std::io::Result<Seen> {
    let mut stream = TcpStream::connect(&target).await?;
    stream.set_nodelay(true)?;
    let mut seen = Seen { micros: Histogram::new(3).expect("a histogram"), wrong: 0 };
    let mut answer = Vec::with_capacity(64 << 10);
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(seen);
        }
        stream.write_all(request).await?;
        let is_good = receive(&mut stream, &mut answer).await?;
        let ended = Instant::now();
        if began >= from && ended < until {
            let micros = u64::try_from((ended - began).as_micros()).unwrap_or(u64::MAX);
            seen.micros.saturating_record(micros);
            seen.wrong += u64::from(!is_good);
        }
    }
}

/// Reads one answer, whose length its head says; whether it is a 200.
async fn receive(stream: &mut TcpStream, answer: &mut Vec<u8>) -> std::io::Result<bool> {
    answer.clear();
    loop {
        if stream.read_buf(answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let whole = end + 4 + length.unwrap_or(0);
        while answer.len() < whole {
            if stream.read_buf(answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        return Ok(head.starts_with("http/1.1 200"));
    }
}
