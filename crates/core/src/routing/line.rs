//! Who waits for a copy, and whose turn it is.
//!
//! A request of a higher class goes first; of each class tenants take turns, and of each tenant who came first goes first. No class
//! starves: while a class waits, so many requests of higher ones go before its next one, and no more.

use std::collections::VecDeque;

use crate::call::priority::Priority;

/// How many requests of higher classes go before the next one of a class that waits.
const PASSED: u32 = 8;

/// Of which tenant a request is that is of none.
pub const NO_TENANT: u64 = 0;

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// By a number, or `NO_TENANT`.
    pub tenant: u64,
    pub priority: Priority,
}

impl Waiter {
    /// Of no tenant and of the usual class.
    #[cfg(test)]
    pub const USUAL: Self = Self { tenant: NO_TENANT, priority: Priority::Normal };
}

/// The line is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Overload;

/// The line, by class.
#[derive(Debug, Default)]
pub struct Line {
    classes: [Class; Priority::COUNT],
}

/// Who waits of one class.
#[derive(Debug, Default)]
struct Class {
    turns: VecDeque<(u64, VecDeque<usize>)>,
    length: usize,
    /// How many requests of higher classes have gone since one of this class has, or since one came that waited alone.
    passed: u32,
}

impl Line {
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.classes.iter().map(|class| class.length).sum()
    }

    /// Makes room for one more where at most `most` may wait (0: any number); returns whose place it takes, if it takes one.
    /// Whoever is displaced is of the lowest class that waits, of the tenant that has most in it, and came last of those.
    ///
    /// # Errors
    /// There is none: the others are not of a lower class.
    pub fn make_room(&mut self, most: usize, of: Waiter) -> Result<Option<usize>, Overload> {
        if most == 0 {
            return Ok(None);
        }
        // A tenant leaves room for others.
        let is_greedy = of.tenant != NO_TENANT && self.waiting_of(of.tenant) >= most.div_ceil(2);
        if !is_greedy && self.waiting() < most {
            return Ok(None);
        }
        let from = is_greedy.then_some(of.tenant);
        let lower = &mut self.classes[..of.priority as usize];
        lower.iter_mut().find_map(|class| class.displace(from)).map(Some).ok_or(Overload)
    }

    pub fn push(&mut self, of: Waiter, key: usize) {
        self.classes[of.priority as usize].push(of.tenant, key);
    }

    /// Whose turn it is; takes it out.
    pub fn pop(&mut self) -> Option<usize> {
        let waits = |class: &Class| class.length > 0;
        let due = self.classes.iter().rposition(|class| waits(class) && class.passed >= PASSED);
        let next = due.or_else(|| self.classes.iter().rposition(waits))?;
        for lower in &mut self.classes[..next] {
            lower.passed += u32::from(lower.length > 0);
        }
        let class = &mut self.classes[next];
        class.passed = 0;
        class.pop()
    }

    pub fn remove(&mut self, of: Waiter, key: usize) {
        self.classes[of.priority as usize].remove(of.tenant, key);
    }

    fn waiting_of(&self, tenant: u64) -> usize {
        self.classes.iter().map(|class| class.waiting_of(tenant)).sum()
    }
}

impl Class {
    fn waiting_of(&self, tenant: u64) -> usize {
        self.turns.iter().find(|(of, _)| *of == tenant).map_or(0, |(_, keys)| keys.len())
    }

    fn push(&mut self, tenant: u64, key: usize) {
        self.length += 1;
        match self.turns.iter_mut().find(|(of, _)| *of == tenant) {
            Some((_, keys)) => keys.push_back(key),
            None => self.turns.push_back((tenant, VecDeque::from([key]))),
        }
    }

    fn pop(&mut self) -> Option<usize> {
        let (tenant, mut keys) = self.turns.pop_front()?;
        let key = keys.pop_front()?;
        self.length -= 1;
        if !keys.is_empty() {
            self.turns.push_back((tenant, keys));
        }
        Some(key)
    }

    fn remove(&mut self, tenant: u64, key: usize) {
        if let Some((_, keys)) = self.turns.iter_mut().find(|(of, _)| *of == tenant) {
            keys.retain(|waiting| *waiting != key);
            self.length -= 1;
            self.turns.retain(|(_, keys)| !keys.is_empty());
            if self.length == 0 {
                self.passed = 0;
            }
        }
    }

    /// Takes out who loses the place; `from`: a request of this tenant.
    fn displace(&mut self, from: Option<u64>) -> Option<usize> {
        let some = self.turns.iter().filter(|(of, _)| from.is_none_or(|tenant| *of == tenant));
        let (tenant, keys) = some.max_by_key(|(_, keys)| keys.len())?;
        let (tenant, key) = (*tenant, *keys.back()?);
        self.remove(tenant, key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: Waiter = Waiter { tenant: NO_TENANT, priority: Priority::Low };
    const NORMAL: Waiter = Waiter::USUAL;
    const HIGH: Waiter = Waiter { tenant: NO_TENANT, priority: Priority::High };

    /// A line in which so many of each class wait; the keys say the class.
    fn line(low: usize, normal: usize, high: usize) -> Line {
        let mut line = Line::default();
        for (count, of, first) in [(low, LOW, 0), (normal, NORMAL, 1_000), (high, HIGH, 2_000)] {
            for key in first..first + count {
                line.push(of, key);
            }
        }
        line
    }

    fn classes(line: &mut Line) -> String {
        std::iter::from_fn(|| line.pop()).map(|key| ['l', 'n', 'h'][key / 1_000]).collect()
    }

    #[test]
    fn higher_classes_go_first_and_none_starves() {
        assert_eq!(classes(&mut line(1, 2, 3)), "hhhnnl");
        assert_eq!(classes(&mut line(3, 0, 20)), "hhhhhhhhlhhhhhhhhlhhhhl");
        assert_eq!(classes(&mut line(2, 2, 20)), "hhhhhhhhnlhhhhhhhhnlhhhh");
    }

    #[test]
    fn a_class_that_waits_goes_after_nine_at_most() {
        let mut line = line(1, 1, 1);
        let mut since = [0; 3];
        for _ in 0..1_000 {
            let class = line.pop().unwrap() / 1_000;
            for (other, passed) in since.iter_mut().enumerate() {
                *passed = if other == class { 0 } else { *passed + 1 };
                assert!(*passed <= 9, "{since:?}");
            }
            line.push([LOW, NORMAL, HIGH][class], class * 1_000);
        }
    }

    #[test]
    fn waiting_in_vain_is_no_credit_for_those_who_come_later() {
        let mut line = line(1, 0, 8);
        for _ in 0..8 {
            line.pop();
        }
        line.remove(LOW, 0);
        line.push(LOW, 1);
        line.push(HIGH, 2_000);
        assert_eq!(classes(&mut line), "hl");
    }

    #[test]
    fn the_last_of_the_lowest_class_loses_its_place() {
        let mut line = line(2, 2, 0);
        assert_eq!(line.make_room(5, HIGH), Ok(None));
        assert_eq!(line.make_room(4, LOW), Err(Overload));
        assert_eq!(line.make_room(4, NORMAL), Ok(Some(1)));
        line.push(NORMAL, 1_002);
        assert_eq!(line.make_room(4, HIGH), Ok(Some(0)));
        line.push(HIGH, 2_000);
        assert_eq!(line.make_room(4, NORMAL), Err(Overload));
        assert_eq!(line.make_room(4, HIGH), Ok(Some(1_002)));
        assert_eq!(line.make_room(0, LOW), Ok(None), "without a bound there is room");
        assert_eq!(line.waiting(), 3);
    }

    #[test]
    fn a_greedy_tenant_loses_a_place_of_its_own() {
        let mut line = Line::default();
        let of = |tenant, priority| Waiter { tenant, priority };
        for (tenant, priority, key) in
            [(1, Priority::Low, 1), (1, Priority::Low, 2), (2, Priority::Low, 3), (1, Priority::Normal, 4)]
        {
            line.push(of(tenant, priority), key);
        }
        assert_eq!(line.make_room(6, of(1, Priority::Low)), Err(Overload), "it has half of the line");
        assert_eq!(line.make_room(4, of(3, Priority::Normal)), Ok(Some(2)), "of the tenant that has most");
        assert_eq!(line.make_room(4, of(1, Priority::High)), Ok(Some(1)), "its own, though there is room");
        assert_eq!(line.make_room(2, of(1, Priority::High)), Ok(Some(4)));
    }
}
