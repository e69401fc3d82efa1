//! Members of the group that a caller is: their state, and the list of their addresses, which changes while the group runs.

use super::{
    super::{LossReason, SourceTunables, backoff::Backoff},
    caller::MAX_BATCH,
    connection_io::ConnectionIo,
};
use crate::{
    flow::{GroupNode, HostPort},
    net::{Received, Receiver, Sender, UdpSocket},
    proto::srt::{self, BackupMember, Connection, ConnectionStats, Departure},
};
use std::{
    net::SocketAddr,
    task::{Context, Poll},
    time::Instant,
};
use tokio::sync::watch;

/// Addresses of the members of a group, as the flow is configured now.
#[derive(Debug)]
pub(crate) struct MemberList {
    updates: Updates,
    list: Vec<GroupNode>,
}

#[derive(Debug)]
enum Updates {
    Source(watch::Receiver<SourceTunables>),
    Output(watch::Receiver<Vec<GroupNode>>),
}

impl MemberList {
    /// Returns the list of a source, which is empty if it is no group.
    pub(super) fn of_source(live: watch::Receiver<SourceTunables>) -> Self {
        let list = live.borrow().members.clone();
        Self { updates: Updates::Source(live), list }
    }

    /// Returns the list of an output, which is empty if it is no group.
    pub(super) fn of_output(members: watch::Receiver<Vec<GroupNode>>) -> Self {
        let list = members.borrow().clone();
        Self { updates: Updates::Output(members), list }
    }

    pub(super) fn is_group(&self) -> bool {
        !self.list.is_empty()
    }

    pub(super) fn list(&self) -> &[GroupNode] {
        &self.list
    }

    /// Waits until the list may have changed.
    pub(super) async fn changed(&mut self) {
        let changed = match &mut self.updates {
            Updates::Source(live) => live.changed().await,
            Updates::Output(members) => members.changed().await,
        };
        if changed.is_err() {
            std::future::pending().await // the caller is about to be stopped
        }
    }

    /// Waits until the list differs from the one that was taken over last.
    pub(super) async fn differ(&mut self) {
        let is_same = |updates: &Updates, list: &[GroupNode]| match updates {
            Updates::Source(live) => live.borrow().members == list,
            Updates::Output(members) => *members.borrow() == list,
        };
        while is_same(&self.updates, &self.list) {
            self.changed().await;
        }
    }

    /// Takes over a changed list. Returns the one before if it has changed.
    pub(super) fn update(&mut self) -> Option<Vec<GroupNode>> {
        let list = match &mut self.updates {
            Updates::Source(live) => live.borrow_and_update().members.clone(),
            Updates::Output(members) => members.borrow_and_update().clone(),
        };
        (list != self.list).then(|| std::mem::replace(&mut self.list, list))
    }
}

/// Member of the group.
pub(super) struct Member {
    /// Number that no other member of the group ever has.
    pub(super) key: u64,
    pub(super) host: HostPort,
    /// Weight in a main/backup group.
    pub(super) weight: u16,
    pub(super) backoff: Backoff,
    /// Attempts, by which the addresses of the host take turns.
    pub(super) attempts: usize,
    pub(super) state: MemberState,
    /// Reason of the last failure that was reported.
    pub(super) told: Option<LossReason>,
    /// Set once the member was removed from the configuration.
    pub(super) is_leaving: bool,
}

pub(super) enum MemberState {
    /// Is called at this time.
    Waiting(Instant),
    LookingUp,
    Calling(Box<Calling>),
    Up(Box<Up>),
}

pub(super) struct Calling {
    pub(super) caller: srt::Caller,
    pub(super) id: u32,
    pub(super) socket: UdpSocket,
    pub(super) sender: Sender,
    pub(super) memory: Receiver,
    pub(super) peer: SocketAddr,
}

pub(super) struct Up {
    pub(super) io: ConnectionIo,
    pub(super) socket: UdpSocket,
    pub(super) memory: Receiver,
    pub(super) peer: SocketAddr,
    pub(super) since: Instant,
    pub(super) settled: ConnectionStats,
    /// Role in a main/backup group that sends.
    pub(super) backup: Option<BackupMember>,
    /// Departure of a member that leaves.
    pub(super) departure: Option<Departure>,
    /// Set once a member that leaves has shut its connection down.
    pub(super) has_left: bool,
}

impl Up {
    /// Returns whether the member carries the media.
    pub(super) fn is_active(&self) -> bool {
        self.backup.is_none_or(|backup| backup.is_active())
    }
}

impl Member {
    pub(super) fn up(&mut self) -> Option<&mut Up> {
        match &mut self.state {
            MemberState::Up(up) => Some(up),
            _ => None,
        }
    }

    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.state {
            MemberState::Up(up) => Some(&up.io.connection),
            _ => None,
        }
    }

    /// Returns whether the member was removed, and takes no part in the group any more.
    pub(super) fn is_gone(&self) -> bool {
        self.is_leaving
            && match &self.state {
                MemberState::Waiting(_) | MemberState::LookingUp => true,
                MemberState::Calling(_) => false,
                MemberState::Up(up) => up.io.connection.closed().is_some(),
            }
    }

    /// Returns the time at which the member has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            MemberState::Waiting(at) => Some(*at),
            MemberState::LookingUp => None,
            MemberState::Calling(calling) => Some(calling.caller.next_timeout()),
            MemberState::Up(up) => up.io.connection.next_timeout(),
        }
    }

    pub(super) fn socket(&mut self) -> Option<(&UdpSocket, &mut Receiver)> {
        match &mut self.state {
            MemberState::Calling(calling) => Some((&calling.socket, &mut calling.memory)),
            MemberState::Up(up) => Some((&up.socket, &mut up.memory)),
            _ => None,
        }
    }
}

/// Waits until one of the members has received something.
pub(super) fn poll_members(
    members: &mut [Member],
    cx: &mut Context<'_>,
    inbox: &mut Vec<(usize, Received)>,
) -> Poll<()> {
    let mut is_ready = false;
    for (at, member) in members.iter_mut().enumerate() {
        let Some((socket, memory)) = member.socket() else { continue };
        match socket.poll_drain(cx, memory, MAX_BATCH, |datagram| inbox.push((at, datagram))) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => is_ready = true,
            Poll::Ready(Err(error)) => {
                log::debug!("SRT group caller: {error}"); // a peer that is gone is found by a timeout
                is_ready = true;
            }
        }
    }
    if is_ready { Poll::Ready(()) } else { Poll::Pending }
}
