//! Which of many patterns a name matches, in a time that hardly grows with their number.

use hashbrown::HashMap;

/// Patterns of names, each with a set of listeners. A pattern is a name, or its beginning and `*`.
#[derive(Debug, Default)]
pub struct Patterns {
    names: HashMap<Box<str>, u8>,
    /// In the order of their text.
    beginnings: Vec<Beginning>,
}

#[derive(Debug)]
struct Beginning {
    text: Box<str>,
    /// Of this one and of those that it begins with.
    listeners: u8,
    /// The longest of the others that it begins with.
    shorter: Option<usize>,
}

impl Patterns {
    #[must_use]
    pub fn new<'a>(patterns: impl IntoIterator<Item = (&'a str, u8)>) -> Self {
        let mut names: HashMap<Box<str>, u8> = HashMap::new();
        let mut found: Vec<(&str, u8)> = Vec::new();
        for (pattern, listeners) in patterns {
            match pattern.strip_suffix('*') {
                Some(beginning) => found.push((beginning, listeners)),
                None => *names.entry(pattern.into()).or_default() |= listeners,
            }
        }
        found.sort_unstable();
        let mut beginnings: Vec<Beginning> = Vec::with_capacity(found.len());
        let mut last = None;
        for (text, mut listeners) in found {
            let mut shorter = last;
            while let Some(index) = shorter.filter(|index: &usize| !text.starts_with(&*beginnings[*index].text)) {
                shorter = beginnings[index].shorter;
            }
            if let Some(index) = shorter {
                listeners |= beginnings[index].listeners;
                if *beginnings[index].text == *text {
                    beginnings[index].listeners = listeners;
                    continue;
                }
            }
            last = Some(beginnings.len());
            beginnings.push(Beginning { text: text.into(), listeners, shorter });
        }
        Self { names, beginnings }
    }

    /// The listeners of all patterns that a name matches.
    #[must_use]
    pub fn listeners(&self, name: &str) -> u8 {
        let mut listeners = self.names.get(name).copied().unwrap_or_default();
        // What the name begins with stands at or before where the name would stand, and begins the one that is there.
        let mut at = self.beginnings.partition_point(|beginning| *beginning.text <= *name).checked_sub(1);
        while let Some(index) = at {
            let beginning = &self.beginnings[index];
            if name.starts_with(&*beginning.text) {
                listeners |= beginning.listeners;
                break;
            }
            at = beginning.shorter;
        }
        listeners
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_way_finds_what_the_plain_way_finds() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut word = |longest: usize| -> String {
            let length = random.usize(0..=longest);
            (0..length).map(|_| random.choice(['a', 'b', 'é']).unwrap()).collect()
        };
        for round in 0..2000_usize {
            let mut given: Vec<(String, u8)> = Vec::new();
            for index in 0..round % 12 {
                let end = if index % 3 == 0 { "" } else { "*" };
                given.push((format!("{}{end}", word(4)), 1 << (index % 2)));
            }
            let patterns = Patterns::new(given.iter().map(|(text, listeners)| (text.as_str(), *listeners)));
            for _ in 0..8 {
                let name = word(5);
                let fits = |pattern: &str| match pattern.strip_suffix('*') {
                    Some(beginning) => name.starts_with(beginning),
                    None => name == pattern,
                };
                let plain = given.iter().filter(|(text, _)| fits(text)).fold(0, |all, (_, listeners)| all | listeners);
                assert_eq!(patterns.listeners(&name), plain, "{name:?} in {given:?}");
            }
        }
    }
}
