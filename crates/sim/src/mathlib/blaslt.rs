//! `libcublasLt.so.13`: products with an epilogue.

use std::ffi::c_int;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::blas::{Status, scale_element};
use super::elements::{Element, Scalar, Space};
use super::product::{Activation, Matrix, Product};
use crate::cuda::ffi::{In, Out, c_api};
use crate::cuda::registry::{Handle, Registry};

/// `cublasLtMatrixLayout`
#[derive(Clone, Copy)]
struct Layout {
    element: Element,
    rows: u64,
    columns: u64,
    leading: i64,
    by_columns: bool,
    batches: i32,
    stride: i64,
}

/// `cublasLtMatmulDesc`
#[derive(Clone, Copy)]
struct Operation {
    scale: Element,
    pointer_mode: c_int,
    transpose_a: bool,
    transpose_b: bool,
    epilogue: u32,
    bias: u64,
    bias_stride: i64,
    bias_element: Option<Element>,
}

/// Bits of `cublasLtEpilogue_t` (its default is 1).
const RELU: u32 = 2;
const BIAS: u32 = 4;
const GELU: u32 = 32;

/// Bytes of `cublasLtMatmulHeuristicResult_t`: the algorithm's 64, the workspace size, the state, the waves, four reserved words.
const HEURISTIC_BYTES: usize = 96;

static HANDLES: LazyLock<Registry<Space>> = LazyLock::new(|| Registry::new(0x5b05_0000_0000));
static LAYOUTS: LazyLock<Registry<Mutex<Layout>>> = LazyLock::new(|| Registry::new(0x5b06_0000_0000));
static OPERATIONS: LazyLock<Registry<Mutex<Operation>>> = LazyLock::new(|| Registry::new(0x5b07_0000_0000));
static PREFERENCES: LazyLock<Registry<()>> = LazyLock::new(|| Registry::new(0x5b08_0000_0000));

fn copy_of<T: Copy>(registry: &Registry<Mutex<T>>, handle: Handle) -> Result<T, Status> {
    let object = registry.get(handle).ok_or(Status::InvalidValue)?;
    let copy = *object.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(copy)
}

fn element(number: c_int) -> Result<Element, Status> {
    Element::of_data_type(number).ok_or(Status::NotSupported)
}

/// An attribute's value, which must have this size.
fn attribute<T: Copy>(value: In<u8>, bytes: usize) -> Result<T, Status> {
    if bytes < size_of::<T>() {
        return Err(Status::InvalidValue);
    }
    Ok(In::<T>::from_address(value.address()).get()?)
}

impl Layout {
    fn matrix(&self, address: u64) -> Result<Matrix, Status> {
        if !self.by_columns {
            return Err(Status::NotSupported);
        }
        let leading = usize::try_from(self.leading).map_err(|_| Status::InvalidValue)?;
        Ok(Matrix { address, element: self.element, leading, stride: self.stride })
    }
}

c_api! { Status;
    fn cublasLtCreate(handle: Out<Handle>) {
        let space = Space::current().map_err(|_| Status::NotInitialized)?;
        Ok(handle.set(HANDLES.insert(Arc::new(space)))?)
    }

    fn cublasLtDestroy(handle: Handle) {
        HANDLES.remove(handle).map(drop).ok_or(Status::NotInitialized)
    }

    fn cublasLtMatmulDescCreate(to: Out<Handle>, compute: c_int, scale: c_int) {
        scale_element(compute).ok_or(Status::NotSupported)?;
        let operation = Operation {
            scale: element(scale)?,
            pointer_mode: 0,
            transpose_a: false,
            transpose_b: false,
            epilogue: 1,
            bias: 0,
            bias_stride: 0,
            bias_element: None,
        };
        Ok(to.set(OPERATIONS.insert(Arc::new(Mutex::new(operation))))?)
    }

    fn cublasLtMatmulDescDestroy(operation: Handle) {
        OPERATIONS.remove(operation).map(drop).ok_or(Status::InvalidValue)
    }

    fn cublasLtMatmulDescSetAttribute(operation: Handle, number: c_int, value: In<u8>, bytes: usize) {
        let object = OPERATIONS.get(operation).ok_or(Status::InvalidValue)?;
        let mut operation = object.lock().unwrap_or_else(PoisonError::into_inner);
        match number {
            1 => operation.scale = element(attribute(value, bytes)?)?,
            2 => operation.pointer_mode = attribute(value, bytes)?,
            3 => operation.transpose_a = attribute::<c_int>(value, bytes)? != 0,
            4 => operation.transpose_b = attribute::<c_int>(value, bytes)? != 0,
            7 => operation.epilogue = attribute(value, bytes)?,
            8 => operation.bias = attribute(value, bytes)?,
            10 => operation.bias_stride = attribute(value, bytes)?,
            26 => operation.bias_element = Some(element(attribute(value, bytes)?)?),
            // Hints of how, not of what.
            0 | 5 | 6 | 9 | 11..=25 => {}
            _ => return Err(Status::NotSupported),
        }
        Ok(())
    }

    fn cublasLtMatrixLayoutCreate(to: Out<Handle>, data_type: c_int, rows: u64, columns: u64, leading: i64) {
        let element = element(data_type)?;
        let layout = Layout { element, rows, columns, leading, by_columns: true, batches: 1, stride: 0 };
        Ok(to.set(LAYOUTS.insert(Arc::new(Mutex::new(layout))))?)
    }

    fn cublasLtMatrixLayoutDestroy(layout: Handle) {
        LAYOUTS.remove(layout).map(drop).ok_or(Status::InvalidValue)
    }

    fn cublasLtMatrixLayoutSetAttribute(layout: Handle, number: c_int, value: In<u8>, bytes: usize) {
        let object = LAYOUTS.get(layout).ok_or(Status::InvalidValue)?;
        let mut layout = object.lock().unwrap_or_else(PoisonError::into_inner);
        match number {
            0 => layout.element = element(attribute(value, bytes)?)?,
            1 => layout.by_columns = attribute::<c_int>(value, bytes)? == 0,
            2 => layout.rows = attribute(value, bytes)?,
            3 => layout.columns = attribute(value, bytes)?,
            4 => layout.leading = attribute(value, bytes)?,
            5 => layout.batches = attribute(value, bytes)?,
            6 => layout.stride = attribute(value, bytes)?,
            _ => return Err(Status::NotSupported),
        }
        Ok(())
    }

    fn cublasLtMatmulPreferenceCreate(to: Out<Handle>) {
        Ok(to.set(PREFERENCES.insert(Arc::new(())))?)
    }

    fn cublasLtMatmulPreferenceDestroy(preference: Handle) {
        PREFERENCES.remove(preference).map(drop).ok_or(Status::InvalidValue)
    }

    fn cublasLtMatmulPreferenceSetAttribute(preference: Handle, _number: c_int, _value: In<u8>, _bytes: usize) {
        PREFERENCES.get(preference).map(drop).ok_or(Status::InvalidValue)
    }

    // One algorithm, which needs no workspace.
    fn cublasLtMatmulAlgoGetHeuristic(
        handle: Handle, operation: Handle, a: Handle, b: Handle, c: Handle, d: Handle, preference: Handle,
        wanted: c_int, results: Out<u8>, found: Out<c_int>,
    ) {
        HANDLES.get(handle).ok_or(Status::NotInitialized)?;
        copy_of(&OPERATIONS, operation)?;
        for layout in [a, b, c, d] {
            copy_of(&LAYOUTS, layout)?;
        }
        PREFERENCES.get(preference).ok_or(Status::InvalidValue)?;
        if wanted < 1 {
            return Err(Status::InvalidValue);
        }
        results.set_all(&[0u8; HEURISTIC_BYTES])?;
        Ok(found.set(1)?)
    }

    fn cublasLtMatmul(
        handle: Handle, operation: Handle, alpha: In<u8>, a: u64, a_layout: Handle, b: u64, b_layout: Handle,
        beta: In<u8>, c: u64, c_layout: Handle, d: u64, d_layout: Handle,
        _algorithm: In<u8>, _workspace: u64, _workspace_bytes: usize, stream: Handle,
    ) {
        let space = HANDLES.get(handle).ok_or(Status::NotInitialized)?;
        let operation = copy_of(&OPERATIONS, operation)?;
        let (a_layout, b_layout) = (copy_of(&LAYOUTS, a_layout)?, copy_of(&LAYOUTS, b_layout)?);
        let (c_layout, d_layout) = (copy_of(&LAYOUTS, c_layout)?, copy_of(&LAYOUTS, d_layout)?);
        if operation.epilogue & !(1 | RELU | BIAS | GELU) != 0 {
            return Err(Status::NotSupported);
        }
        let (rows_a, inner) = if operation.transpose_a { (a_layout.columns, a_layout.rows) } else { (a_layout.rows, a_layout.columns) };
        let (inner_b, columns_b) = if operation.transpose_b { (b_layout.columns, b_layout.rows) } else { (b_layout.rows, b_layout.columns) };
        if inner != inner_b || (rows_a, columns_b) != (d_layout.rows, d_layout.columns) {
            return Err(Status::InvalidValue);
        }
        let on_device = operation.pointer_mode == 1;
        let product = Product {
            transpose_a: operation.transpose_a,
            transpose_b: operation.transpose_b,
            m: rows_a as usize,
            n: columns_b as usize,
            k: inner as usize,
            alpha: Scalar::new(alpha, operation.scale, on_device)?,
            beta: Scalar::new(beta, operation.scale, on_device)?,
            a: a_layout.matrix(a)?,
            b: b_layout.matrix(b)?,
            c: c_layout.matrix(c)?,
            d: d_layout.matrix(d)?,
            bias: (operation.epilogue & BIAS != 0).then_some((operation.bias, operation.bias_stride)),
            bias_element: operation.bias_element.unwrap_or(d_layout.element),
            activation: match operation.epilogue {
                epilogue if epilogue & RELU != 0 => Activation::Relu,
                epilogue if epilogue & GELU != 0 => Activation::Gelu,
                _ => Activation::None,
            },
            batches: usize::try_from(d_layout.batches).map_err(|_| Status::InvalidValue)?,
        };
        if !product.fits() {
            return Err(Status::InvalidValue);
        }
        Ok(space.submit(stream, move |space| product.run(space))?)
    }

    fn cublasLtLoggerSetLevel(_level: c_int) {
        Ok(())
    }

    fn cublasLtLoggerOpenFile(_path: In<std::ffi::c_char>) {
        Ok(())
    }
}
