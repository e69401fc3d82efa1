//! SRT (draft-sharabayko-srt-01, and libsrt where it differs): handshake, encryption, and connections that retransmit
//! lost packets and deliver payloads at the right time. Sans-IO: driven by packets and the time.

mod agreement;
mod arena;
mod backup;
mod caller;
mod connection;
mod crypto;
mod fec;
mod group;
mod handshake;
#[cfg(test)]
mod held_derivations;
mod key_exchange;
mod listener;
mod loss_list;
mod packet;
mod peer_clock;
mod receive;
#[cfg(test)]
mod recorded_tests;
mod rendezvous;
mod round_trip;
mod send;
mod send_batch;
mod sequence;
mod terms;
#[cfg(test)]
mod tests;

pub(crate) use backup::{BackupLeg, BackupMember, BackupSender};
pub(crate) use caller::{Caller, Progress};
pub(crate) use connection::{CloseReason, Connection, ConnectionStats, Delivered, arrival_within};
pub(crate) use crypto::{CipherMode, KeyDerivation, WrappingKey};
pub(crate) use group::{Departure, GroupId, GroupInput, GroupNumbers};
pub(crate) use handshake::{BACKUP, GroupExtension, Handshake};
#[cfg(test)]
pub(crate) use held_derivations::HeldDerivations;
pub(crate) use listener::{Greeting, Listener};
pub(crate) use packet::{Control, Packet, destination, write_control};
pub(crate) use rendezvous::Rendezvous;
pub(crate) use send::Pacing;
pub(crate) use send_batch::SendBatch;
pub(crate) use sequence::Sequence;
pub(crate) use terms::{Groups, Local, Rejection, Terms, acceptable};
