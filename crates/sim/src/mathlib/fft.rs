//! `libcufft.so.12`: plans and transforms, unnormalised as cuFFT's are.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustfft::num_complex::Complex;
use rustfft::{FftNum, FftPlanner};

use super::elements::Space;
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::{Code, In, Out, c_api};
use crate::cuda::registry::Handle;

/// `cufftResult`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    InvalidPlan = 1,
    AllocFailed = 2,
    InvalidType = 3,
    InvalidValue = 4,
    InternalError = 5,
    ExecFailed = 6,
    SetupFailed = 7,
    InvalidSize = 8,
    NotSupported = 16,
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
            Error::NotInitialized | Error::InvalidContext | Error::NoDevice => Self::SetupFailed,
            _ => Self::ExecFailed,
        }
    }
}

/// What is transformed into what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    RealToComplex,
    ComplexToReal,
    Complex,
}

/// `cufftType`: kind and whether in double precision.
fn kind(number: c_int) -> Result<(Kind, bool), Status> {
    Ok(match number {
        0x29 => (Kind::Complex, false),
        0x2a => (Kind::RealToComplex, false),
        0x2c => (Kind::ComplexToReal, false),
        0x69 => (Kind::Complex, true),
        0x6a => (Kind::RealToComplex, true),
        0x6c => (Kind::ComplexToReal, true),
        _ => return Err(Status::InvalidType),
    })
}

/// How the data of a batch lies: element (i, j, k) of transform b at `b*distance + ((i*embed[1] + j)*embed[2] + k)*stride`.
#[derive(Clone, Debug)]
struct Layout {
    embed: Vec<usize>,
    stride: usize,
    distance: usize,
}

impl Layout {
    /// Rows one after the other without gaps, the last axis of `last` elements.
    fn dense(sizes: &[usize], last: usize) -> Self {
        let mut embed = sizes.to_vec();
        if let Some(end) = embed.last_mut() {
            *end = last;
        }
        let distance = embed.iter().product();
        Self { embed, stride: 1, distance }
    }

    fn at(&self, batch: usize, place: &[usize]) -> usize {
        let inner = place.iter().zip(&self.embed).fold(0, |sum, (at, size)| sum * size + at);
        batch * self.distance + inner * self.stride
    }

    /// Elements from the first to the last that transforms of these sizes touch.
    fn span(&self, batches: usize, sizes: &[usize]) -> usize {
        let last: Vec<usize> = sizes.iter().map(|n| n - 1).collect();
        self.at(batches - 1, &last) + 1
    }
}

#[derive(Clone, Debug)]
struct Shape {
    kind: Kind,
    double: bool,
    sizes: Vec<usize>,
    batches: usize,
    /// None: dense, with the padding of in-place transforms where they are in place.
    layouts: Option<(Layout, Layout)>,
}

impl Shape {
    /// Elements of the last axis on the complex side of a real transform.
    fn half(&self) -> usize {
        self.sizes.last().map_or(0, |n| n / 2 + 1)
    }

    fn complex_sizes(&self) -> Vec<usize> {
        let mut sizes = self.sizes.clone();
        if self.kind != Kind::Complex
            && let Some(last) = sizes.last_mut()
        {
            *last = *last / 2 + 1;
        }
        sizes
    }

    fn layouts(&self, in_place: bool) -> (Layout, Layout) {
        if let Some(layouts) = &self.layouts {
            return layouts.clone();
        }
        let last = self.sizes.last().copied().unwrap_or(0);
        let complex = |shape: &Self| Layout::dense(&shape.sizes, shape.half());
        // In place, a row of real numbers leaves room for its complex result.
        let real = Layout::dense(&self.sizes, if in_place { 2 * self.half() } else { last });
        match self.kind {
            Kind::Complex => (Layout::dense(&self.sizes, last), Layout::dense(&self.sizes, last)),
            Kind::RealToComplex => (real, complex(self)),
            Kind::ComplexToReal => (complex(self), real),
        }
    }

    fn complex_bytes(&self) -> usize {
        if self.double { 16 } else { 8 }
    }
}

struct Plan {
    space: Space,
    stream: AtomicU64,
    shape: OnceLock<Shape>,
}

static PLANS: Mutex<BTreeMap<c_int, Arc<Plan>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicI32 = AtomicI32::new(1);

fn plan(handle: c_int) -> Result<Arc<Plan>, Status> {
    PLANS.lock().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned().ok_or(Status::InvalidPlan)
}

fn create(to: Out<c_int>) -> Result<c_int, Status> {
    let space = Space::current().map_err(|_| Status::SetupFailed)?;
    let handle = NEXT.fetch_add(1, Relaxed);
    let plan = Plan { space, stream: AtomicU64::new(0), shape: OnceLock::new() };
    PLANS.lock().unwrap_or_else(PoisonError::into_inner).insert(handle, Arc::new(plan));
    to.set(handle)?;
    Ok(handle)
}

fn size(value: i64) -> Result<usize, Status> {
    usize::try_from(value).ok().filter(|n| *n > 0).ok_or(Status::InvalidSize)
}

/// Embedding, stride and distance of both sides, as the *many* functions take them; no embedding means dense.
struct Advanced {
    input: (Vec<i64>, i64, i64),
    output: (Vec<i64>, i64, i64),
}

fn make(
    handle: c_int,
    sizes: &[i64],
    number: c_int,
    batches: i64,
    advanced: Option<Advanced>,
    work: Out<usize>,
) -> Result<(), Status> {
    let plan = plan(handle)?;
    let (kind, double) = kind(number)?;
    let sizes: Vec<usize> = sizes.iter().map(|n| size(*n)).collect::<Result<_, _>>()?;
    let layout = |(embed, stride, distance): (Vec<i64>, i64, i64)| {
        let embed = embed.into_iter().map(size).collect::<Result<_, _>>()?;
        Ok::<_, Status>(Layout {
            embed,
            stride: size(stride)?,
            distance: usize::try_from(distance).map_err(|_| Status::InvalidSize)?,
        })
    };
    let layouts = match advanced {
        Some(Advanced { input, output }) => Some((layout(input)?, layout(output)?)),
        None => None,
    };
    let shape = Shape { kind, double, sizes, batches: size(batches)?, layouts };
    let bytes = shape.sizes.iter().product::<usize>() * shape.batches * shape.complex_bytes();
    work.set_if_wanted(bytes);
    plan.shape.set(shape).map_err(|_| Status::InvalidPlan)
}

/// Arrays of the *many* functions, of C integers of one width.
#[derive(Clone, Copy)]
struct Many<T> {
    rank: c_int,
    sizes: In<T>,
    input: (In<T>, T, T),
    output: (In<T>, T, T),
}

impl<T: Copy + Into<i64>> Many<T> {
    fn make(self, handle: c_int, number: c_int, batches: i64, work: Out<usize>) -> Result<(), Status> {
        let rank = usize::try_from(self.rank).ok().filter(|rank| (1..=3).contains(rank)).ok_or(Status::InvalidSize)?;
        let list = |from: In<T>| Ok::<Vec<i64>, Status>(from.list(rank)?.into_iter().map(Into::into).collect());
        let side =
            |(embed, stride, distance): (In<T>, T, T)| Ok::<_, Status>((list(embed)?, stride.into(), distance.into()));
        let whole = |(_, stride, distance): (In<T>, T, T)| stride.into() > 0 && distance.into() > 0;
        // Either embedding missing: strides and distances are ignored.
        let advanced = if self.input.0.is_null() || self.output.0.is_null() {
            None
        } else {
            // Also for one transform, which no distance matters to (cuFFT 12.0 on an H100).
            if !whole(self.input) || !whole(self.output) {
                return Err(Status::InvalidValue);
            }
            Some(Advanced { input: side(self.input)?, output: side(self.output)? })
        };
        make(handle, &list(self.sizes)?, number, batches, advanced, work)
    }
}

/// The number of a place in row-major order, back to the place.
fn place(mut number: usize, sizes: &[usize], out: &mut [usize]) {
    for (slot, size) in out.iter_mut().zip(sizes).rev() {
        *slot = number % size;
        number /= size;
    }
}

/// Transforms along every axis.
fn transform<F: FftNum>(data: &mut [Complex<F>], sizes: &[usize], inverse: bool) {
    let mut planner = FftPlanner::<F>::new();
    let zero = Complex::new(F::zero(), F::zero());
    let mut inner = 1;
    for size in sizes.iter().rev().copied() {
        let fft = if inverse { planner.plan_fft_inverse(size) } else { planner.plan_fft_forward(size) };
        if inner == 1 {
            fft.process(data);
        } else {
            let mut line = vec![zero; size];
            for block in data.chunks_mut(size * inner) {
                for start in 0..inner {
                    line.iter_mut().enumerate().for_each(|(i, value)| *value = block[start + i * inner]);
                    fft.process(&mut line);
                    line.iter().enumerate().for_each(|(i, value)| block[start + i * inner] = *value);
                }
            }
        }
        inner *= size;
    }
}

/// A float of either precision as it lies in memory.
trait Float: FftNum + bytemuck::Pod {}
impl Float for f32 {}
impl Float for f64 {}

/// Runs a plan on data read from one place and written to another.
fn run<F: Float>(space: &Space, shape: &Shape, from: u64, to: u64, inverse: bool) -> Answer {
    let (input, output) = shape.layouts(from == to);
    let (sizes, half_sizes) = (&shape.sizes, shape.complex_sizes());
    let total: usize = sizes.iter().product();
    let (real_in, real_out) = (shape.kind == Kind::RealToComplex, shape.kind == Kind::ComplexToReal);
    let in_sizes = if real_out { &half_sizes } else { sizes };
    let out_sizes = if real_in { &half_sizes } else { sizes };
    let width = |real: bool| if real { 1 } else { 2 };
    let source: Vec<F> = space.load(from, input.span(shape.batches, in_sizes) * width(real_in))?;
    let span = output.span(shape.batches, out_sizes) * width(real_out);
    // What lies between the results stays as it is.
    let mut target: Vec<F> = space.load(to, span)?;
    let zero = F::zero();
    let mut at = vec![0usize; sizes.len()];
    let mut data = vec![Complex::new(zero, zero); total];
    let last = sizes.len() - 1;
    for batch in 0..shape.batches {
        let complex = |at: &[usize]| {
            let i = input.at(batch, at) * 2;
            Complex::new(source[i], source[i + 1])
        };
        for (number, value) in data.iter_mut().enumerate() {
            place(number, sizes, &mut at);
            *value = if real_in {
                Complex::new(source[input.at(batch, &at)], zero)
            } else if real_out && at[last] > sizes[last] / 2 {
                // The half that is not stored is the conjugate of the mirrored one.
                let mirrored: Vec<usize> = at.iter().zip(sizes).map(|(at, size)| (size - at) % size).collect();
                complex(&mirrored).conj()
            } else {
                complex(&at)
            };
        }
        transform(&mut data, sizes, inverse);
        for (number, value) in data.iter().enumerate() {
            place(number, sizes, &mut at);
            if real_out {
                target[output.at(batch, &at)] = value.re;
            } else if !real_in || at[last] <= sizes[last] / 2 {
                let i = output.at(batch, &at) * 2;
                (target[i], target[i + 1]) = (value.re, value.im);
            }
        }
    }
    space.store(to, &target)
}

fn execute(handle: c_int, from: u64, to: u64, wanted: (Kind, bool), inverse: bool) -> Result<(), Status> {
    let plan = plan(handle)?;
    let shape = plan.shape.get().ok_or(Status::InvalidPlan)?.clone();
    if (shape.kind, shape.double) != wanted {
        return Err(Status::InvalidPlan);
    }
    if from == 0 || to == 0 {
        return Err(Status::InvalidValue);
    }
    Ok(plan.space.submit(plan.stream.load(Relaxed), move |space| {
        if shape.double {
            run::<f64>(space, &shape, from, to, inverse)
        } else {
            run::<f32>(space, &shape, from, to, inverse)
        }
    })?)
}

/// `CUFFT_FORWARD` is -1, `CUFFT_INVERSE` 1.
fn is_inverse(direction: c_int) -> Result<bool, Status> {
    match direction {
        -1 => Ok(false),
        1 => Ok(true),
        _ => Err(Status::InvalidValue),
    }
}

fn estimate(sizes: &[c_int], number: c_int, batches: c_int, bytes: Out<usize>) -> Result<(), Status> {
    let (_, double) = kind(number)?;
    let elements = sizes
        .iter()
        .try_fold(size(i64::from(batches))?, |product, n| Ok::<_, Status>(product * size(i64::from(*n))?))?;
    Ok(bytes.set(elements * if double { 16 } else { 8 })?)
}

const NO_ANSWER: u64 = 0;

c_api! { Status;
    fn cufftCreate(handle: Out<c_int>) {
        create(handle).map(drop)
    }

    fn cufftDestroy(handle: c_int) {
        PLANS.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle).map(drop).ok_or(Status::InvalidPlan)
    }

    fn cufftPlan1d(handle: Out<c_int>, nx: c_int, number: c_int, batches: c_int) {
        make(create(handle)?, &[nx.into()], number, batches.into(), None, Out::from_address(NO_ANSWER))
    }

    fn cufftPlan2d(handle: Out<c_int>, nx: c_int, ny: c_int, number: c_int) {
        make(create(handle)?, &[nx.into(), ny.into()], number, 1, None, Out::from_address(NO_ANSWER))
    }

    fn cufftPlan3d(handle: Out<c_int>, nx: c_int, ny: c_int, nz: c_int, number: c_int) {
        make(create(handle)?, &[nx.into(), ny.into(), nz.into()], number, 1, None, Out::from_address(NO_ANSWER))
    }

    fn cufftPlanMany(
        handle: Out<c_int>, rank: c_int, sizes: In<c_int>,
        in_embed: In<c_int>, in_stride: c_int, in_distance: c_int, out_embed: In<c_int>, out_stride: c_int, out_distance: c_int,
        number: c_int, batches: c_int,
    ) {
        let (input, output) = ((in_embed, in_stride, in_distance), (out_embed, out_stride, out_distance));
        let many = Many { rank, sizes, input, output };
        many.make(create(handle)?, number, batches.into(), Out::from_address(NO_ANSWER))
    }

    fn cufftMakePlan1d(handle: c_int, nx: c_int, number: c_int, batches: c_int, work: Out<usize>) {
        make(handle, &[nx.into()], number, batches.into(), None, work)
    }

    fn cufftMakePlan2d(handle: c_int, nx: c_int, ny: c_int, number: c_int, work: Out<usize>) {
        make(handle, &[nx.into(), ny.into()], number, 1, None, work)
    }

    fn cufftMakePlan3d(handle: c_int, nx: c_int, ny: c_int, nz: c_int, number: c_int, work: Out<usize>) {
        make(handle, &[nx.into(), ny.into(), nz.into()], number, 1, None, work)
    }

    fn cufftMakePlanMany(
        handle: c_int, rank: c_int, sizes: In<c_int>,
        in_embed: In<c_int>, in_stride: c_int, in_distance: c_int, out_embed: In<c_int>, out_stride: c_int, out_distance: c_int,
        number: c_int, batches: c_int, work: Out<usize>,
    ) {
        let (input, output) = ((in_embed, in_stride, in_distance), (out_embed, out_stride, out_distance));
        Many { rank, sizes, input, output }.make(handle, number, batches.into(), work)
    }

    fn cufftMakePlanMany64(
        handle: c_int, rank: c_int, sizes: In<i64>,
        in_embed: In<i64>, in_stride: i64, in_distance: i64, out_embed: In<i64>, out_stride: i64, out_distance: i64,
        number: c_int, batches: i64, work: Out<usize>,
    ) {
        let (input, output) = ((in_embed, in_stride, in_distance), (out_embed, out_stride, out_distance));
        Many { rank, sizes, input, output }.make(handle, number, batches, work)
    }

    fn cufftSetStream(handle: c_int, stream: Handle) {
        plan(handle)?.stream.store(stream, Relaxed);
        Ok(())
    }

    fn cufftExecC2C(handle: c_int, from: u64, to: u64, direction: c_int) {
        execute(handle, from, to, (Kind::Complex, false), is_inverse(direction)?)
    }

    fn cufftExecZ2Z(handle: c_int, from: u64, to: u64, direction: c_int) {
        execute(handle, from, to, (Kind::Complex, true), is_inverse(direction)?)
    }

    fn cufftExecR2C(handle: c_int, from: u64, to: u64) {
        execute(handle, from, to, (Kind::RealToComplex, false), false)
    }

    fn cufftExecD2Z(handle: c_int, from: u64, to: u64) {
        execute(handle, from, to, (Kind::RealToComplex, true), false)
    }

    fn cufftExecC2R(handle: c_int, from: u64, to: u64) {
        execute(handle, from, to, (Kind::ComplexToReal, false), true)
    }

    fn cufftExecZ2D(handle: c_int, from: u64, to: u64) {
        execute(handle, from, to, (Kind::ComplexToReal, true), true)
    }

    fn cufftGetVersion(version: Out<c_int>) {
        Ok(version.set(12_000)?)
    }

    // 0, 1, 2: major, minor, patch.
    fn cufftGetProperty(property: c_int, value: Out<c_int>) {
        Ok(value.set(if property == 0 { 12 } else { 0 })?)
    }

    fn cufftGetSize(handle: c_int, bytes: Out<usize>) {
        let plan = plan(handle)?;
        let shape = plan.shape.get().ok_or(Status::InvalidPlan)?;
        Ok(bytes.set(shape.sizes.iter().product::<usize>() * shape.batches * shape.complex_bytes())?)
    }

    fn cufftEstimate1d(nx: c_int, number: c_int, batches: c_int, bytes: Out<usize>) {
        estimate(&[nx], number, batches, bytes)
    }

    fn cufftEstimate2d(nx: c_int, ny: c_int, number: c_int, bytes: Out<usize>) {
        estimate(&[nx, ny], number, 1, bytes)
    }

    fn cufftEstimate3d(nx: c_int, ny: c_int, nz: c_int, number: c_int, bytes: Out<usize>) {
        estimate(&[nx, ny, nz], number, 1, bytes)
    }

    // Work areas are not needed here: what the caller sets is taken and not used.
    fn cufftSetAutoAllocation(handle: c_int, _automatic: c_int) {
        plan(handle).map(drop)
    }

    fn cufftSetWorkArea(handle: c_int, _area: u64) {
        plan(handle).map(drop)
    }
}
