//! Map with PIDs as keys. It is asked for every transport packet, for a few PIDs that take turns: the one found last is
//! looked at first, and the others lie together in memory.

/// Map from PIDs to values, in the order of the PIDs.
#[derive(Debug)]
pub(crate) struct PidMap<T> {
    /// Keys of `values`, in order.
    pids: Vec<u16>,
    values: Vec<T>,
    /// Position of the value that was found last.
    last: usize,
}

impl<T> Default for PidMap<T> {
    fn default() -> Self {
        Self { pids: Vec::new(), values: Vec::new(), last: 0 }
    }
}

impl<T: Default> PidMap<T> {
    /// Returns the position of a PID, or that at which it would be inserted.
    fn position(&self, pid: u16) -> Result<usize, usize> {
        match self.pids.get(self.last) {
            Some(last) if *last == pid => Ok(self.last),
            _ => self.pids.binary_search(&pid),
        }
    }

    /// Returns the number of PIDs.
    pub(crate) fn len(&self) -> usize {
        self.pids.len()
    }

    pub(crate) fn contains(&self, pid: u16) -> bool {
        self.position(pid).is_ok()
    }

    pub(crate) fn get(&self, pid: u16) -> Option<&T> {
        self.values.get(self.position(pid).ok()?)
    }

    pub(crate) fn get_mut(&mut self, pid: u16) -> Option<&mut T> {
        self.last = self.position(pid).ok()?;
        self.values.get_mut(self.last)
    }

    /// Returns the value of a PID, which is inserted if it is not there and the map holds fewer than `most`.
    pub(crate) fn get_or_insert(&mut self, pid: u16, most: usize) -> Option<&mut T> {
        match self.position(pid) {
            Ok(at) => self.last = at,
            Err(_) if self.pids.len() >= most => return None,
            Err(at) => {
                self.pids.insert(at, pid);
                self.values.insert(at, T::default());
                self.last = at;
            }
        }
        self.values.get_mut(self.last)
    }

    /// Removes the value of a PID.
    pub(crate) fn remove(&mut self, pid: u16) -> Option<T> {
        let at = self.position(pid).ok()?;
        self.pids.remove(at);
        Some(self.values.remove(at))
    }

    /// Keeps the values for which `keep` returns true.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(u16, &mut T) -> bool) {
        let mut at = 0;
        while let (Some(pid), Some(value)) = (self.pids.get(at), self.values.get_mut(at)) {
            if keep(*pid, value) {
                at += 1;
            } else {
                self.pids.remove(at);
                self.values.remove(at);
            }
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.values.iter()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        self.pids.iter().copied().zip(&mut self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    proptest::proptest! {
        #[test]
        fn pid_map_does_what_an_ordered_map_does(steps in proptest::collection::vec((0u8..5, 0u16..24), 0..200)) {
            let mut ours = PidMap::<u32>::default();
            let mut reference = BTreeMap::<u16, u32>::new();
            for (step, (kind, pid)) in steps.into_iter().enumerate() {
                match kind {
                    0 | 1 => {
                        let is_full = reference.len() >= 16 && !reference.contains_key(&pid);
                        let theirs = (!is_full).then(|| reference.entry(pid).or_default());
                        let found = ours.get_or_insert(pid, 16);
                        assert_eq!(found, theirs);
                        if let Some(value) = found {
                            *value += step as u32;
                        }
                        reference.entry(pid).and_modify(|value| *value += step as u32);
                    }
                    2 => assert_eq!(ours.get_mut(pid), reference.get_mut(&pid)),
                    3 => assert_eq!(ours.remove(pid), reference.remove(&pid)),
                    _ => {
                        ours.retain(|other, _| other % 3 != pid % 3);
                        reference.retain(|other, _| other % 3 != pid % 3);
                    }
                }
                assert_eq!((ours.get(pid), ours.contains(pid)), (reference.get(&pid), reference.contains_key(&pid)));
                assert_eq!(ours.len(), reference.len());
                assert!(ours.values().eq(reference.values()));
                assert!(ours.iter_mut().map(|(pid, value)| (pid, *value)).eq(reference.iter().map(|(pid, value)| (*pid, *value))));
            }
        }
    }
}
