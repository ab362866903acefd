//! Steps: names resolved, shapes and types made to fit.

use std::collections::HashMap;

use super::data::same_shape;
use super::{Scope, known, shape_text};
use crate::problem::Problems;
use crate::{
    Arg, ArgPlan, ArrayPlan, Check, Copy, DType, Direction, Expected, Fft, FftPlan, Gemm, GemmPlan, Launch, Op, Spmv,
    Step, StepId, StepPlan, Tolerance,
};

pub(super) fn steps(steps: &[Step], scope: &Scope<'_>, problems: &mut Problems) -> Vec<Option<StepPlan>> {
    if steps.is_empty() {
        problems.add::<()>("program.steps", "a program has at least one step");
    }
    let mut earlier = Earlier::default();
    let mut plans: Vec<Option<StepPlan>> = Vec::with_capacity(steps.len());
    for (i, step) in steps.iter().enumerate() {
        let path = format!("program.steps[{i}]");
        let op = op(step, &path, scope, &earlier, problems);
        let kind = kind(step);
        let name = step.name.clone().unwrap_or_else(|| format!("{kind} {}", i + 1));
        if name.is_empty() || name.chars().count() > 63 || name.chars().any(char::is_control) {
            problems.add::<()>(format!("{path}.name"), "a name has 1 to 63 printable characters");
        }
        if earlier.ids.contains_key(&name) {
            problems.add::<()>(format!("{path}.name"), format!("another step is already named {name:?}"));
        }
        let output = op.as_ref().and_then(|op| output(op, scope));
        earlier.ids.insert(name.clone(), StepId(i));
        earlier.outputs.push(output);
        plans.push(op.map(|op| StepPlan { name, op }));
    }
    plans
}

/// The steps before the one in hand.
#[derive(Default)]
struct Earlier {
    ids: HashMap<String, StepId>,
    /// Type of the result, for steps that a check can compare with the CPU.
    outputs: Vec<Option<DType>>,
}

fn kind(step: &Step) -> &'static str {
    let kinds = [
        (step.launch.is_some(), "launch"),
        (step.gemm.is_some(), "gemm"),
        (step.fft.is_some(), "fft"),
        (step.spmv.is_some(), "spmv"),
        (step.copy.is_some(), "copy"),
        (step.check.is_some(), "check"),
    ];
    kinds.iter().find(|(given, _)| *given).map_or("step", |(_, kind)| kind)
}

fn op(step: &Step, path: &str, scope: &Scope<'_>, earlier: &Earlier, problems: &mut Problems) -> Option<Op> {
    let Step { name: _, launch, gemm, fft, spmv, copy, check } = step;
    let at = |field: &str| format!("{path}.{field}");
    match (launch, gemm, fft, spmv, copy, check) {
        (Some(step), None, None, None, None, None) => self::launch(step, &at("launch"), scope, problems),
        (None, Some(step), None, None, None, None) => self::gemm(step, &at("gemm"), scope, problems),
        (None, None, Some(step), None, None, None) => self::fft(step, &at("fft"), scope, problems),
        (None, None, None, Some(step), None, None) => self::spmv(step, &at("spmv"), scope, problems),
        (None, None, None, None, Some(step), None) => self::copy(step, &at("copy"), scope, problems),
        (None, None, None, None, None, Some(step)) => self::check(step, &at("check"), scope, earlier, problems),
        _ => problems.add(path, "a step is exactly one of launch, gemm, fft, spmv, copy and check"),
    }
}

fn output(op: &Op, scope: &Scope<'_>) -> Option<DType> {
    let id = match op {
        Op::Gemm(gemm) => gemm.c,
        Op::Fft(fft) => fft.output,
        Op::Spmv { y, .. } => *y,
        _ => return None,
    };
    scope.arrays[id.0].as_ref().map(|plan| plan.dtype)
}

fn launch(step: &Launch, path: &str, scope: &Scope<'_>, problems: &mut Problems) -> Option<Op> {
    let before = problems.0.len();
    let source = scope.source(&step.source, &format!("{path}.source"), problems);
    if step.function.is_empty() || step.function.contains('\0') {
        problems.add::<()>(format!("{path}.function"), "the name of a kernel is needed");
    }
    // CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
    let grid = extent(&step.grid, [2_147_483_647, 65_535, 65_535], &format!("{path}.grid"), problems);
    let block = extent(&step.block, [1024, 1024, 64], &format!("{path}.block"), problems);
    if let Some([x, y, z]) = block
        && x * y * z > 1024
    {
        problems.add::<()>(format!("{path}.block"), format!("{x}×{y}×{z} threads: a block has at most 1024"));
    }
    if step.shared_bytes > 232_448 {
        problems.add::<()>(format!("{path}.sharedBytes"), "no GPU gives a block more than 232448 bytes (227 KiB)");
    }
    let args = step.args.iter().enumerate().map(|(i, value)| arg(value, &format!("{path}.args[{i}]"), scope, problems));
    let args: Vec<Option<ArgPlan>> = args.collect();
    if problems.0.len() > before {
        return None;
    }
    Some(Op::Launch {
        source: source?,
        function: step.function.clone(),
        grid: grid?,
        block: block?,
        shared_bytes: step.shared_bytes,
        args: args.into_iter().collect::<Option<_>>()?,
    })
}

fn extent(values: &[u32], limits: [u32; 3], path: &str, problems: &mut Problems) -> Option<[u32; 3]> {
    if values.is_empty() || values.len() > 3 {
        return problems.add(path, format!("1 to 3 numbers (x, y, z), not {}", values.len()));
    }
    let mut extent = [1; 3];
    for (i, &value) in values.iter().enumerate() {
        if value == 0 || value > limits[i] {
            return problems.add(format!("{path}[{i}]"), format!("{value} is not in 1 to {}", limits[i]));
        }
        extent[i] = value;
    }
    Some(extent)
}

fn arg(arg: &Arg, path: &str, scope: &Scope<'_>, problems: &mut Problems) -> Option<ArgPlan> {
    let given = [
        arg.array.as_ref().map(|_| None),
        arg.f32.map(|value| Some(ArgPlan::F32(value))),
        arg.f64.map(|value| Some(ArgPlan::F64(value))),
        arg.i32.map(|value| Some(ArgPlan::I32(value))),
        arg.u32.map(|value| Some(ArgPlan::U32(value))),
        arg.i64.map(|value| Some(ArgPlan::I64(value))),
        arg.u64.map(|value| Some(ArgPlan::U64(value))),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next(), &arg.array) {
        (Some(Some(scalar)), None, _) => Some(scalar),
        (Some(None), None, Some(name)) => {
            scope.array(name, &format!("{path}.array"), problems).map(|(id, _)| ArgPlan::Array(id))
        }
        _ => problems.add(path, "give exactly one of array, f32, f64, i32, u32, i64 and u64"),
    }
}

fn gemm(step: &Gemm, path: &str, scope: &Scope<'_>, problems: &mut Problems) -> Option<Op> {
    let a = scope.array(&step.a, &format!("{path}.a"), problems);
    let b = scope.array(&step.b, &format!("{path}.b"), problems);
    let c = scope.array(&step.c, &format!("{path}.c"), problems);
    let ((a_id, a), (b_id, b), (c_id, c)) = (a?, b?, c?);
    for (array, field) in [(a, "a"), (b, "b"), (c, "c")] {
        if array.shape.len() != 2 {
            let message = format!("{} is {}: a product takes two dimensions", array.name, shape_text(&array.shape));
            return problems.add(format!("{path}.{field}"), message);
        }
    }
    if !a.dtype.is_real() || b.dtype != a.dtype || c.dtype != a.dtype {
        return problems.add(
            path,
            format!(
                "{} is {}, {} is {}, {} is {}: all three are to be f32, f64, f16 or bf16",
                a.name, a.dtype, b.name, b.dtype, c.name, c.dtype
            ),
        );
    }
    let oriented = |array: &ArrayPlan, transposed: bool| match transposed {
        false => (array.shape[0], array.shape[1]),
        true => (array.shape[1], array.shape[0]),
    };
    let ((m, k), (k_b, n)) = (oriented(a, step.transpose_a), oriented(b, step.transpose_b));
    let describe = |array: &ArrayPlan, (rows, columns): (usize, usize), transposed: bool| {
        let how = if transposed { " transposed" } else { "" };
        format!("{} is {rows}×{columns}{how}", array.name)
    };
    let (left, right) = (describe(a, (m, k), step.transpose_a), describe(b, (k_b, n), step.transpose_b));
    if k != k_b {
        return problems.add(path, format!("{left} but {right}: inner dimensions {k} and {k_b} differ"));
    }
    if c.shape != [m, n] {
        let message = format!("{left} and {right}, so {} must be {m}×{n}, not {}", c.name, shape_text(&c.shape));
        return problems.add(path, message);
    }
    if c_id == a_id || c_id == b_id {
        return problems.add(path, format!("the result {} is also an operand: give it an array of its own", c.name));
    }
    if [m, n, k].iter().any(|&size| i32::try_from(size).is_err()) {
        return problems.add(path, "a dimension is more than 2147483647, the most that cuBLAS takes");
    }
    Some(Op::Gemm(GemmPlan {
        a: a_id,
        b: b_id,
        c: c_id,
        m,
        n,
        k,
        transpose_a: step.transpose_a,
        transpose_b: step.transpose_b,
        alpha: step.alpha,
        beta: step.beta,
    }))
}

fn fft(step: &Fft, path: &str, scope: &Scope<'_>, problems: &mut Problems) -> Option<Op> {
    let input = scope.array(&step.input, &format!("{path}.input"), problems);
    let output = scope.array(&step.output, &format!("{path}.output"), problems);
    let ((input_id, input), (output_id, output)) = (input?, output?);
    let (Some((&n_in, batch_in)), Some((&n_out, batch_out))) = (input.shape.split_last(), output.shape.split_last())
    else {
        return None;
    };
    let types = (input.dtype, output.dtype);
    let forward = step.direction == Direction::Forward;
    let (length, fits) = match types {
        (DType::C32, DType::C32) | (DType::C64, DType::C64) => (n_in, n_in == n_out),
        (DType::F32, DType::C32) | (DType::F64, DType::C64) if forward => (n_in, n_out == n_in / 2 + 1),
        (DType::C32, DType::F32) | (DType::C64, DType::F64) if !forward => (n_out, n_in == n_out / 2 + 1),
        _ => {
            let word = if forward { "forward" } else { "inverse" };
            let allowed = if forward {
                "c32→c32, c64→c64, f32→c32, f64→c64"
            } else {
                "c32→c32, c64→c64, c32→f32, c64→f64"
            };
            let message = format!(
                "no {word} transform takes {} ({}) to {} ({}): there are {allowed}",
                input.name, input.dtype, output.name, output.dtype
            );
            return problems.add(path, message);
        }
    };
    if !fits || batch_in != batch_out {
        let rule = if input.dtype == output.dtype {
            "both have the same shape"
        } else {
            "the complex side has n/2+1 elements in the last dimension where the real side has n"
        };
        let (i, o) = (shape_text(&input.shape), shape_text(&output.shape));
        return problems.add(path, format!("{} is {i} but {} is {o}: {rule}", input.name, output.name));
    }
    if input_id == output_id && input.dtype != output.dtype {
        return problems.add(path, "a transform between real and complex needs two arrays");
    }
    let batch: usize = batch_in.iter().product();
    if i32::try_from(length).is_err() || i32::try_from(batch).is_err() {
        return problems.add(path, "length and batch are at most 2147483647");
    }
    let direction = step.direction;
    Some(Op::Fft(FftPlan { input: input_id, output: output_id, length, batch, direction }))
}

fn spmv(step: &Spmv, path: &str, scope: &Scope<'_>, problems: &mut Problems) -> Option<Op> {
    let matrix = scope.matrix(&step.matrix, &format!("{path}.matrix"), problems);
    let x = scope.array(&step.x, &format!("{path}.x"), problems);
    let y = scope.array(&step.y, &format!("{path}.y"), problems);
    let ((matrix_id, matrix), (x_id, x), (y_id, y)) = (matrix?, x?, y?);
    for (vector, field, length, side) in [(x, "x", matrix.columns, "columns"), (y, "y", matrix.rows, "rows")] {
        if vector.dtype != matrix.dtype {
            let message = format!("{} is {} but {} is {}", vector.name, vector.dtype, matrix.name, matrix.dtype);
            return problems.add(format!("{path}.{field}"), message);
        }
        if vector.shape != [length] {
            let message = format!(
                "{} is {} but {} has {length} {side}: the shape must be [{length}]",
                vector.name,
                shape_text(&vector.shape),
                matrix.name
            );
            return problems.add(format!("{path}.{field}"), message);
        }
    }
    if x_id == y_id {
        return problems.add(path, format!("the result {} is also the operand: give it an array of its own", y.name));
    }
    Some(Op::Spmv { matrix: matrix_id, x: x_id, y: y_id, alpha: step.alpha, beta: step.beta })
}

fn copy(step: &Copy, path: &str, scope: &Scope<'_>, problems: &mut Problems) -> Option<Op> {
    let from = scope.array(&step.from, &format!("{path}.from"), problems);
    let to = scope.array(&step.to, &format!("{path}.to"), problems);
    let ((from_id, from), (to_id, to)) = (from?, to?);
    if from.dtype != to.dtype || from.elements() != to.elements() {
        let message = format!(
            "{} has {} elements of {} but {} has {} of {}",
            from.name,
            from.elements(),
            from.dtype,
            to.name,
            to.elements(),
            to.dtype
        );
        return problems.add(path, message);
    }
    if from_id == to_id {
        return problems.add(path, format!("{} would be copied onto itself", from.name));
    }
    Some(Op::Copy { from: from_id, to: to_id })
}

fn check(step: &Check, path: &str, scope: &Scope<'_>, earlier: &Earlier, problems: &mut Problems) -> Option<Op> {
    for (value, field) in
        [(step.relative_tolerance, "relativeTolerance"), (step.absolute_tolerance, "absoluteTolerance")]
    {
        if value.is_some_and(|value| !(value >= 0.0 && value.is_finite())) {
            return problems.add(format!("{path}.{field}"), "a tolerance is a number not less than 0");
        }
    }
    let tolerance = |dtype: DType| Tolerance {
        relative: step.relative_tolerance.unwrap_or(dtype.default_tolerance()),
        absolute: step.absolute_tolerance.unwrap_or(0.0),
    };
    match (&step.array, &step.equals, &step.step, step.against) {
        (Some(array), Some(equals), None, None) => {
            let (array_id, array) = scope.array(array, &format!("{path}.array"), problems)?;
            let expected = match (&equals.array, equals.constant) {
                (Some(name), None) => {
                    let (id, other) = scope.array(name, &format!("{path}.equals.array"), problems)?;
                    if let Err(message) = same_shape(array, other) {
                        return problems.add(path, message);
                    }
                    Expected::Array(id)
                }
                (None, Some(constant)) => Expected::Constant(constant),
                _ => return problems.add(format!("{path}.equals"), "give exactly one of array and constant"),
            };
            Some(Op::CheckArray { array: array_id, expected, tolerance: tolerance(array.dtype) })
        }
        (None, None, Some(name), Some(_cpu)) => {
            let field = format!("{path}.step");
            let Some(id) = earlier.ids.get(name) else {
                let message = format!("no earlier step is named {name:?}{}", known(earlier.ids.keys()));
                return problems.add(field, message);
            };
            let Some(dtype) = earlier.outputs[id.0] else {
                let message = format!("step {name:?} has no CPU reference: only gemm, fft and spmv have one");
                return problems.add(field, message);
            };
            Some(Op::CheckStep { step: *id, tolerance: tolerance(dtype) })
        }
        _ => problems.add(path, "give either array with equals, or step with against"),
    }
}
