//! The data that a program starts with.

use std::path::Path;

use weft_program::{ArrayPlan, Content, DType, Entries, MatrixPlan};

use super::{elements, files};
use crate::Error;

/// A sparse matrix on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CsrData {
    /// `rows + 1` offsets.
    pub row_offsets: Vec<i32>,
    /// Column of each entry.
    pub columns: Vec<i32>,
    /// Value of each entry, before rounding to the matrix's type.
    pub values: Vec<f64>,
}

/// The bytes of an array at the start.
///
/// # Errors
/// A file that cannot be read or holds something else.
pub fn array(array: &ArrayPlan, folder: &Path) -> Result<Vec<u8>, Error> {
    let elements = array.elements();
    let parts = if array.dtype.is_complex() { 2 } else { 1 };
    // A real number fills the real part of a complex element.
    let real = |i: usize, value: f64| if i.is_multiple_of(parts) { value } else { 0.0 };
    let numbers = elements * parts;
    Ok(match &array.content {
        Content::Zeros => vec![0; array.bytes()],
        Content::Constant(value) => elements::encode(array.dtype, (0..numbers).map(|i| real(i, *value))),
        Content::Iota(iota) => {
            let at = |i: usize| real(i, iota.start + (i / parts) as f64 * iota.step);
            elements::encode(array.dtype, (0..numbers).map(at))
        }
        Content::Random { seed, low, high } => {
            let at = |i: usize| {
                let value = low + (high - low) * uniform(*seed, i as u64);
                if array.dtype.is_integer() { value.floor() } else { value }
            };
            elements::encode(array.dtype, (0..numbers).map(at))
        }
        Content::Values(values) => elements::encode(array.dtype, values.iter().copied()),
        Content::File(file) => {
            files::read_array(&folder.join(&file.path), &file.path, file.format, array.dtype, &array.shape)?
        }
    })
}

/// The entries of a sparse matrix, values rounded to its type.
///
/// # Errors
/// A file that cannot be read or holds something else.
pub fn matrix(matrix: &MatrixPlan, folder: &Path) -> Result<CsrData, Error> {
    let mut data = match &matrix.entries {
        Entries::Laplace2d { side } => laplace2d(*side),
        Entries::Csr { row_offsets, columns, values } => {
            CsrData { row_offsets: row_offsets.clone(), columns: columns.clone(), values: values.clone() }
        }
        Entries::File(file) => files::read_matrix(&folder.join(&file.path), &file.path, matrix.rows, matrix.columns)?,
    };
    if matrix.dtype == DType::F32 {
        data.values.iter_mut().for_each(|value| *value = f64::from(*value as f32));
    }
    Ok(data)
}

/// A number in [0, 1) that depends on seed and place only: SplitMix64 (Steele, Lea, Flood 2014), top 53 bits.
fn uniform(seed: u64, index: u64) -> f64 {
    let mut z = seed
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

fn laplace2d(side: usize) -> CsrData {
    let mut data = CsrData { row_offsets: vec![0], ..CsrData::default() };
    for row in 0..side {
        for column in 0..side {
            let at = row * side + column;
            let neighbours = [
                (row > 0).then(|| (at - side, -1.0)),
                (column > 0).then(|| (at - 1, -1.0)),
                Some((at, 4.0)),
                (column + 1 < side).then(|| (at + 1, -1.0)),
                (row + 1 < side).then(|| (at + side, -1.0)),
            ];
            for (column, value) in neighbours.into_iter().flatten() {
                // At most 16384² columns and five times as many entries: below 2³¹ (see validation).
                data.columns.push(column as i32);
                data.values.push(value);
            }
            data.row_offsets.push(data.columns.len() as i32);
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use weft_program::Iota;

    use super::*;

    fn plan(dtype: DType, shape: &[usize], content: Content) -> ArrayPlan {
        ArrayPlan { name: "a".into(), dtype, shape: shape.to_vec(), content }
    }

    #[test]
    fn fills_are_what_they_say() {
        let bytes = |plan: &ArrayPlan| array(plan, Path::new(".")).unwrap();
        let iota = plan(DType::F32, &[2, 2], Content::Iota(Iota { start: 1.0, step: 2.0 }));
        assert_eq!(elements::decode(DType::F32, &bytes(&iota)), [1.0, 3.0, 5.0, 7.0]);
        let complex = plan(DType::C32, &[2], Content::Iota(Iota { start: 1.0, step: 1.0 }));
        assert_eq!(elements::decode(DType::C32, &bytes(&complex)), [1.0, 0.0, 2.0, 0.0]);
        let random = |seed| plan(DType::F64, &[1000], Content::Random { seed, low: -1.0, high: 1.0 });
        let numbers = elements::decode(DType::F64, &bytes(&random(1)));
        assert!(numbers.iter().all(|n| (-1.0..1.0).contains(n)));
        let mean = numbers.iter().sum::<f64>() / 1000.0;
        assert!(mean.abs() < 0.1, "{mean}");
        assert_eq!(bytes(&random(1)), bytes(&random(1)));
        assert_ne!(bytes(&random(1)), bytes(&random(2)));
    }

    #[test]
    fn the_laplacian_has_five_points_and_is_symmetric() {
        let data = laplace2d(3);
        assert_eq!(data.row_offsets.len(), 10);
        assert_eq!(data.columns.len(), 9 + 2 * 12, "nine diagonal entries and twelve edges, both ways");
        let entry = |row: usize, column: usize| {
            let range = data.row_offsets[row] as usize..data.row_offsets[row + 1] as usize;
            range.into_iter().find(|&i| data.columns[i] as usize == column).map_or(0.0, |i| data.values[i])
        };
        assert!((0..9).all(|i| (0..9).all(|j| entry(i, j) == entry(j, i))));
        assert_eq!((entry(4, 4), entry(4, 1), entry(2, 3)), (4.0, -1.0, 0.0));
    }
}
