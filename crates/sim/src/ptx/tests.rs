//! Executes the kernels of `tests/kernels` (CUDA C beside the PTX that NVRTC 13.0 made of it, for both of its code generators)
//! and compares with the same computed on the host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use half::{bf16, f16};

use super::exec::{Fault, GlobalMemory, Launch, Region};
use super::{Kernel, Module, Parsed};

/// Device memory for tests: buffers at made-up addresses far apart.
#[derive(Default)]
struct Memory {
    buffers: Vec<(u64, Box<[u64]>, usize)>,
    printed: Mutex<String>,
}

impl Memory {
    fn add<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> u64 {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let mut buffer = vec![0u64; bytes.len().div_ceil(8).max(1)];
        bytemuck::cast_slice_mut(&mut buffer)[..bytes.len()].copy_from_slice(bytes);
        let address = 0x7000_0000_0000 + ((self.buffers.len() as u64) << 32);
        self.buffers.push((address, buffer.into(), bytes.len()));
        address
    }

    fn get<T: bytemuck::AnyBitPattern>(&self, address: u64) -> Vec<T> {
        let (_, buffer, bytes) = self.buffers.iter().find(|(at, ..)| *at == address).unwrap();
        let bytes = &bytemuck::cast_slice::<u64, u8>(buffer)[..*bytes];
        bytes.chunks(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }
}

impl GlobalMemory for Memory {
    fn find(&self, address: u64) -> Option<Region> {
        let (base, buffer, bytes) =
            self.buffers.iter().find(|(base, _, n)| address >= *base && address < base + *n as u64)?;
        Some(Region {
            base: *base,
            end: base + *bytes as u64,
            host: buffer.as_ptr().cast_mut().cast(),
            keep: Arc::new(()),
        })
    }
    fn print(&self, text: &str) {
        self.printed.lock().unwrap().push_str(text);
    }
    fn malloc(&self, _bytes: u64) -> u64 {
        0
    }
    fn free(&self, _address: u64) {}
}

/// A fixture: its kernels, and memory that holds its variables.
struct Fixture {
    memory: Memory,
    module: Module,
}

const TARGETS: [&str; 2] = ["sm_90", "sm_100"];

fn fixture(name: &str, target: &str) -> Fixture {
    let path = format!("{}/tests/kernels/{name}.{target}.ptx", env!("CARGO_MANIFEST_DIR"));
    load(&std::fs::read_to_string(path).unwrap())
}

fn load(text: &str) -> Fixture {
    let mut memory = Memory::default();
    let parsed = Parsed::new(text).unwrap();
    let addresses: Vec<u64> = parsed.globals().iter().map(|g| memory.add(&vec![0u8; g.bytes])).collect();
    let (module, images) = parsed.link(&addresses).unwrap();
    for ((_, buffer, _), image) in memory.buffers.iter_mut().zip(images) {
        bytemuck::cast_slice_mut::<u64, u8>(buffer)[..image.len()].copy_from_slice(&image);
    }
    Fixture { memory, module }
}

/// Kernel arguments, laid out as the kernel asks.
struct Arguments(Vec<Vec<u8>>);

macro_rules! arguments {
    ($($value:expr),*) => { Arguments(vec![$(bytemuck::bytes_of(&$value).to_vec()),*]) };
}

impl Fixture {
    fn kernel(&self, name: &str) -> &Kernel {
        &self.module.kernels[name]
    }

    fn launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        arguments: &Arguments,
    ) -> Result<(), Fault> {
        let kernel = self.kernel(name);
        let mut params = vec![0u8; kernel.param_bytes as usize];
        assert_eq!(kernel.params.len(), arguments.0.len(), "{name}");
        for ((at, bytes), value) in kernel.params.iter().zip(&arguments.0) {
            assert_eq!(*bytes as usize, value.len(), "{name}");
            params[*at as usize..(at + bytes) as usize].copy_from_slice(value);
        }
        let (memory, workers) = (&self.memory, 2);
        Launch { kernel, grid, block, dynamic_shared: shared, params: &params, memory, multiprocessors: 8, workers }
            .run()
    }

    fn run(&self, name: &str, blocks: u32, threads: u32, arguments: &Arguments) {
        self.launch(name, [blocks, 1, 1], [threads, 1, 1], 0, arguments).unwrap();
    }
}

/// Numbers that look random and are the same each time.
fn random(n: usize, mut seed: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(seed ^ seed >> 29)
    })
    .take(n)
}

fn floats(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).map(|v| (v >> 40) as f32 / (1 << 24) as f32 - 0.5).collect()
}

#[test]
fn vector_addition_and_saxpy_are_exact() {
    for target in TARGETS {
        let n = 10_007;
        let (a, b) = (floats(n, 1), floats(n, 2));
        let mut f = fixture("vecadd", target);
        let (da, db, dc) = (f.memory.add(&a), f.memory.add(&b), f.memory.add(&vec![0f32; n]));
        f.run("vecadd", n.div_ceil(256) as u32, 256, &arguments!(da, db, dc, n as i32));
        let sums: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
        assert_eq!(f.memory.get::<f32>(dc), sums);

        let mut f = fixture("saxpy", target);
        let (dx, dy) = (f.memory.add(&a), f.memory.add(&b));
        f.run("saxpy", 5, 96, &arguments!(2.5f32, dx, dy, n as i32));
        let expected: Vec<f32> = a.iter().zip(&b).map(|(x, y)| 2.5f32.mul_add(*x, *y)).collect();
        assert_eq!(f.memory.get::<f32>(dy), expected);
    }
}

#[test]
fn tiled_matmul_equals_the_same_sums_in_the_same_order() {
    for target in TARGETS {
        let (m, n, k) = (67usize, 45usize, 53usize);
        let (a, b) = (floats(m * k, 5), floats(k * n, 6));
        let mut f = fixture("matmul", target);
        let (da, db, dc) = (f.memory.add(&a), f.memory.add(&b), f.memory.add(&vec![0f32; m * n]));
        let grid = [n.div_ceil(16) as u32, m.div_ceil(16) as u32, 1];
        f.launch("matmul", grid, [16, 16, 1], 0, &arguments!(da, db, dc, m as i32, n as i32, k as i32)).unwrap();
        let c = f.memory.get::<f32>(dc);
        for i in 0..m {
            for j in 0..n {
                let sum = (0..k).fold(0f32, |sum, q| a[i * k + q].mul_add(b[q * n + j], sum));
                assert_eq!(c[i * n + j], sum, "{target} {i} {j}");
            }
        }
    }
}

#[test]
fn reduction_sums_through_shuffles_shared_memory_and_atomics() {
    for target in TARGETS {
        let x: Vec<f32> = (0..9_999).map(|i| (i % 17) as f32).collect();
        let mut f = fixture("reduce", target);
        let (dx, out) = (f.memory.add(&x), f.memory.add(&[0f32]));
        f.run("reduce", 7, 224, &arguments!(dx, out, x.len() as i32));
        assert_eq!(f.memory.get::<f32>(out), [x.iter().sum::<f32>()]);
    }
}

#[test]
fn histogram_counts_every_byte_once() {
    for target in TARGETS {
        let bytes: Vec<u8> = random(20_001, 8).map(|v| (v >> 56) as u8).collect();
        let mut f = fixture("histogram", target);
        let (dx, bins) = (f.memory.add(&bytes), f.memory.add(&[0u32; 256]));
        f.run("histogram", 9, 192, &arguments!(dx, bins, bytes.len() as i32));
        let mut expected = vec![0u32; 256];
        bytes.iter().for_each(|b| expected[*b as usize] += 1);
        assert_eq!(f.memory.get::<u32>(bins), expected);
    }
}

#[test]
fn softmax_uses_shared_memory_that_the_launch_sized() {
    for target in TARGETS {
        let (rows, cols) = (5usize, 300usize);
        let x: Vec<f32> = floats(rows * cols, 9).iter().map(|v| v * 8.0).collect();
        let mut f = fixture("softmax", target);
        let (dx, dy) = (f.memory.add(&x), f.memory.add(&vec![0f32; rows * cols]));
        f.launch("softmax", [rows as u32, 1, 1], [128, 1, 1], 512, &arguments!(dx, dy, cols as i32)).unwrap();
        let y = f.memory.get::<f32>(dy);
        for (x, y) in x.chunks(cols).zip(y.chunks(cols)) {
            let top = x.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = x.iter().map(|v| f64::from(v - top).exp()).sum();
            for (x, y) in x.iter().zip(y) {
                assert!((f64::from(*y) - f64::from(x - top).exp() / sum).abs() < 1e-7, "{target}");
            }
        }
    }
}

#[test]
fn sparse_product_follows_row_starts() {
    for target in TARGETS {
        let (rows, per_row) = (500usize, 7usize);
        let starts: Vec<i32> = (0..=rows).map(|r| (r * per_row) as i32).collect();
        let columns: Vec<i32> = random(rows * per_row, 3).map(|v| (v >> 33) as i32 % rows as i32).collect();
        let (values, x) = (floats(rows * per_row, 21), floats(rows, 20));
        let mut f = fixture("spmv", target);
        let [s, c] = [f.memory.add(&starts), f.memory.add(&columns)];
        let [v, dx, dy] = [f.memory.add(&values), f.memory.add(&x), f.memory.add(&vec![0f32; rows])];
        f.run("spmv", rows.div_ceil(128) as u32, 128, &arguments!(s, c, v, dx, dy, rows as i32));
        let y = f.memory.get::<f32>(dy);
        for (row, got) in y.iter().enumerate() {
            let sum = (row * per_row..(row + 1) * per_row)
                .fold(0f32, |sum, i| values[i].mul_add(x[columns[i] as usize], sum));
            assert_eq!(*got, sum, "{target}");
        }
    }
}

#[test]
fn elementary_functions_agree_with_the_host_also_for_large_arguments() {
    for target in TARGETS {
        let n = 2_000;
        let x: Vec<f32> = floats(n, 10).iter().map(|v| v * 300_000.0).collect();
        let xd: Vec<f64> = floats(n, 11).iter().map(|v| f64::from(*v) * 4.0).collect();
        let xi: Vec<i32> = random(n, 12).map(|v| (v >> 32) as i32).collect();
        let mut f = fixture("maths", target);
        let [a, b, c] = [f.memory.add(&x), f.memory.add(&xd), f.memory.add(&xi)];
        let [ya, yb, yc] = [f.memory.add(&vec![0f32; n]), f.memory.add(&vec![0f64; n]), f.memory.add(&vec![0i32; n])];
        f.run("maths", n.div_ceil(64) as u32, 64, &arguments!(a, ya, b, yb, c, yc, n as i32));
        let (ya, yb, yc) = (f.memory.get::<f32>(ya), f.memory.get::<f64>(yb), f.memory.get::<i32>(yc));
        for i in 0..n {
            let v = f64::from(x[i]);
            let w = v.sin()
                + v.tanh()
                + v.abs().sqrt()
                + (v.abs() + 1.0).ln()
                + v.abs().powf(1.7)
                + 1.0 / (v * v + 1.0).sqrt();
            assert!(((f64::from(ya[i]) - w) / w).abs() < 1e-5, "{target}: {} is not {w} for {v}", ya[i]);
            let d = xd[i];
            let wd =
                (d * d + 1.0).sqrt() / (d + 3.0) + d.exp() + (d * 1.0e7).sin() + erf(d) + (d.abs() + 0.1).powf(2.5);
            assert!((yb[i] - wd).abs() < 1e-9, "{target}: {} is not {wd} for {d}", yb[i]);
            let k = xi[i];
            let ffs = if k == 0 { 0 } else { k.trailing_zeros() as i32 + 1 };
            let wi = [
                (k / 7) % 5,
                k.count_ones() as i32,
                k.leading_zeros() as i32,
                k.wrapping_abs() % 1000,
                (k as u32 / 3) as i32,
                k.min(9),
                ffs,
                (k.reverse_bits() as u32 >> 7) as i32,
            ];
            assert_eq!(yc[i], wi.into_iter().fold(0, i32::wrapping_add), "{target}: {k}");
        }
    }
}

/// Error function by its Taylor series, enough for |x| ≤ 2.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn integer_corners_are_bit_exact() {
    for target in TARGETS {
        let n = 300;
        let (mut x, y): (Vec<u64>, Vec<u64>) = (random(n, 30).collect(), random(n, 31).collect());
        x[..4].copy_from_slice(&[0, u64::MAX, 1 << 63, 0x8000_0000]);
        let mut f = fixture("bits", target);
        let (dx, dy, out) = (f.memory.add(&x), f.memory.add(&y), f.memory.add(&vec![0u64; n * 16]));
        f.run("bits", 3, 128, &arguments!(dx, dy, out, n as i32));
        let out = f.memory.get::<u64>(out);
        for i in 0..n {
            let (a, b) = (x[i], y[i] | 1);
            let (lo, hi) = (a as u32, (b >> 32) as u32);
            let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
            let merged = (hi & !(0x7ff << 7)) | (lo & 0x7ff) << 7;
            let bytes = join(lo, hi).to_le_bytes();
            let shift = i as u32;
            let funnel = join(lo, hi);
            let dot = |signed: bool| {
                (0..4).fold(7i32, |sum, q| {
                    let (p, q) = (lo.to_le_bytes()[q], hi.to_le_bytes()[q]);
                    let term =
                        if signed { i32::from(p as i8) * i32::from(q as i8) } else { i32::from(p) * i32::from(q) };
                    sum.wrapping_add(term)
                }) as u32
            };
            let found = if (lo as i32) < 0 { !lo } else { lo };
            let expected = [
                a.wrapping_add(b),
                u64::from(a.checked_add(b).is_none()),
                ((u128::from(a) * u128::from(b)) >> 64) as u64,
                ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64,
                a / b,
                (a as i64).wrapping_rem(b as i64) as u64,
                u64::from(u32::from_le_bytes([bytes[5], bytes[1], bytes[7], bytes[3]])),
                join((funnel << (shift & 31) >> 32) as u32, (funnel >> shift.min(32)) as u32),
                join(lo >> 5 & 0x1ff, merged),
                join(dot(true), dot(false)),
                a.reverse_bits() ^ u64::from(b.leading_zeros()) ^ u64::from(a.count_ones()) << 32,
                join(lo.abs_diff(hi).wrapping_add(3), (lo & hi) | (!lo & merged)),
                join(
                    found.checked_ilog2().unwrap_or(u32::MAX),
                    ((i64::from(lo as i32) * i64::from(hi as i32)) >> 32) as u32,
                ),
                ((a as i64 >> (i & 63)) as u64).wrapping_add(b << (i & 63)),
                (lo as i8 as i64 as u64).wrapping_add((hi as i16 as i64 as u64).wrapping_mul(3)),
                ((lo as i32 as f32 * 0.25).round_ties_even() as i32 as i64 as u64)
                    ^ ((a as i64 as f64 * 0.5) as i64 as u64),
            ];
            assert_eq!(out[i * 16..][..16], expected, "{target}: row {i}, a {a:#x}, b {b:#x}");
        }
    }
}

#[test]
fn votes_matches_reductions_and_shuffles_agree_with_the_whole_warp() {
    for target in TARGETS {
        let mut x: Vec<i32> = random(96, 77).map(|v| (v >> 40) as i32 % 100).collect();
        // The last warp agrees in `match.all`, the others do not.
        x[64..].iter_mut().for_each(|v| *v %= 50);
        let mut f = fixture("warp", target);
        let (dx, out) = (f.memory.add(&x), f.memory.add(&vec![0i32; 96 * 16]));
        f.run("warp", 1, 96, &arguments!(dx, out));
        let out = f.memory.get::<i32>(out);
        let odd = x.iter().filter(|v| **v & 1 != 0).count() as i32;
        for (w, v) in x.chunks(32).enumerate() {
            let mask = |test: &dyn Fn(usize) -> bool| (0..32).fold(0u32, |m, l| m | u32::from(test(l)) << l) as i32;
            for lane in 0..32 {
                let all_same = v.iter().all(|q| q / 50 == v[0] / 50);
                let fold = |f: fn(i32, i32) -> i32| v.iter().copied().reduce(f).unwrap();
                let up = if lane % 8 >= 3 { v[lane - 3] } else { v[lane] };
                let down = if lane % 16 + 3 < 16 { v[lane + 3] } else { v[lane] };
                let divergent = if lane & 1 != 0 { mask(&|l| l & 1 != 0 && v[l] > 50) } else { v[2] };
                let expected = [
                    mask(&|l| v[l] & 1 != 0),
                    i32::from(v.contains(&5)) | 2,
                    mask(&|l| v[l] % 3 == v[lane] % 3),
                    if all_same { -1 + 2 } else { 0 },
                    v[(lane + 7) % 32],
                    up,
                    down,
                    v[lane ^ 5],
                    v.iter().sum(),
                    v.iter().max().unwrap() - v.iter().min().unwrap(),
                    fold(|a, b| a ^ b) ^ fold(|a, b| a | b) ^ fold(|a, b| a & b),
                    -1,
                    divergent,
                    ((1u64 << lane) - 1) as i32,
                    odd,
                    i32::from(x.contains(&77)) | 2,
                ];
                assert_eq!(out[(w * 32 + lane) * 16..][..16], expected, "{target}: warp {w}, lane {lane}");
            }
        }
    }
}

#[test]
fn atomics_lose_nothing_and_a_spin_lock_inside_a_warp_ends() {
    for target in TARGETS {
        let n = 160u32;
        let mut f = fixture("atomics", target);
        let words = f.memory.add(&[0, u32::MAX, 0, 0, 0, 0, 0, u32::MAX, 0]);
        let (longs, floats, doubles) = (f.memory.add(&[0u64; 3]), f.memory.add(&[0f32]), f.memory.add(&[0f64]));
        let (lock, guarded) = (f.memory.add(&[0i32]), f.memory.add(&[0i32]));
        f.run("atomics", 3, 64, &arguments!(words, longs, floats, doubles, lock, guarded, n as i32));
        let words = f.memory.get::<u32>(words);
        assert_eq!(words[..4], [n, 3, n - 1, n % 10], "{target}");
        assert_eq!(words[4..], [0, (0..n).fold(0, |a, b| a ^ b), u32::MAX, !0x7f, 42], "{target}");
        let longs = f.memory.get::<u64>(longs);
        assert_eq!(longs[..2], [u64::from(n) << 33, u64::from(n - 1) << 32], "{target}");
        assert!(longs[2] >= 1, "{target}");
        assert_eq!(f.memory.get::<f32>(floats), [n as f32 * 0.5], "{target}");
        assert_eq!(f.memory.get::<f64>(doubles), [f64::from(n) * 0.25], "{target}");
        assert_eq!(f.memory.get::<i32>(guarded), [n as i32], "{target}");
    }
}

#[test]
fn half_and_bfloat_round_once() {
    for target in TARGETS {
        let n = 200usize;
        let (a, b) = (floats(n * 2, 40), floats(n * 2, 41));
        let (x, y): (Vec<u16>, Vec<u16>) = (
            a.iter().map(|v| f16::from_f32(*v).to_bits()).collect(),
            b.iter().map(|v| f16::from_f32(*v).to_bits()).collect(),
        );
        let h = |bits: u16| f16::from_bits(bits).to_f64();
        let mut f = fixture("half", target);
        let (dx, dy) = (f.memory.add(&x), f.memory.add(&y));
        f.run("half_axpy", 4, 64, &arguments!(f16::from_f32(1.5).to_bits(), dx, dy, n as i32));
        let out = f.memory.get::<u16>(dy);
        for i in 0..n {
            assert_eq!(out[i], f16::from_f64(1.5 * h(x[i]) + h(y[i])).to_bits(), "{target}");
        }

        let (dy, out, wide) = (f.memory.add(&y), f.memory.add(&vec![0u16; n * 2]), f.memory.add(&vec![0f32; n]));
        f.run("half2_mix", 4, 64, &arguments!(dx, dy, out, wide, n as i32));
        let (out, wide) = (f.memory.get::<u16>(out), f.memory.get::<f32>(wide));
        let r = |v: f64| f16::from_f64(v).to_f64();
        for i in 0..n * 2 {
            let v = r(r(h(x[i]) * h(y[i])) + r(h(x[i]) - h(y[i])));
            assert_eq!(h(out[i]), v.max(h(x[i]).min(-h(y[i]))), "{target} {i}");
            if i % 2 == 0 {
                let less = h(x[i + 1]) < h(y[i + 1]);
                assert_eq!(wide[i / 2], v as f32 + f32::from(u8::from(less)), "{target} {i}");
            }
        }

        let bits = |v: &[f32]| v.iter().map(|v| bf16::from_f32(*v).to_bits()).collect::<Vec<u16>>();
        let (x, y) = (bits(&a), bits(&b));
        let (dx, dy) = (f.memory.add(&x), f.memory.add(&y));
        f.run("bfloat_axpy", 4, 64, &arguments!(dx, dy, 0.7f32, n as i32));
        let out = f.memory.get::<u16>(dy);
        let h = |bits: u16| bf16::from_bits(bits).to_f64();
        let r = |v: f64| bf16::from_f64(v).to_f64();
        for i in 0..n {
            let v = r(f64::from(bf16::from_f32(0.7).to_f32()) * h(x[i]) + r(h(y[i]) + r(h(x[i]) * h(y[i]))));
            assert_eq!(h(out[i]), v, "{target} {i}");
        }
    }
}

#[test]
fn functions_keep_their_frames_through_recursion_and_pointers() {
    fn fibonacci(n: i32) -> i32 {
        if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) }
    }
    for target in TARGETS {
        let x: Vec<i32> = (0..100).map(|i| (i * 7) % 23).collect();
        let mut f = fixture("calls", target);
        let (dx, out) = (f.memory.add(&x), f.memory.add(&[0f64; 100]));
        f.run("calls", 2, 64, &arguments!(dx, out, 100i32));
        let out = f.memory.get::<f64>(out);
        for (i, x) in x.iter().enumerate() {
            let swapped = ((f64::from(*x) + 0.5) as i32, i as f64);
            let picked = i as i32 * if x & 1 != 0 { 2 } else { 3 };
            let table = [3, 1, 4, 1][i % 4];
            let expected = f64::from(fibonacci(x % 12))
                + f64::from(swapped.0) * 1000.0
                + swapped.1
                + f64::from(x + 1) * 1.0e6
                + f64::from(picked) * 1.0e-3
                + f64::from((x & 7) * x)
                + f64::from(table) * 0.25
                + 7.0;
            assert!((out[i] - expected).abs() < 1e-6, "{target}: {i}: {} is not {expected}", out[i]);
        }
    }
}

#[test]
fn vectors_three_axes_and_a_scan() {
    for target in TARGETS {
        let x = floats(4 * 2 * 3 * 4 * 32, 50);
        let mut f = fixture("vectors", target);
        let (dx, dy) = (f.memory.add(&x), f.memory.add(&vec![0f32; x.len()]));
        f.launch("scale4", [2, 3, 4], [32, 1, 1], 0, &arguments!(dx, dy, 3f32)).unwrap();
        assert_eq!(f.memory.get::<f32>(dy), x.iter().map(|v| v * 3.0).collect::<Vec<_>>());

        let x: Vec<i32> = (0..512).map(|i| i % 11 - 3).collect();
        let (dx, dy) = (f.memory.add(&x), f.memory.add(&vec![0i32; 512]));
        f.run("scan", 2, 256, &arguments!(dx, dy));
        let sums = |x: &[i32]| {
            x.iter()
                .scan(0, |sum, v| {
                    *sum += v;
                    Some(*sum)
                })
                .collect::<Vec<_>>()
        };
        let expected: Vec<i32> = x.chunks(256).flat_map(sums).collect();
        assert_eq!(f.memory.get::<i32>(dy), expected, "{target}");
    }
}

#[test]
fn faults_name_what_happened() {
    for target in TARGETS {
        let mut f = fixture("faults", target);
        let x = f.memory.add(&[0f32; 64]);
        let one = |f: &Fixture, name: &str, arguments: Arguments| f.launch(name, [1, 1, 1], [32, 1, 1], 0, &arguments);
        assert_eq!(one(&f, "out_of_bounds", arguments!(x, 32i32)), Ok(()));
        let address = x + 64 * 4;
        assert!(matches!(
            one(&f, "out_of_bounds", arguments!(x, 33i32)),
            Err(Fault::IllegalAddress { address: at, .. }) if at == address
        ));
        assert!(matches!(one(&f, "misaligned", arguments!(x)), Err(Fault::Misaligned { .. })));
        assert!(matches!(one(&f, "trap", arguments!(x)), Err(Fault::Trap { .. })));
        let Err(Fault::Assert { message }) = one(&f, "asserts", arguments!(x)) else { panic!("no assertion") };
        assert!(message.contains("*x != 0"), "{message}");
        assert!(f.memory.printed.lock().unwrap().contains("Assertion"));
    }
}

#[test]
fn a_block_may_wait_for_one_that_starts_later() {
    // Each block waits until the next has written its word; the last writes at once.
    let text = r#".version 8.0
.target sm_80
.address_size 64
.visible .entry chain(.param .u64 flags)
{
    .reg .pred %p<3>; .reg .b32 %r<6>; .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [flags];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %nctaid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    add.u32 %r3, %r1, 1;
    setp.eq.u32 %p1, %r3, %r2;
    @%p1 bra DONE;
WAIT:
    ld.volatile.global.u32 %r4, [%rd3+4];
    setp.eq.u32 %p2, %r4, 0;
    @%p2 bra WAIT;
DONE:
    st.volatile.global.u32 [%rd3], 1;
    ret;
}"#;
    let mut f = load(text);
    let flags = f.memory.add(&[0u32; 6]);
    f.run("chain", 6, 1, &arguments!(flags));
    assert_eq!(f.memory.get::<u32>(flags), [1; 6]);
}

#[test]
fn wrong_text_is_refused_with_its_line() {
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let kernel = |body: &str| format!("{head}.visible .entry k()\n{{\n{body}\n}}");
    let cases = HashMap::from([
        ("no version".to_owned(), (1, "expected")),
        (kernel("frobnicate.u32 %r1, %r2;"), (6, "frobnicate.u32")),
        (kernel("mov.u32 %r1, 1;"), (6, "%r1")),
        (kernel("bra NOWHERE;"), (6, "NOWHERE")),
        (kernel(".reg .b32 %r<2>;\nadd.u32 %r0, %r1"), (8, "expected")),
    ]);
    for (text, (line, what)) in cases {
        let error = Parsed::new(&text).and_then(|p| p.link(&[]).map(|_| ())).unwrap_err();
        if text == "no version" {
            assert_eq!(error.line, line);
        } else {
            assert_eq!(error.line, line, "{error}");
            assert!(error.what.contains(what), "{error}");
        }
    }
}
