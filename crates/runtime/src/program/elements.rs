//! Elements between bytes, numbers and JSON. Arrays are little-endian, as on every machine with an NVIDIA GPU.

use half::{bf16, f16};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use weft_program::DType;

/// Rounds numbers to `dtype` and writes them out. A complex element takes two numbers.
pub fn encode(dtype: DType, values: impl Iterator<Item = f64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.size_hint().0 * dtype.size_bytes());
    match dtype {
        DType::F64 | DType::C64 => values.for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
        DType::F32 | DType::C32 => values.for_each(|value| out.extend_from_slice(&(value as f32).to_le_bytes())),
        DType::F16 => values.for_each(|value| out.extend_from_slice(&f16::from_f64(value).to_le_bytes())),
        DType::Bf16 => values.for_each(|value| out.extend_from_slice(&bf16::from_f64(value).to_le_bytes())),
        DType::I64 => values.for_each(|value| out.extend_from_slice(&(value as i64).to_le_bytes())),
        DType::I32 => values.for_each(|value| out.extend_from_slice(&(value as i32).to_le_bytes())),
        DType::I8 => values.for_each(|value| out.extend_from_slice(&(value as i8).to_le_bytes())),
        DType::U64 => values.for_each(|value| out.extend_from_slice(&(value as u64).to_le_bytes())),
        DType::U32 => values.for_each(|value| out.extend_from_slice(&(value as u32).to_le_bytes())),
        DType::U8 => values.for_each(|value| out.extend_from_slice(&(value as u8).to_le_bytes())),
    }
    out
}

/// Reads numbers; a complex element gives two.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
    }
    match dtype {
        DType::F64 | DType::C64 => each(bytes, f64::from_le_bytes),
        DType::F32 | DType::C32 => each(bytes, |b| f64::from(f32::from_le_bytes(b))),
        DType::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f64()),
        DType::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        DType::I64 => each(bytes, |b| i64::from_le_bytes(b) as f64),
        DType::I32 => each(bytes, |b| f64::from(i32::from_le_bytes(b))),
        DType::I8 => each(bytes, |b| f64::from(i8::from_le_bytes(b))),
        DType::U64 => each(bytes, |b| u64::from_le_bytes(b) as f64),
        DType::U32 => each(bytes, |b| f64::from(u32::from_le_bytes(b))),
        DType::U8 => each(bytes, |b| f64::from(u8::from_le_bytes(b))),
    }
}

/// Elements as JSON: numbers, pairs for complex ones, words for what JSON has no number for.
pub fn to_json(dtype: DType, bytes: &[u8]) -> Vec<Value> {
    let number = |value: f64| if value.is_finite() { json!(value) } else { json!(value.to_string()) };
    match dtype {
        DType::C32 | DType::C64 => {
            let parts = decode(dtype, bytes);
            parts.as_chunks::<2>().0.iter().map(|[re, im]| json!([number(*re), number(*im)])).collect()
        }
        // f64 cannot hold every 64-bit integer.
        DType::I64 => bytes.as_chunks::<8>().0.iter().map(|b| json!(i64::from_le_bytes(*b))).collect(),
        DType::U64 => bytes.as_chunks::<8>().0.iter().map(|b| json!(u64::from_le_bytes(*b))).collect(),
        _ if dtype.is_integer() => decode(dtype, bytes).into_iter().map(|value| json!(value as i64)).collect(),
        _ => decode(dtype, bytes).into_iter().map(number).collect(),
    }
}

/// The SHA-256 of an array's bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_keeps_small_numbers() {
        for dtype in DType::ALL {
            let numbers = [0.0, 1.0, 2.0, 100.0];
            let bytes = encode(dtype, numbers.into_iter());
            assert_eq!(decode(dtype, &bytes), numbers, "{dtype}");
            let elements = if dtype.is_complex() { 2 } else { 4 };
            assert_eq!(bytes.len(), elements * dtype.size_bytes(), "{dtype}");
            assert_eq!(to_json(dtype, &bytes).len(), elements, "{dtype}");
        }
    }

    #[test]
    fn what_json_cannot_say_is_said_in_words() {
        let bytes = encode(DType::F32, [f64::NAN, f64::INFINITY].into_iter());
        assert_eq!(to_json(DType::F32, &bytes), [json!("NaN"), json!("inf")]);
        assert_eq!(to_json(DType::U64, &u64::MAX.to_le_bytes()), [json!(u64::MAX)]);
    }
}
