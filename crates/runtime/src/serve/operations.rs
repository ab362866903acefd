//! The library calls of the service: shapes that fit, then one job on the GPU's thread.

use weft_program::{DType, Direction};
use weft_proto::runtime as wire;

use super::metrics::Metrics;
use super::operand::{Checked, check};
use super::session::Session;
use crate::Error;
use crate::driver::{CsrMatrix, FftShape, GemmShape};

/// Bytes of the operands that lie in regions.
fn travelling(operands: &[&Checked]) -> usize {
    operands.iter().filter(|operand| operand.travels()).map(|operand| operand.bytes).sum()
}

pub(super) async fn copy(session: &Session, metrics: &Metrics, request: wire::CopyRequest) -> Result<f64, Error> {
    let gpu = request.gpu as usize;
    let from = check(session, gpu, "from", request.from)?;
    let to = check(session, gpu, "to", request.to)?;
    if from.bytes != to.bytes || from.dtype != to.dtype {
        let message = format!("{} {} into {} {}", from.elements(), from.dtype, to.elements(), to.dtype);
        return Err(Error::argument("to", format!("{message}: type and number of elements must be the same")));
    }
    to.apart_from("to", &[("from", &from)])?;
    let moved = (travelling(&[&from]), travelling(&[&to]));
    let number = session.number();
    let seconds = session
        .call(gpu, move |device| {
            let (from, to) = (from.resolve(device, number)?, to.resolve(device, number)?);
            device.copy(from, to)
        })
        .await?;
    metrics.moved(moved.0, moved.1);
    Ok(seconds)
}

pub(super) async fn gemm(session: &Session, metrics: &Metrics, request: wire::GemmRequest) -> Result<f64, Error> {
    let gpu = request.gpu as usize;
    let a = check(session, gpu, "a", request.a)?;
    let b = check(session, gpu, "b", request.b)?;
    let c = check(session, gpu, "c", request.c)?;
    let matrix = |operand: &Checked, name: &str| match operand.shape[..] {
        [rows, columns] => Ok((rows, columns)),
        _ => Err(Error::argument(name, format!("it is {}, a matrix has two dimensions", operand.shape_text()))),
    };
    let turned = |(rows, columns): (usize, usize), turn: bool| if turn { (columns, rows) } else { (rows, columns) };
    let (m, k) = turned(matrix(&a, "a")?, request.transpose_a);
    let (k_b, n) = turned(matrix(&b, "b")?, request.transpose_b);
    let (rows, columns) = matrix(&c, "c")?;
    if k != k_b {
        let message = format!("a is {m}×{k} but b is {k_b}×{n}: inner dimensions {k} and {k_b} differ");
        return Err(Error::argument("b", message));
    }
    if (rows, columns) != (m, n) {
        return Err(Error::argument("c", format!("it is {rows}×{columns}, but the product is {m}×{n}")));
    }
    if !a.dtype.is_real() || a.dtype != b.dtype || a.dtype != c.dtype {
        let message =
            format!("a is {}, b is {}, c is {}: all three are f32, f64, f16 or bf16", a.dtype, b.dtype, c.dtype);
        return Err(Error::argument("dtype", message));
    }
    c.apart_from("c", &[("a", &a), ("b", &b)])?;
    let shape = GemmShape {
        dtype: a.dtype,
        m,
        n,
        k,
        transpose_a: request.transpose_a,
        transpose_b: request.transpose_b,
        alpha: request.alpha.unwrap_or(1.0),
        beta: request.beta,
    };
    let old = if shape.beta == 0.0 { 0 } else { travelling(&[&c]) };
    let moved = (travelling(&[&a, &b]) + old, travelling(&[&c]));
    let number = session.number();
    let seconds = session
        .call(gpu, move |device| {
            let (a, b) = (a.resolve(device, number)?, b.resolve(device, number)?);
            let c_at = c.resolve(device, number)?;
            device.gemm(&shape, a, b, c_at)
        })
        .await?;
    metrics.moved(moved.0, moved.1);
    Ok(seconds)
}

pub(super) async fn fft(session: &Session, metrics: &Metrics, request: wire::FftRequest) -> Result<f64, Error> {
    let gpu = request.gpu as usize;
    let direction = match wire::Direction::try_from(request.direction) {
        Ok(wire::Direction::Forward) => Direction::Forward,
        Ok(wire::Direction::Inverse) => Direction::Inverse,
        Err(_) => return Err(Error::argument("direction", "it is neither forward nor inverse")),
    };
    let input = check(session, gpu, "input", request.input)?;
    let output = check(session, gpu, "output", request.output)?;
    let forward = direction == Direction::Forward;
    let (Some((&n_in, rows_in)), Some((&n_out, rows_out))) = (input.shape.split_last(), output.shape.split_last())
    else {
        return Err(Error::argument("input", "its shape is empty"));
    };
    let (length, fits) = match (input.dtype, output.dtype) {
        (DType::C32, DType::C32) | (DType::C64, DType::C64) => (n_in, n_in == n_out),
        (DType::F32, DType::C32) | (DType::F64, DType::C64) if forward => (n_in, n_out == n_in / 2 + 1),
        (DType::C32, DType::F32) | (DType::C64, DType::F64) if !forward => (n_out, n_in == n_out / 2 + 1),
        (from, to) => {
            let word = if forward { "forward" } else { "inverse" };
            return Err(Error::argument("dtype", format!("no {word} transform takes {from} to {to}")));
        }
    };
    if !fits || rows_in != rows_out {
        let message = format!("it is {} for an input of {}", output.shape_text(), input.shape_text());
        let rule = "the same shape, or n/2+1 in the last dimension of the complex side of a real transform";
        return Err(Error::argument("output", format!("{message}: it needs {rule}")));
    }
    if !input.is_same(&output) || input.dtype != output.dtype {
        output.apart_from("output", &[("input", &input)])?;
    }
    let shape = FftShape { input: input.dtype, output: output.dtype, length, batch: rows_in.iter().product() };
    let moved = (travelling(&[&input]), travelling(&[&output]));
    let number = session.number();
    let seconds = session
        .call(gpu, move |device| {
            let (from, to) = (input.resolve(device, number)?, output.resolve(device, number)?);
            device.fft(shape, direction, from, to)
        })
        .await?;
    metrics.moved(moved.0, moved.1);
    Ok(seconds)
}

pub(super) async fn spmv(session: &Session, metrics: &Metrics, request: wire::SpmvRequest) -> Result<f64, Error> {
    let gpu = request.gpu as usize;
    let limit = |value: u64, name: &str| match i32::try_from(value) {
        Ok(value) if value > 0 => Ok(value.unsigned_abs() as usize),
        _ => Err(Error::argument(name, format!("{value} is not in 1 to 2147483647"))),
    };
    let (rows, columns) = (limit(request.rows, "rows")?, limit(request.columns, "columns")?);
    let row_offsets = check(session, gpu, "row_offsets", request.row_offsets)?;
    let column_indices = check(session, gpu, "column_indices", request.column_indices)?;
    let values = check(session, gpu, "values", request.values)?;
    let x = check(session, gpu, "x", request.x)?;
    let y = check(session, gpu, "y", request.y)?;
    let expect = |operand: &Checked, name: &str, dtype: DType, count: usize| {
        if operand.dtype != dtype || operand.elements() != count {
            let message = format!("it has {} {}, but {count} {dtype} are needed", operand.elements(), operand.dtype);
            return Err(Error::argument(name, message));
        }
        Ok(())
    };
    let dtype = values.dtype;
    if !matches!(dtype, DType::F32 | DType::F64) {
        return Err(Error::argument("values", format!("a sparse matrix is f32 or f64, not {dtype}")));
    }
    let entries = values.elements();
    expect(&row_offsets, "row_offsets", DType::I32, rows + 1)?;
    expect(&column_indices, "column_indices", DType::I32, entries)?;
    expect(&x, "x", dtype, columns)?;
    expect(&y, "y", dtype, rows)?;
    let inputs = [("row_offsets", &row_offsets), ("column_indices", &column_indices), ("values", &values), ("x", &x)];
    y.apart_from("y", &inputs)?;
    let factors = (request.alpha.unwrap_or(1.0), request.beta);
    let old = if factors.1 == 0.0 { 0 } else { travelling(&[&y]) };
    let moved = (travelling(&[&row_offsets, &column_indices, &values, &x]) + old, travelling(&[&y]));
    let matrix = CsrMatrix { dtype, rows, columns, entries, row_offsets: 0, column_indices: 0, values: 0 };
    let number = session.number();
    let seconds = session
        .call(gpu, move |device| {
            let at = |operand: &Checked, device: &_| operand.resolve(device, number);
            let parts = [at(&row_offsets, device)?, at(&column_indices, device)?, at(&values, device)?];
            let (x, y_at) = (at(&x, device)?, at(&y, device)?);
            device.spmv(matrix, parts, x, y_at, factors)
        })
        .await?;
    metrics.moved(moved.0, moved.1);
    Ok(seconds)
}
