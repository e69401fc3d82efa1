//! The flows of the console: each is a stored record and, while it is enabled, a running flow of the engine.
//!
//! A change is applied to the engine, then stored, then answered. What cannot be applied is not stored, and what cannot be
//! stored is undone.

use crate::{
    apply::{Difference, Effect},
    document::{Direction, document_of, endpoints, flow_of, name_of, pick_ports},
    history::History,
    options::Failure,
    problem::Problem,
    store::{Change, Record, Store, blocking},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use streamlink_core::{Engine, Error, ErrorKind, Flow, FlowHandle};

/// Time between two attempts to start flows that could not be started.
const RETRY: Duration = Duration::from_secs(10);
/// Attempts to start a flow with ports that were free a moment ago.
const PORT_ATTEMPTS: usize = 5;

/// All flows of the console.
#[derive(Clone)]
pub(crate) struct Flows(Arc<Shared>);

struct Shared {
    engine: Engine,
    store: Arc<Store>,
    history: History,
    max_flows: usize,
    entries: RwLock<BTreeMap<String, Arc<Entry>>>,
    /// Handles of the flows that run: a flow ends with its last handle.
    handles: Mutex<HashMap<String, FlowHandle>>,
}

/// One flow.
pub(crate) struct Entry {
    /// Lock that allows one change at a time.
    changing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) record: Record,
    /// Reason for which the flow is enabled and does not run.
    pub(crate) error: Option<String>,
}

impl Entry {
    fn new(record: Record) -> Arc<Self> {
        let state = State { record, error: None };
        Arc::new(Self { changing: tokio::sync::Mutex::default(), state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> State {
        self.lock().clone()
    }
}

/// Edit of a record. Returns the prefix of the paths in errors: that of the endpoint that is edited.
type Edit = Box<dyn FnOnce(&mut Record) -> Result<String, Problem> + Send>;

impl Flows {
    /// Reads the stored flows. None of them runs yet.
    pub(crate) fn load(engine: Engine, store: Arc<Store>, history: History, max_flows: u32) -> Result<Self, Failure> {
        let entries = store.flows()?.into_iter().map(|(name, record)| (name, Entry::new(record))).collect();
        let max_flows = usize::try_from(max_flows).unwrap_or(usize::MAX);
        Ok(Self(Arc::new(Shared {
            engine,
            store,
            history,
            max_flows,
            entries: RwLock::new(entries),
            handles: Mutex::default(),
        })))
    }

    /// Returns true if the last write of the store has failed.
    pub(crate) fn is_store_failing(&self) -> bool {
        self.0.store.failure().is_some()
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn history(&self) -> &History {
        &self.0.history
    }

    /// Returns all flows, in the order of their names.
    pub(crate) fn all(&self) -> Vec<(String, Arc<Entry>)> {
        let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect()
    }

    /// Returns a flow.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Entry>, Problem> {
        let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(name).cloned().ok_or_else(|| Problem::not_found("flow", name))
    }

    /// Returns the handle of a flow that runs.
    pub(crate) fn running(&self, name: &str) -> Result<FlowHandle, Problem> {
        self.get(name)?;
        let handle = self.0.engine.flow(name);
        handle.ok_or_else(|| Problem::conflict(format!("flow `{name}` does not run")))
    }

    fn handles(&self) -> MutexGuard<'_, HashMap<String, FlowHandle>> {
        self.0.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a flow, which runs until it is stopped.
    async fn run(&self, flow: Flow) -> Result<(), Error> {
        let handle = self.0.engine.start(flow).await?;
        self.handles().insert(handle.name().to_owned(), handle);
        Ok(())
    }

    /// Starts all flows that are enabled. Those that cannot be started stay, with the reason, and are tried again.
    pub(crate) async fn start_all(&self) {
        for (name, entry) in self.all() {
            self.start_stored(&name, &entry).await;
        }
    }

    /// Tries again, from time to time, to start what could not be started.
    pub(crate) async fn retry(self) {
        loop {
            tokio::time::sleep(RETRY).await;
            for (name, entry) in self.all() {
                if entry.lock().error.is_some() {
                    self.start_stored(&name, &entry).await;
                }
            }
        }
    }

    async fn start_stored(&self, name: &str, entry: &Arc<Entry>) {
        let _changing = entry.changing.lock().await;
        let State { record, error: before } = entry.state();
        let is_there = self.check_still_there(name, entry).is_ok();
        if !record.enabled || !is_there || self.0.engine.flow(name).is_some() {
            return;
        }
        let result = match flow_of(&record.flow, "") {
            _ if record.flow.is_null() => {
                Err("its record in the store is damaged: delete it, or restore a backup".into())
            }
            Ok(flow) => self.run(flow).await.map_err(|error| error.to_string()),
            Err(problem) => Err(problem.detail().to_owned()),
        };
        let error = result.err();
        // Told again when the reason changes, not at each attempt.
        if let Some(error) = error.as_ref().filter(|error| before.as_ref() != Some(*error)) {
            self.0.history.note(name, "console", format!("the flow cannot be started: {error}"));
        }
        entry.lock().error = error;
    }

    /// Creates a flow, starts it if it is enabled, and stores it.
    pub(crate) async fn create(&self, flow: Flow, enabled: bool, by: &'static str) -> Result<String, Problem> {
        let flows = self.clone();
        detached(async move { flows.create_now(flow, enabled, by).await }).await
    }

    async fn create_now(&self, flow: Flow, enabled: bool, by: &str) -> Result<String, Problem> {
        let name = flow.name().to_owned();
        check_name(&name)?;
        let entry = Entry::new(Record { enabled, flow: Value::Null });
        let _changing = entry.changing.lock().await;
        {
            let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
            if entries.contains_key(&name) {
                let problem = Problem::conflict(format!("there is already a flow named `{name}`"));
                return Err(problem.at("name", "another flow has this name"));
            }
            if entries.len() >= self.0.max_flows {
                return Err(Problem::conflict(format!("there are {} flows already, the maximum", self.0.max_flows)));
            }
            entry.lock().record.flow = document_of(&flow);
            entries.insert(name.clone(), entry.clone());
        }
        let created = async {
            let mut document = document_of(&flow);
            let flow = self.start(&mut document, flow, enabled, "").await?;
            let record = Record { enabled, flow: document };
            if let Err(problem) = self.store(Change::Put(name.clone(), record.clone())).await {
                self.stop(flow.name()).await;
                return Err(problem);
            }
            entry.lock().record = record;
            Ok(())
        };
        if let Err(problem) = created.await {
            self.unreserve(&name, &entry);
            return Err(problem);
        }
        self.0.history.note(&name, by, "flow created");
        Ok(name)
    }

    /// Starts a flow if it is enabled, with free ports where the system is to pick them.
    async fn start(&self, document: &mut Value, flow: Flow, enabled: bool, prefix: &str) -> Result<Flow, Problem> {
        let template = document.clone();
        for attempt in 1.. {
            let mut flow = flow.clone();
            *document = template.clone();
            let has_picked = pick_ports(document, &flow)?;
            if has_picked {
                flow = flow_of(document, prefix)?;
            }
            if !enabled {
                return Ok(flow);
            }
            match self.run(flow.clone()).await {
                Ok(()) => return Ok(flow),
                // Somebody else has taken the port meanwhile.
                Err(error) if has_picked && error.kind() == ErrorKind::AddressInUse && attempt < PORT_ATTEMPTS => {}
                Err(error) => return Err(located(&error, document, prefix)),
            }
        }
        Err(Problem::internal("no port is free")) // not reached: the last attempt returns
    }

    async fn stop(&self, name: &str) {
        let handle = self.handles().remove(name);
        if let Some(handle) = handle {
            handle.stop().await;
        }
    }

    async fn store(&self, change: Change) -> Result<(), Problem> {
        let store = self.0.store.clone();
        blocking(move || store.apply(&change)).await.map_err(|error| {
            log::error!("a change cannot be stored: {error}");
            Problem::internal(format!("the change cannot be stored, and was undone: {error}"))
        })
    }

    /// Fails if a flow was deleted, or has got another name, while the caller waited for its lock.
    fn check_still_there(&self, name: &str, entry: &Arc<Entry>) -> Result<(), Problem> {
        match self.get(name) {
            Ok(found) if Arc::ptr_eq(&found, entry) => Ok(()),
            _ => Err(Problem::not_found("flow", name)),
        }
    }

    /// Deletes a flow, and stops it.
    pub(crate) async fn delete(&self, name: String, by: &'static str) -> Result<(), Problem> {
        let flows = self.clone();
        let delete = async move {
            let entry = flows.get(&name)?;
            let _changing = entry.changing.lock().await;
            flows.check_still_there(&name, &entry)?;
            flows.store(Change::Delete(name.clone())).await?;
            flows.stop(&name).await;
            flows.unreserve(&name, &entry);
            flows.0.history.note(&name, by, "flow deleted");
            Ok(())
        };
        detached(delete).await
    }

    /// Changes a flow: its document as `edit` does, the running flow, and the store. `what` tells the change to people.
    /// Returns the name of the flow, and how the change took effect.
    pub(crate) async fn change(
        &self,
        name: String,
        by: &'static str,
        what: String,
        edit: impl FnOnce(&mut Record) -> Result<String, Problem> + Send + 'static,
    ) -> Result<(String, Effect), Problem> {
        let (flows, edit): (Self, Edit) = (self.clone(), Box::new(edit));
        let change = async move {
            let entry = flows.get(&name)?;
            let _changing = entry.changing.lock().await;
            let (new_name, effect) = flows.change_now(&name, &entry, edit).await?;
            flows.0.history.note(&new_name, by, what);
            Ok((new_name, effect))
        };
        detached(change).await
    }

    async fn change_now(&self, name: &str, entry: &Arc<Entry>, edit: Edit) -> Result<(String, Effect), Problem> {
        self.check_still_there(name, entry)?;
        let old = entry.state().record;
        let mut new = old.clone();
        let prefix = edit(&mut new)?;
        let mut flow = flow_of(&new.flow, &prefix)?;
        new.flow = document_of(&flow);
        if pick_ports(&mut new.flow, &flow)? {
            flow = flow_of(&new.flow, &prefix)?;
        }
        let new_name = flow.name().to_owned();
        let is_renamed = new_name != name;
        if is_renamed {
            self.reserve(&new_name, entry)?;
        }
        let changed = async {
            let effect = self.bring(name, &old, &new, &flow, &prefix).await?;
            let change = if is_renamed {
                Change::Rename(name.to_owned(), new_name.clone(), new.clone())
            } else {
                Change::Put(name.to_owned(), new.clone())
            };
            if let Err(problem) = self.store(change).await {
                self.undo(entry, &new_name, &new, &old).await;
                return Err(problem);
            }
            Ok(effect)
        };
        let effect = match changed.await {
            Ok(effect) => effect,
            Err(problem) => {
                if is_renamed {
                    self.unreserve(&new_name, entry);
                }
                self.tell_if_lost(name, entry);
                return Err(problem);
            }
        };
        if is_renamed {
            self.unreserve(name, entry);
        }
        let mut state = entry.lock();
        state.record = new;
        state.error = None;
        Ok((new_name, effect))
    }

    /// Takes a new name for a flow.
    fn reserve(&self, name: &str, entry: &Arc<Entry>) -> Result<(), Problem> {
        check_name(name)?;
        let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.contains_key(name) {
            let problem = Problem::conflict(format!("there is already a flow named `{name}`"));
            return Err(problem.at("name", "another flow has this name"));
        }
        entries.insert(name.to_owned(), entry.clone());
        Ok(())
    }

    /// Gives back the name of a flow.
    fn unreserve(&self, name: &str, entry: &Arc<Entry>) {
        let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.get(name).is_some_and(|found| Arc::ptr_eq(found, entry)) {
            entries.remove(name);
        }
    }

    /// Makes the engine run what a new record says, in the place of the old one.
    async fn bring(
        &self,
        name: &str,
        old: &Record,
        new: &Record,
        flow: &Flow,
        prefix: &str,
    ) -> Result<Effect, Problem> {
        let Some(handle) = self.0.engine.flow(name) else {
            if !new.enabled {
                return Ok(Effect::Stored);
            }
            self.run(flow.clone()).await.map_err(|error| located(&error, &new.flow, prefix))?;
            return Ok(Effect::Started);
        };
        if !new.enabled {
            self.stop(name).await;
            return Ok(Effect::Stopped);
        }
        let old_flow = flow_of(&old.flow, prefix)?;
        let difference = Difference { old: &old.flow, old_flow: &old_flow, new: &new.flow, new_flow: flow };
        let effect = difference.apply(&handle).await.map_err(|error| located(&error, &new.flow, prefix))?;
        if let Some(effect) = effect {
            return Ok(effect);
        }
        self.stop(name).await;
        if let Err(error) = self.run(flow.clone()).await {
            // The flow goes on as it was; if even that fails, the caller says so.
            if let Err(error) = self.run(old_flow).await {
                log::error!("flow `{name}` cannot be started again: {error}");
            }
            return Err(located(&error, &new.flow, prefix));
        }
        Ok(Effect::Restart)
    }

    /// Makes the engine run the record that is stored, after a change that could not be stored.
    async fn undo(&self, entry: &Entry, name: &str, new: &Record, old: &Record) {
        let result = match flow_of(&old.flow, "") {
            Ok(flow) => self.bring(name, new, old, &flow, "").await.map(drop),
            Err(problem) => Err(problem),
        };
        if let Err(problem) = result {
            entry.lock().error = Some(problem.detail().to_owned());
        }
    }

    /// Marks a flow that was to run on, and does not, so that it is shown and tried again.
    fn tell_if_lost(&self, name: &str, entry: &Entry) {
        let mut state = entry.lock();
        if state.record.enabled && self.0.engine.flow(name).is_none() && state.error.is_none() {
            let error = "the flow could not be started again after a change that failed";
            state.error = Some(error.to_owned());
        }
    }
}

/// Refuses names that no URL can hold as a part of its path.
fn check_name(name: &str) -> Result<(), Problem> {
    if matches!(name, "." | "..") {
        return Err(Problem::field("name", "`.` and `..` are no names, because addresses of the API hold the name"));
    }
    Ok(())
}

/// Returns the problem of an error of the engine, with the field of an address that cannot be used.
fn located(error: &Error, document: &Value, prefix: &str) -> Problem {
    let problem = Problem::engine(error, prefix);
    let (Error::Bind { endpoint, .. } | Error::Io { endpoint, .. }) = error else { return problem };
    for direction in [Direction::Source, Direction::Output] {
        for (at, value) in endpoints(document, direction).iter().enumerate() {
            if *endpoint != format!("{} `{}`", direction.noun(), name_of(value)) {
                continue;
            }
            let path = format!("{}[{at}].url", direction.member());
            let path = match path.strip_prefix(prefix) {
                Some(rest) if !prefix.is_empty() => rest.trim_start_matches('.').to_owned(),
                _ => path,
            };
            let detail = problem.detail().to_owned();
            return problem.at(path, detail);
        }
    }
    problem
}

/// Runs a change to its end, also if the connection of who asked for it ends.
async fn detached<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(error) => Err(Problem::internal(error.to_string())),
    }
}
