//! The boundary to C: arguments, results, handles.

use std::{
    ffi::{CStr, c_char, c_uint},
    sync::atomic::AtomicBool,
};

use nvml_wrapper_sys::bindings::nvmlReturn_t;

use super::session;
use crate::state::{Gpu, Health, MAX_GPUS};

/// What a function answers when it is not success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    Uninitialized = 1,
    InvalidArgument = 2,
    NotSupported = 3,
    NotFound = 6,
    InsufficientSize = 7,
    DriverNotLoaded = 9,
    Timeout = 10,
    GpuIsLost = 15,
    VersionOfDriver = 18,
    VersionOfArgument = 25,
    Unknown = 999,
}

pub type Answer = Result<(), Code>;

/// The number that C gets.
pub fn answer(body: impl FnOnce() -> Answer) -> nvmlReturn_t {
    match body() {
        Ok(()) => 0,
        Err(code) => code as nvmlReturn_t,
    }
}

/// Defines functions that NVML exports. The body's error becomes the return value.
macro_rules! exports {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        ///
        /// # Safety
        /// Every pointer is null or valid for what NVML documents: that is C's part of the bargain.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
            $crate::nvml::ffi::answer(|| $body)
        }
    )*};
}

/// A pointer argument. It only ever comes from a C caller, who promises that it is null or valid for reads and writes of
/// `T`, or of as many `T` as the call says.
#[repr(transparent)]
pub struct Pointer<T>(*mut T);

impl<T> Clone for Pointer<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Pointer<T> {}

impl<T> Pointer<T> {
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The pointer itself, not null.
    fn checked(self) -> Result<*mut T, Code> {
        if self.0.is_null() { Err(Code::InvalidArgument) } else { Ok(self.0) }
    }

    pub fn put(self, value: T) -> Answer {
        let to = self.checked()?;
        // SAFETY: not null, so valid for a write by the caller's promise.
        unsafe { to.write(value) };
        Ok(())
    }

    pub fn get(self) -> Result<T, Code>
    where
        T: Copy,
    {
        let from = self.checked()?;
        // SAFETY: not null, so valid for a read by the caller's promise.
        Ok(unsafe { from.read() })
    }

    /// Writes element `index` of an array.
    pub fn put_at(self, index: usize, value: T) -> Answer {
        let to = self.checked()?;
        // SAFETY: not null, and the callers of this function stay below the length that C gave along with the array.
        unsafe { to.add(index).write(value) };
        Ok(())
    }

    /// Reads element `index` of an array.
    pub fn get_at(self, index: usize) -> Result<T, Code>
    where
        T: Copy,
    {
        let from = self.checked()?;
        // SAFETY: as for `put_at`.
        Ok(unsafe { from.add(index).read() })
    }

    /// The same memory as another type, for structures that grew a tail with their version.
    pub fn as_version<U>(self) -> Pointer<U> {
        Pointer(self.0.cast())
    }
}

impl Pointer<c_char> {
    /// Writes a text and its NUL into a buffer of `length` bytes.
    pub fn put_text(self, length: c_uint, text: &str) -> Answer {
        if self.is_null() {
            return Err(Code::InvalidArgument);
        }
        if text.len() >= length as usize {
            return Err(Code::InsufficientSize);
        }
        for (index, byte) in text.bytes().chain([0]).enumerate() {
            self.put_at(index, byte as c_char)?;
        }
        Ok(())
    }

    /// The text that C passes.
    pub fn text<'a>(self) -> Result<&'a str, Code> {
        let from = self.checked()?;
        // SAFETY: not null, so a NUL-terminated string by the caller's promise, which also outlives the call, and the
        // text is not kept beyond it.
        unsafe { CStr::from_ptr(from) }.to_str().map_err(|_| Code::InvalidArgument)
    }
}

/// A list given in two steps, as NVML does it: the caller says how many elements fit, learns how many there are, and gets
/// them if they fit.
pub fn put_list<T>(count: Pointer<c_uint>, array: Pointer<T>, items: Vec<T>) -> Answer {
    let room = count.get()? as usize;
    count.put(items.len() as c_uint)?;
    if items.len() > room {
        return Err(Code::InsufficientSize);
    }
    items.into_iter().enumerate().try_for_each(|(index, item)| array.put_at(index, item))
}

/// The same for the functions that answer "how many" with success when asked with a count of zero.
pub fn put_list_or_count<T>(count: Pointer<c_uint>, array: Pointer<T>, items: Vec<T>) -> Answer {
    if count.get()? == 0 {
        return count.put(items.len() as c_uint);
    }
    put_list(count, array, items)
}

/// A text as a fixed array of C characters; what does not fit is cut off.
pub fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (to, byte) in array.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = byte as c_char;
    }
    array
}

/// The version that NVML writes into structures: their size, and a number in the top byte.
pub const fn version<T>(number: u32) -> c_uint {
    size_of::<T>() as c_uint | number << 24
}

/// What C holds for a GPU: the address of its place in this array, so that any other pointer is recognised.
static HANDLES: [AtomicBool; MAX_GPUS] = [const { AtomicBool::new(true) }; MAX_GPUS];

/// A GPU handle as C passes it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Device(*const AtomicBool);

impl Device {
    pub fn of(index: usize) -> Device {
        Device(&raw const HANDLES[index])
    }

    pub fn address(self) -> *const AtomicBool {
        self.0
    }

    /// The GPU of a handle, lost or not.
    pub fn identity(self) -> Result<Gpu<'static>, Code> {
        let (machine, visible) = session::current()?;
        let index = (0..MAX_GPUS).find(|index| self == Device::of(*index)).ok_or(Code::InvalidArgument)?;
        if !visible.contains(&index) {
            return Err(Code::InvalidArgument);
        }
        machine.poll();
        Ok(machine.gpu(index))
    }

    /// The GPU of a handle, unless it is lost.
    pub fn gpu(self) -> Result<Gpu<'static>, Code> {
        let gpu = self.identity()?;
        if gpu.health() == Health::Lost { Err(Code::GpuIsLost) } else { Ok(gpu) }
    }
}
