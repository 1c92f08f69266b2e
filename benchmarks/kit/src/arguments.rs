//! `--name value` and `--flag` arguments: a benchmark needs no more.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

/// Arguments by name, each with its values in order.
pub struct Arguments {
    values: HashMap<String, Vec<String>>,
    usage: &'static str,
}

impl Arguments {
    /// Read the command line; a name that is not in `usage` ends the process.
    #[must_use]
    pub fn read(usage: &'static str) -> Self {
        Self::of(std::env::args().skip(1), usage)
    }

    /// As `read`, of other words.
    #[must_use]
    pub fn of(words: impl IntoIterator<Item = String>, usage: &'static str) -> Self {
        let mut arguments = Self { values: HashMap::new(), usage };
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            if word == "--help" || word == "-h" {
                println!("{usage}");
                std::process::exit(0);
            }
            let known = word.starts_with("--") && usage.split([' ', '[', ']', '\n']).any(|name| name == word);
            if !known {
                arguments.fail(&format!("unknown argument {word}"));
            }
            let value = words.next_if(|next| !next.starts_with("--")).unwrap_or_default();
            arguments.values.entry(word).or_default().push(value);
        }
        arguments
    }

    /// Whether a flag was given.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// All values of an argument.
    #[must_use]
    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last value of an argument, if it was given; ends the process if it cannot be read.
    #[must_use]
    pub fn get<T: FromStr<Err: Display>>(&self, name: &str) -> Option<T> {
        let text = self.all(name).last()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => self.fail(&format!("{name} {text}: {error}")),
        }
    }

    /// The last value of an argument, or `default`.
    #[must_use]
    pub fn get_or<T: FromStr<Err: Display>>(&self, name: &str, default: T) -> T {
        self.get(name).unwrap_or(default)
    }

    /// Say what is wrong, and how to do it right, and end the process.
    pub fn fail(&self, message: &str) -> ! {
        eprintln!("{message}\n{}", self.usage);
        std::process::exit(2);
    }
}
