//! Links the functions of a text into kernels that stand alone.

use std::collections::HashMap;
use std::sync::Arc;

use super::PtxError;
use super::inst::{Inst, Op, Reg};
use super::lower::{Body, Slot, Special, Symbol, lower};
use super::syntax::{self, Initial, Source, Space};

/// Bytes of local memory that recursion may use, a thread.
const RECURSION_BYTES: u32 = 32 << 10;

/// A variable of the module in device memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    pub name: String,
    pub bytes: usize,
    pub align: usize,
}

/// A device function as a kernel calls it.
#[derive(Clone, Debug)]
pub struct Callee {
    /// First instruction in the kernel's code.
    pub entry: u32,
    /// Bytes of its frame.
    pub frame: u32,
    pub params: Vec<Slot>,
    pub results: Vec<Slot>,
    /// First register and count, in each file.
    pub registers: [(u32, u32); 3],
    /// Whether it can be called again before it returns, so that its registers are saved.
    pub recursive: bool,
}

/// A kernel with all that it calls.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    pub counts: [u32; 3],
    pub constants: Vec<(Reg, u64)>,
    pub(super) specials: Vec<(Reg, Special)>,
    /// Bytes of shared memory with a size known at compile time.
    pub shared_bytes: u32,
    /// Bytes of local memory a thread.
    pub local_bytes: u32,
    /// Bytes of the kernel's own frame, where those of its callees begin.
    pub frame: u32,
    /// Offset and bytes of each parameter.
    pub params: Vec<Slot>,
    pub param_bytes: u32,
    /// Most threads in a block; 0 when the text does not say.
    pub max_threads: u32,
    pub callees: Vec<Callee>,
}

/// A text that has been read, before its variables have addresses.
pub struct Parsed<'a> {
    source: Source<'a>,
}

/// A linked module.
#[derive(Debug)]
pub struct Module {
    pub kernels: HashMap<String, Arc<Kernel>>,
}

impl<'a> Parsed<'a> {
    /// Reads `text`.
    pub fn new(text: &'a str) -> Result<Self, PtxError> {
        Ok(Self { source: syntax::parse(text)? })
    }

    /// PTX version, major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.source.version
    }

    /// Compute capability of the target as one number (90), and its suffix (`a` or `f`: no other architecture runs it).
    pub fn target(&self) -> Result<(u32, &'a str), PtxError> {
        let rest = self
            .source
            .target
            .strip_prefix("sm_")
            .or_else(|| self.source.target.strip_prefix("compute_"))
            .unwrap_or("");
        let digits = rest.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number =
            digits.parse().map_err(|_| PtxError::new(1, format!("'{}' is not a target", self.source.target)))?;
        Ok((number, &rest[digits.len()..]))
    }

    fn memory_variables(&self) -> impl Iterator<Item = &syntax::Variable<'a>> {
        self.source.variables.iter().filter(|v| v.space != Space::Shared)
    }

    /// Variables that need device memory, in order.
    pub fn globals(&self) -> Vec<Global> {
        self.memory_variables()
            .map(|v| Global { name: v.name.to_owned(), bytes: v.size.max(1), align: v.align })
            .collect()
    }

    /// Links with the variables of [`Self::globals`] at `addresses`; also returns what each holds at first.
    pub fn link(&self, addresses: &[u64]) -> Result<(Module, Vec<Vec<u8>>), PtxError> {
        let mut symbols: HashMap<&str, Symbol> = HashMap::new();
        for (variable, address) in self.memory_variables().zip(addresses) {
            symbols.insert(variable.name, Symbol::Global(*address));
        }
        let mut shared = 0u32;
        for variable in self.source.variables.iter().filter(|v| v.space == Space::Shared) {
            let symbol = if variable.size == 0 {
                Symbol::DynamicShared
            } else {
                let start = (shared as usize).next_multiple_of(variable.align);
                let end = start.checked_add(variable.size).filter(|end| *end < 1 << 24);
                shared = end.ok_or_else(|| PtxError::new(variable.line, "shared variables are too large"))? as u32;
                Symbol::Shared(start as u32)
            };
            symbols.insert(variable.name, symbol);
        }
        let devices: Vec<_> = self.source.functions.iter().filter(|f| !f.entry && f.body.is_some()).collect();
        for (index, function) in devices.iter().enumerate() {
            symbols.insert(function.name, Symbol::Function(index as u32));
        }
        let images = self.memory_variables().map(|v| image(v, &symbols)).collect::<Result<_, _>>()?;

        let mut bodies = Vec::new();
        for function in &devices {
            let body = lower(function, &symbols, shared)?;
            shared = body.shared;
            bodies.push(body);
        }
        let recursive = recursive(&bodies);
        let mut kernels = HashMap::new();
        for function in self.source.functions.iter().filter(|f| f.entry) {
            let mut kernel = link(lower(function, &symbols, shared)?, &bodies, &recursive);
            kernel.name = function.name.to_owned();
            kernel.max_threads = function.max_threads;
            kernels.insert(kernel.name.clone(), Arc::new(kernel));
        }
        Ok((Module { kernels }, images))
    }
}

/// Bytes of a variable at start.
fn image(variable: &syntax::Variable<'_>, symbols: &HashMap<&str, Symbol>) -> Result<Vec<u8>, PtxError> {
    let mut bytes = vec![0; variable.size.max(1)];
    for (initial, element) in variable.initial.iter().zip(bytes.chunks_mut(variable.element)) {
        let value = match *initial {
            Initial::Value(value) => value,
            Initial::Address(name, offset) => match symbols.get(name) {
                Some(Symbol::Global(address)) => address.wrapping_add_signed(offset),
                Some(Symbol::Function(index)) => super::lower::FUNCTION_ADDRESS | u64::from(*index),
                _ => return Err(PtxError::new(variable.line, format!("'{name}' has no address"))),
            },
        };
        let little = value.to_le_bytes();
        let length = element.len().min(8);
        element[..length].copy_from_slice(&little[..length]);
    }
    Ok(bytes)
}

/// Which functions can reach themselves. A call through a pointer may reach any.
fn recursive(bodies: &[Body]) -> Vec<bool> {
    let calls: Vec<Vec<usize>> = bodies
        .iter()
        .map(|body| {
            if body.code.iter().any(|inst| inst.op == Op::CallIndirect) {
                return (0..bodies.len()).collect();
            }
            body.code.iter().filter(|inst| inst.op == Op::Call).map(|inst| inst.target as usize).collect()
        })
        .collect();
    (0..bodies.len())
        .map(|start| {
            let (mut seen, mut todo) = (vec![false; bodies.len()], calls[start].clone());
            while let Some(next) = todo.pop() {
                if !std::mem::replace(&mut seen[next], true) {
                    todo.extend(&calls[next]);
                }
            }
            seen[start]
        })
        .collect()
}

/// Appends `body` to the kernel, its registers after those already there.
fn append(kernel: &mut Kernel, body: &Body) -> [(u32, u32); 3] {
    let registers = std::array::from_fn(|file| (kernel.counts[file], body.counts[file]));
    let first = kernel.code.len() as u32;
    let moved = |reg: &Reg| {
        let base = match reg.file {
            super::inst::File::None => 0,
            super::inst::File::Pred => registers[0].0,
            super::inst::File::Word => registers[1].0,
            super::inst::File::Wide => registers[2].0,
        };
        Reg { file: reg.file, index: reg.index + base }
    };
    for inst in &body.code {
        let mut inst = inst.clone();
        for reg in inst.registers_mut() {
            *reg = moved(reg);
        }
        if let Some((index, _)) = &mut inst.guard {
            *index += registers[0].0;
        }
        if inst.op == Op::Branch {
            inst.target += first;
        }
        for target in &mut inst.targets {
            *target += first;
        }
        kernel.code.push(inst);
    }
    kernel.constants.extend(body.constants.iter().map(|(reg, value)| (moved(reg), *value)));
    kernel.specials.extend(body.specials.iter().map(|(reg, special)| (moved(reg), *special)));
    for (count, (_, more)) in kernel.counts.iter_mut().zip(registers) {
        *count += more;
    }
    registers
}

fn link(body: Body, functions: &[Body], recursive: &[bool]) -> Kernel {
    let frame = body.frame.next_multiple_of(16);
    let mut kernel = Kernel {
        name: String::new(),
        code: Vec::new(),
        counts: [0; 3],
        constants: Vec::new(),
        specials: Vec::new(),
        shared_bytes: body.shared.next_multiple_of(16),
        local_bytes: frame,
        frame,
        params: body.params.clone(),
        param_bytes: body.param_bytes,
        max_threads: 0,
        callees: Vec::new(),
    };
    append(&mut kernel, &body);
    if !body.calls {
        return kernel;
    }
    for (function, &recursive) in functions.iter().zip(recursive) {
        let entry = kernel.code.len() as u32;
        let registers = append(&mut kernel, function);
        let frame = function.frame.next_multiple_of(16);
        kernel.local_bytes += frame;
        kernel.callees.push(Callee {
            entry,
            frame,
            params: function.params.clone(),
            results: function.results.clone(),
            registers,
            recursive,
        });
    }
    if kernel.callees.iter().any(|callee| callee.recursive) {
        kernel.local_bytes += RECURSION_BYTES;
    }
    kernel
}
