//! Answers by credential, bounded: the least recently used are removed first.

use hashbrown::HashMap;

/// Entries of each half.
const MOST: usize = 65_536;

/// Two halves: new and used entries are in the young one. When it is full it becomes the old one, and the old one goes.
#[derive(Debug)]
pub struct Table<T> {
    young: HashMap<Box<[u8]>, T>,
    old: HashMap<Box<[u8]>, T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<T> Table<T> {
    /// An entry, and whether `renew` should be told that it is used.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<(&T, bool)> {
        self.young.get(key).map(|entry| (entry, false)).or_else(|| self.old.get(key).map(|entry| (entry, true)))
    }

    pub fn renew(&mut self, key: &[u8]) {
        if let Some((key, entry)) = self.old.remove_entry(key) {
            self.insert(key, entry);
        }
    }

    pub fn insert(&mut self, key: Box<[u8]>, entry: T) {
        if self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut table = Table::default();
        table.insert(Box::from(*b"used"), 0);
        for number in 0..4 * MOST {
            table.insert(number.to_le_bytes().into(), number);
            if let Some((_, true)) = table.get(b"used") {
                table.renew(b"used");
            }
            assert!(table.young.len() + table.old.len() <= 2 * MOST);
        }
        assert!(table.get(b"used").is_some());
        assert!(table.get(&0_usize.to_le_bytes()).is_none());
    }
}
