//! Values that many connections have in common, each kept once. A connection knows them by numbers of two bytes.

use foldhash::HashMap;
use std::hash::Hash;

/// In the place of a number: no value.
pub(super) const NO_VALUE: u16 = u16::MAX;

/// So many values are looked at one by one, which is faster than to work a hash out.
const FEW: usize = 8;

/// Values by number. None is ever forgotten, which is why there are not more of them than numbers.
#[derive(Clone, Debug)]
pub(super) struct Shared<T> {
    list: Vec<T>,
    numbers: HashMap<T, u16>,
}

impl<T> Default for Shared<T> {
    fn default() -> Shared<T> {
        Shared { list: Vec::new(), numbers: HashMap::default() }
    }
}

impl<T: Copy + Eq + Hash> Shared<T> {
    /// The number of a value; none if it would need one more than there are.
    pub(super) fn number(&mut self, value: T) -> Option<u16> {
        let few = self.list.iter().take(FEW).position(|known| *known == value);
        if let Some(number) = few.map(|number| number as u16).or_else(|| self.numbers.get(&value).copied()) {
            return Some(number);
        }
        let number = u16::try_from(self.list.len()).ok().filter(|number| *number != NO_VALUE)?;
        self.list.push(value);
        self.numbers.insert(value, number);
        Some(number)
    }

    /// The same, for a value that most likely has this number.
    pub(super) fn number_near(&mut self, likely: u16, value: T) -> Option<u16> {
        if self.get(likely) == Some(&value) { Some(likely) } else { self.number(value) }
    }

    /// The value with a number.
    #[inline]
    pub(super) fn get(&self, number: u16) -> Option<&T> {
        self.list.get(usize::from(number))
    }

    /// All values in order of number.
    pub(super) fn all(&self) -> &[T] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_number_and_numbers_run_out() {
        let mut shared = Shared::default();
        assert_eq!((shared.number(7), shared.number(9), shared.number(7)), (Some(0), Some(1), Some(0)));
        assert_eq!(
            (shared.number_near(1, 9), shared.number_near(0, 9), shared.number_near(NO_VALUE, 9)),
            (Some(1), Some(1), Some(1))
        );
        assert_eq!((shared.get(1), shared.get(NO_VALUE), shared.all().len()), (Some(&9), None, 2));
        let numbers = (10..70_000).filter_map(|value| shared.number(value)).count();
        assert_eq!(numbers, usize::from(NO_VALUE) - 2);
        assert_eq!((shared.number(70_000), shared.number(9)), (None, Some(1)));
    }
}
