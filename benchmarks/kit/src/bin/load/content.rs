//! What calls carry: bytes, and the id of a model.

use std::cell::Cell;

use bytes::Bytes;
use http::HeaderValue;
use modelmesh_bench_kit::arguments::Arguments;
use modelmesh_bench_kit::grpc;

/// What calls carry.
pub enum Body {
    /// The same bytes each time, which must come back.
    Echo(Bytes),
    /// A framed message with a number in it.
    Numbered { framed: Vec<u8>, at: Option<usize>, numbers: Numbers },
}

pub enum Numbers {
    From(Cell<u64>),
    Below(u64),
}

const NUMBER: &[u8] = b"#########";

impl Body {
    pub fn read(arguments: &Arguments, random: &mut fastrand::Rng) -> Self {
        let Some(text) = arguments.get::<String>("--message") else {
            let payload: Vec<u8> = (0..arguments.get_or("--payload-bytes", 76usize)).map(|_| random.u8(..)).collect();
            return Self::Echo(grpc::framed(&payload));
        };
        let message: Option<Vec<u8>> =
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect();
        let message = message.unwrap_or_else(|| arguments.fail("--message is not hexadecimal"));
        let framed = grpc::framed(&message).to_vec();
        let at = framed.windows(NUMBER.len()).position(|window| window == NUMBER);
        let numbers = match arguments.get("--below") {
            Some(bound) => Numbers::Below(bound),
            None => Numbers::From(Cell::new(arguments.get_or("--from", 0))),
        };
        Self::Numbered { framed, at, numbers }
    }

    pub fn payload_bytes(&self) -> usize {
        let framed = match self {
            Self::Echo(bytes) => bytes.len(),
            Self::Numbered { framed, .. } => framed.len(),
        };
        framed - 5
    }

    pub fn next(&self, random: &mut fastrand::Rng) -> Bytes {
        match self {
            Self::Echo(bytes) => bytes.clone(),
            Self::Numbered { framed, at, numbers } => {
                let mut framed = framed.clone();
                if let Some(at) = at {
                    let number = match numbers {
                        Numbers::From(next) => next.replace(next.get() + 1),
                        Numbers::Below(bound) => random.u64(..bound),
                    };
                    framed[*at..at + NUMBER.len()].copy_from_slice(format!("{number:09}").as_bytes());
                }
                framed.into()
            }
        }
    }
}

/// Which model a call is for.
pub enum Models {
    None,
    One(HeaderValue),
    /// Cumulative weights; the last is 1.
    Zipf(Vec<f64>, Vec<HeaderValue>),
    /// In this order, again and again.
    Trace {
        ids: Vec<HeaderValue>,
        next: Cell<usize>,
    },
}

impl Models {
    pub fn read(arguments: &Arguments) -> Self {
        let plain = |option: &str, id: &str| {
            HeaderValue::from_str(id).unwrap_or_else(|_| arguments.fail(&format!("{option}: {id:?} is not plain text")))
        };
        if let Some(id) = arguments.get::<String>("--model") {
            return Self::One(plain("--model", &id));
        }
        if let Some(file) = arguments.get::<String>("--trace") {
            let text = std::fs::read_to_string(&file);
            let text = text.unwrap_or_else(|error| arguments.fail(&format!("--trace {file}: {error}")));
            let ids: Vec<_> = text.lines().filter(|line| !line.is_empty()).map(|id| plain("--trace", id)).collect();
            if ids.is_empty() {
                arguments.fail(&format!("--trace {file}: no id in it"));
            }
            return Self::Trace { ids, next: Cell::new(0) };
        }
        let Some(count) = arguments.get::<u32>("--models").filter(|count| *count > 0) else { return Self::None };
        let exponent: f64 = arguments.get_or("--zipf", 0.0);
        let mut cumulative = Vec::new();
        let mut sum = 0.0;
        for k in 1..=count {
            sum += f64::from(k).powf(-exponent);
            cumulative.push(sum);
        }
        for weight in &mut cumulative {
            *weight /= sum;
        }
        let ids = (0..count).map(|k| HeaderValue::from_str(&format!("m-{k}")).expect("plain text")).collect();
        Self::Zipf(cumulative, ids)
    }

    pub fn draw(&self, random: &mut fastrand::Rng) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::One(id) => Some(id.clone()),
            Self::Zipf(cumulative, ids) => {
                let point = random.f64();
                let index = cumulative.partition_point(|weight| *weight < point);
                Some(ids[index.min(ids.len() - 1)].clone())
            }
            Self::Trace { ids, next } => Some(ids[next.replace((next.get() + 1) % ids.len())].clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        Arguments::of(words.iter().map(ToString::to_string), "--trace --models --zipf --message --from --below")
    }

    fn drawn(words: &[&str], count: usize) -> Vec<String> {
        let models = Models::read(&arguments(words));
        let mut random = fastrand::Rng::with_seed(1);
        (0..count).map(|_| models.draw(&mut random).unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_trace_is_played_in_its_order_and_again() {
        let file = std::env::temp_dir().join(format!("trace-{}", std::process::id()));
        std::fs::write(&file, "a\nb\n\na\nc\n").unwrap();
        assert_eq!(drawn(&["--trace", file.to_str().unwrap()], 6), ["a", "b", "a", "c", "a", "b"]);
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn the_first_models_are_drawn_as_often_as_zipf_says() {
        let ids = drawn(&["--models", "100", "--zipf", "0.9"], 100_000);
        let all: f64 = (1..=100).map(|k| f64::from(k).powf(-0.9)).sum();
        for k in [1, 2, 10] {
            let count = ids.iter().filter(|id| **id == format!("m-{}", k - 1)).count();
            let expected = 100_000.0 * f64::from(k).powf(-0.9) / all;
            assert!((count as f64 - expected).abs() < 4.0 * expected.sqrt(), "{count} of {expected} for {k}");
        }
    }

    #[test]
    fn numbers_stand_where_the_message_has_room_for_them() {
        let hex = b"id-#########".map(|byte| format!("{byte:02x}")).concat();
        let mut random = fastrand::Rng::with_seed(1);
        let body = Body::read(&arguments(&["--message", &hex, "--from", "7"]), &mut random);
        for number in [7, 8] {
            assert_eq!(body.next(&mut random), grpc::framed(format!("id-{number:09}").as_bytes()));
        }
    }
}
