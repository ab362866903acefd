//! The border to C: pointers given by callers, and the frame around every exported function.
//!
//! The exported functions are safe to Rust because all that is unsafe about them lies in these types: a C caller promises, by the
//! API's documentation, that each pointer is null or valid for what the function does with it until it returns.

use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{Answer, Error};

/// Where a result goes.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a null pointer.
    pub fn set(self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null, and valid for one value by the caller's promise (see the module).
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes the result where the caller wants one.
    pub fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            let _never_null = self.set(value);
        }
    }

    /// Writes up to `values.len()` elements, for arrays whose length the caller gave.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a null pointer.
    pub fn set_all(self, values: &[T]) -> Answer
    where
        T: Copy,
    {
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: valid for as many values as the caller said (see the module).
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0, values.len()) };
        Ok(())
    }

    /// The address itself.
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// The same place for a result of another type.
    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// The place at an address that the caller gave inside other data, under the same promise.
    pub(crate) fn from_address(address: u64) -> Self {
        Self(address as *mut T)
    }

    /// Whether no result is wanted.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// Where an argument comes from.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// The value.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a null pointer.
    pub fn get(self) -> Answer<T> {
        self.at(0)
    }

    /// Element `index` of an array.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a null pointer.
    pub fn at(self, index: usize) -> Answer<T> {
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null, and valid for the elements that the function documents (see the module).
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// The first `count` elements.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a null pointer, unless `count` is 0.
    pub fn list(self, count: usize) -> Answer<Vec<T>> {
        (0..count).map(|index| self.at(index)).collect()
    }

    /// The argument at an address that the caller gave inside other data, under the same promise.
    pub(crate) fn from_address(address: u64) -> Self {
        Self(address as *const T)
    }

    /// Whether there is no argument.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The address itself.
    pub fn address(self) -> u64 {
        self.0 as u64
    }
}

impl In<c_char> {
    /// A string.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a null pointer or text that is not UTF-8.
    pub fn text(self) -> Answer<String> {
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null, and ends in NUL by the caller's promise (see the module).
        unsafe { CStr::from_ptr(self.0) }.to_str().map(str::to_owned).map_err(|_| Error::InvalidValue)
    }
}

/// The error numbers of one library.
pub trait Code {
    /// Number for what should not happen.
    const INTERNAL: c_int;
    /// Number of this error.
    fn code(self) -> c_int;
}

impl Code for Error {
    const INTERNAL: c_int = Error::Unknown as c_int;

    fn code(self) -> c_int {
        self as c_int
    }
}

/// Runs the body of an exported function: its answer as a number, and no panic across the border.
pub fn enter<E: Code>(name: &str, body: impl FnOnce() -> Result<(), E>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => error.code(),
        Err(_) => {
            eprintln!("weft-sim: {name} panicked: this is a bug of the simulated driver");
            E::INTERNAL
        }
    }
}

/// Exports functions under their C names, which answer the numbers of the error type named first. Each body ends in a `Result`.
macro_rules! c_api {
    ($error:ty; $($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        // SAFETY: the name is that of the library whose place this one takes; nothing else in it has that name.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments, reason = "the library's names and signatures")]
        pub extern "C" fn $name($($arg: $ty),*) -> std::ffi::c_int {
            $crate::cuda::ffi::enter::<$error>(stringify!($name), move || $body)
        }
    )*};
}
pub(crate) use c_api;

/// [`c_api`] for the driver's functions.
macro_rules! driver_api {
    ($($functions:tt)*) => { $crate::cuda::ffi::c_api! { $crate::cuda::error::Error; $($functions)* } };
}
pub(crate) use driver_api;
