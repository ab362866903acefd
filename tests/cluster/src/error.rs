//! What can go wrong, as one sentence that names the object and the next step.

use std::{io, path::Path, process::ExitStatus};

/// Why a cluster could not be made, used or removed. What lies beneath is in the sentence, and so no `source()` as well:
/// whoever prints the chain of causes would print it twice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something; the text says what, and the command that brings it.
    #[error("{0}")]
    Prerequisite(String),
    /// The cluster is not in the state that the call needs; the text says which state and the next step.
    #[error("{0}")]
    State(String),
    /// A file, socket or system call.
    #[error("{what}: {cause}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        cause: io::Error,
    },
    /// A program that was run came back with a failure.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line, shortened.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// A component ended or did not get ready.
    #[error("{component} {problem}; {}", end_of_log(.log, .tail))]
    Component {
        /// Such as `kubelet-1`.
        component: String,
        /// Such as `did not start`.
        problem: String,
        /// The log file.
        log: String,
        /// The log's last lines.
        tail: String,
    },
    /// Keys and certificates.
    #[error("cannot make a certificate: {0}")]
    Certificate(rcgen::Error),
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error)
    }
}

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done when the system refused.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { what: what(), cause: error.into() })
    }
}

/// Reads a small text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).doing(|| format!("reading {}", path.display()))
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    std::fs::write(path, content).doing(|| format!("writing {}", path.display()))
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).doing(|| format!("making the folder {}", path.display()))
}

fn end_of_log(log: &str, tail: &str) -> String {
    if tail.trim().is_empty() {
        return format!("its log ({log}) is empty: `cargo xtask cluster status` shows what else does not run");
    }
    format!("the end of its log ({log}):\n{tail}")
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_in_the_sentence_and_not_again_beneath_it() {
        let missing = std::fs::read("/no/such.tar").doing(|| "opening the image /no/such.tar".to_owned()).unwrap_err();
        assert_eq!(missing.to_string(), "opening the image /no/such.tar: No such file or directory (os error 2)");
        for error in [missing, rcgen::Error::CouldNotParseKeyPair.into()] {
            assert!(std::error::Error::source(&error).is_none(), "{error}");
        }
    }

    #[test]
    fn an_empty_log_is_answered_with_the_next_step() {
        let ended = |tail: &str| {
            let (component, problem) = ("kubelet-3".to_owned(), "ended".to_owned());
            Error::Component { component, problem, log: "kubelet-3.log".to_owned(), tail: tail.to_owned() }.to_string()
        };
        assert_eq!(ended("bad flag"), "kubelet-3 ended; the end of its log (kubelet-3.log):\nbad flag");
        assert!(ended("").contains("(kubelet-3.log) is empty: `cargo xtask cluster status`"), "{}", ended(""));
    }
}
