//! Changes of the members of a group of connections (bonding) while it runs.

use super::{
    output::Output,
    setting_table::Fields,
    source::Source,
    srt::{GroupNode, MAX_NODES, SrtCaller},
};
use crate::error::ConfigErrorKind;

/// Change of the members of a group. An address has the form `host:port` or `host:port?weight=50`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberEdit {
    /// Replaces all members by these.
    Set(Vec<String>),
    Add(String),
    /// Removes the member of this address. Its weight does not matter.
    Remove(String),
}

impl Source {
    /// Returns the members of the group of connections that the source is. Empty if it is none.
    pub(crate) fn members(&self) -> Vec<GroupNode> {
        self.kind.clone().group_caller().map(|caller| caller.group()).unwrap_or_default()
    }

    /// Changes the members of the group, and returns them. On an error nothing is changed.
    pub(crate) fn edit_members(&mut self, edits: &[MemberEdit]) -> Result<Vec<GroupNode>, ConfigErrorKind> {
        self.kind.group_caller().ok_or_else(no_group)?.edit_members(edits)
    }
}

impl Output {
    /// Returns the members of the group of connections that the output is. Empty if it is none.
    pub(crate) fn members(&self) -> Vec<GroupNode> {
        self.kind.clone().group_caller().map(|caller| caller.group()).unwrap_or_default()
    }

    /// Changes the members of the group, and returns them. On an error nothing is changed.
    pub(crate) fn edit_members(&mut self, edits: &[MemberEdit]) -> Result<Vec<GroupNode>, ConfigErrorKind> {
        self.kind.group_caller().ok_or_else(no_group)?.edit_members(edits)
    }
}

fn no_group() -> ConfigErrorKind {
    ConfigErrorKind::Conflict("it is no group of connections, whose members could be changed".into())
}

impl SrtCaller {
    fn edit_members(&mut self, edits: &[MemberEdit]) -> Result<Vec<GroupNode>, ConfigErrorKind> {
        let mut members = self.group();
        if members.is_empty() {
            return Err(no_group());
        }
        for edit in edits {
            match edit {
                MemberEdit::Set(addresses) => {
                    let wanted: Vec<GroupNode> =
                        addresses.iter().map(|address| address.trim().parse()).collect::<Result<_, _>>()?;
                    members.clear();
                    for member in wanted {
                        add(&mut members, member)?;
                    }
                }
                MemberEdit::Add(address) => add(&mut members, address.trim().parse()?)?,
                MemberEdit::Remove(address) => {
                    let GroupNode { host, .. } = address.trim().parse()?;
                    let place = members.iter().position(|member| member.host == host);
                    let place = place.ok_or_else(|| ConfigErrorKind::Conflict(format!("{host} is no member")))?;
                    members.remove(place);
                }
            }
        }
        if members.is_empty() {
            return Err(ConfigErrorKind::Conflict("a group keeps at least one member".into()));
        }
        if members.len() > MAX_NODES {
            return Err(ConfigErrorKind::out_of_range(format!("{} members", members.len()), "1 to 8 members"));
        }
        self.set_group(&members);
        Ok(members)
    }

    /// Sets the members, of which there is at least one. The first is the address itself.
    fn set_group(&mut self, members: &[GroupNode]) {
        let Some((first, others)) = members.split_first() else { return };
        self.call.remote = first.host.clone();
        self.srt.weight = first.weight;
        // A group of one member names it among its nodes, or it would be no group.
        self.srt.nodes = if others.is_empty() { vec![first.clone()] } else { others.to_vec() };
    }
}

fn add(members: &mut Vec<GroupNode>, member: GroupNode) -> Result<(), ConfigErrorKind> {
    if members.iter().any(|other| other.host == member.host) {
        return Err(ConfigErrorKind::Conflict(format!("{} is a member already", member.host)));
    }
    members.push(member);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(url: &str, edits: &[MemberEdit]) -> (Result<Vec<String>, String>, String) {
        let mut output = Output::from_url("out", url);
        let mut source = Source::from_url("in", url);
        let result = output.edit_members(edits);
        assert_eq!(result, source.edit_members(edits), "sources and outputs are edited alike");
        let texts = |members: Vec<GroupNode>| members.iter().map(ToString::to_string).collect();
        assert_eq!(output.members(), source.members());
        (result.map(texts).map_err(|problem| problem.to_string()), output.to_url())
    }

    fn set(addresses: &[&str]) -> MemberEdit {
        MemberEdit::Set(addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn group_members_are_added_removed_and_replaced() {
        let url = "srt://a:1?type=backup&weight=7&nodes=b:2?weight%3D50,c:3";
        let add = MemberEdit::Add("d:4?weight=9".into());
        let remove = |address: &str| MemberEdit::Remove(address.into());
        for (edits, members) in [
            (vec![add.clone()], vec!["a:1?weight=7", "b:2?weight=50", "c:3", "d:4?weight=9"]),
            (vec![remove("a:1")], vec!["b:2?weight=50", "c:3"]),
            (vec![remove("b:2?weight=1"), remove("a:1")], vec!["c:3"]),
            (vec![remove("b:2"), add.clone()], vec!["a:1?weight=7", "c:3", "d:4?weight=9"]),
            (vec![set(&["x:9", " b:2?weight=4"])], vec!["x:9", "b:2?weight=4"]),
            (vec![set(&["x:9?weight=3"])], vec!["x:9?weight=3"]),
        ] {
            let (edited, url) = edited(url, &edits);
            assert_eq!(edited.unwrap(), members);
            // The edited group is written, and read back as the same group.
            let read: Vec<String> = Output::from_url("out", &url).members().iter().map(ToString::to_string).collect();
            assert_eq!(read, members, "{url}");
            assert!(url.contains("type=backup"), "{url}");
        }
    }

    #[test]
    fn group_keeps_a_member_and_refuses_what_is_none() {
        let url = "srt://a:1?nodes=b:2";
        let add = |address: &str| MemberEdit::Add(address.into());
        let remove = |address: &str| MemberEdit::Remove(address.into());
        for (edits, problem) in [
            (vec![remove("a:1"), remove("b:2")], "at least one member"),
            (vec![set(&[])], "at least one member"),
            (vec![remove("c:3")], "c:3 is no member"),
            (vec![remove("a")], "a"),
            (vec![add("b:2?weight=5")], "b:2 is a member already"),
            (vec![set(&["x:1", "x:1"])], "x:1 is a member already"),
            (vec![add("x:1?wait=5")], "weight"),
            ((3..10).map(|port| add(&format!("x:{port}"))).collect(), "1 to 8 members"),
        ] {
            let (edited, after) = edited(url, &edits);
            let text = edited.unwrap_err();
            assert!(text.contains(problem), "{edits:?}: {text}");
            assert_eq!(after, Output::from_url("out", url).to_url(), "nothing has changed");
        }
        for url in ["srt://a:1", "srt://:9000", "srt://a:1?mode=rendezvous", "udp://127.0.0.1:5000"] {
            let mut output = Output::from_url("out", url);
            let text = output.edit_members(&[add("x:1")]).unwrap_err().to_string();
            assert!(text.contains("no group"), "{url}: {text}");
        }
    }
}
