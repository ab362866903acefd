//! cuBLAS, cuBLASLt, cuFFT and cuSPARSE through their C interfaces, against the same computed directly.

#![allow(clippy::unwrap_used, clippy::panic)]

mod alone;

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::LazyLock;

// Brings the functions below into this program.
use weft_sim as _;

type Handle = u64;

// SAFETY: the signatures are those of the functions that weft-sim exports.
#[rustfmt::skip]
unsafe extern "C" {
    fn cuInit(flags: u32) -> c_int;
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> c_int;
    fn cuCtxSetCurrent(context: Handle) -> c_int;
    fn cuCtxSynchronize() -> c_int;
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int;
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> c_int;
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> c_int;
    fn cublasCreate_v2(handle: *mut Handle) -> c_int;
    fn cublasSetPointerMode_v2(handle: Handle, mode: c_int) -> c_int;
    fn cublasSgemm_v2(h: Handle, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: *const f32, a: u64, lda: c_int,
        b: u64, ldb: c_int, beta: *const f32, c: u64, ldc: c_int) -> c_int;
    fn cublasDgemmStridedBatched(h: Handle, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: *const f64, a: u64, lda: c_int,
        sa: i64, b: u64, ldb: c_int, sb: i64, beta: *const f64, c: u64, ldc: c_int, sc: i64, batches: c_int) -> c_int;
    fn cublasGemmEx(h: Handle, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: *const c_void, a: u64, at: c_int, lda: c_int,
        b: u64, bt: c_int, ldb: c_int, beta: *const c_void, c: u64, ct: c_int, ldc: c_int, compute: c_int, algo: c_int) -> c_int;
    fn cublasSgemv_v2(h: Handle, t: c_int, m: c_int, n: c_int, alpha: *const f32, a: u64, lda: c_int, x: u64, sx: c_int,
        beta: *const f32, y: u64, sy: c_int) -> c_int;
    fn cublasSdot_v2(h: Handle, n: c_int, x: u64, sx: c_int, y: u64, sy: c_int, result: *mut f32) -> c_int;
    fn cublasLtCreate(h: *mut Handle) -> c_int;
    fn cublasLtMatmulDescCreate(d: *mut Handle, compute: c_int, scale: c_int) -> c_int;
    fn cublasLtMatmulDescSetAttribute(d: Handle, attribute: c_int, value: *const c_void, bytes: usize) -> c_int;
    fn cublasLtMatrixLayoutCreate(l: *mut Handle, ty: c_int, rows: u64, columns: u64, ld: i64) -> c_int;
    fn cublasLtMatmul(h: Handle, d: Handle, alpha: *const f32, a: u64, al: Handle, b: u64, bl: Handle, beta: *const f32, c: u64, cl: Handle,
        out: u64, ol: Handle, algo: *const c_void, workspace: u64, bytes: usize, stream: Handle) -> c_int;
    fn cufftPlan1d(p: *mut c_int, n: c_int, ty: c_int, batch: c_int) -> c_int;
    fn cufftPlan2d(p: *mut c_int, nx: c_int, ny: c_int, ty: c_int) -> c_int;
    fn cufftPlanMany(p: *mut c_int, rank: c_int, n: *const c_int, ie: *const c_int, is: c_int, id: c_int, oe: *const c_int, os: c_int,
        od: c_int, ty: c_int, batch: c_int) -> c_int;
    fn cufftExecC2C(p: c_int, i: u64, o: u64, direction: c_int) -> c_int;
    fn cufftExecZ2Z(p: c_int, i: u64, o: u64, direction: c_int) -> c_int;
    fn cufftExecR2C(p: c_int, i: u64, o: u64) -> c_int;
    fn cufftExecC2R(p: c_int, i: u64, o: u64) -> c_int;
    fn cufftDestroy(p: c_int) -> c_int;
    fn cusparseCreate(h: *mut Handle) -> c_int;
    fn cusparseCreateCsr(m: *mut Handle, rows: i64, cols: i64, nnz: i64, rp: u64, ci: u64, v: u64, rt: c_int, ct: c_int, base: c_int,
        ty: c_int) -> c_int;
    fn cusparseCreateCoo(m: *mut Handle, rows: i64, cols: i64, nnz: i64, ri: u64, ci: u64, v: u64, it: c_int, base: c_int, ty: c_int)
        -> c_int;
    fn cusparseCreateDnVec(v: *mut Handle, n: i64, values: u64, ty: c_int) -> c_int;
    fn cusparseCreateDnMat(v: *mut Handle, rows: i64, cols: i64, ld: i64, values: u64, ty: c_int, order: c_int) -> c_int;
    fn cusparseSpMV_bufferSize(h: Handle, op: c_int, al: *const f32, m: Handle, x: Handle, be: *const f32, y: Handle, ty: c_int,
        algo: c_int, bytes: *mut usize) -> c_int;
    fn cusparseSpMV(h: Handle, op: c_int, al: *const f32, m: Handle, x: Handle, be: *const f32, y: Handle, ty: c_int, algo: c_int,
        buffer: u64) -> c_int;
    fn cusparseSpMM(h: Handle, op: c_int, ob: c_int, al: *const f32, m: Handle, x: Handle, be: *const f32, y: Handle, ty: c_int,
        algo: c_int, buffer: u64) -> c_int;
}

const F32: c_int = 0;
const F16: c_int = 2;
const BF16: c_int = 14;

macro_rules! code {
    ($call:expr) => {{
        // SAFETY: each pointer is null or to a live local of the right type.
        unsafe { $call }
    }};
}

macro_rules! ok {
    ($call:expr) => {
        assert_eq!(code!($call), 0, stringify!($call))
    };
}

fn device(ordinal: c_int) {
    static STARTED: LazyLock<()> = LazyLock::new(|| {
        // SAFETY: runs before any other thread of this test reads the environment through the driver.
        unsafe { std::env::set_var("WEFT_SIM_PROFILE", "h100x8") };
        ok!(cuInit(0));
    });
    LazyLock::force(&STARTED);
    let mut context = 0;
    ok!(cuDevicePrimaryCtxRetain(&mut context, ordinal));
    ok!(cuCtxSetCurrent(context));
}

fn buffer<T: Copy>(values: &[T]) -> u64 {
    let mut address = 0;
    ok!(cuMemAlloc_v2(&mut address, size_of_val(values)));
    ok!(cuMemcpyHtoD_v2(address, values.as_ptr().cast(), size_of_val(values)));
    address
}

fn read<T: Copy + Default>(address: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    ok!(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, count * size_of::<T>()));
    values
}

/// Small whole numbers: sums of their products are exact in every type tested.
fn numbers(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 7 + seed * 13 + i * i % 5) % 9) as f64 - 4.0).collect()
}

fn blas() -> Handle {
    let mut handle = 0;
    ok!(cublasCreate_v2(&mut handle));
    handle
}

/// Column-major op(A) op(B), element (i, j).
#[derive(Clone, Copy)]
struct Shape {
    ta: bool,
    tb: bool,
    m: usize,
    n: usize,
    k: usize,
    lda: usize,
    ldb: usize,
    ldc: usize,
}

impl Shape {
    fn element(&self, a: &[f64], b: &[f64], i: usize, j: usize) -> f64 {
        let left = |q: usize| if self.ta { a[i * self.lda + q] } else { a[q * self.lda + i] };
        let right = |q: usize| if self.tb { b[q * self.ldb + j] } else { b[j * self.ldb + q] };
        (0..self.k).map(|q| left(q) * right(q)).sum()
    }

    fn lengths(&self) -> (usize, usize, usize) {
        let columns = |transposed: bool, one: usize, other: usize| if transposed { one } else { other };
        (self.lda * columns(self.ta, self.m, self.k), self.ldb * columns(self.tb, self.k, self.n), self.ldc * self.n)
    }
}

const SHAPES: [Shape; 4] = [
    Shape { ta: false, tb: false, m: 5, n: 7, k: 3, lda: 6, ldb: 4, ldc: 8 },
    Shape { ta: true, tb: false, m: 5, n: 7, k: 3, lda: 4, ldb: 3, ldc: 5 },
    Shape { ta: false, tb: true, m: 33, n: 17, k: 20, lda: 33, ldb: 18, ldc: 40 },
    Shape { ta: true, tb: true, m: 2, n: 9, k: 11, lda: 12, ldb: 9, ldc: 2 },
];

#[test]
fn products_respect_transposes_leading_dimensions_and_what_lies_between() {
    device(0);
    let handle = blas();
    for shape in SHAPES {
        let (na, nb, nc) = shape.lengths();
        let (a, b, c) = (numbers(na, 1), numbers(nb, 2), numbers(nc, 3));
        let single = |v: &[f64]| buffer(&v.iter().map(|v| *v as f32).collect::<Vec<_>>());
        let (da, db, dc) = (single(&a), single(&b), single(&c));
        let (m, n, k) = (shape.m as c_int, shape.n as c_int, shape.k as c_int);
        let (ta, tb) = (c_int::from(shape.ta), c_int::from(shape.tb));
        let (lda, ldb, ldc) = (shape.lda as c_int, shape.ldb as c_int, shape.ldc as c_int);
        let (alpha, beta) = (2f32, 3f32);
        ok!(cublasSgemm_v2(handle, ta, tb, m, n, k, &alpha, da, lda, db, ldb, &beta, dc, ldc));
        let out = read::<f32>(dc, nc);
        for j in 0..shape.n {
            for i in 0..shape.ldc {
                let at = j * shape.ldc + i;
                let expected = if i < shape.m { 2.0 * shape.element(&a, &b, i, j) + 3.0 * c[at] } else { c[at] };
                assert_eq!(f64::from(out[at]), expected, "({i}, {j})");
            }
        }
        assert_eq!(code!(cublasSgemm_v2(handle, ta, tb, m, n, k, &alpha, da, 1, db, ldb, &beta, dc, ldc)), 7);
    }
}

#[test]
fn factors_may_lie_on_the_device() {
    device(0);
    let handle = blas();
    ok!(cublasSetPointerMode_v2(handle, 1));
    let (one, alpha, beta) = (buffer(&[3f32]), buffer(&[5f32]), buffer(&[1f32]));
    let (alpha, beta) = (alpha as *const f32, beta as *const f32);
    ok!(cublasSgemm_v2(handle, 0, 0, 1, 1, 1, alpha, one, 1, one, 1, beta, one, 1));
    assert_eq!(read::<f32>(one, 1), [48.0]);
}

#[test]
fn beta_zero_overwrites_what_is_not_a_number() {
    device(0);
    let (handle, x, y) = (blas(), buffer(&[2f32]), buffer(&[f32::NAN]));
    ok!(cublasSgemm_v2(handle, 0, 0, 1, 1, 1, &1.0, x, 1, x, 1, &0.0, y, 1));
    assert_eq!(read::<f32>(y, 1), [4.0]);
}

#[test]
fn batches_step_through_their_matrices() {
    device(0);
    let (handle, shape, batches) = (blas(), SHAPES[0], 3usize);
    let (na, nb, nc) = shape.lengths();
    let (a, b) = (numbers(na * batches, 4), numbers(nb * batches, 5));
    let (da, db, dc) = (buffer(&a), buffer(&b), buffer(&vec![0f64; nc * batches]));
    #[rustfmt::skip]
    ok!(cublasDgemmStridedBatched(handle, 0, 0, 5, 7, 3, &1.0, da, 6, na as i64, db, 4, nb as i64, &0.0, dc, 8, nc as i64, 3));
    let out = read::<f64>(dc, nc * batches);
    for batch in 0..batches {
        for (i, j) in (0..5).flat_map(|i| (0..7).map(move |j| (i, j))) {
            assert_eq!(out[batch * nc + j * 8 + i], shape.element(&a[batch * na..], &b[batch * nb..], i, j));
        }
    }
}

#[test]
fn short_floats_are_multiplied_with_single_precision_sums() {
    device(0);
    let (handle, shape) = (blas(), SHAPES[2]);
    let (na, nb, nc) = shape.lengths();
    let (a, b) = (numbers(na, 6), numbers(nb, 7));
    for ty in [F16, BF16] {
        let bits = |v: &f64| {
            if ty == F16 { half::f16::from_f64(*v).to_bits() } else { half::bf16::from_f64(*v).to_bits() }
        };
        let short = |v: &[f64]| buffer(&v.iter().map(bits).collect::<Vec<u16>>());
        let (da, db, dc) = (short(&a), short(&b), buffer(&vec![0f32; nc]));
        let (alpha, beta) = (1f32, 0f32);
        let (alpha, beta) = ((&raw const alpha).cast(), (&raw const beta).cast());
        ok!(cublasGemmEx(handle, 0, 1, 33, 17, 20, alpha, da, ty, 33, db, ty, 18, beta, dc, F32, 40, 68, -1));
        let out = read::<f32>(dc, nc);
        for (i, j) in (0..33).flat_map(|i| (0..17).map(move |j| (i, j))) {
            assert_eq!(f64::from(out[j * 40 + i]), shape.element(&a, &b, i, j));
        }
    }
}

#[test]
fn vectors_step_forward_and_backward() {
    device(0);
    let handle = blas();
    // Column-major 2×3.
    let (a, x, y) = (buffer(&[1f32, 4., 2., 5., 3., 6.]), buffer(&[1f32, 9., 2., 9., 3.]), buffer(&[10f32, 20.]));
    ok!(cublasSgemv_v2(handle, 0, 2, 3, &1.0, a, 2, x, 2, &1.0, y, 1));
    assert_eq!(read::<f32>(y, 2), [24.0, 52.0]);
    ok!(cublasSgemv_v2(handle, 0, 2, 3, &1.0, a, 2, x, -2, &0.0, y, 1));
    assert_eq!(read::<f32>(y, 2), [10.0, 28.0]);
    ok!(cublasSgemv_v2(handle, 1, 2, 3, &1.0, a, 2, y, 1, &0.0, x, 2));
    assert_eq!(read::<f32>(x, 5), [122.0, 9.0, 160.0, 9.0, 198.0]);
    let mut dot = 0f32;
    ok!(cublasSdot_v2(handle, 2, y, 1, y, 1, &mut dot));
    assert_eq!(dot, 884.0);
}

#[test]
fn a_product_with_bias_and_activation() {
    device(0);
    let (mut lt, mut operation) = (0, 0);
    ok!(cublasLtCreate(&mut lt));
    ok!(cublasLtMatmulDescCreate(&mut operation, 68, F32));
    let bias = buffer(&[-100f32, 1.0]);
    let epilogue = 6u32;
    ok!(cublasLtMatmulDescSetAttribute(operation, 7, (&raw const epilogue).cast(), 4));
    ok!(cublasLtMatmulDescSetAttribute(operation, 8, (&raw const bias).cast(), 8));
    let layout = |rows, columns| {
        let mut layout = 0;
        ok!(cublasLtMatrixLayoutCreate(&mut layout, F32, rows, columns, rows as i64));
        layout
    };
    let (la, lb, lc) = (layout(2, 3), layout(3, 1), layout(2, 1));
    let (a, b, c) = (buffer(&[1f32, 4., 2., 5., 3., 6.]), buffer(&[1f32, 2., 3.]), buffer(&[0f32; 2]));
    let null = null_mut::<c_void>().cast_const();
    ok!(cublasLtMatmul(lt, operation, &1.0, a, la, b, lb, &0.0, c, lc, c, lc, null, 0, 0, 0));
    assert_eq!(read::<f32>(c, 2), [0.0, 33.0]);
    assert_eq!(code!(cublasLtMatmul(lt, operation, &1.0, a, la, b, la, &0.0, c, lc, c, lc, null, 0, 0, 0)), 7);
}

#[test]
fn an_operand_that_leaves_its_memory_is_an_illegal_address() {
    if alone::elsewhere() {
        return;
    }
    device(1);
    let (handle, x) = (blas(), buffer(&[0f32; 4]));
    ok!(cublasSgemm_v2(handle, 0, 0, 8, 8, 8, &1.0, x, 8, x, 8, &0.0, x, 8));
    assert_eq!(code!(cuCtxSynchronize()), 700);
}

/// Discrete Fourier transform of one line by its definition.
fn dft(x: &[(f64, f64)], sign: f64) -> Vec<(f64, f64)> {
    let n = x.len();
    let term = |k: usize, j: usize| {
        let angle = sign * 2.0 * std::f64::consts::PI * (j * k % n) as f64 / n as f64;
        let (sin, cos) = angle.sin_cos();
        (x[j].0 * cos - x[j].1 * sin, x[j].0 * sin + x[j].1 * cos)
    };
    (0..n).map(|k| (0..n).map(|j| term(k, j)).fold((0.0, 0.0), |s, t| (s.0 + t.0, s.1 + t.1))).collect()
}

fn pairs(n: usize, seed: usize) -> Vec<(f64, f64)> {
    numbers(2 * n, seed).chunks(2).map(|c| (c[0], c[1])).collect()
}

fn near(got: &[f32], expected: &[(f64, f64)]) {
    assert_eq!(got.len(), expected.len() * 2);
    for (got, want) in got.chunks(2).zip(expected) {
        assert!(
            (f64::from(got[0]) - want.0).abs() < 1e-3 && (f64::from(got[1]) - want.1).abs() < 1e-3,
            "{got:?} {want:?}"
        );
    }
}

fn single(x: &[(f64, f64)]) -> Vec<f32> {
    x.iter().flat_map(|(re, im)| [*re as f32, *im as f32]).collect()
}

#[test]
fn transforms_of_a_batch_are_each_their_own() {
    device(0);
    let (n, batches) = (12usize, 3usize);
    let x = pairs(n * batches, 8);
    let data = buffer(&single(&x));
    let mut plan = 0;
    ok!(cufftPlan1d(&mut plan, n as c_int, 0x29, batches as c_int));
    ok!(cufftExecC2C(plan, data, data, -1));
    let expected: Vec<_> = x.chunks(n).flat_map(|line| dft(line, -1.0)).collect();
    near(&read(data, 2 * n * batches), &expected);
    ok!(cufftExecC2C(plan, data, data, 1));
    let scaled: Vec<_> = x.iter().map(|(re, im)| (re * n as f64, im * n as f64)).collect();
    near(&read(data, 2 * n * batches), &scaled);
    assert_eq!(code!(cufftExecR2C(plan, data, data)), 1);
    ok!(cufftDestroy(plan));
    assert_eq!(code!(cufftExecC2C(plan, data, data, 1)), 1);
}

#[test]
fn real_transforms_give_half_the_spectrum_and_come_back() {
    device(0);
    for n in [8usize, 9] {
        let x: Vec<f64> = numbers(n, 9);
        let spectrum = dft(&x.iter().map(|v| (*v, 0.0)).collect::<Vec<_>>(), -1.0);
        let half = n / 2 + 1;
        let real = buffer(&x.iter().map(|v| *v as f32).collect::<Vec<_>>());
        let complex = buffer(&vec![0f32; 2 * half]);
        let (mut forward, mut back) = (0, 0);
        ok!(cufftPlan1d(&mut forward, n as c_int, 0x2a, 1));
        ok!(cufftPlan1d(&mut back, n as c_int, 0x2c, 1));
        ok!(cufftExecR2C(forward, real, complex));
        near(&read(complex, 2 * half), &spectrum[..half]);
        ok!(cufftExecC2R(back, complex, real));
        for (got, want) in read::<f32>(real, n).iter().zip(&x) {
            assert!((f64::from(*got) - want * n as f64).abs() < 1e-3);
        }
    }
}

#[test]
fn in_place_real_rows_leave_room_for_their_results() {
    device(0);
    let (n, batches) = (6usize, 2usize);
    let x = numbers(n * batches, 10);
    let row = 2 * (n / 2 + 1);
    let mut padded = vec![0f32; row * batches];
    x.chunks(n)
        .zip(padded.chunks_mut(row))
        .for_each(|(from, to)| from.iter().zip(to).for_each(|(f, t)| *t = *f as f32));
    let data = buffer(&padded);
    let mut plan = 0;
    ok!(cufftPlan1d(&mut plan, n as c_int, 0x2a, batches as c_int));
    ok!(cufftExecR2C(plan, data, data));
    let spectrum = |line: &[f64]| dft(&line.iter().map(|v| (*v, 0.0)).collect::<Vec<_>>(), -1.0)[..n / 2 + 1].to_vec();
    near(&read(data, row * batches), &x.chunks(n).flat_map(spectrum).collect::<Vec<_>>());
}

#[test]
fn planes_are_transformed_along_both_axes_also_with_strides() {
    device(0);
    let (nx, ny) = (4usize, 6usize);
    let x = pairs(nx * ny, 11);
    let rows: Vec<_> = x.chunks(ny).flat_map(|row| dft(row, -1.0)).collect();
    let mut expected = rows.clone();
    for j in 0..ny {
        let column = dft(&(0..nx).map(|i| rows[i * ny + j]).collect::<Vec<_>>(), -1.0);
        (0..nx).for_each(|i| expected[i * ny + j] = column[i]);
    }
    let data = buffer(&single(&x));
    let mut plan = 0;
    ok!(cufftPlan2d(&mut plan, nx as c_int, ny as c_int, 0x29));
    ok!(cufftExecC2C(plan, data, data, -1));
    near(&read(data, 2 * nx * ny), &expected);

    // The same plane as every second element of wider rows.
    let mut wide = vec![0f64; 2 * 2 * nx * (ny + 1)];
    for (i, j) in (0..nx).flat_map(|i| (0..ny).map(move |j| (i, j))) {
        let at = 2 * 2 * (i * (ny + 1) + j);
        (wide[at], wide[at + 1]) = x[i * ny + j];
    }
    let (from, to) = (buffer(&wide), buffer(&vec![0f64; 2 * nx * ny]));
    let (sizes, embed) = ([nx as c_int, ny as c_int], [nx as c_int, ny as c_int + 1]);
    ok!(cufftPlanMany(&mut plan, 2, sizes.as_ptr(), embed.as_ptr(), 2, 0, sizes.as_ptr(), 1, 0, 0x69, 1));
    ok!(cufftExecZ2Z(plan, from, to, -1));
    let out: Vec<f32> = read::<f64>(to, 2 * nx * ny).iter().map(|v| *v as f32).collect();
    near(&out, &expected);
}

/// A sparse 3×4 matrix: starts, columns, values.
const STARTS: [i32; 4] = [0, 2, 2, 5];
const ROWS: [i32; 5] = [0, 0, 2, 2, 2];
const COLUMNS: [i32; 5] = [0, 3, 1, 2, 3];
const VALUES: [f32; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];

fn sparse() -> (Handle, [Handle; 2]) {
    let (mut handle, mut csr, mut coo) = (0, 0, 0);
    ok!(cusparseCreate(&mut handle));
    let (starts, rows, columns, values) = (buffer(&STARTS), buffer(&ROWS), buffer(&COLUMNS), buffer(&VALUES));
    ok!(cusparseCreateCsr(&mut csr, 3, 4, 5, starts, columns, values, 2, 2, 0, F32));
    ok!(cusparseCreateCoo(&mut coo, 3, 4, 5, rows, columns, values, 2, 0, F32));
    (handle, [csr, coo])
}

#[test]
fn sparse_times_vector_in_both_formats_and_directions() {
    device(0);
    let (handle, matrices) = sparse();
    let vector = |values: &[f32]| {
        let (mut object, data) = (0, buffer(values));
        ok!(cusparseCreateDnVec(&mut object, values.len() as i64, data, F32));
        (object, data)
    };
    for matrix in matrices {
        let ((x, _), (y, out)) = (vector(&[1., 2., 3., 4.]), vector(&[10., 20., 30.]));
        let mut bytes = 0;
        ok!(cusparseSpMV_bufferSize(handle, 0, &2.0, matrix, x, &1.0, y, F32, 0, &mut bytes));
        ok!(cusparseSpMV(handle, 0, &2.0, matrix, x, &1.0, y, F32, 0, 0));
        assert_eq!(read::<f32>(out, 3), [28.0, 20.0, 106.0]);
        let ((x, _), (y, out)) = (vector(&[1., 2., 3.]), vector(&[f32::NAN; 4]));
        ok!(cusparseSpMV(handle, 1, &1.0, matrix, x, &0.0, y, F32, 0, 0));
        assert_eq!(read::<f32>(out, 4), [1.0, 9.0, 12.0, 17.0]);
        assert_eq!(code!(cusparseSpMV(handle, 0, &1.0, matrix, x, &0.0, y, F32, 0, 0)), 3);
    }
}

#[test]
fn sparse_times_matrix_by_rows_and_by_columns() {
    device(0);
    let (handle, [matrix, _]) = sparse();
    let dense = |rows: i64, columns: i64, ld: i64, order: c_int, values: &[f32]| {
        let (mut object, data) = (0, buffer(values));
        ok!(cusparseCreateDnMat(&mut object, rows, columns, ld, data, F32, order));
        (object, data)
    };
    // X is 4×2: columns 1 2 3 4 and 5 6 7 8.
    let (by_columns, _) = dense(4, 2, 4, 1, &[1., 2., 3., 4., 5., 6., 7., 8.]);
    let (transposed, _) = dense(2, 4, 4, 2, &[1., 2., 3., 4., 5., 6., 7., 8.]);
    let (y, out) = dense(3, 2, 3, 2, &[0f32; 9]);
    for (x, operation) in [(by_columns, 0), (transposed, 1)] {
        ok!(cusparseSpMM(handle, 0, operation, &1.0, matrix, x, &0.0, y, F32, 0, 0));
        assert_eq!(read::<f32>(out, 8), [9., 21., 0., 0., 0., 0., 38., 86.]);
    }
}
