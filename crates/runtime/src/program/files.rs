//! Arrays and matrices in files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weft_program::{DType, FileFormat};

use super::content::CsrData;
use super::npy;
use crate::Error;

/// Reads an array that must have exactly this type and shape. `shown` is the path as the user wrote it.
///
/// # Errors
/// [`Error::File`].
pub fn read_array(
    path: &Path,
    shown: &str,
    format: FileFormat,
    dtype: DType,
    shape: &[usize],
) -> Result<Vec<u8>, Error> {
    let bytes = fs::read(path).map_err(|error| Error::file(shown, error))?;
    let data = match format {
        FileFormat::Npy => npy::read(&bytes, dtype, shape).map_err(|message| Error::file(shown, message))?.to_vec(),
        FileFormat::Raw | FileFormat::Mtx => bytes,
    };
    let expected = shape.iter().product::<usize>() * dtype.size_bytes();
    if data.len() != expected {
        return Err(Error::file(shown, format!("{} bytes of data, but the array has {expected}", data.len())));
    }
    Ok(data)
}

/// Writes an array: whole, or not at all, as on a full disk.
///
/// # Errors
/// [`Error::File`].
pub fn write(
    path: &Path,
    shown: &str,
    format: FileFormat,
    dtype: DType,
    shape: &[usize],
    data: &[u8],
) -> Result<(), Error> {
    let header = if format == FileFormat::Npy { npy::header(dtype, shape) } else { Vec::new() };
    replace(path, &[&header, data]).map_err(|error| Error::file(shown, error))
}

/// Writes beside the file and renames. A link stays one, and what is no plain file, such as a pipe, is written to directly.
fn replace(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        let mut file = fs::OpenOptions::new().write(true).open(&path)?;
        return parts.iter().try_for_each(|part| file.write_all(part));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Readable as any new file is, not as a temporary one; the process's mask still takes from it.
    let readable = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(".weft-").permissions(readable).tempfile_in(folder)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    // Some file systems find that they are full only now.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Reads a Matrix Market coordinate file that must have exactly this shape. Entries in the same place are added up.
///
/// # Errors
/// [`Error::File`], with the line.
pub fn read_matrix(path: &Path, shown: &str, rows: usize, columns: usize) -> Result<CsrData, Error> {
    let text = fs::read_to_string(path).map_err(|error| Error::file(shown, error))?;
    matrix_market(&text, rows, columns).map_err(|message| Error::file(shown, message))
}

fn matrix_market(text: &str, rows: usize, columns: usize) -> Result<CsrData, String> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let (_, banner) = lines.next().ok_or("the file is empty")?;
    let words: Vec<String> = banner.split_whitespace().map(str::to_lowercase).collect();
    let ["%%matrixmarket", "matrix", "coordinate", field, symmetry] =
        words.iter().map(String::as_str).collect::<Vec<_>>()[..]
    else {
        return Err("line 1 must be `%%MatrixMarket matrix coordinate …`".into());
    };
    if !matches!(field, "real" | "integer" | "pattern") {
        return Err(format!("line 1: values are {field}, not real, integer or pattern"));
    }
    let mirrored = match symmetry {
        "general" => None,
        "symmetric" => Some(1.0),
        "skew-symmetric" => Some(-1.0),
        other => return Err(format!("line 1: {other} matrices are not read")),
    };
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('%'));
    let (at, sizes) = lines.next().ok_or("the line with the sizes is missing")?;
    let sizes: Option<Vec<usize>> = sizes.split_whitespace().map(|word| word.parse().ok()).collect();
    let Some([file_rows, file_columns, count]) = sizes.as_deref() else {
        return Err(format!("line {at}: rows, columns and entries are expected"));
    };
    if (*file_rows, *file_columns) != (rows, columns) {
        return Err(format!("the matrix is {file_rows}×{file_columns}, but its shape says {rows}×{columns}"));
    }
    let mut entries: Vec<(i32, i32, f64)> = Vec::new();
    let mut read = 0usize;
    for (at, line) in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let index = |word: Option<&&str>, limit: usize| {
            word.and_then(|word| word.parse::<usize>().ok()).filter(|&i| i >= 1 && i <= limit).map(|i| (i - 1) as i32)
        };
        let value = if field == "pattern" { Some(1.0) } else { words.get(2).and_then(|word| word.parse().ok()) };
        let (Some(row), Some(column), Some(value)) = (index(words.first(), rows), index(words.get(1), columns), value)
        else {
            return Err(format!("line {at}: no entry of a {rows}×{columns} matrix: {line}"));
        };
        entries.push((row, column, value));
        if let Some(sign) = mirrored
            && row != column
        {
            entries.push((column, row, sign * value));
        }
        read += 1;
    }
    if read != *count {
        return Err(format!("{read} entries, but the header says {count}"));
    }
    entries.sort_by_key(|&(row, column, _)| (row, column));
    let mut data = CsrData { row_offsets: vec![0; rows + 1], ..CsrData::default() };
    let mut last = None;
    for (row, column, value) in entries {
        match (last == Some((row, column)), data.values.last_mut()) {
            (true, Some(sum)) => *sum += value,
            _ => {
                data.columns.push(column);
                data.values.push(value);
                data.row_offsets[row as usize + 1] += 1;
            }
        }
        last = Some((row, column));
    }
    for row in 0..rows {
        data.row_offsets[row + 1] += data.row_offsets[row];
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symmetric_matrix_is_read_whole_and_in_order() {
        let text = "%%MatrixMarket matrix coordinate real symmetric\n% note\n3 3 4\n3 1 5\n1 1 2\n2 2 3\n2 2 1\n";
        let data = matrix_market(text, 3, 3).unwrap();
        assert_eq!(data.row_offsets, [0, 2, 3, 4]);
        assert_eq!(data.columns, [0, 2, 1, 0]);
        assert_eq!(data.values, [2.0, 5.0, 4.0, 5.0]);
    }

    #[test]
    fn a_wrong_matrix_is_refused_with_its_line() {
        let banner = "%%MatrixMarket matrix coordinate real general\n";
        let message = |text: &str| matrix_market(text, 2, 2).unwrap_err();
        assert!(message("hello\n").contains("line 1"));
        assert!(message(&format!("{banner}3 2 1\n1 1 1\n")).contains("3×2"));
        assert!(message(&format!("{banner}2 2 1\n3 1 1\n")).contains("line 3"));
        assert!(message(&format!("{banner}2 2 2\n1 1 1\n")).contains("header says 2"));
    }
}
