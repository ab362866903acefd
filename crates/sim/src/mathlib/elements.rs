//! Operands in device memory: element types, and reading and writing them as the types that are computed with.

use std::sync::Arc;

use half::{bf16, f16};

use crate::cuda::context::{Context, current};
use crate::cuda::driver::Driver;
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::In;
use crate::cuda::memory::{Allocation, Kind};
use crate::cuda::registry::Handle;
use crate::cuda::stream::stream;

/// Type of an operand's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F32,
    F64,
    F16,
    Bf16,
    I8,
    I32,
}

impl Element {
    /// `cudaDataType` by its number.
    pub fn of_data_type(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F64,
            2 => Self::F16,
            3 => Self::I8,
            10 => Self::I32,
            14 => Self::Bf16,
            _ => return None,
        })
    }

    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
        }
    }
}

/// A type that is computed with.
pub trait Real: Copy + Default + Send + 'static {
    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
}

/// The memory that a library call of one context may touch.
#[derive(Clone)]
pub struct Space {
    pub driver: &'static Driver,
    pub context: Arc<Context>,
}

impl Space {
    /// That of the calling thread's context.
    ///
    /// # Errors
    /// As [`current`].
    pub fn current() -> Answer<Self> {
        let (driver, context) = current()?;
        Ok(Self { driver, context })
    }

    /// Queues library work on a stream; the GPU counts as busy while it runs.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn submit(&self, queue: Handle, work: impl FnOnce(&Self) -> Answer + Send + 'static) -> Answer {
        let space = self.clone();
        stream(self.driver, &self.context, queue)?.submit(move || {
            let gpu = space.context.gpu;
            space.driver.process.launched(gpu);
            let _busy = space.driver.process.busy(gpu);
            work(&space)
        })
    }

    /// The allocation that holds a range.
    ///
    /// # Errors
    /// [`Error::IllegalAddress`]
    fn range(&self, address: u64, bytes: usize) -> Answer<Arc<Allocation>> {
        let found = self.driver.memory.find(address).filter(|found| found.holds(address, bytes));
        let reachable = |found: &Arc<Allocation>| found.kind != Kind::Device || self.context.reaches(found.gpu);
        found.filter(reachable).ok_or(Error::IllegalAddress)
    }

    /// Copies plain values out.
    ///
    /// # Errors
    /// [`Error::IllegalAddress`]
    pub fn load<T: bytemuck::Pod>(&self, address: u64, count: usize) -> Answer<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let bytes = count.checked_mul(size_of::<T>()).ok_or(Error::IllegalAddress)?;
        let home = self.range(address, bytes)?;
        let mut values = vec![T::zeroed(); count];
        // SAFETY: `range` checked that the allocation holds the bytes, `home` keeps it, and any bytes are a `T`.
        unsafe { std::ptr::copy_nonoverlapping(home.host(address), values.as_mut_ptr().cast(), bytes) };
        Ok(values)
    }

    /// Copies plain values in.
    ///
    /// # Errors
    /// [`Error::IllegalAddress`]
    pub fn store<T: bytemuck::Pod>(&self, address: u64, values: &[T]) -> Answer {
        if values.is_empty() {
            return Ok(());
        }
        let home = self.range(address, size_of_val(values))?;
        // SAFETY: as in `load`.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast(), home.host(address), size_of_val(values)) };
        Ok(())
    }

    /// Reads elements of any type.
    ///
    /// # Errors
    /// [`Error::IllegalAddress`]
    pub fn read<R: Real>(&self, element: Element, address: u64, count: usize) -> Answer<Vec<R>> {
        fn convert<T: Copy, R: Real>(values: &[T], f: impl Fn(T) -> f64) -> Vec<R> {
            values.iter().map(|value| R::from_f64(f(*value))).collect()
        }
        Ok(match element {
            Element::F32 => convert(&self.load::<f32>(address, count)?, f64::from),
            Element::F64 => convert(&self.load::<f64>(address, count)?, |v| v),
            Element::F16 => convert(&self.load::<u16>(address, count)?, |v| f16::from_bits(v).to_f64()),
            Element::Bf16 => convert(&self.load::<u16>(address, count)?, |v| bf16::from_bits(v).to_f64()),
            Element::I8 => convert(&self.load::<i8>(address, count)?, f64::from),
            Element::I32 => convert(&self.load::<i32>(address, count)?, f64::from),
        })
    }

    /// Writes elements of any type.
    ///
    /// # Errors
    /// [`Error::IllegalAddress`]
    pub fn write<R: Real>(&self, element: Element, address: u64, values: &[R]) -> Answer {
        fn convert<T, R: Real>(values: &[R], f: impl Fn(f64) -> T) -> Vec<T> {
            values.iter().map(|value| f(value.to_f64())).collect()
        }
        match element {
            Element::F32 => self.store(address, &convert(values, |v| v as f32)),
            Element::F64 => self.store(address, &convert(values, |v| v)),
            Element::F16 => self.store(address, &convert(values, |v| f16::from_f64(v).to_bits())),
            Element::Bf16 => self.store(address, &convert(values, |v| bf16::from_f64(v).to_bits())),
            Element::I8 => self.store(address, &convert(values, |v| v as i8)),
            Element::I32 => self.store(address, &convert(values, |v| v as i32)),
        }
    }
}

/// A factor such as alpha: known at the call, or read from device memory when the work runs.
#[derive(Clone, Copy, Debug)]
pub enum Scalar {
    Known(f64),
    Device(u64, Element),
}

impl Scalar {
    /// From a pointer in host or in device mode.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a null pointer.
    pub fn new(pointer: In<u8>, element: Element, on_device: bool) -> Answer<Self> {
        if pointer.is_null() {
            return Err(Error::InvalidValue);
        }
        let address = pointer.address();
        if on_device {
            return Ok(Self::Device(address, element));
        }
        Ok(Self::Known(match element {
            Element::F32 => f64::from(In::<f32>::from_address(address).get()?),
            Element::F64 => In::<f64>::from_address(address).get()?,
            Element::F16 => f16::from_bits(In::<u16>::from_address(address).get()?).to_f64(),
            Element::Bf16 => bf16::from_bits(In::<u16>::from_address(address).get()?).to_f64(),
            Element::I8 => f64::from(In::<i8>::from_address(address).get()?),
            Element::I32 => f64::from(In::<i32>::from_address(address).get()?),
        }))
    }

    /// Its value.
    ///
    /// # Errors
    /// [`Error::IllegalAddress`]
    pub fn value(self, space: &Space) -> Answer<f64> {
        match self {
            Self::Known(value) => Ok(value),
            Self::Device(address, element) => Ok(space.read::<f64>(element, address, 1)?[0]),
        }
    }
}
