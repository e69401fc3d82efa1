//! The store: flows with their keys, and the latest events, in a file that survives the sudden end of the process.

use crate::options::Failure;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Name of the file within the folder of the store.
const FILE: &str = "console.redb";
/// Version of the form of what is stored.
const VERSION: u64 = 1;

const ABOUT: TableDefinition<&str, u64> = TableDefinition::new("about");
/// Flows by their names, as JSON.
const FLOWS: TableDefinition<&str, &[u8]> = TableDefinition::new("flows");
/// Events by their numbers, as JSON.
const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");

/// Flow as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// False if the flow is not to run.
    pub(crate) enabled: bool,
    /// The flow in its JSON form, with its secrets.
    pub(crate) flow: Value,
}

/// The store. Each change is on the disk when its function returns.
#[derive(Debug)]
pub(crate) struct Store(Database);

/// Change of the stored flows, as a whole.
#[derive(Debug)]
pub(crate) enum Change {
    /// Stores a flow, in the place of an older form of it.
    Put(String, Record),
    /// Stores a flow under a new name.
    Rename(String, String, Record),
    /// Removes a flow.
    Delete(String),
}

impl Store {
    /// Opens the store of a folder, which is created if there is none. Nobody else can read it.
    ///
    /// # Errors
    /// When it cannot be opened, is used by another process, or was written by a later version.
    pub(crate) fn open(folder: &Path) -> Result<Self, Failure> {
        let about = |error: &dyn std::fmt::Display| format!("{}: {error}", folder.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| about(&error))?;
        let path = folder.join(FILE);
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(about(&error).into()),
            _ => {}
        }
        let database = Database::create(&path).map_err(|error| about(&error))?;
        // The name of a new file is on the disk once its folder is.
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| about(&error))?;
        let write = database.begin_write()?;
        {
            let mut table = write.open_table(ABOUT)?;
            let version = table.get("version")?.map(|version| version.value());
            if version.is_some_and(|version| version > VERSION) {
                return Err(about(&"was written by a later version of the console").into());
            }
            table.insert("version", VERSION)?;
            write.open_table(FLOWS)?;
            write.open_table(EVENTS)?;
        }
        write.commit()?;
        Ok(Self(database))
    }

    /// Returns all flows, in the order of their names.
    pub(crate) fn flows(&self) -> Result<Vec<(String, Record)>, Failure> {
        let read = self.0.begin_read()?;
        let mut flows = Vec::new();
        for row in read.open_table(FLOWS)?.iter()? {
            let (name, record) = row?;
            flows.push((name.value().to_owned(), serde_json::from_slice(record.value())?));
        }
        Ok(flows)
    }

    /// Applies a change.
    pub(crate) fn apply(&self, change: &Change) -> Result<(), Failure> {
        let write = self.0.begin_write()?;
        {
            let mut table = write.open_table(FLOWS)?;
            match change {
                Change::Put(name, record) => {
                    table.insert(name.as_str(), serde_json::to_vec(record)?.as_slice())?;
                }
                Change::Rename(old, new, record) => {
                    table.remove(old.as_str())?;
                    table.insert(new.as_str(), serde_json::to_vec(record)?.as_slice())?;
                }
                Change::Delete(name) => {
                    table.remove(name.as_str())?;
                }
            }
        }
        Ok(write.commit()?)
    }

    /// Returns the stored events with their numbers, the oldest first.
    pub(crate) fn events(&self) -> Result<Vec<(u64, Vec<u8>)>, Failure> {
        let read = self.0.begin_read()?;
        let mut events = Vec::new();
        for row in read.open_table(EVENTS)?.iter()? {
            let (number, event) = row?;
            events.push((number.value(), event.value().to_vec()));
        }
        Ok(events)
    }

    /// Stores new events, and removes old ones.
    pub(crate) fn change_events(&self, new: &[(u64, Vec<u8>)], old: &[u64]) -> Result<(), Failure> {
        let write = self.0.begin_write()?;
        {
            let mut table = write.open_table(EVENTS)?;
            for (number, event) in new {
                table.insert(number, event.as_slice())?;
            }
            for number in old {
                table.remove(number)?;
            }
        }
        Ok(write.commit()?)
    }
}

/// Runs work with the store on a thread that may wait for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn store_keeps_flows_and_events_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("a/b");
        let record = |rate: &str| Record { enabled: true, flow: json!({ "max_bandwidth": rate }) };
        let store = Store::open(&folder).unwrap();
        assert!(Store::open(&folder).is_err(), "one process at a time");
        store.apply(&Change::Put("one".into(), record("1M"))).unwrap();
        store.apply(&Change::Put("two".into(), record("2M"))).unwrap();
        store.apply(&Change::Rename("one".into(), "three".into(), record("3M"))).unwrap();
        store.apply(&Change::Delete("two".into())).unwrap();
        store.change_events(&[(1, b"a".to_vec()), (2, b"b".to_vec())], &[]).unwrap();
        store.change_events(&[(3, b"c".to_vec())], &[1]).unwrap();
        drop(store);
        let store = Store::open(&folder).unwrap();
        let flows = store.flows().unwrap();
        assert_eq!((flows.len(), flows[0].0.as_str(), &flows[0].1.flow["max_bandwidth"]), (1, "three", &json!("3M")));
        assert_eq!(store.events().unwrap(), [(2, b"b".to_vec()), (3, b"c".to_vec())]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(FILE))), (0o700, 0o600));
    }

    #[test]
    fn store_of_a_later_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let write = store.0.begin_write().unwrap();
        write.open_table(ABOUT).unwrap().insert("version", VERSION + 1).unwrap();
        write.commit().unwrap();
        drop(store);
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("a later version"), "{error}");
    }
}
