//! Comparison of the director's tables with the listings that a real one printed.
//!
//! A kernel lists connections in the order of a secret hash and their timers run on while it prints, so connection listings
//! are compared as sets of lines without the `expire` column. `list.txt` and `stats.txt` must be equal line by line.

use std::collections::BTreeMap;

/// Lines that only one of two listings has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListingDifference {
    /// Expected and not there.
    pub missing: Vec<String>,
    /// There and not expected.
    pub unexpected: Vec<String>,
}

impl ListingDifference {
    /// Whether the listings agree.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }
}

/// Compares two `ipvsadm -Lcn` listings as sets, timers aside.
pub fn connections(expected: &str, actual: &str) -> ListingDifference {
    as_sets(expected.lines().skip(2).map(without_timer), actual.lines().skip(2).map(without_timer))
}

/// Compares two `ipvsadm -Ln` or `--stats` listings: the same services and servers with the same numbers, in order.
pub fn services(expected: &str, actual: &str) -> ListingDifference {
    let clean = |text: &str| text.lines().skip(3).map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    let (expected, actual) = (clean(expected), clean(actual));
    if expected == actual {
        return ListingDifference::default();
    }
    let difference = as_sets(expected.iter().cloned(), actual.iter().cloned());
    if difference.is_empty() { ListingDifference { missing: expected, unexpected: actual } } else { difference }
}

fn without_timer(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut kept: Vec<&str> = words.iter().take(1).copied().collect();
    kept.extend(words.iter().skip(2));
    kept.join(" ")
}

fn as_sets(expected: impl Iterator<Item = String>, actual: impl Iterator<Item = String>) -> ListingDifference {
    let mut balance: BTreeMap<String, i64> = BTreeMap::new();
    for line in expected {
        *balance.entry(line).or_default() += 1;
    }
    for line in actual {
        *balance.entry(line).or_default() -= 1;
    }
    let mut difference = ListingDifference::default();
    for (line, count) in balance {
        let side = if count > 0 { &mut difference.missing } else { &mut difference.unexpected };
        side.extend(std::iter::repeat_n(line, count.unsigned_abs() as usize));
    }
    difference
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "IPVS connection entries\npro expire state       source             virtual            destination\n";

    #[test]
    fn timers_and_order_of_connections_do_not_matter() {
        let a = format!(
            "{HEAD}TCP 00:59  SYN_RECV    1.1.1.1:1 2.2.2.2:80 3.3.3.3:80\nUDP 04:59  UDP  1.1.1.1:1 2.2.2.2:53 3.3.3.3:53\n"
        );
        let b = format!(
            "{HEAD}UDP 01:00  UDP  1.1.1.1:1 2.2.2.2:53 3.3.3.3:53\nTCP 00:10  SYN_RECV    1.1.1.1:1 2.2.2.2:80 3.3.3.3:80\n"
        );
        assert_eq!(connections(&a, &b), ListingDifference::default());
    }

    #[test]
    fn another_server_is_told() {
        let a = format!("{HEAD}TCP 00:59  SYN_RECV    1.1.1.1:1 2.2.2.2:80 3.3.3.3:80\n");
        let b = format!("{HEAD}TCP 00:59  SYN_RECV    1.1.1.1:1 2.2.2.2:80 3.3.3.4:80\n");
        let difference = connections(&a, &b);
        assert_eq!(difference.missing, ["TCP SYN_RECV 1.1.1.1:1 2.2.2.2:80 3.3.3.3:80"]);
        assert_eq!(difference.unexpected, ["TCP SYN_RECV 1.1.1.1:1 2.2.2.2:80 3.3.3.4:80"]);
    }
}
