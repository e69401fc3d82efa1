//! The store: flows with their keys, and the latest events, in a file that survives the sudden end of the process.

use crate::options::Failure;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Name of the file within the folder of the store.
const FILE: &str = "console.redb";
/// Version of the form of what is stored.
const VERSION: u64 = 1;

const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");
/// Flows by their names, as JSON.
const FLOWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("flows");
/// Events by their numbers, as JSON.
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");

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
pub(crate) struct Store {
    folder: PathBuf,
    open: Mutex<OpenStore>,
    /// Reason for which the last write has failed. Its lock is never held while the disk works.
    failure: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct OpenStore {
    /// `None` after an error of the disk: a database refuses everything from then on, and is opened anew.
    database: Option<Database>,
    /// Rows of flows as they were before changes that could not be stored. Whether such a change is in the file is not
    /// known, so the next write puts these rows back.
    unsure: BTreeMap<String, Option<Vec<u8>>>,
}

/// Name of a flow, and what is stored of it; `None` removes it.
type Row<'a> = (&'a str, Option<Vec<u8>>);

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

impl Change {
    /// Returns the rows that the change writes.
    fn rows(&self) -> Result<Vec<Row<'_>>, Failure> {
        Ok(match self {
            Self::Put(name, record) => vec![(name, Some(serde_json::to_vec(record)?))],
            Self::Rename(old, new, record) => vec![(old, None), (new, Some(serde_json::to_vec(record)?))],
            Self::Delete(name) => vec![(name, None)],
        })
    }
}

/// Opens the file of the store in its folder. Both are created if they are missing.
fn open_database(folder: &Path) -> Result<Database, Failure> {
    let about = |error: &dyn std::fmt::Display| format!("{}: {error}", folder.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| about(&error))?;
    let path = folder.join(FILE);
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(about(&error).into()),
        _ => {}
    }
    let damaged = |error: &dyn std::fmt::Display| {
        format!("{}: is damaged ({error}): restore it from a backup, or move it away to begin anew", path.display())
    };
    // A database that reads a damaged file may panic.
    let database = match catch_unwind(AssertUnwindSafe(|| Database::create(&path))) {
        Ok(Ok(database)) => database,
        Ok(Err(error)) if is_damage(&error) => return Err(damaged(&error).into()),
        Ok(Err(error)) => return Err(about(&error).into()),
        Err(_) => return Err(damaged(&"it cannot be read").into()),
    };
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
    Ok(database)
}

/// Returns true for errors about the content of the file.
fn is_damage(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(error)) => {
            matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

/// Writes a row of the flows, or removes it. Returns it as it was.
fn set_flow(write: &WriteTransaction, name: &str, row: Option<&[u8]>) -> Result<Option<Vec<u8>>, Failure> {
    let mut table = write.open_table(FLOWS)?;
    let before = match row {
        Some(row) => table.insert(name, row)?,
        None => table.remove(name)?,
    };
    Ok(before.map(|row| row.value().to_vec()))
}

impl OpenStore {
    /// Returns the database, which is opened anew after an error.
    fn database(&mut self, folder: &Path) -> Result<&Database, Failure> {
        if self.database.is_none() {
            self.database = Some(open_database(folder)?);
        }
        self.database.as_ref().ok_or_else(|| "the store is closed".into())
    }

    /// Runs work as one transaction, after what earlier ones may have left behind is undone.
    fn write(
        &mut self,
        folder: &Path,
        work: impl FnOnce(&WriteTransaction) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let unsure = self.unsure.clone();
        let database = self.database(folder)?;
        let write = database.begin_write()?;
        for (name, row) in &unsure {
            set_flow(&write, name, row.as_deref())?;
        }
        work(&write)?;
        Ok(write.commit()?)
    }
}

impl Store {
    /// Opens the store of a folder, which is created if there is none. Nobody else can read it.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, is used by another process, or was written by a later version.
    pub(crate) fn open(folder: &Path) -> Result<Self, Failure> {
        let database = Some(open_database(folder)?);
        let open = Mutex::new(OpenStore { database, ..OpenStore::default() });
        Ok(Self { folder: folder.to_owned(), open, failure: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, OpenStore> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the reason for which the last write has failed; `None` if it has not.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, work: impl FnOnce(&WriteTransaction) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut open = self.lock();
        let result = catch_unwind(AssertUnwindSafe(|| open.write(&self.folder, work)));
        let result = result.unwrap_or_else(|_| Err("the store is damaged".into()));
        if result.is_ok() {
            open.unsure.clear();
        } else {
            open.database = None;
        }
        let failure = result.as_ref().err().map(ToString::to_string);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        result
    }

    /// Returns all flows, in the order of their names. One that cannot be read is `null`.
    pub(crate) fn flows(&self) -> Result<Vec<(String, Record)>, Failure> {
        let mut open = self.lock();
        let read = open.database(&self.folder)?.begin_read()?;
        let mut flows = Vec::new();
        for row in read.open_table(FLOWS)?.iter()? {
            let (name, record) = row?;
            let name = name.value().to_owned();
            let record = serde_json::from_slice(record.value()).unwrap_or_else(|error| {
                log::error!("flow `{name}` cannot be read from the store: {error}");
                Record { enabled: true, flow: Value::Null }
            });
            flows.push((name, record));
        }
        Ok(flows)
    }

    /// Applies a change. One that fails is not in the store, also if the disk has it already.
    pub(crate) fn apply(&self, change: &Change) -> Result<(), Failure> {
        let rows = change.rows()?;
        let mut before = Vec::new();
        let result = self.write(|write| {
            for (name, row) in &rows {
                before.push(((*name).to_owned(), set_flow(write, name, row.as_deref())?));
            }
            Ok(())
        });
        if result.is_err() {
            let mut open = self.lock();
            for (name, row) in before {
                open.unsure.entry(name).or_insert(row);
            }
        }
        result
    }

    /// Returns the stored events with their numbers, the oldest first.
    pub(crate) fn events(&self) -> Result<Vec<(u64, Vec<u8>)>, Failure> {
        let mut open = self.lock();
        let read = open.database(&self.folder)?.begin_read()?;
        let mut events = Vec::new();
        for row in read.open_table(EVENTS)?.iter()? {
            let (number, event) = row?;
            events.push((number.value(), event.value().to_vec()));
        }
        Ok(events)
    }

    /// Stores new events, and removes old ones.
    pub(crate) fn change_events(&self, new: &[(u64, Vec<u8>)], old: &[u64]) -> Result<(), Failure> {
        self.write(|write| {
            let mut table = write.open_table(EVENTS)?;
            for (number, event) in new {
                table.insert(number, event.as_slice())?;
            }
            for number in old {
                table.remove(number)?;
            }
            Ok(())
        })
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
        let open = store.lock();
        let write = open.database.as_ref().unwrap().begin_write().unwrap();
        write.open_table(ABOUT).unwrap().insert("version", VERSION + 1).unwrap();
        write.commit().unwrap();
        drop(open);
        drop(store);
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("a later version"), "{error}");
    }

    #[test]
    fn damaged_store_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.apply(&Change::Put("f".into(), Record { enabled: true, flow: json!({}) })).unwrap();
        drop(store);
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for length in [1, 100, 320, 5000, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            let error = Store::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains("is damaged"), "{length}: {error}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(Store::open(folder.path()).unwrap().flows().unwrap().len(), 1);
    }

    #[test]
    fn flow_with_damaged_record_leaves_the_others_readable() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.apply(&Change::Put("b".into(), Record { enabled: false, flow: json!({ "name": "b" }) })).unwrap();
        store.write(|write| set_flow(write, "a", Some(b"{\"enabled\":tr")).map(drop)).unwrap();
        let flows = store.flows().unwrap();
        assert_eq!((flows[0].0.as_str(), &flows[0].1.flow), ("a", &Value::Null));
        assert_eq!(flows[1].1.flow["name"], "b");
        store.apply(&Change::Delete("a".into())).unwrap();
        assert_eq!(store.flows().unwrap().len(), 1);
    }

    #[test]
    fn store_undoes_a_failed_change_that_the_disk_has_already() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let record = |rate: &str| Record { enabled: true, flow: json!({ "max_bandwidth": rate }) };
        store.apply(&Change::Put("a".into(), record("1M"))).unwrap();
        // The write of the change ends with an error after the change is in the file.
        let row = serde_json::to_vec(&record("2M")).unwrap();
        store.write(|write| set_flow(write, "a", Some(&row)).map(drop)).unwrap();
        let before = serde_json::to_vec(&record("1M")).unwrap();
        store.lock().unsure.insert("a".into(), Some(before));
        store.lock().database = None;
        store.change_events(&[], &[]).unwrap();
        assert_eq!(store.flows().unwrap()[0].1.flow["max_bandwidth"], "1M");
        // A failed change is remembered as it was before, and the store is opened anew.
        let failed = store.write(|_| Err("no space".into())).unwrap_err();
        assert_eq!((failed.to_string().as_str(), store.failure().as_deref()), ("no space", Some("no space")));
        store.apply(&Change::Put("a".into(), record("3M"))).unwrap();
        assert_eq!((store.failure(), &store.flows().unwrap()[0].1.flow["max_bandwidth"]), (None, &json!("3M")));
    }
}
