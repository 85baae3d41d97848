//! What only some connections have: in places of its own, which are numbered and used again.

/// Things by place.
#[derive(Clone, Debug)]
pub(super) struct Places<T> {
    list: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Places<T> {
    fn default() -> Places<T> {
        Places { list: Vec::new(), free: Vec::new() }
    }
}

impl<T> Places<T> {
    /// Puts something into a free place, and returns that.
    pub(super) fn put(&mut self, thing: T) -> u32 {
        let place = self.free.pop().unwrap_or(self.list.len() as u32);
        match self.list.get_mut(place as usize) {
            Some(free) => *free = Some(thing),
            None => self.list.push(Some(thing)),
        }
        place
    }

    /// Takes what is in a place, and frees it.
    pub(super) fn take(&mut self, place: u32) -> Option<T> {
        let thing = self.list.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(thing)
    }

    /// What is in a place.
    #[inline]
    pub(super) fn get(&self, place: u32) -> Option<&T> {
        self.list.get(place as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut places = Places::default();
        assert_eq!((places.put('a'), places.put('b')), (0, 1));
        assert_eq!((places.take(0), places.take(0), places.get(0), places.get(1)), (Some('a'), None, None, Some(&'b')));
        assert_eq!((places.put('c'), places.put('d'), places.get(0)), (0, 2, Some(&'c')));
    }
}
