//! What a cluster keeps on disk between two commands, and how commands keep out of each other's way.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    error::{Doing, Error, Result, make_folder, read, write},
    node::NodeSpec,
    tools::Tools,
};

/// The folder with the state of all clusters of this checkout: `target/cluster`.
pub fn state_folder() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"));
    // `..` is resolved because nodes see these paths from another root.
    let absolute = target.canonicalize().or_else(|_| std::path::absolute(&target)).unwrap_or(target);
    absolute.join("cluster")
}

/// The names of this checkout's clusters, made or half made.
pub fn cluster_names() -> Vec<String> {
    names_in(&state_folder())
}

fn names_in(folder: &Path) -> Vec<String> {
    let folders = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut names: Vec<String> = folders
        .filter(|folder| folder.join(RECORD).exists())
        .filter_map(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

/// The file in a cluster's folder that says what it is made of.
const RECORD: &str = "cluster.json";

/// A cluster's place on disk and its name in the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub name: String,
    pub folder: PathBuf,
    /// Of network namespaces and control groups. It has a hash of the folder in it: two checkouts with a `demo` each do
    /// not meet.
    pub prefix: String,
}

impl Place {
    pub fn of(name: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty()
            || name.len() > 20
            || !name.chars().all(allowed)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            return Err(Error::State(format!(
                "`{name}` cannot name a cluster: use up to 20 lower-case letters, digits and inner hyphens"
            )));
        }
        let folder = state_folder().join(name);
        let hash = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let prefix = format!("weft-{name}-{:02x}{:02x}", hash[0], hash[1]);
        Ok(Self { name: name.to_owned(), folder, prefix })
    }

    /// Where a component's pid is noted.
    pub fn pid_file(&self, component: impl std::fmt::Display) -> PathBuf {
        self.folder.join("pid").join(component.to_string())
    }

    pub fn log(&self, component: impl std::fmt::Display) -> PathBuf {
        self.folder.join("log").join(format!("{component}.log"))
    }

    fn record(&self) -> PathBuf {
        self.folder.join(RECORD)
    }

    /// What is known of the cluster; `None` if there is none.
    pub fn load(&self) -> Result<Option<Record>> {
        if !self.record().exists() {
            return Ok(None);
        }
        let json = read(&self.record())?;
        let record = serde_json::from_str(&json).map_err(|error| {
            Error::State(format!(
                "{} cannot be read ({error}): remove the cluster with `cargo xtask cluster down --name {}`",
                self.record().display(),
                self.name
            ))
        })?;
        Ok(Some(record))
    }

    pub fn save(&self, record: &Record) -> Result<()> {
        let json = serde_json::to_string_pretty(record)
            .map_err(std::io::Error::from)
            .doing(|| "describing the cluster".to_owned())?;
        // Whole or not at all: `down` after a power cut reads it.
        let new = self.record().with_extension("json.new");
        write(&new, json)?;
        fs::rename(&new, self.record()).doing(|| format!("writing {}", self.record().display()))
    }

    /// Keeps other commands from changing the same cluster until the file is dropped.
    pub fn lock(&self) -> Result<fs::File> {
        make_folder(&state_folder())?;
        let path = self.lock_path();
        loop {
            let file = fs::File::create(&path).doing(|| format!("making {}", path.display()))?;
            file.try_lock().map_err(|_| {
                Error::State(format!(
                    "another command is just changing cluster `{}`: wait for it to end, or use another --name",
                    self.name
                ))
            })?;
            // `down` removes the file that it holds: then this one locks nothing any more.
            let number = |meta: std::io::Result<fs::Metadata>| meta.map(|meta| meta.ino()).ok();
            if number(file.metadata()) == number(fs::metadata(&path)) {
                return Ok(file);
            }
        }
    }

    /// Removes the file of a lock that the caller holds.
    pub fn unlock_for_good(&self, lock: fs::File) -> Result<()> {
        fs::remove_file(self.lock_path()).doing(|| format!("removing {}", self.lock_path().display()))?;
        drop(lock);
        Ok(())
    }

    fn lock_path(&self) -> PathBuf {
        state_folder().join(format!("{}.lock", self.name))
    }
}

/// What a cluster is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The API server's port on 127.0.0.1.
    pub api_port: u16,
    pub kwok: bool,
    /// Node `i` of everywhere else is element `i - 1`.
    pub nodes: Vec<NodeSpec>,
    pub tools: Tools,
    /// False while `up` has not come to its end.
    pub complete: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clusters_that_there_are_can_be_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(names_in(&folder.path().join("none-yet")), Vec::<String>::new());
        // The second failed to come up and left its logs; the third is a lock.
        fs::create_dir_all(folder.path().join("two/log")).unwrap();
        fs::write(folder.path().join("one.lock"), "").unwrap();
        for name in ["one", "nu"] {
            write(&folder.path().join(name).join(RECORD), "{}").unwrap();
        }
        assert_eq!(names_in(folder.path()), ["nu", "one"]);
    }

    #[test]
    fn a_name_that_the_kernel_or_a_path_would_misread_is_refused() {
        for wrong in ["", "a/b", "..", "-x", "x-", "Demo", "a b", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert!(Place::of(wrong).is_err(), "{wrong}");
        }
        assert!(Place::of("demo-2").unwrap().prefix.starts_with("weft-demo-2-"));
    }
}
