//! Element types.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The type of an array's elements. `c32` and `c64` are complex numbers of two `f32` and of two `f64`.
//
// The variants carry no doc comments on purpose: schemars would turn them into a `oneOf`, which is no structural schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I8,
    U64,
    U32,
    U8,
    C32,
    C64,
}

impl DType {
    /// Every type, in the order of the schema.
    pub const ALL: [DType; 12] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::I64,
        Self::I32,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U8,
        Self::C32,
        Self::C64,
    ];

    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 | Self::C32 => 8,
            Self::C64 => 16,
        }
    }

    /// The word used in YAML and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U8 => "u8",
            Self::C32 => "c32",
            Self::C64 => "c64",
        }
    }

    /// Whether an element is a pair of numbers.
    pub const fn is_complex(self) -> bool {
        matches!(self, Self::C32 | Self::C64)
    }

    /// Whether an element is a whole number.
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::I64 | Self::I32 | Self::I8 | Self::U64 | Self::U32 | Self::U8)
    }

    /// Whether an element is a real floating-point number.
    pub const fn is_real(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The complex type whose parts are of this type.
    pub const fn to_complex(self) -> Option<DType> {
        match self {
            Self::F32 => Some(Self::C32),
            Self::F64 => Some(Self::C64),
            _ => None,
        }
    }

    /// The least and the greatest value of an integer type, as `f64` (the 64-bit ones rounded).
    pub const fn integer_range(self) -> Option<(f64, f64)> {
        match self {
            Self::I8 => Some((i8::MIN as f64, i8::MAX as f64)),
            Self::U8 => Some((0.0, u8::MAX as f64)),
            Self::I32 => Some((i32::MIN as f64, i32::MAX as f64)),
            Self::U32 => Some((0.0, u32::MAX as f64)),
            Self::I64 => Some((i64::MIN as f64, i64::MAX as f64)),
            Self::U64 => Some((0.0, u64::MAX as f64)),
            _ => None,
        }
    }

    /// The relative tolerance of a check that names none: a few hundred roundings of the type.
    pub const fn default_tolerance(self) -> f64 {
        match self {
            Self::F64 | Self::C64 => 1e-11,
            Self::F32 | Self::C32 => 1e-5,
            Self::F16 => 4e-3,
            Self::Bf16 => 3e-2,
            _ => 0.0,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
