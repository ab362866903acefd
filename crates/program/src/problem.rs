//! What is wrong with a program, and where.

use std::fmt;

/// One thing wrong with a program: the field, and a sentence about it.
///
/// Displayed as `program.steps[2].gemm: a is 256×128 but b is 64×192: inner dimensions 128 and 64 differ`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The field, from the program's root: `program.steps[2].gemm`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Collects problems, so that a person sees all of them at once.
#[derive(Default)]
pub(crate) struct Problems(pub Vec<Problem>);

impl Problems {
    /// Adds a problem of `path`. Returns `None`, so that a caller can `return problems.add(..)` for "no plan of this part".
    pub fn add<T>(&mut self, path: impl Into<String>, message: impl Into<String>) -> Option<T> {
        self.0.push(Problem::new(path, message));
        None
    }
}
