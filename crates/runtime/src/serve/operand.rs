//! From a request's operand to a range of memory that is there: bounds, alignment, type and shape, each with the argument's name.

use std::sync::Arc;

use weft_program::DType;
use weft_proto::runtime as wire;

use super::region::Region;
use super::session::{Held, Session};
use crate::Error;
use crate::device::{Device, Operand, Place};

/// An operand whose bounds have been checked. It keeps its region open.
#[derive(Clone)]
pub(super) struct Checked {
    source: Source,
    offset: usize,
    /// Element type.
    pub(super) dtype: DType,
    /// Row-major shape.
    pub(super) shape: Vec<usize>,
    /// Length in bytes.
    pub(super) bytes: usize,
}

#[derive(Clone)]
enum Source {
    Region(Arc<Region>),
    Buffer(u64),
}

/// Checks an operand of a request that runs on `gpu`.
pub(super) fn check(
    session: &Session,
    gpu: usize,
    argument: &str,
    operand: Option<wire::Operand>,
) -> Result<Checked, Error> {
    let wrong = |message: String| Error::argument(argument, message);
    let operand = operand.ok_or_else(|| wrong("it is missing".into()))?;
    let dtype = dtype(operand.dtype).ok_or_else(|| wrong("its element type is missing or unknown".into()))?;
    let shape: Option<Vec<usize>> = operand.shape.iter().map(|&n| usize::try_from(n).ok()).collect();
    let shape = shape.ok_or_else(|| wrong("its shape is too large".into()))?;
    if shape.is_empty() || shape.contains(&0) {
        return Err(wrong("its shape is empty: every dimension is at least 1".into()));
    }
    let bytes = shape.iter().try_fold(dtype.size_bytes(), |bytes, &n| bytes.checked_mul(n));
    let bytes = bytes.ok_or_else(|| wrong("its shape is too large".into()))?;
    let offset = usize::try_from(operand.offset).map_err(|_| wrong("its offset is too large".into()))?;
    // c64 is two f64: aligned to 16 bytes as CUDA's double2 is.
    if !offset.is_multiple_of(dtype.size_bytes()) {
        return Err(wrong(format!("offset {offset} is no multiple of the {} bytes of {dtype}", dtype.size_bytes())));
    }
    let (source, room, what) = match operand.place {
        Some(wire::operand::Place::Region(handle)) => {
            let region = session.region(handle)?;
            let room = region.bytes();
            (Source::Region(region), room, format!("region {handle}"))
        }
        Some(wire::operand::Place::Buffer(handle)) => {
            let Held::Buffer { gpu: owner, bytes } = session.held("buffer", handle)? else {
                return Err(Error::UnknownHandle { kind: "buffer", handle });
            };
            if owner != gpu {
                return Err(wrong(format!("buffer {handle} is on GPU {owner}, but the request runs on GPU {gpu}")));
            }
            (Source::Buffer(handle), bytes, format!("buffer {handle}"))
        }
        None => return Err(wrong("it lies neither in a region nor in a buffer".into())),
    };
    if offset.checked_add(bytes).is_none_or(|end| end > room) {
        return Err(wrong(format!("bytes {offset} to {} of {what}, which has {room}", offset.saturating_add(bytes))));
    }
    Ok(Checked { source, offset, dtype, shape, bytes })
}

impl Checked {
    /// Number of elements.
    pub(super) fn elements(&self) -> usize {
        self.bytes / self.dtype.size_bytes()
    }

    /// Whether it lies in shared memory and has to travel for a library call.
    pub(super) fn travels(&self) -> bool {
        matches!(self.source, Source::Region(_))
    }

    /// The addresses, looked up on the GPU's thread.
    pub(super) fn resolve(&self, device: &Device, session: u64) -> Result<Operand, Error> {
        let place = match &self.source {
            Source::Region(region) => region.place_at(self.offset),
            Source::Buffer(handle) => Place::Device(device.buffer(session, *handle)?.pointer() + self.offset as u64),
        };
        Ok(Operand { place, bytes: self.bytes })
    }

    /// Whether both lie, in part, on the same bytes.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let same = match (&self.source, &other.source) {
            (Source::Region(left), Source::Region(right)) => left.number() == right.number(),
            (Source::Buffer(left), Source::Buffer(right)) => left == right,
            _ => false,
        };
        same && self.offset < other.offset + other.bytes && other.offset < self.offset + self.bytes
    }

    /// Whether both are the same bytes.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.overlaps(other) && self.offset == other.offset && self.bytes == other.bytes
    }

    /// Refuses a result that lies on one of its inputs.
    pub(super) fn apart_from(&self, argument: &str, inputs: &[(&str, &Self)]) -> Result<(), Error> {
        match inputs.iter().find(|(_, input)| self.overlaps(input)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::argument(argument, format!("it overlaps {name}: give it memory of its own"))),
        }
    }

    /// The shape as people write it.
    pub(super) fn shape_text(&self) -> String {
        self.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
    }
}

/// The element type of a wire number.
fn dtype(number: i32) -> Option<DType> {
    Some(match wire::DType::try_from(number).ok()? {
        wire::DType::DtypeUnspecified => return None,
        wire::DType::F64 => DType::F64,
        wire::DType::F32 => DType::F32,
        wire::DType::F16 => DType::F16,
        wire::DType::Bf16 => DType::Bf16,
        wire::DType::I64 => DType::I64,
        wire::DType::I32 => DType::I32,
        wire::DType::I8 => DType::I8,
        wire::DType::U64 => DType::U64,
        wire::DType::U32 => DType::U32,
        wire::DType::U8 => DType::U8,
        wire::DType::C32 => DType::C32,
        wire::DType::C64 => DType::C64,
    })
}
