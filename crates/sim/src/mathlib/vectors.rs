//! cuBLAS on vectors: levels one and two.

use std::ffi::c_int;

use super::blas::{Blas, Status, blas, size};
use super::elements::{Element, Space};
use crate::cuda::error::Answer;
use crate::cuda::ffi::{In, Out, c_api};
use crate::cuda::registry::Handle;

/// A vector: address, type and elements from one to the next.
#[derive(Clone, Copy)]
struct Strided {
    address: u64,
    element: Element,
    step: c_int,
}

impl Strided {
    fn read(self, space: &Space, n: usize) -> Answer<Vec<f64>> {
        let step = self.step.unsigned_abs() as usize;
        let all = space.read::<f64>(self.element, self.address, if n == 0 { 0 } else { (n - 1) * step + 1 })?;
        let mut values: Vec<f64> = (0..n).map(|i| all[i * step]).collect();
        // A negative step counts from the far end.
        if self.step < 0 {
            values.reverse();
        }
        Ok(values)
    }

    fn write(self, space: &Space, values: &[f64]) -> Answer {
        let step = self.step.unsigned_abs() as usize;
        let n = values.len();
        for (i, value) in values.iter().enumerate() {
            let at = if self.step < 0 { n - 1 - i } else { i } * step * self.element.bytes();
            space.write(self.element, self.address + at as u64, &[*value])?;
        }
        Ok(())
    }
}

/// Result of a reduction: into device memory in order, or on the host after waiting.
fn reduce(
    handle: &Blas,
    element: Element,
    result: Out<u8>,
    work: impl FnOnce(&Space) -> Answer<f64> + Send + 'static,
) -> Result<(), Status> {
    use std::sync::atomic::Ordering::Relaxed;
    if result.is_null() {
        return Err(Status::InvalidValue);
    }
    if handle.pointer_mode.load(Relaxed) == 1 {
        let address = result.address();
        return handle.submit(move |space| {
            let value = work(space)?;
            space.write(element, address, &[value])
        });
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    handle.submit(move |space| {
        let value = work(space)?;
        // The receiver waits below, unless its thread died.
        let _waiting = sender.send(value);
        Ok(())
    })?;
    let value = receiver.recv().map_err(|_| Status::ExecutionFailed)?;
    match element {
        Element::F64 => result.cast::<f64>().set(value)?,
        _ => result.cast::<f32>().set(value as f32)?,
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "the arguments of cuBLAS's functions")]
fn gemv(
    handle: Handle,
    element: Element,
    [operation, m, n, leading]: [c_int; 4],
    alpha: In<u8>,
    a: u64,
    (x, x_step): (u64, c_int),
    beta: In<u8>,
    (y, y_step): (u64, c_int),
) -> Result<(), Status> {
    let handle = blas(handle)?;
    let (m, n, leading) = (size(m)?, size(n)?, size(leading)?);
    if leading < m.max(1) || x_step == 0 || y_step == 0 || !(0..=2).contains(&operation) {
        return Err(Status::InvalidValue);
    }
    let (alpha, beta) = (handle.scalar(alpha, element)?, handle.scalar(beta, element)?);
    let x = Strided { address: x, element, step: x_step };
    let y = Strided { address: y, element, step: y_step };
    handle.submit(move |space| {
        if m == 0 || n == 0 {
            return Ok(());
        }
        let (alpha, beta) = (alpha.value(space)?, beta.value(space)?);
        let (rows, columns) = if operation == 0 { (m, n) } else { (n, m) };
        let a = space.read::<f64>(element, a, (n - 1) * leading + m)?;
        let x = x.read(space, columns)?;
        let old = if beta == 0.0 { vec![0.0; rows] } else { y.read(space, rows)? };
        let at =
            |row: usize, column: usize| if operation == 0 { column * leading + row } else { row * leading + column };
        let row = |row: usize| {
            let sum: f64 = x.iter().enumerate().map(|(column, x)| a[at(row, column)] * x).sum();
            alpha * sum + if beta == 0.0 { 0.0 } else { beta * old[row] }
        };
        y.write(space, &(0..rows).map(row).collect::<Vec<_>>())
    })
}

/// The functions of one type.
macro_rules! vector_functions {
    ($element:expr, $gemv:ident, $axpy:ident, $scal:ident, $copy:ident, $swap:ident, $dot:ident, $nrm2:ident, $asum:ident, $amax:ident) => {
        c_api! { Status;
            fn $gemv(
                handle: Handle, operation: c_int, m: c_int, n: c_int, alpha: In<u8>, a: u64, lda: c_int,
                x: u64, x_step: c_int, beta: In<u8>, y: u64, y_step: c_int,
            ) {
                gemv(handle, $element, [operation, m, n, lda], alpha, a, (x, x_step), beta, (y, y_step))
            }

            fn $axpy(handle: Handle, n: c_int, alpha: In<u8>, x: u64, x_step: c_int, y: u64, y_step: c_int) {
                let (handle, n) = (blas(handle)?, size(n)?);
                let alpha = handle.scalar(alpha, $element)?;
                let x = Strided { address: x, element: $element, step: x_step };
                let y = Strided { address: y, element: $element, step: y_step };
                handle.submit(move |space| {
                    let alpha = alpha.value(space)?;
                    let sums: Vec<f64> = x.read(space, n)?.iter().zip(y.read(space, n)?).map(|(x, y)| alpha * x + y).collect();
                    y.write(space, &sums)
                })
            }

            fn $scal(handle: Handle, n: c_int, alpha: In<u8>, x: u64, x_step: c_int) {
                let (handle, n) = (blas(handle)?, size(n)?);
                let alpha = handle.scalar(alpha, $element)?;
                let x = Strided { address: x, element: $element, step: x_step };
                handle.submit(move |space| {
                    let alpha = alpha.value(space)?;
                    x.write(space, &x.read(space, n)?.iter().map(|x| alpha * x).collect::<Vec<_>>())
                })
            }

            fn $copy(handle: Handle, n: c_int, x: u64, x_step: c_int, y: u64, y_step: c_int) {
                let (handle, n) = (blas(handle)?, size(n)?);
                let x = Strided { address: x, element: $element, step: x_step };
                let y = Strided { address: y, element: $element, step: y_step };
                handle.submit(move |space| y.write(space, &x.read(space, n)?))
            }

            fn $swap(handle: Handle, n: c_int, x: u64, x_step: c_int, y: u64, y_step: c_int) {
                let (handle, n) = (blas(handle)?, size(n)?);
                let x = Strided { address: x, element: $element, step: x_step };
                let y = Strided { address: y, element: $element, step: y_step };
                handle.submit(move |space| {
                    let (a, b) = (x.read(space, n)?, y.read(space, n)?);
                    x.write(space, &b)?;
                    y.write(space, &a)
                })
            }

            fn $dot(handle: Handle, n: c_int, x: u64, x_step: c_int, y: u64, y_step: c_int, result: Out<u8>) {
                let (handle, n) = (blas(handle)?, size(n)?);
                let x = Strided { address: x, element: $element, step: x_step };
                let y = Strided { address: y, element: $element, step: y_step };
                reduce(&handle, $element, result, move |space| {
                    Ok(x.read(space, n)?.iter().zip(y.read(space, n)?).map(|(x, y)| x * y).sum())
                })
            }

            fn $nrm2(handle: Handle, n: c_int, x: u64, x_step: c_int, result: Out<u8>) {
                let (handle, n) = (blas(handle)?, size(n)?);
                let x = Strided { address: x, element: $element, step: x_step };
                reduce(&handle, $element, result, move |space| Ok(x.read(space, n)?.iter().map(|x| x * x).sum::<f64>().sqrt()))
            }

            fn $asum(handle: Handle, n: c_int, x: u64, x_step: c_int, result: Out<u8>) {
                let (handle, n) = (blas(handle)?, size(n)?);
                let x = Strided { address: x, element: $element, step: x_step };
                reduce(&handle, $element, result, move |space| Ok(x.read(space, n)?.iter().map(|x| x.abs()).sum()))
            }

            fn $amax(handle: Handle, n: c_int, x: u64, x_step: c_int, result: Out<c_int>) {
                let (handle, n) = (blas(handle)?, size(n)?);
                let x = Strided { address: x, element: $element, step: x_step };
                let (sender, receiver) = std::sync::mpsc::channel();
                handle.submit(move |space| {
                    let values = x.read(space, n)?;
                    let top = values.iter().map(|x| x.abs()).fold(f64::NEG_INFINITY, f64::max);
                    // Counted from 1; 0 for no element.
                    let at = values.iter().position(|x| x.abs() == top).map_or(0, |at| at as c_int + 1);
                    let _waiting = sender.send(at);
                    Ok(())
                })?;
                Ok(result.set(receiver.recv().map_err(|_| Status::ExecutionFailed)?)?)
            }
        }
    };
}
vector_functions!(
    Element::F32,
    cublasSgemv_v2,
    cublasSaxpy_v2,
    cublasSscal_v2,
    cublasScopy_v2,
    cublasSswap_v2,
    cublasSdot_v2,
    cublasSnrm2_v2,
    cublasSasum_v2,
    cublasIsamax_v2
);
vector_functions!(
    Element::F64,
    cublasDgemv_v2,
    cublasDaxpy_v2,
    cublasDscal_v2,
    cublasDcopy_v2,
    cublasDswap_v2,
    cublasDdot_v2,
    cublasDnrm2_v2,
    cublasDasum_v2,
    cublasIdamax_v2
);
