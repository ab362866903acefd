//! NumPy's file format, versions 1 and 2 (NumPy Enhancement Proposal 1).

use weft_program::DType;

const MAGIC: &[u8] = b"\x93NUMPY";

/// The data of a file that must have this type and shape.
///
/// # Errors
/// A sentence without the file's name.
pub fn read<'a>(file: &'a [u8], dtype: DType, shape: &[usize]) -> Result<&'a [u8], String> {
    let rest = file.strip_prefix(MAGIC).ok_or("this is no .npy file")?;
    let (start, length) = match rest {
        [1, _, a, b, ..] => (4, usize::from(u16::from_le_bytes([*a, *b]))),
        [2 | 3, _, a, b, c, d, ..] => (6, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        _ => return Err("this .npy file is of a version that is not read".into()),
    };
    let header = rest.get(start..start + length).ok_or("the .npy file ends within its header")?;
    let header = std::str::from_utf8(header).map_err(|_| "the .npy header is no text")?;
    let descr = field(header, "descr").map(|value| value.trim_matches(['\'', '"'])).ok_or("the header has no descr")?;
    if !descriptions(dtype).contains(&descr) {
        return Err(format!("its elements are {descr}, but the array is {dtype} ({})", descriptions(dtype)[0]));
    }
    if field(header, "fortran_order") != Some("False") {
        return Err("it is in Fortran order: save it with numpy.ascontiguousarray".into());
    }
    let found: Option<Vec<usize>> = field(header, "shape").and_then(|tuple| {
        let inner = tuple.strip_prefix('(')?.strip_suffix(')')?;
        inner.split(',').map(str::trim).filter(|word| !word.is_empty()).map(|word| word.parse().ok()).collect()
    });
    match found {
        Some(found) if found == shape => Ok(&rest[start + length..]),
        found => Err(format!("its shape is {:?}, but the array's is {shape:?}", found.unwrap_or_default())),
    }
}

/// A header for data that follows it.
pub fn header(dtype: DType, shape: &[usize]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|n| format!("{n},")).collect();
    let mut text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({sizes}), }}", descriptions(dtype)[0]);
    // Magic, version and length take 10 bytes; the data starts at a multiple of 64.
    while (10 + text.len() + 1) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&[1, 0]);
    header.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
    header
}

/// NumPy's names of a type; the first is written. NumPy has no bf16: its bits travel as `u2`.
fn descriptions(dtype: DType) -> &'static [&'static str] {
    match dtype {
        DType::F64 => &["<f8"],
        DType::F32 => &["<f4"],
        DType::F16 => &["<f2"],
        DType::Bf16 => &["<u2", "|V2", "<V2"],
        DType::I64 => &["<i8"],
        DType::I32 => &["<i4"],
        DType::I8 => &["|i1"],
        DType::U64 => &["<u8"],
        DType::U32 => &["<u4"],
        DType::U8 => &["|u1"],
        DType::C32 => &["<c8"],
        DType::C64 => &["<c16"],
    }
}

/// The value of a key in the header's dictionary: up to the comma that is not inside a tuple.
fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let at = header.find(&format!("'{key}'"))?;
    let value = header[at..].split_once(':')?.1.trim_start();
    let mut depth = 0;
    let end = value.find(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(c, ',' | '}')
    })?;
    Some(value[..end].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (dtype, shape) in [(DType::F32, vec![3]), (DType::C64, vec![2, 3, 4]), (DType::Bf16, vec![1, 1])] {
            let mut file = header(dtype, &shape);
            assert_eq!(file.len() % 64, 0);
            file.extend_from_slice(b"data");
            assert_eq!(read(&file, dtype, &shape).unwrap(), b"data");
        }
    }

    #[test]
    fn another_array_is_refused() {
        let file = header(DType::F32, &[3]);
        assert!(read(&file, DType::F64, &[3]).unwrap_err().contains("<f4"));
        assert!(read(&file, DType::F32, &[4]).unwrap_err().contains("[3]"));
        assert!(read(b"hello", DType::F32, &[4]).unwrap_err().contains("no .npy"));
        assert!(read(&file[..20], DType::F32, &[3]).unwrap_err().contains("within its header"));
    }
}
