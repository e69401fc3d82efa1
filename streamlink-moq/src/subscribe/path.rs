//! Choice of the broadcast that a leg receives.

use crate::transport::{AnnouncedPaths, Announcement};

/// Choice of a leg among the broadcasts that its relay announces: the path itself, or else one of the ingest nodes one
/// segment below. Legs are spread over the nodes, so that the end of one is felt by a part of the legs only.
#[derive(Debug)]
pub(super) struct PathChoice {
    leg: usize,
    path: String,
    /// Set while the path itself is announced.
    is_there: bool,
    /// Ingest nodes below the path.
    nodes: AnnouncedPaths,
}

impl PathChoice {
    pub(super) fn new(leg: usize, path: &str) -> Self {
        Self { leg, path: path.to_owned(), is_there: false, nodes: AnnouncedPaths::default() }
    }

    /// Takes in an announcement.
    pub(super) fn apply(&mut self, announcement: Announcement) {
        if announcement.path == self.path {
            self.is_there = announcement.is_active;
            return;
        }
        let below = announcement.path.strip_prefix(&self.path).and_then(|below| below.strip_prefix('/'));
        if below.is_some_and(|name| !name.is_empty() && !name.contains('/')) {
            self.nodes.apply(announcement);
        }
    }

    /// Returns the path of the broadcast to receive, if there is one.
    pub(super) fn choice(&self) -> Option<&str> {
        if self.is_there {
            return Some(&self.path);
        }
        let place = self.leg.checked_rem(self.nodes.iter().len())?;
        self.nodes.iter().nth(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(leg: usize, announcements: &[(&str, bool)]) -> Option<String> {
        let mut choice = PathChoice::new(leg, "live/cam");
        for (path, is_active) in announcements {
            choice.apply(Announcement::new((*path).to_owned(), *is_active));
        }
        choice.choice().map(str::to_owned)
    }

    #[test]
    fn legs_are_spread_over_ingest_nodes() {
        let nodes = [("live/cam/b", true), ("live/cam/a", true), ("live/cam/a/x", true), ("live/camera", true)];
        assert_eq!(choose(0, &nodes).unwrap(), "live/cam/a");
        assert_eq!(choose(1, &nodes).unwrap(), "live/cam/b");
        assert_eq!(choose(2, &nodes).unwrap(), "live/cam/a");
        let gone = [&nodes[..], &[("live/cam/b", false)]].concat();
        assert_eq!(choose(1, &gone).unwrap(), "live/cam/a");
    }

    #[test]
    fn legs_take_the_path_itself_first() {
        assert_eq!(choose(1, &[("live/cam/a", true), ("live/cam", true)]).unwrap(), "live/cam");
        assert_eq!(choose(0, &[("live/cam", true), ("live/cam", false)]), None);
        assert_eq!(choose(0, &[("live", true), ("live/cam2", true)]), None);
    }
}
