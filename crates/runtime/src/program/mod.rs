//! Runs a checked program on one GPU and reports what it did.

mod command;
mod content;
mod elements;
mod files;
mod npy;
mod reference;
mod report;

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::sync::watch;
use weft_program::{
    ArgPlan, ArrayId, ArrayPlan, Expected, FilePlan, Op, Plan, SavePlan, SourceText, StepId, StepPlan, Tolerance,
};

use crate::Error;
use crate::device::{Device, Operand};
use crate::driver::{Argument, CsrMatrix, FftShape, GemmShape, Launch, Memory, Module};

pub use command::main;
use content::CsrData;
use reference::Reference;
pub use report::{CheckReport, Rate, Report, SavedReport, StepReport, TERMINATION_LOG_BYTES};

/// How many values of a saved array the report shows.
const HEAD: usize = 8;

/// Runs `plan`, and says in `present` which step it is at. Never fails as a function: what went wrong is in the report,
/// beside what went right before it.
pub fn execute(device: &mut Device, plan: &Plan, folder: &Path, present: &watch::Sender<Option<String>>) -> Report {
    let mut report = Report::default();
    let mut run = match Run::prepare(device, plan, folder) {
        Ok(run) => run,
        Err(error) => {
            report.fail(error.to_string());
            return report;
        }
    };
    for (i, step) in plan.steps.iter().enumerate() {
        let name = format!("program.steps[{i}] {:?}", step.name);
        present.send_replace(Some(name.clone()));
        if let Err(error) = run.step(StepId(i), step, &mut report) {
            report.fail(format!("{name}: {error}"));
            return report;
        }
    }
    for (i, save) in plan.saves.iter().enumerate() {
        if let Err(error) = run.save(save, &mut report) {
            report.fail(format!("program.save[{i}]: {error}"));
            return report;
        }
    }
    report
}

/// A program with its data on the GPU.
struct Run<'a> {
    device: &'a mut Device,
    plan: &'a Plan,
    folder: PathBuf,
    arrays: Vec<Memory>,
    matrices: Vec<SparseOnDevice>,
    modules: Vec<Rc<Module>>,
    /// The expected result of each step that a later check compares, made when the step ran.
    references: Vec<Option<(Reference, Vec<f64>)>>,
}

/// An amount and its unit, `FLOP/s` or `B/s` once it is divided by time.
type Work = (f64, &'static str);

struct SparseOnDevice {
    host: CsrData,
    row_offsets: Memory,
    columns: Memory,
    values: Memory,
}

impl<'a> Run<'a> {
    fn prepare(device: &'a mut Device, plan: &'a Plan, folder: &Path) -> Result<Self, Error> {
        // Sources first: they take no memory, and their errors are the likeliest.
        let mut modules = Vec::with_capacity(plan.sources.len());
        for (i, source) in plan.sources.iter().enumerate() {
            let name = format!("program.sources[{i}] {:?}", source.name);
            modules.push(match &source.text {
                SourceText::Cuda(text) => device.load_cuda(&name, text, &source.options)?,
                SourceText::Ptx(text) => device.load_ptx(&name, text)?,
            });
        }
        has_room(device, plan)?;
        let mut arrays = Vec::with_capacity(plan.arrays.len());
        for (i, array) in plan.arrays.iter().enumerate() {
            let within = |error| within(format!("program.arrays[{i}] {:?}", array.name), error);
            let bytes = content::array(array, folder).map_err(within)?;
            arrays.push(device.context().upload(&bytes).map_err(within)?);
        }
        let mut matrices = Vec::with_capacity(plan.matrices.len());
        for (i, matrix) in plan.matrices.iter().enumerate() {
            let within = |error| within(format!("program.matrices[{i}] {:?}", matrix.name), error);
            let host = content::matrix(matrix, folder).map_err(within)?;
            let values = elements::encode(matrix.dtype, host.values.iter().copied());
            let context = device.context();
            matrices.push(SparseOnDevice {
                row_offsets: context.upload(bytemuck::cast_slice(&host.row_offsets)).map_err(within)?,
                columns: context.upload(bytemuck::cast_slice(&host.columns)).map_err(within)?,
                values: context.upload(&values).map_err(within)?,
                host,
            });
        }
        let references = plan.steps.iter().map(|_| None).collect();
        Ok(Self { device, plan, folder: folder.to_owned(), arrays, matrices, modules, references })
    }

    fn operand(&self, id: ArrayId) -> Operand {
        Operand::device(&self.arrays[id.0])
    }

    fn values(&self, id: ArrayId) -> Result<Vec<f64>, Error> {
        let bytes = self.device.context().read(&self.arrays[id.0])?;
        Ok(elements::decode(self.plan.array(id).dtype, &bytes))
    }

    fn step(&mut self, id: StepId, step: &StepPlan, report: &mut Report) -> Result<(), Error> {
        match &step.op {
            Op::CheckArray { array, expected, tolerance } => {
                let check = self.check_array(&step.name, *array, *expected, *tolerance)?;
                report.check(check);
                return Ok(());
            }
            Op::CheckStep { step: checked, tolerance } => {
                let check = self.check_step(&step.name, *checked, *tolerance);
                report.check(check);
                return Ok(());
            }
            _ => {}
        }
        tracing::debug!(step = step.name, kind = step.op.kind(), "step begins");
        let reference = if self.plan.is_checked_on_cpu(id) { self.reference(&step.op)? } else { None };
        let (seconds, work) = self.operate(&step.op)?;
        if let (Some((reference, output)), true) = (reference, self.plan.is_checked_on_cpu(id)) {
            self.references[id.0] = Some((reference, self.values(output)?));
        }
        let rate = work.and_then(|(amount, unit)| Rate::of(amount, seconds, unit));
        report.steps.push(StepReport { name: step.name.clone(), kind: step.op.kind(), seconds, rate });
        Ok(())
    }

    /// Runs an operation. Returns seconds on the GPU, and how much work that was.
    fn operate(&mut self, op: &Op) -> Result<(f64, Option<Work>), Error> {
        match op {
            Op::Launch { source, function, grid, block, shared_bytes, args } => {
                let arguments: Vec<Argument> = args.iter().map(|arg| self.argument(*arg)).collect();
                let launch = Launch { grid: *grid, block: *block, shared_bytes: *shared_bytes };
                let module = self.modules[source.0].clone();
                Ok((self.device.launch(&module, function, launch, &arguments)?, None))
            }
            Op::Gemm(gemm) => {
                let shape = GemmShape {
                    dtype: self.plan.array(gemm.a).dtype,
                    m: gemm.m,
                    n: gemm.n,
                    k: gemm.k,
                    transpose_a: gemm.transpose_a,
                    transpose_b: gemm.transpose_b,
                    alpha: gemm.alpha,
                    beta: gemm.beta,
                };
                let (a, b, c) = (self.operand(gemm.a), self.operand(gemm.b), self.operand(gemm.c));
                if gemm.beta == 0.0 {
                    // The first call loads kernels and picks an algorithm. Repeating it changes nothing but the clock.
                    self.device.gemm(&shape, a, b, c)?;
                }
                let seconds = self.device.gemm(&shape, a, b, c)?;
                Ok((seconds, Some((2.0 * gemm.m as f64 * gemm.n as f64 * gemm.k as f64, "FLOP/s"))))
            }
            Op::Fft(fft) => {
                let (input, output) = (self.plan.array(fft.input), self.plan.array(fft.output));
                let shape = FftShape { input: input.dtype, output: output.dtype, length: fft.length, batch: fft.batch };
                let (from, to) = (self.operand(fft.input), self.operand(fft.output));
                if fft.input != fft.output {
                    self.device.fft(shape, fft.direction, from, to)?;
                }
                let seconds = self.device.fft(shape, fft.direction, from, to)?;
                // The field's convention: 5·n·log2 n for a complex transform, half of it for a real one.
                let real = !input.dtype.is_complex() || !output.dtype.is_complex();
                let each = if real { 2.5 } else { 5.0 } * fft.length as f64 * (fft.length as f64).log2();
                Ok((seconds, Some((each * fft.batch as f64, "FLOP/s"))))
            }
            Op::Spmv { matrix, x, y, alpha, beta } => {
                let planned = self.plan.matrix(*matrix);
                let on_device = &self.matrices[matrix.0];
                let entries = on_device.host.columns.len();
                let described = CsrMatrix {
                    dtype: planned.dtype,
                    rows: planned.rows,
                    columns: planned.columns,
                    entries,
                    row_offsets: 0,
                    column_indices: 0,
                    values: 0,
                };
                let parts = [
                    Operand::device(&on_device.row_offsets),
                    Operand::device(&on_device.columns),
                    Operand::device(&on_device.values),
                ];
                let (x, y, factors) = (self.operand(*x), self.operand(*y), (*alpha, *beta));
                if *beta == 0.0 {
                    self.device.spmv(described, parts, x, y, factors)?;
                }
                let seconds = self.device.spmv(described, parts, x, y, factors)?;
                // Every entry and offset read once, the vectors once.
                let size = planned.dtype.size_bytes();
                let bytes = entries * (size + 4) + planned.rows * (4 + size) + planned.columns * size;
                Ok((seconds, Some((bytes as f64, "B/s"))))
            }
            Op::Copy { from, to } => {
                let (from, to) = (self.operand(*from), self.operand(*to));
                let seconds = self.device.copy(from, to)?;
                Ok((seconds, Some((2.0 * from.bytes as f64, "B/s"))))
            }
            Op::CheckArray { .. } | Op::CheckStep { .. } => Ok((0.0, None)),
        }
    }

    fn argument(&self, arg: ArgPlan) -> Argument {
        match arg {
            ArgPlan::Array(id) => Argument::Pointer(self.arrays[id.0].pointer()),
            ArgPlan::F32(value) => Argument::F32(value),
            ArgPlan::F64(value) => Argument::F64(value),
            ArgPlan::I32(value) => Argument::I32(value),
            ArgPlan::U32(value) => Argument::U32(value),
            ArgPlan::I64(value) => Argument::I64(value),
            ArgPlan::U64(value) => Argument::U64(value),
        }
    }

    /// What the CPU makes of the operation's inputs as they are now, and the array to compare it with afterwards.
    fn reference(&self, op: &Op) -> Result<Option<(Reference, ArrayId)>, Error> {
        Ok(match op {
            Op::Gemm(gemm) => {
                let old = if gemm.beta == 0.0 { None } else { Some(self.values(gemm.c)?) };
                let result = reference::gemm(gemm, &self.values(gemm.a)?, &self.values(gemm.b)?, old.as_deref());
                Some((result, gemm.c))
            }
            Op::Fft(fft) => {
                let (input, output) = (self.plan.array(fft.input).dtype, self.plan.array(fft.output).dtype);
                Some((reference::fft(fft, input, output, &self.values(fft.input)?), fft.output))
            }
            Op::Spmv { matrix, x, y, alpha, beta } => {
                let old = if *beta == 0.0 { None } else { Some(self.values(*y)?) };
                let host = &self.matrices[matrix.0].host;
                Some((reference::spmv(host, &self.values(*x)?, old.as_deref(), (*alpha, *beta)), *y))
            }
            _ => None,
        })
    }

    fn check_array(
        &mut self,
        name: &str,
        array: ArrayId,
        expected: Expected,
        tolerance: Tolerance,
    ) -> Result<CheckReport, Error> {
        let planned = self.plan.array(array);
        let (want, constant, what) = match expected {
            Expected::Array(id) => (Some(self.operand(id)), 0.0, self.plan.array(id).name.clone()),
            Expected::Constant(value) => (None, value, value.to_string()),
        };
        let found = self.device.compare(planned.dtype, self.operand(array), want, constant, tolerance)?;
        let message = match found.first {
            None => format!(
                "{} equals {what}: {} values, greatest difference {}",
                planned.name,
                found.elements,
                short(found.worst)
            ),
            Some(first) => {
                let value = |id: ArrayId| self.element(id, first);
                let got = value(array)?;
                let wanted = match expected {
                    Expected::Array(id) => value(id)?,
                    Expected::Constant(value) => value.to_string(),
                };
                format!(
                    "{}[{first}] is {got} where {what} has {wanted}; {} of {} values differ by more than allowed, by {} at most",
                    planned.name,
                    found.differing,
                    found.elements,
                    short(found.worst)
                )
            }
        };
        Ok(CheckReport { name: name.to_owned(), ok: found.differing == 0, message })
    }

    fn element(&self, id: ArrayId, index: usize) -> Result<String, Error> {
        let bytes = self.device.context().read(&self.arrays[id.0])?;
        let dtype = self.plan.array(id).dtype;
        let size = dtype.size_bytes();
        Ok(elements::to_json(dtype, &bytes[index * size..(index + 1) * size]).remove(0).to_string())
    }

    fn check_step(&self, name: &str, checked: StepId, tolerance: Tolerance) -> CheckReport {
        let step = &self.plan.steps[checked.0];
        let Some((reference, got)) = &self.references[checked.0] else {
            let message = format!("step {:?} left nothing to compare", step.name);
            return CheckReport { name: name.to_owned(), ok: false, message };
        };
        let verdict = reference.compare(got, tolerance);
        let message = match verdict.first {
            None => format!(
                "{} agrees with the CPU: {} values, greatest relative difference {}",
                step.name,
                verdict.values,
                short(verdict.worst_relative)
            ),
            Some((at, got, want)) => format!(
                "{} differs from the CPU: value {at} is {got} where the CPU has {want}; {} of {} values differ by more than \
                 allowed, relatively by {} at most",
                step.name,
                verdict.differing,
                verdict.values,
                short(verdict.worst_relative)
            ),
        };
        CheckReport { name: name.to_owned(), ok: verdict.differing == 0, message }
    }

    fn save(&self, save: &SavePlan, report: &mut Report) -> Result<(), Error> {
        let planned = self.plan.array(save.array);
        let bytes = self.device.context().read(&self.arrays[save.array.0])?;
        if let Some(FilePlan { path, format }) = &save.file {
            files::write(&self.folder.join(path), path, *format, planned.dtype, &planned.shape, &bytes)?;
        }
        let head = &bytes[..bytes.len().min(HEAD * planned.dtype.size_bytes())];
        report.saved.push(SavedReport {
            name: planned.name.clone(),
            shape: planned.shape.clone(),
            sha256: elements::sha256(&bytes),
            head: elements::to_json(planned.dtype, head),
        });
        Ok(())
    }
}

/// Whether the arrays fit on the GPU, asked before the first is made: filling one in host memory takes minutes where it is
/// larger than any GPU, or the host's memory.
fn has_room(device: &Device, plan: &Plan) -> Result<(), Error> {
    let needed: usize = plan.arrays.iter().map(ArrayPlan::bytes).sum();
    let largest = plan.arrays.iter().enumerate().min_by_key(|(_, array)| Reverse(array.bytes()));
    let Some((i, array)) = largest else { return Ok(()) };
    let free = device.context().memory_free_bytes()?;
    if needed as u64 <= free {
        return Ok(());
    }
    let gigabytes = |bytes: f64| format!("{:.1} GB", bytes / 1e9);
    Err(Error::argument(
        format!("program.arrays[{i}] {:?}", array.name),
        format!(
            "the arrays take {} and GPU {} has {} free: use smaller arrays",
            gigabytes(needed as f64),
            device.info().index,
            gigabytes(free as f64)
        ),
    ))
}

fn within(path: String, error: Error) -> Error {
    match error {
        Error::File { .. } | Error::Cuda { .. } => Error::argument(path, error.to_string()),
        other => other,
    }
}

/// Three digits: a difference is read for its size.
fn short(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { format!("{value:.2e}") }
}
