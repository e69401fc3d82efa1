//! Sources of a running flow by their numbers: the names in events, and the programs that they ask for. Sources come
//! and go while the flow runs; a number is never used again.

use super::{Event, EventSink, Status};
use crate::{
    lock::lock,
    media::ProgramChoice,
    router::{SourceGroup, Switch},
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// Sources of a running flow.
#[derive(Debug, Default)]
pub(crate) struct SourceList {
    sources: Mutex<Vec<ListedSource>>,
    /// Set if a source asks for a program.
    asks_for_program: AtomicBool,
}

#[derive(Debug)]
struct ListedSource {
    number: usize,
    status: Arc<Status>,
    program: ProgramChoice,
    /// Set when the source was removed. The last such source is kept, because the next switch may name it.
    is_gone: bool,
}

impl SourceList {
    pub(crate) fn add(&self, number: usize, status: Arc<Status>, program: ProgramChoice) {
        if program != ProgramChoice::Best {
            self.asks_for_program.store(true, Relaxed);
        }
        lock(&self.sources).push(ListedSource { number, status, program, is_gone: false });
    }

    pub(crate) fn remove(&self, number: usize) {
        let mut sources = lock(&self.sources);
        sources.retain(|source| !source.is_gone);
        if let Some(source) = sources.iter_mut().find(|source| source.number == number) {
            source.is_gone = true;
        }
    }

    fn name(&self, number: usize) -> String {
        let sources = lock(&self.sources);
        sources.iter().find(|source| source.number == number).map(|source| source.status.name()).unwrap_or_default()
    }

    /// Reports to the host that another source feeds the flow. A source that was enabled again, or replaced under its name,
    /// has another number, but is not another source.
    pub(crate) fn report(&self, switch: Option<Switch>, events: &EventSink) {
        let Some(Switch { from, to, gap }) = switch else { return };
        let (from, to) = (self.name(from), self.name(to));
        if from != to {
            events.emit(Event::Switched { from, to, gap });
        }
    }
}

/// Programs that the sources of a flow ask for.
#[derive(Clone, Debug)]
pub(crate) struct WantedPrograms {
    pub(crate) group: Arc<SourceGroup>,
    pub(crate) sources: Arc<SourceList>,
}

impl WantedPrograms {
    /// Returns the program that the active source asks for, or the first source while none is active.
    pub(super) fn now(&self) -> ProgramChoice {
        // The locks are taken only where a source asks for a program.
        if !self.sources.asks_for_program.load(Relaxed) {
            return ProgramChoice::Best;
        }
        let sources = lock(&self.sources.sources);
        let active = sources.iter().find(|source| self.group.is_active(source.number));
        let first = sources.iter().find(|source| !source.is_gone);
        active.or(first).map(|source| source.program.clone()).unwrap_or_default()
    }
}
