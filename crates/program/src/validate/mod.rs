//! From [`Program`] to [`Plan`], or to everything that is wrong with it.

mod data;
mod steps;

use std::collections::HashMap;

use crate::problem::Problems;
use crate::{ArrayId, ArrayPlan, FileFormat, MatrixId, MatrixPlan, Plan, Problem, Program, SavePlan, SourceId};

/// Checks a program and resolves its names, shapes and defaults. Pure: reads no file, knows no GPU.
///
/// # Errors
/// Every problem found, each with its field, in the order of the program.
pub fn validate(program: &Program) -> Result<Plan, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut names = Names::default();

    let arrays = data::arrays(&program.arrays, &mut names, &mut problems);
    let matrices = data::matrices(&program.matrices, &mut names, &mut problems);
    let sources = data::sources(&program.sources, &mut names, &mut problems);
    let scope = Scope { names: &names, arrays: &arrays, matrices: &matrices };
    let steps = steps::steps(&program.steps, &scope, &mut problems);
    let saves = saves(program, &scope, &mut problems);

    if !problems.0.is_empty() {
        return Err(problems.0);
    }
    // Without problems every part has its plan, so nothing is lost by flattening.
    Ok(Plan {
        arrays: arrays.into_iter().flatten().collect(),
        matrices: matrices.into_iter().flatten().collect(),
        sources: sources.into_iter().flatten().collect(),
        steps: steps.into_iter().flatten().collect(),
        saves,
    })
}

fn saves(program: &Program, scope: &Scope<'_>, problems: &mut Problems) -> Vec<SavePlan> {
    let mut saves = Vec::new();
    for (i, save) in program.save.iter().enumerate() {
        let path = format!("program.save[{i}]");
        let array = scope.array_id(&save.array, &format!("{path}.array"), problems);
        let file = save.file.as_ref().map(|file| data::file(file, &format!("{path}.file"), problems));
        if let Some(Some(file)) = &file
            && file.format == FileFormat::Mtx
        {
            problems.add::<()>(format!("{path}.file"), "an array is saved as npy or raw, not as mtx");
        }
        if let Some(array) = array {
            saves.push(SavePlan { array, file: file.flatten() });
        }
    }
    saves
}

/// The names that a program declares, each in its own space except that arrays and matrices share one.
#[derive(Default)]
pub(super) struct Names {
    arrays: HashMap<String, ArrayId>,
    matrices: HashMap<String, MatrixId>,
    sources: HashMap<String, SourceId>,
}

/// What steps can refer to. A part that has problems of its own is `None`: it is known, but nothing follows from it.
pub(super) struct Scope<'a> {
    names: &'a Names,
    arrays: &'a [Option<ArrayPlan>],
    matrices: &'a [Option<MatrixPlan>],
}

impl<'a> Scope<'a> {
    fn array_id(&self, name: &str, path: &str, problems: &mut Problems) -> Option<ArrayId> {
        if let Some(id) = self.names.arrays.get(name) {
            return Some(*id);
        }
        if self.names.matrices.contains_key(name) {
            return problems.add(path, format!("{name:?} is a sparse matrix, an array is needed here"));
        }
        problems.add(path, format!("no array is named {name:?}{}", known(self.names.arrays.keys())))
    }

    /// The array, if it exists and is itself without problems.
    fn array(&self, name: &str, path: &str, problems: &mut Problems) -> Option<(ArrayId, &'a ArrayPlan)> {
        let id = self.array_id(name, path, problems)?;
        self.arrays[id.0].as_ref().map(|plan| (id, plan))
    }

    fn matrix(&self, name: &str, path: &str, problems: &mut Problems) -> Option<(MatrixId, &'a MatrixPlan)> {
        match self.names.matrices.get(name) {
            Some(id) => self.matrices[id.0].as_ref().map(|plan| (*id, plan)),
            None => problems.add(path, format!("no matrix is named {name:?}{}", known(self.names.matrices.keys()))),
        }
    }

    fn source(&self, name: &str, path: &str, problems: &mut Problems) -> Option<SourceId> {
        match self.names.sources.get(name) {
            Some(id) => Some(*id),
            None => problems.add(path, format!("no source is named {name:?}{}", known(self.names.sources.keys()))),
        }
    }
}

/// `; there are "a" and "b"`, so that a typing error is seen at once.
fn known<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    names.sort_unstable();
    match names[..] {
        [] => "; the program declares none".to_owned(),
        [one] => format!("; there is {one:?}"),
        _ => format!("; there are {}", names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")),
    }
}

/// `256×128`, as people write shapes.
pub(super) fn shape_text(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

#[cfg(test)]
mod tests;
