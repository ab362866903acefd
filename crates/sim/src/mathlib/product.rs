//! The dense product that cuBLAS and cuBLASLt share: column-major `D = f(α op(A) op(B) + β C + bias)`.

use super::elements::{Element, Real, Scalar, Space};
use crate::cuda::error::Answer;

/// A column-major matrix, one of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub address: u64,
    pub element: Element,
    /// Elements from one column to the next.
    pub leading: usize,
    /// Elements from one matrix of the batch to the next.
    pub stride: i64,
}

impl Matrix {
    fn address_of(&self, batch: usize) -> u64 {
        self.address.wrapping_add_signed(self.stride * batch as i64 * self.element.bytes() as i64)
    }
}

/// What is done to each result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    #[default]
    None,
    Relu,
    /// By its tanh form.
    Gelu,
}

/// A product to compute.
#[derive(Clone, Debug)]
pub struct Product {
    pub transpose_a: bool,
    pub transpose_b: bool,
    /// `D` is m×n, the inner dimension is k.
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: Scalar,
    pub beta: Scalar,
    pub a: Matrix,
    pub b: Matrix,
    pub c: Matrix,
    pub d: Matrix,
    /// Added to every column: address and elements from one matrix of the batch to the next.
    pub bias: Option<(u64, i64)>,
    pub bias_element: Element,
    pub activation: Activation,
    pub batches: usize,
}

/// Elements from the first to the last of a matrix.
fn span(rows: usize, columns: usize, leading: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (columns - 1) * leading + rows }
}

impl Product {
    /// Whether every leading dimension is at least the rows of what it leads.
    pub fn fits(&self) -> bool {
        let rows_a = if self.transpose_a { self.k } else { self.m };
        let rows_b = if self.transpose_b { self.n } else { self.k };
        let least = |rows: usize| rows.max(1);
        self.a.leading >= least(rows_a)
            && self.b.leading >= least(rows_b)
            && self.c.leading >= least(self.m)
            && self.d.leading >= least(self.m)
    }

    /// Computes the whole batch.
    ///
    /// # Errors
    /// An operand that leaves its memory.
    pub fn run(&self, space: &Space) -> Answer {
        (0..self.batches).try_for_each(|batch| {
            // Integers of 32 bits need more than single precision holds.
            if self.a.element == Element::F64 || self.c.element == Element::I32 {
                self.run_one::<f64>(space, batch)
            } else {
                self.run_one::<f32>(space, batch)
            }
        })
    }

    fn run_one<R: Real>(&self, space: &Space, batch: usize) -> Answer {
        let Self { m, n, k, .. } = *self;
        if m == 0 || n == 0 {
            return Ok(());
        }
        let (alpha, beta) = (self.alpha.value(space)?, self.beta.value(space)?);
        let (rows_a, columns_a) = if self.transpose_a { (k, m) } else { (m, k) };
        let (rows_b, columns_b) = if self.transpose_b { (n, k) } else { (k, n) };
        let mut sums = vec![R::default(); m * n];
        // With α = 0, A and B are not read.
        if k > 0 && alpha != 0.0 {
            let count = span(rows_a, columns_a, self.a.leading);
            let a = space.read::<R>(self.a.element, self.a.address_of(batch), count)?;
            let b =
                space.read::<R>(self.b.element, self.b.address_of(batch), span(rows_b, columns_b, self.b.leading))?;
            let steps = |transposed: bool, leading: usize| {
                if transposed { (1isize, leading as isize) } else { (leading as isize, 1isize) }
            };
            let (a_column, a_row) = steps(self.transpose_a, self.a.leading);
            let (b_column, b_row) = steps(self.transpose_b, self.b.leading);
            // SAFETY: `a` and `b` were read for exactly the elements that these steps and sizes reach, and `sums` holds m×n.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    sums.as_mut_ptr(),
                    m as isize,
                    1,
                    false,
                    a.as_ptr(),
                    a_column,
                    a_row,
                    b.as_ptr(),
                    b_column,
                    b_row,
                    R::default(),
                    R::from_f64(1.0),
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        }
        let bias = match self.bias {
            Some((address, stride)) => {
                let at = address.wrapping_add_signed(stride * batch as i64 * self.bias_element.bytes() as i64);
                space.read::<f64>(self.bias_element, at, m)?
            }
            None => Vec::new(),
        };
        let (c, d) = (self.c.address_of(batch), self.d.address_of(batch));
        for (column, sums) in sums.chunks(m).enumerate() {
            let at = |base: u64, matrix: &Matrix| base + (column * matrix.leading * matrix.element.bytes()) as u64;
            // With β = 0, C is not read: it may hold anything, also what is not a number.
            let old = if beta == 0.0 { Vec::new() } else { space.read::<f64>(self.c.element, at(c, &self.c), m)? };
            let row = |row: usize| {
                let mut value = alpha * sums[row].to_f64();
                if let Some(old) = old.get(row) {
                    value += beta * old;
                }
                if let Some(bias) = bias.get(row) {
                    value += bias;
                }
                activate(self.activation, value)
            };
            let values: Vec<f64> = (0..m).map(row).collect();
            space.write(self.d.element, at(d, &self.d), &values)?;
        }
        Ok(())
    }
}

fn activate(activation: Activation, value: f64) -> f64 {
    match activation {
        Activation::None => value,
        Activation::Relu => value.max(0.0),
        Activation::Gelu => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (value + 0.044_715 * value.powi(3));
            0.5 * value * (1.0 + inner.tanh())
        }
    }
}
