//! `libcusparse.so.12`: sparse matrices times dense vectors and matrices.

use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::elements::{Element, Scalar, Space};
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::{Code, In, Out, c_api};
use crate::cuda::registry::{Handle, Registry};

/// `cusparseStatus_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    NotInitialized = 1,
    AllocFailed = 2,
    InvalidValue = 3,
    ExecutionFailed = 6,
    InternalError = 7,
    NotSupported = 10,
}

impl Code for Status {
    const INTERNAL: c_int = Self::InternalError as c_int;
    fn code(self) -> c_int {
        self as c_int
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidValue => Self::InvalidValue,
            Error::OutOfMemory => Self::AllocFailed,
            Error::NotInitialized | Error::InvalidContext | Error::NoDevice => Self::NotInitialized,
            _ => Self::ExecutionFailed,
        }
    }
}

struct Sparse {
    space: Space,
    stream: AtomicU64,
    pointer_mode: AtomicI32,
}

/// How the places of the stored values are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Starts of rows, and a column for each value.
    Csr,
    /// Starts of columns, and a row for each value.
    Csc,
    /// A row and a column for each value.
    Coo,
}

/// A sparse matrix's description.
#[derive(Clone, Copy, Debug)]
struct Matrix {
    format: Format,
    rows: usize,
    columns: usize,
    stored: usize,
    /// Row starts (CSR), column starts (CSC) or rows (COO).
    first: u64,
    first_wide: bool,
    /// Columns (CSR, COO) or rows (CSC).
    second: u64,
    second_wide: bool,
    values: u64,
    element: Element,
    base: i64,
}

/// A dense vector or matrix.
#[derive(Clone, Copy, Debug)]
struct Dense {
    rows: usize,
    columns: usize,
    leading: usize,
    values: u64,
    element: Element,
    by_columns: bool,
}

impl Dense {
    fn span(&self) -> usize {
        let (lines, each) = if self.by_columns { (self.columns, self.rows) } else { (self.rows, self.columns) };
        if lines == 0 || each == 0 { 0 } else { (lines - 1) * self.leading + each }
    }

    fn at(&self, row: usize, column: usize) -> usize {
        if self.by_columns { column * self.leading + row } else { row * self.leading + column }
    }
}

/// An object whose pointers can be replaced.
type Described<T> = Mutex<T>;

static HANDLES: LazyLock<Registry<Sparse>> = LazyLock::new(|| Registry::new(0x5b02_0000_0000));
static MATRICES: LazyLock<Registry<Described<Matrix>>> = LazyLock::new(|| Registry::new(0x5b03_0000_0000));
static DENSE: LazyLock<Registry<Described<Dense>>> = LazyLock::new(|| Registry::new(0x5b04_0000_0000));

fn sparse(handle: Handle) -> Result<Arc<Sparse>, Status> {
    HANDLES.get(handle).ok_or(Status::NotInitialized)
}

fn copy_of<T: Copy>(registry: &Registry<Described<T>>, handle: Handle) -> Result<T, Status> {
    let object = registry.get(handle).ok_or(Status::InvalidValue)?;
    let copy = *object.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(copy)
}

fn change<T>(registry: &Registry<Described<T>>, handle: Handle, f: impl FnOnce(&mut T)) -> Result<(), Status> {
    let object = registry.get(handle).ok_or(Status::InvalidValue)?;
    f(&mut object.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

fn size(value: i64) -> Result<usize, Status> {
    usize::try_from(value).map_err(|_| Status::InvalidValue)
}

/// `cusparseIndexType_t`: whether 64 bits wide.
fn wide(number: c_int) -> Result<bool, Status> {
    match number {
        2 => Ok(false),
        3 => Ok(true),
        _ => Err(Status::NotSupported),
    }
}

fn element(number: c_int) -> Result<Element, Status> {
    Element::of_data_type(number).ok_or(Status::NotSupported)
}

/// Sizes, arrays and types of a sparse matrix, as the create functions take them.
struct Description {
    format: Format,
    sizes: [i64; 3],
    arrays: [u64; 3],
    first_type: c_int,
    second_type: c_int,
    base: c_int,
    data_type: c_int,
}

impl Description {
    fn create(self, to: Out<Handle>) -> Result<(), Status> {
        let [rows, columns, stored] = self.sizes;
        let [first, second, values] = self.arrays;
        if !(0..=1).contains(&self.base) {
            return Err(Status::InvalidValue);
        }
        let matrix = Matrix {
            format: self.format,
            rows: size(rows)?,
            columns: size(columns)?,
            stored: size(stored)?,
            first,
            first_wide: wide(self.first_type)?,
            second,
            second_wide: wide(self.second_type)?,
            values,
            element: element(self.data_type)?,
            base: i64::from(self.base),
        };
        Ok(to.set(MATRICES.insert(Arc::new(Mutex::new(matrix))))?)
    }
}

fn indices(space: &Space, address: u64, wide: bool, count: usize) -> Answer<Vec<i64>> {
    if wide {
        return space.load::<i64>(address, count);
    }
    Ok(space.load::<i32>(address, count)?.into_iter().map(i64::from).collect())
}

impl Matrix {
    /// Row, column and value of each stored element.
    fn entries(&self, space: &Space) -> Answer<Vec<(usize, usize, f64)>> {
        let (lines, across, turned) = match self.format {
            Format::Csr => (self.rows, self.columns, false),
            Format::Csc => (self.columns, self.rows, true),
            Format::Coo => (self.rows, self.columns, false),
        };
        let second = indices(space, self.second, self.second_wide, self.stored)?;
        let values = space.read::<f64>(self.element, self.values, self.stored)?;
        let firsts: Vec<i64> = if self.format == Format::Coo {
            indices(space, self.first, self.first_wide, self.stored)?
        } else {
            let starts = indices(space, self.first, self.first_wide, lines + 1)?;
            let mut owners = Vec::with_capacity(self.stored);
            for (line, pair) in starts.windows(2).enumerate() {
                let count = usize::try_from(pair[1] - pair[0]).map_err(|_| Error::IllegalAddress)?;
                if owners.len() + count > self.stored {
                    return Err(Error::IllegalAddress);
                }
                owners.extend(std::iter::repeat_n(line as i64 + self.base, count));
            }
            owners
        };
        let within = |value: i64, most: usize| {
            usize::try_from(value - self.base).ok().filter(|at| *at < most).ok_or(Error::IllegalAddress)
        };
        firsts
            .iter()
            .zip(second)
            .zip(values)
            .map(|((first, second), value)| {
                let (line, other) = (within(*first, lines)?, within(second, across)?);
                Ok(if turned { (other, line, value) } else { (line, other, value) })
            })
            .collect()
    }
}

/// `Y = α op(A) op(X) + β Y`
struct Product {
    matrix: Matrix,
    transpose: bool,
    transpose_dense: bool,
    alpha: Scalar,
    beta: Scalar,
    x: Dense,
    y: Dense,
}

impl Product {
    fn fits(&self) -> bool {
        let Self { matrix, x, y, .. } = self;
        let (rows, inner) = if self.transpose { (matrix.columns, matrix.rows) } else { (matrix.rows, matrix.columns) };
        let (x_rows, x_columns) = if self.transpose_dense { (x.columns, x.rows) } else { (x.rows, x.columns) };
        rows == y.rows && inner == x_rows && x_columns == y.columns
    }

    fn run(&self, space: &Space) -> Answer {
        let Self { matrix, x, y, .. } = self;
        let (alpha, beta) = (self.alpha.value(space)?, self.beta.value(space)?);
        let dense = space.read::<f64>(x.element, x.values, x.span())?;
        let mut sums = vec![0f64; y.rows * y.columns];
        for (row, column, value) in matrix.entries(space)? {
            let (to, from) = if self.transpose { (column, row) } else { (row, column) };
            for j in 0..y.columns {
                let at = if self.transpose_dense { x.at(j, from) } else { x.at(from, j) };
                sums[to * y.columns + j] += value * dense[at];
            }
        }
        // What lies between the lines of Y stays as it is.
        let mut out = space.read::<f64>(y.element, y.values, y.span())?;
        for row in 0..y.rows {
            for column in 0..y.columns {
                let slot = &mut out[y.at(row, column)];
                let old = if beta == 0.0 { 0.0 } else { beta * *slot };
                *slot = alpha * sums[row * y.columns + column] + old;
            }
        }
        space.write(y.element, y.values, &out)
    }
}

/// `cusparseOperation_t`; conjugation changes nothing for real numbers.
fn transposed(operation: c_int) -> Result<bool, Status> {
    match operation {
        0 => Ok(false),
        1 | 2 => Ok(true),
        _ => Err(Status::InvalidValue),
    }
}

/// Everything that SpMV and SpMM are called with.
struct Call {
    handle: Handle,
    operations: [c_int; 2],
    alpha: In<u8>,
    matrix: Handle,
    x: Handle,
    beta: In<u8>,
    y: Handle,
    compute: c_int,
}

impl Call {
    fn product(&self) -> Result<(Arc<Sparse>, Product), Status> {
        let handle = sparse(self.handle)?;
        let on_device = handle.pointer_mode.load(Relaxed) == 1;
        let compute = element(self.compute)?;
        let product = Product {
            matrix: copy_of(&MATRICES, self.matrix)?,
            transpose: transposed(self.operations[0])?,
            transpose_dense: transposed(self.operations[1])?,
            alpha: Scalar::new(self.alpha, compute, on_device)?,
            beta: Scalar::new(self.beta, compute, on_device)?,
            x: copy_of(&DENSE, self.x)?,
            y: copy_of(&DENSE, self.y)?,
        };
        if product.fits() { Ok((handle, product)) } else { Err(Status::InvalidValue) }
    }

    fn run(&self) -> Result<(), Status> {
        let (handle, product) = self.product()?;
        Ok(handle.space.submit(handle.stream.load(Relaxed), move |space| product.run(space))?)
    }

    /// Checks the arguments; the work itself needs no buffer, but the real library does.
    fn buffer(&self, bytes: Out<usize>) -> Result<(), Status> {
        self.product()?;
        Ok(bytes.set(8)?)
    }

    /// Does the work if the caller brings the buffer that it was told to; `without` is what the real library says if not
    /// (cuSPARSE 12.6 on an H100).
    fn run_with(&self, buffer: u64, without: Status) -> Result<(), Status> {
        if buffer == 0 { self.product().and(Err(without)) } else { self.run() }
    }
}

fn vector(to: Out<Handle>, length: i64, values: u64, data_type: c_int) -> Result<(), Status> {
    let rows = size(length)?;
    let dense = Dense { rows, columns: 1, leading: rows, values, element: element(data_type)?, by_columns: true };
    Ok(to.set(DENSE.insert(Arc::new(Mutex::new(dense))))?)
}

fn dense_matrix(
    to: Out<Handle>,
    rows: i64,
    columns: i64,
    leading: i64,
    values: u64,
    data_type: c_int,
    order: c_int,
) -> Result<(), Status> {
    // CUSPARSE_ORDER_COL is 1, ROW 2.
    let by_columns = match order {
        1 => true,
        2 => false,
        _ => return Err(Status::InvalidValue),
    };
    let (rows, columns, leading) = (size(rows)?, size(columns)?, size(leading)?);
    if leading < if by_columns { rows } else { columns } {
        return Err(Status::InvalidValue);
    }
    let dense = Dense { rows, columns, leading, values, element: element(data_type)?, by_columns };
    Ok(to.set(DENSE.insert(Arc::new(Mutex::new(dense))))?)
}

c_api! { Status;
    fn cusparseCreate(handle: Out<Handle>) {
        let space = Space::current().map_err(|_| Status::NotInitialized)?;
        let object = Sparse { space, stream: AtomicU64::new(0), pointer_mode: AtomicI32::new(0) };
        Ok(handle.set(HANDLES.insert(Arc::new(object)))?)
    }

    fn cusparseDestroy(handle: Handle) {
        HANDLES.remove(handle).map(drop).ok_or(Status::NotInitialized)
    }

    fn cusparseSetStream(handle: Handle, stream: Handle) {
        sparse(handle)?.stream.store(stream, Relaxed);
        Ok(())
    }

    fn cusparseGetStream(handle: Handle, stream: Out<Handle>) {
        Ok(stream.set(sparse(handle)?.stream.load(Relaxed))?)
    }

    fn cusparseSetPointerMode(handle: Handle, mode: c_int) {
        if !(0..=1).contains(&mode) {
            return Err(Status::InvalidValue);
        }
        sparse(handle)?.pointer_mode.store(mode, Relaxed);
        Ok(())
    }

    fn cusparseGetPointerMode(handle: Handle, mode: Out<c_int>) {
        Ok(mode.set(sparse(handle)?.pointer_mode.load(Relaxed))?)
    }

    fn cusparseGetVersion(handle: Handle, version: Out<c_int>) {
        sparse(handle)?;
        Ok(version.set(12_600)?)
    }

    fn cusparseCreateCsr(
        to: Out<Handle>, rows: i64, columns: i64, stored: i64, starts: u64, indices: u64, values: u64,
        first_type: c_int, second_type: c_int, base: c_int, data_type: c_int,
    ) {
        let (sizes, arrays) = ([rows, columns, stored], [starts, indices, values]);
        Description { format: Format::Csr, sizes, arrays, first_type, second_type, base, data_type }.create(to)
    }

    fn cusparseCreateConstCsr(
        to: Out<Handle>, rows: i64, columns: i64, stored: i64, starts: u64, indices: u64, values: u64,
        first_type: c_int, second_type: c_int, base: c_int, data_type: c_int,
    ) {
        let (sizes, arrays) = ([rows, columns, stored], [starts, indices, values]);
        Description { format: Format::Csr, sizes, arrays, first_type, second_type, base, data_type }.create(to)
    }

    fn cusparseCreateCsc(
        to: Out<Handle>, rows: i64, columns: i64, stored: i64, starts: u64, indices: u64, values: u64,
        first_type: c_int, second_type: c_int, base: c_int, data_type: c_int,
    ) {
        let (sizes, arrays) = ([rows, columns, stored], [starts, indices, values]);
        Description { format: Format::Csc, sizes, arrays, first_type, second_type, base, data_type }.create(to)
    }

    fn cusparseCreateCoo(
        to: Out<Handle>, rows: i64, columns: i64, stored: i64, row_indices: u64, column_indices: u64, values: u64,
        index_type: c_int, base: c_int, data_type: c_int,
    ) {
        let (sizes, arrays) = ([rows, columns, stored], [row_indices, column_indices, values]);
        let (first_type, second_type) = (index_type, index_type);
        Description { format: Format::Coo, sizes, arrays, first_type, second_type, base, data_type }.create(to)
    }

    fn cusparseDestroySpMat(matrix: Handle) {
        MATRICES.remove(matrix).map(drop).ok_or(Status::InvalidValue)
    }

    fn cusparseSpMatGetSize(matrix: Handle, rows: Out<i64>, columns: Out<i64>, stored: Out<i64>) {
        let matrix = copy_of(&MATRICES, matrix)?;
        rows.set(matrix.rows as i64)?;
        columns.set(matrix.columns as i64)?;
        Ok(stored.set(matrix.stored as i64)?)
    }

    fn cusparseSpMatSetValues(matrix: Handle, values: u64) {
        change(&MATRICES, matrix, |matrix| matrix.values = values)
    }

    fn cusparseCsrSetPointers(matrix: Handle, starts: u64, indices: u64, values: u64) {
        change(&MATRICES, matrix, |matrix| (matrix.first, matrix.second, matrix.values) = (starts, indices, values))
    }

    fn cusparseCreateDnVec(to: Out<Handle>, length: i64, values: u64, data_type: c_int) {
        vector(to, length, values, data_type)
    }

    fn cusparseCreateConstDnVec(to: Out<Handle>, length: i64, values: u64, data_type: c_int) {
        vector(to, length, values, data_type)
    }

    fn cusparseDestroyDnVec(dense: Handle) {
        DENSE.remove(dense).map(drop).ok_or(Status::InvalidValue)
    }

    fn cusparseDnVecSetValues(dense: Handle, values: u64) {
        change(&DENSE, dense, |dense| dense.values = values)
    }

    fn cusparseCreateDnMat(to: Out<Handle>, rows: i64, columns: i64, leading: i64, values: u64, data_type: c_int, order: c_int) {
        dense_matrix(to, rows, columns, leading, values, data_type, order)
    }

    fn cusparseCreateConstDnMat(to: Out<Handle>, rows: i64, columns: i64, leading: i64, values: u64, data_type: c_int, order: c_int) {
        dense_matrix(to, rows, columns, leading, values, data_type, order)
    }

    fn cusparseDestroyDnMat(dense: Handle) {
        DENSE.remove(dense).map(drop).ok_or(Status::InvalidValue)
    }

    fn cusparseDnMatSetValues(dense: Handle, values: u64) {
        change(&DENSE, dense, |dense| dense.values = values)
    }

    fn cusparseSpMV_bufferSize(
        handle: Handle, operation: c_int, alpha: In<u8>, matrix: Handle, x: Handle, beta: In<u8>, y: Handle,
        compute: c_int, _algorithm: c_int, bytes: Out<usize>,
    ) {
        Call { handle, operations: [operation, 0], alpha, matrix, x, beta, y, compute }.buffer(bytes)
    }

    fn cusparseSpMV_preprocess(
        handle: Handle, operation: c_int, alpha: In<u8>, matrix: Handle, x: Handle, beta: In<u8>, y: Handle,
        compute: c_int, _algorithm: c_int, _buffer: u64,
    ) {
        Call { handle, operations: [operation, 0], alpha, matrix, x, beta, y, compute }.product().map(drop)
    }

    fn cusparseSpMV(
        handle: Handle, operation: c_int, alpha: In<u8>, matrix: Handle, x: Handle, beta: In<u8>, y: Handle,
        compute: c_int, _algorithm: c_int, buffer: u64,
    ) {
        let call = Call { handle, operations: [operation, 0], alpha, matrix, x, beta, y, compute };
        call.run_with(buffer, Status::InvalidValue)
    }

    fn cusparseSpMM_bufferSize(
        handle: Handle, operation: c_int, dense_operation: c_int, alpha: In<u8>, matrix: Handle, x: Handle, beta: In<u8>, y: Handle,
        compute: c_int, _algorithm: c_int, bytes: Out<usize>,
    ) {
        Call { handle, operations: [operation, dense_operation], alpha, matrix, x, beta, y, compute }.buffer(bytes)
    }

    fn cusparseSpMM_preprocess(
        handle: Handle, operation: c_int, dense_operation: c_int, alpha: In<u8>, matrix: Handle, x: Handle, beta: In<u8>, y: Handle,
        compute: c_int, _algorithm: c_int, _buffer: u64,
    ) {
        Call { handle, operations: [operation, dense_operation], alpha, matrix, x, beta, y, compute }.product().map(drop)
    }

    fn cusparseSpMM(
        handle: Handle, operation: c_int, dense_operation: c_int, alpha: In<u8>, matrix: Handle, x: Handle, beta: In<u8>, y: Handle,
        compute: c_int, _algorithm: c_int, buffer: u64,
    ) {
        let call = Call { handle, operations: [operation, dense_operation], alpha, matrix, x, beta, y, compute };
        call.run_with(buffer, Status::InternalError)
    }
}

fn status_name(status: c_int) -> &'static std::ffi::CStr {
    match status {
        0 => c"CUSPARSE_STATUS_SUCCESS",
        1 => c"CUSPARSE_STATUS_NOT_INITIALIZED",
        2 => c"CUSPARSE_STATUS_ALLOC_FAILED",
        3 => c"CUSPARSE_STATUS_INVALID_VALUE",
        6 => c"CUSPARSE_STATUS_EXECUTION_FAILED",
        7 => c"CUSPARSE_STATUS_INTERNAL_ERROR",
        10 => c"CUSPARSE_STATUS_NOT_SUPPORTED",
        _ => c"unrecognized error code",
    }
}

// SAFETY: the name is cuSPARSE's, whose place this library takes.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the library's name")]
pub extern "C" fn cusparseGetErrorName(status: c_int) -> *const c_char {
    status_name(status).as_ptr()
}

// SAFETY: the name is cuSPARSE's, whose place this library takes.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the library's name")]
pub extern "C" fn cusparseGetErrorString(status: c_int) -> *const c_char {
    status_name(status).as_ptr()
}
