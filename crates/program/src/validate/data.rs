//! Arrays, sparse matrices, sources and files.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{Names, shape_text};
use crate::problem::Problems;
use crate::{
    Array, ArrayId, ArrayPlan, Content, Csr, DType, DataFile, Entries, FileFormat, FilePlan, Fill, Matrix, MatrixId,
    MatrixPlan, Random, Source, SourceId, SourcePlan, SourceText,
};

/// The largest array that is accepted: more than any GPU has, small enough that no size computation overflows.
const MAX_ARRAY_BYTES: u64 = 1 << 40;

pub(super) fn arrays(arrays: &[Array], names: &mut Names, problems: &mut Problems) -> Vec<Option<ArrayPlan>> {
    let mut plans = Vec::with_capacity(arrays.len());
    for (i, array) in arrays.iter().enumerate() {
        let path = format!("program.arrays[{i}]");
        declare(&mut names.arrays, &array.name, ArrayId(i), &path, "array", problems);
        plans.push(array_plan(array, &path, problems));
    }
    plans
}

fn array_plan(array: &Array, path: &str, problems: &mut Problems) -> Option<ArrayPlan> {
    let shape = shape(&array.shape, array.dtype, &format!("{path}.shape"), problems)?;
    let content = match (&array.fill, &array.file) {
        (None, None) => Content::Zeros,
        (Some(_), Some(_)) => {
            return problems.add(path, format!("array {:?} has both fill and file: give one of them", array.name));
        }
        (None, Some(data)) => {
            let plan = file(data, &format!("{path}.file"), problems)?;
            if plan.format == FileFormat::Mtx {
                return problems.add(
                    format!("{path}.file"),
                    "an .mtx file holds a sparse matrix: list it under program.matrices, or give npy or raw",
                );
            }
            Content::File(plan)
        }
        (Some(fill), None) => {
            let elements = shape.iter().product();
            content(fill, array.dtype, elements, &format!("{path}.fill"), problems)?
        }
    };
    Some(ArrayPlan { name: array.name.clone(), dtype: array.dtype, shape, content })
}

fn shape(shape: &[u64], dtype: DType, path: &str, problems: &mut Problems) -> Option<Vec<usize>> {
    if shape.is_empty() || shape.len() > 8 {
        return problems.add(path, format!("a shape has 1 to 8 dimensions, this one has {}", shape.len()));
    }
    if let Some(zero) = shape.iter().position(|&n| n == 0) {
        return problems.add(format!("{path}[{zero}]"), "a dimension is at least 1");
    }
    let bytes = shape.iter().try_fold(dtype.size_bytes() as u64, |bytes, &n| bytes.checked_mul(n));
    match bytes {
        Some(bytes) if bytes <= MAX_ARRAY_BYTES => shape.iter().map(|&n| usize::try_from(n).ok()).collect(),
        _ => problems.add(path, "the array is larger than 1 TiB, more than any GPU holds"),
    }
}

fn content(fill: &Fill, dtype: DType, elements: usize, path: &str, problems: &mut Problems) -> Option<Content> {
    let given = [fill.constant.is_some(), fill.iota.is_some(), fill.random.is_some(), fill.values.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return problems.add(path, "give exactly one of constant, iota, random and values");
    }
    let fits = |value: f64, path: String, problems: &mut Problems| match dtype.integer_range() {
        Some((low, high)) if value.fract() != 0.0 || value < low || value > high || !value.is_finite() => {
            problems.add(path, format!("{value} is no {dtype}"))
        }
        _ => Some(()),
    };
    if let Some(value) = fill.constant {
        fits(value, format!("{path}.constant"), problems)?;
        Some(Content::Constant(value))
    } else if let Some(iota) = fill.iota {
        let last = iota.start + iota.step * (elements - 1) as f64;
        fits(iota.start, format!("{path}.iota.start"), problems)?;
        if dtype.is_integer() && iota.step.fract() != 0.0 {
            return problems.add(format!("{path}.iota.step"), format!("{} is no whole number", iota.step));
        }
        fits(last, format!("{path}.iota"), problems)?;
        Some(Content::Iota(iota))
    } else if let Some(random) = fill.random {
        self::random(random, dtype, &format!("{path}.random"), problems)
    } else if let Some(values) = &fill.values {
        let expected = elements * if dtype.is_complex() { 2 } else { 1 };
        if values.len() != expected {
            let why = if dtype.is_complex() { " (a complex element is two numbers)" } else { "" };
            return problems.add(
                format!("{path}.values"),
                format!("{} values, but the shape has room for {expected}{why}", values.len()),
            );
        }
        for (i, value) in values.iter().enumerate() {
            fits(*value, format!("{path}.values[{i}]"), problems)?;
        }
        Some(Content::Values(values.clone()))
    } else {
        None
    }
}

fn random(random: Random, dtype: DType, path: &str, problems: &mut Problems) -> Option<Content> {
    let (low, high) = if dtype.is_integer() { (0.0, 100.0) } else { (-1.0, 1.0) };
    let (low, high) = (random.low.unwrap_or(low), random.high.unwrap_or(high));
    if !(low < high && low.is_finite() && high.is_finite()) {
        return problems.add(path, format!("low is {low} and high is {high}: low must be less than high"));
    }
    if let Some((least, greatest)) = dtype.integer_range()
        && (low < least || high > greatest || low.fract() != 0.0 || high.fract() != 0.0)
    {
        return problems.add(path, format!("the bounds {low} and {high} do not fit {dtype}"));
    }
    Some(Content::Random { seed: random.seed, low, high })
}

pub(super) fn matrices(matrices: &[Matrix], names: &mut Names, problems: &mut Problems) -> Vec<Option<MatrixPlan>> {
    let mut plans = Vec::with_capacity(matrices.len());
    for (i, matrix) in matrices.iter().enumerate() {
        let path = format!("program.matrices[{i}]");
        if names.arrays.contains_key(&matrix.name) {
            problems.add::<()>(format!("{path}.name"), format!("an array is already named {:?}", matrix.name));
        }
        declare(&mut names.matrices, &matrix.name, MatrixId(i), &path, "matrix", problems);
        plans.push(matrix_plan(matrix, &path, problems));
    }
    plans
}

fn matrix_plan(matrix: &Matrix, path: &str, problems: &mut Problems) -> Option<MatrixPlan> {
    if !matches!(matrix.dtype, DType::F32 | DType::F64) {
        let message = format!("a sparse matrix is f32 or f64, not {}", matrix.dtype);
        return problems.add(format!("{path}.dtype"), message);
    }
    let given = [matrix.laplace2d.is_some(), matrix.csr.is_some(), matrix.file.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return problems.add(path, "give exactly one of laplace2d, csr and file");
    }
    let name = matrix.name.clone();
    let shape_path = format!("{path}.shape");
    if let Some(laplace) = matrix.laplace2d {
        // cuSPARSE takes 32-bit offsets from us: 5 entries a row at most.
        if laplace.side == 0 || laplace.side > 16_384 {
            return problems.add(format!("{path}.laplace2d.side"), "a side is 1 to 16384 points");
        }
        let rows = laplace.side * laplace.side;
        if matrix.shape.as_ref().is_some_and(|shape| shape != &[rows, rows]) {
            return problems.add(shape_path, format!("this Laplacian is {rows}×{rows}: leave the shape out"));
        }
        let (rows, side) = (usize::try_from(rows).ok()?, usize::try_from(laplace.side).ok()?);
        return Some(MatrixPlan {
            name,
            dtype: matrix.dtype,
            rows,
            columns: rows,
            entries: Entries::Laplace2d { side },
        });
    }
    let Some([rows, columns]) = matrix.shape.as_deref() else {
        return problems.add(shape_path, "this matrix needs its shape, such as [4096, 4096]");
    };
    let (Ok(rows_i32), Ok(columns_i32)) = (i32::try_from(*rows), i32::try_from(*columns)) else {
        return problems.add(shape_path, "rows and columns are at most 2147483647");
    };
    if rows_i32 == 0 || columns_i32 == 0 {
        return problems.add(shape_path, "a dimension is at least 1");
    }
    let (rows, columns) = (rows_i32 as usize, columns_i32 as usize);
    let entries = if let Some(csr) = &matrix.csr {
        csr_entries(csr, rows, columns, &format!("{path}.csr"), problems)?
    } else {
        let plan = file(matrix.file.as_ref()?, &format!("{path}.file"), problems)?;
        if plan.format != FileFormat::Mtx {
            return problems.add(format!("{path}.file"), "a sparse matrix is read from a Matrix Market file (.mtx)");
        }
        Entries::File(plan)
    };
    Some(MatrixPlan { name, dtype: matrix.dtype, rows, columns, entries })
}

fn csr_entries(csr: &Csr, rows: usize, columns: usize, path: &str, problems: &mut Problems) -> Option<Entries> {
    let entries = csr.values.len();
    if csr.row_offsets.len() != rows + 1 {
        return problems.add(
            format!("{path}.rowOffsets"),
            format!("{} offsets, but {rows} rows need {}", csr.row_offsets.len(), rows + 1),
        );
    }
    if csr.columns.len() != entries {
        let message = format!("{} columns, but {entries} values: one column for each value", csr.columns.len());
        return problems.add(format!("{path}.columns"), message);
    }
    if csr.row_offsets.first() != Some(&0) || csr.row_offsets.last() != Some(&(entries as u64)) {
        let message = format!("offsets go from 0 to the number of values, {entries}");
        return problems.add(format!("{path}.rowOffsets"), message);
    }
    if let Some(i) = csr.row_offsets.windows(2).position(|pair| pair[0] > pair[1]) {
        let message = format!("{} after {}: offsets never fall", csr.row_offsets[i + 1], csr.row_offsets[i]);
        return problems.add(format!("{path}.rowOffsets[{}]", i + 1), message);
    }
    if let Some(i) = csr.columns.iter().position(|&column| column >= columns as u64) {
        let message = format!("column {} of a matrix with {columns} columns (the first is 0)", csr.columns[i]);
        return problems.add(format!("{path}.columns[{i}]"), message);
    }
    let narrow = |values: &[u64]| values.iter().map(|&value| i32::try_from(value).ok()).collect::<Option<Vec<i32>>>();
    Some(Entries::Csr {
        row_offsets: narrow(&csr.row_offsets)?,
        columns: narrow(&csr.columns)?,
        values: csr.values.clone(),
    })
}

pub(super) fn sources(sources: &[Source], names: &mut Names, problems: &mut Problems) -> Vec<Option<SourcePlan>> {
    let mut plans = Vec::with_capacity(sources.len());
    for (i, source) in sources.iter().enumerate() {
        let path = format!("program.sources[{i}]");
        declare(&mut names.sources, &source.name, SourceId(i), &path, "source", problems);
        let text = match (&source.cuda, &source.ptx) {
            (Some(cuda), None) => Some((SourceText::Cuda(cuda.clone()), cuda, "cuda")),
            (None, Some(ptx)) => Some((SourceText::Ptx(ptx.clone()), ptx, "ptx")),
            _ => problems.add(path.as_str(), "give exactly one of cuda and ptx"),
        };
        plans.push(text.and_then(|(text, content, field)| {
            if content.trim().is_empty() || content.contains('\0') {
                return problems.add(format!("{path}.{field}"), "the text is empty or holds a zero byte");
            }
            if matches!(text, SourceText::Ptx(_)) && !source.options.is_empty() {
                return problems.add(format!("{path}.options"), "options are for the CUDA compiler: PTX takes none");
            }
            for (o, option) in source.options.iter().enumerate() {
                if let Some(message) = option_problem(option) {
                    return problems.add(format!("{path}.options[{o}]"), message);
                }
            }
            Some(SourcePlan { name: source.name.clone(), text, options: source.options.clone() })
        }));
    }
    plans
}

/// Options that would choose another GPU architecture or another output than the runtime loads.
fn option_problem(option: &str) -> Option<String> {
    let taken = ["-arch", "--gpu-architecture", "-dlto", "--dlink-time-opt", "-optix-ir", "--optix-ir"];
    if option.contains('\0') || !option.starts_with('-') {
        return Some(format!("{option:?} is no option: options start with a dash"));
    }
    taken
        .iter()
        .any(|name| option == *name || option.starts_with(&format!("{name}=")))
        .then(|| format!("{option} is set by the runtime, which compiles for the GPU at hand"))
}

pub(super) fn file(file: &DataFile, path: &str, problems: &mut Problems) -> Option<FilePlan> {
    if file.path.is_empty() || file.path.contains('\0') {
        return problems.add(format!("{path}.path"), "the path is empty or holds a zero byte");
    }
    let by_ending = match file.path.rsplit_once('.') {
        Some((_, "npy")) => FileFormat::Npy,
        Some((_, "mtx")) => FileFormat::Mtx,
        _ => FileFormat::Raw,
    };
    Some(FilePlan { path: file.path.clone(), format: file.format.unwrap_or(by_ending) })
}

fn declare<T>(map: &mut HashMap<String, T>, name: &str, id: T, path: &str, what: &str, problems: &mut Problems) {
    let path = format!("{path}.name");
    if name.is_empty() || name.chars().count() > 63 || name.chars().any(char::is_control) {
        problems.add::<()>(path, "a name has 1 to 63 printable characters");
        return;
    }
    match map.entry(name.to_owned()) {
        Entry::Vacant(slot) => {
            slot.insert(id);
        }
        Entry::Occupied(_) => {
            problems.add::<()>(path, format!("another {what} is already named {name:?}"));
        }
    }
}

/// Whether two shapes are the same; otherwise the sentence that says so.
pub(super) fn same_shape(left: &ArrayPlan, right: &ArrayPlan) -> Result<(), String> {
    if left.dtype != right.dtype {
        return Err(format!("{} is {} but {} is {}", left.name, left.dtype, right.name, right.dtype));
    }
    if left.shape != right.shape {
        let (l, r) = (shape_text(&left.shape), shape_text(&right.shape));
        return Err(format!("{} is {l} but {} is {r}", left.name, right.name));
    }
    Ok(())
}
