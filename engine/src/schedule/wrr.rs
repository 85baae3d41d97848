//! Weighted round robin (reference/linux-ipvs.md section 5.2).

use super::{Candidate, Scheduler, Wanted, gcd};

/// The cursor and the current weight. Every change of the list moves the cursor to the head and leaves the current weight
/// where it is, cut to what the new weights allow; that is why a fresh service begins with one plain round.
#[derive(Clone, Debug, Default)]
pub struct Wrr {
    cursor: Option<u32>,
    current: i64,
    highest: i64,
    step: i64,
}

impl Wrr {
    fn measure(&mut self, list: &[Candidate]) {
        let divisor = list.iter().filter(|c| c.weight > 0).fold(0, |divisor, c| gcd(c.weight, divisor));
        self.step = i64::from(if divisor == 0 { 1 } else { divisor });
        let highest = list.iter().map(|candidate| i64::from(candidate.weight)).max().unwrap_or(0);
        self.highest = highest - (self.step - 1);
    }

    fn changed(&mut self, list: &[Candidate]) {
        self.cursor = None;
        self.measure(list);
        if self.current > self.highest || self.current == 0 {
            self.current = self.highest;
        } else if self.step > 1 {
            self.current = self.current / self.step * self.step + 1;
        }
    }
}

impl Scheduler for Wrr {
    fn schedule(&mut self, list: &[Candidate], _: Wanted<'_>) -> Option<usize> {
        if self.highest == 0 {
            return None;
        }
        let last = self.cursor.and_then(|cursor| list.iter().position(|candidate| candidate.number == cursor));
        let mut place = last.map_or(0, |last| last + 1);
        let (mut stop, mut last_pass, mut restarted) = (None, false, false);
        loop {
            while let Some(candidate) = list.get(place) {
                if !candidate.overloaded && i64::from(candidate.weight) >= self.current {
                    self.cursor = Some(candidate.number);
                    return Some(place);
                }
                if Some(place) == stop {
                    self.cursor = Some(candidate.number);
                    return None;
                }
                place += 1;
            }
            // The end of the list: the next lower weight.
            self.current -= self.step;
            if self.current <= 0 {
                self.current = self.highest;
                if last_pass || last.is_none() {
                    self.cursor = None;
                    return None;
                }
                restarted = true;
            }
            last_pass = self.current <= self.step;
            if last_pass && restarted && last.is_some() {
                stop = last;
            }
            place = 0;
        }
    }

    fn init(&mut self, list: &[Candidate]) {
        self.cursor = None;
        self.measure(list);
        self.current = self.highest;
    }

    fn added(&mut self, list: &[Candidate]) {
        self.changed(list);
    }

    fn removed(&mut self, list: &[Candidate], _: usize, _: u32) {
        self.changed(list);
    }

    fn updated(&mut self, list: &[Candidate]) {
        self.changed(list);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn vectors_of_the_reference() {
        for (weights, expected) in [
            (&[1, 2, 3][..], "CBACCBCBACCB"),
            (&[3, 2, 1], "CBAABACBAABA"),
            (&[4, 2], "BAABAA"),
            (&[100, 50], "BAABAA"),
            (&[0, 2, 4], "CBCCBC"),
        ] {
            let mut wrr = Wrr::default();
            let list = set_up(&mut wrr, weights);
            assert_eq!(choices(&mut wrr, &list, expected.len()), expected, "{weights:?}");
        }
    }

    #[test]
    fn nobody_left_is_refused_and_ends() {
        let mut wrr = Wrr::default();
        let mut list = set_up(&mut wrr, &[3, 7]);
        choices(&mut wrr, &list, 3);
        for candidate in &mut list {
            candidate.overloaded = true;
        }
        assert_eq!(choices(&mut wrr, &list, 3), "---");
        let list = set_up(&mut wrr, &[0, 0]);
        assert_eq!(choices(&mut wrr, &list, 2), "--");
    }
}
