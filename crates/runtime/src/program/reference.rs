//! The same operations on the CPU, in double precision, written for being obviously right.

use std::thread;

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;
use weft_program::{DType, Direction, FftPlan, GemmPlan, Tolerance};

use super::content::CsrData;

/// An expected result, and for each value the unit by which a relative tolerance is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    want: Vec<f64>,
    /// Sums of many terms round by a part of the terms, not of the sum, which may be near zero.
    scale: Vec<f64>,
}

/// What comparing with a reference found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Values compared.
    pub values: usize,
    /// How many differ by more than allowed.
    pub differing: usize,
    /// The first of them: place, value, expected value.
    pub first: Option<(usize, f64, f64)>,
    /// The greatest difference in units of the scale.
    pub worst_relative: f64,
}

impl Reference {
    /// Compares value by value. Not-a-number differs from everything.
    pub fn compare(&self, got: &[f64], tolerance: Tolerance) -> Verdict {
        let mut verdict = Verdict { values: got.len(), differing: 0, first: None, worst_relative: 0.0 };
        for (i, ((got, want), scale)) in got.iter().zip(&self.want).zip(&self.scale).enumerate() {
            let difference = if got == want { 0.0 } else { (got - want).abs() };
            let within = difference <= tolerance.absolute + tolerance.relative * scale;
            if !within {
                verdict.differing += 1;
                verdict.first.get_or_insert((i, *got, *want));
            }
            let relative = if difference == 0.0 { 0.0 } else { difference / scale };
            if relative > verdict.worst_relative || relative.is_nan() {
                verdict.worst_relative = relative;
            }
        }
        if got.len() != self.want.len() {
            verdict.differing += got.len().abs_diff(self.want.len());
            verdict.first.get_or_insert((0, f64::NAN, f64::NAN));
        }
        verdict
    }
}

/// `alpha·op(a)·op(b) + beta·old`, rows shared out over the processors.
pub fn gemm(plan: &GemmPlan, a: &[f64], b: &[f64], old: Option<&[f64]>) -> Reference {
    let GemmPlan { m, n, k, .. } = *plan;
    let mut want = vec![0.0; m * n];
    let mut scale = vec![0.0; m * n];
    let a_at = |i: usize, p: usize| if plan.transpose_a { a[p * m + i] } else { a[i * k + p] };
    let b_at = |p: usize, j: usize| if plan.transpose_b { b[j * k + p] } else { b[p * n + j] };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let rows = m.div_ceil(processors).max(1);
    thread::scope(|scope| {
        for (part, (want, scale)) in want.chunks_mut(rows * n).zip(scale.chunks_mut(rows * n)).enumerate() {
            scope.spawn(move || {
                for (row, (want, scale)) in want.chunks_mut(n).zip(scale.chunks_mut(n)).enumerate() {
                    let i = part * rows + row;
                    for p in 0..k {
                        let factor = plan.alpha * a_at(i, p);
                        for (j, (want, scale)) in want.iter_mut().zip(scale.iter_mut()).enumerate() {
                            let term = factor * b_at(p, j);
                            *want += term;
                            *scale += term.abs();
                        }
                    }
                    if let Some(old) = old {
                        for (j, (want, scale)) in want.iter_mut().zip(scale.iter_mut()).enumerate() {
                            let term = plan.beta * old[i * n + j];
                            *want += term;
                            *scale += term.abs();
                        }
                    }
                }
            });
        }
    });
    Reference { want, scale }
}

/// Unscaled transforms of each row. Complex values are pairs.
pub fn fft(plan: &FftPlan, input: DType, output: DType, values: &[f64]) -> Reference {
    let n = plan.length;
    let mut planner = FftPlanner::<f64>::new();
    let transform = match plan.direction {
        Direction::Forward => planner.plan_fft_forward(n),
        Direction::Inverse => planner.plan_fft_inverse(n),
    };
    let half = n / 2 + 1;
    let (mut want, mut scale) = (Vec::new(), Vec::new());
    let row_numbers = values.len() / plan.batch;
    for row in values.chunks(row_numbers) {
        let complex = |row: &[f64]| row.as_chunks::<2>().0.iter().map(|[re, im]| Complex::new(*re, *im)).collect();
        let mut line: Vec<Complex<f64>> = match (input.is_complex(), output.is_complex()) {
            (true, true) => complex(row),
            (false, _) => row.iter().map(|&re| Complex::new(re, 0.0)).collect(),
            // Half a spectrum: the other half is its mirror image.
            (true, false) => {
                let stored: Vec<Complex<f64>> = complex(row);
                (0..n).map(|i| if i < half { stored[i] } else { stored[n - i].conj() }).collect()
            }
        };
        if !output.is_complex() {
            // A real result has real ends of the spectrum; cuFFT ignores what else is stored there.
            line[0].im = 0.0;
            if n.is_multiple_of(2) {
                line[n / 2].im = 0.0;
            }
        }
        transform.process(&mut line);
        let rms = (line.iter().map(Complex::norm_sqr).sum::<f64>() / n as f64).sqrt();
        let kept = if !input.is_complex() { half } else { n };
        for value in &line[..kept] {
            want.push(value.re);
            scale.push(rms);
            if output.is_complex() {
                want.push(value.im);
                scale.push(rms);
            }
        }
    }
    Reference { want, scale }
}

/// `alpha·matrix·x + beta·old`.
pub fn spmv(matrix: &CsrData, x: &[f64], old: Option<&[f64]>, (alpha, beta): (f64, f64)) -> Reference {
    let (mut want, mut scale) = (Vec::new(), Vec::new());
    for (row, range) in matrix.row_offsets.windows(2).enumerate() {
        let entries = range[0] as usize..range[1] as usize;
        let terms = entries.map(|i| alpha * matrix.values[i] * x[matrix.columns[i] as usize]);
        let (mut sum, mut magnitude) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + f64::abs(term)));
        if let Some(old) = old {
            sum += beta * old[row];
            magnitude += (beta * old[row]).abs();
        }
        want.push(sum);
        scale.push(magnitude);
    }
    Reference { want, scale }
}

#[cfg(test)]
mod tests {
    use weft_program::ArrayId;

    use super::*;

    const EXACT: Tolerance = Tolerance { relative: 1e-12, absolute: 0.0 };

    fn gemm_plan(m: usize, n: usize, k: usize, transpose_a: bool, transpose_b: bool) -> GemmPlan {
        let (a, b, c) = (ArrayId(0), ArrayId(1), ArrayId(2));
        GemmPlan { a, b, c, m, n, k, transpose_a, transpose_b, alpha: 2.0, beta: 1.0 }
    }

    #[test]
    fn products_are_right_however_they_are_stored() {
        // (1 2 3; 4 5 6)·(1 0; 0 1; 1 1) = (4 5; 10 11)
        let (a, at) = ([1., 2., 3., 4., 5., 6.], [1., 4., 2., 5., 3., 6.]);
        let (b, bt) = ([1., 0., 0., 1., 1., 1.], [1., 0., 1., 0., 1., 1.]);
        let old = [1., 1., 1., 1.];
        for (transpose_a, a) in [(false, a), (true, at)] {
            for (transpose_b, b) in [(false, b), (true, bt)] {
                let reference = gemm(&gemm_plan(2, 2, 3, transpose_a, transpose_b), &a, &b, Some(&old));
                assert_eq!(reference.want, [9., 11., 21., 23.]);
                assert_eq!(reference.compare(&[9., 11., 21., 23.], EXACT).differing, 0);
                let wrong = reference.compare(&[9., 11., 21.5, f64::NAN], EXACT);
                assert_eq!((wrong.differing, wrong.first.unwrap().0), (2, 2));
            }
        }
    }

    #[test]
    fn transforms_match_the_definition() {
        let n = 6;
        let signal: Vec<f64> = (0..2 * n).map(|i| ((i * i) % 7) as f64 - 3.0).collect();
        let plan = |direction| FftPlan { input: ArrayId(0), output: ArrayId(1), length: n, batch: 1, direction };
        let direct = |sign: f64| -> Vec<f64> {
            (0..n)
                .flat_map(|k| {
                    let sum = (0..n).fold(Complex::new(0.0, 0.0), |sum, j| {
                        let angle = sign * 2.0 * std::f64::consts::PI * (j * k) as f64 / n as f64;
                        sum + Complex::new(signal[2 * j], signal[2 * j + 1]) * Complex::from_polar(1.0, angle)
                    });
                    [sum.re, sum.im]
                })
                .collect()
        };
        for (direction, sign) in [(Direction::Forward, -1.0), (Direction::Inverse, 1.0)] {
            let reference = fft(&plan(direction), DType::C64, DType::C64, &signal);
            assert_eq!(reference.compare(&direct(sign), EXACT).differing, 0);
        }
        // Real there and back is n times the signal.
        let real = &signal[..n];
        let spectrum = fft(&plan(Direction::Forward), DType::F64, DType::C64, real);
        assert_eq!(spectrum.want.len(), 2 * (n / 2 + 1));
        let back = fft(&plan(Direction::Inverse), DType::C64, DType::F64, &spectrum.want);
        let expected: Vec<f64> = real.iter().map(|x| x * n as f64).collect();
        assert_eq!(back.compare(&expected, EXACT).differing, 0);
    }

    #[test]
    fn a_sparse_product_is_right() {
        let matrix = CsrData { row_offsets: vec![0, 2, 2, 3], columns: vec![0, 1, 1], values: vec![1., 2., 3.] };
        let reference = spmv(&matrix, &[10., 100.], Some(&[1., 1., 1.]), (1.0, 0.5));
        assert_eq!(reference.want, [210.5, 0.5, 300.5]);
    }
}
