//! From names to registers: scopes, symbols, frames and operands of one function. What each opcode means is in [`super::opcode`].

use std::collections::HashMap;

use super::PtxError;
use super::inst::{File, Inst, Op, Reg, Ty};
use super::syntax::{Function, Instruction, Operand, Space, Statement, Variable, type_bytes};

/// Tag of a function's address; the low bits are its index in the module.
pub const FUNCTION_ADDRESS: u64 = 0x00f0_0000_0000_0000;

/// Special registers that keep their value while a block runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// `%tid`, `%ntid`, `%ctaid`, `%nctaid` by axis.
    Thread(u8),
    BlockSize(u8),
    Block(u8),
    GridSize(u8),
    Lane,
    Warp,
    Warps,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    Multiprocessor,
    Multiprocessors,
    DynamicShared,
    DynamicSharedBase,
    TotalShared,
    Zero,
    One,
}

impl Special {
    fn named(name: &str) -> Option<Self> {
        let axis = |letter: &str| match letter {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        if let Some((register, letter)) = name.split_once('.') {
            let axis = axis(letter)?;
            return Some(match register {
                "%tid" => Self::Thread(axis),
                "%ntid" => Self::BlockSize(axis),
                "%ctaid" | "%clusterid" => Self::Block(axis),
                "%nctaid" | "%nclusterid" => Self::GridSize(axis),
                "%cluster_ctaid" => Self::Zero,
                "%cluster_nctaid" => Self::One,
                _ => return None,
            });
        }
        Some(match name {
            "%laneid" => Self::Lane,
            "%warpid" => Self::Warp,
            "%nwarpid" => Self::Warps,
            "%smid" => Self::Multiprocessor,
            "%nsmid" => Self::Multiprocessors,
            "%lanemask_eq" => Self::MaskEq,
            "%lanemask_lt" => Self::MaskLt,
            "%lanemask_le" => Self::MaskLe,
            "%lanemask_gt" => Self::MaskGt,
            "%lanemask_ge" => Self::MaskGe,
            "%dynamic_smem_size" => Self::DynamicShared,
            "%total_smem_size" => Self::TotalShared,
            "%gridid" | "%cluster_ctarank" | "%is_explicit_cluster" => Self::Zero,
            "%cluster_nctarank" => Self::One,
            _ => return None,
        })
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub enum Symbol {
    Register(Reg),
    /// Offset in the block's shared memory.
    Shared(u32),
    /// The array whose length the launch chooses.
    DynamicShared,
    /// Offset in the thread's frame: local variables, arguments and results of calls, parameters of functions.
    Frame(u32, u32),
    /// Offset in the kernel's parameters.
    KernelParam(u32),
    /// Device address.
    Global(u64),
    Function(u32),
}

/// Parameter or result: offset and bytes.
pub type Slot = (u32, u32);

/// A function after lowering; registers and branch targets count from its own zero.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub code: Vec<Inst>,
    /// Registers in each file: predicates, words, wides.
    pub counts: [u32; 3],
    pub constants: Vec<(Reg, u64)>,
    pub specials: Vec<(Reg, Special)>,
    /// Bytes of shared memory declared, with what was there before.
    pub shared: u32,
    /// Bytes of a thread's frame.
    pub frame: u32,
    pub params: Vec<Slot>,
    pub param_bytes: u32,
    pub results: Vec<Slot>,
    /// Whether it calls anything or takes a function's address.
    pub calls: bool,
}

pub struct Lowerer<'a, 'm> {
    pub body: Body,
    module: &'m HashMap<&'a str, Symbol>,
    scopes: Vec<HashMap<String, Symbol>>,
    constants: HashMap<(File, u64), Reg>,
    specials: HashMap<Special, Reg>,
    labels: HashMap<&'a str, u32>,
    /// Instructions whose target is still a label.
    jumps: Vec<(usize, &'a str, u32)>,
    tables: HashMap<&'a str, Vec<&'a str>>,
    indexed: Vec<(usize, &'a str, u32)>,
}

/// Lowers a function whose shared variables start at `shared` bytes.
pub fn lower<'a>(function: &Function<'a>, module: &HashMap<&'a str, Symbol>, shared: u32) -> Result<Body, PtxError> {
    let mut lowerer = Lowerer {
        body: Body { shared, ..Body::default() },
        module,
        scopes: vec![HashMap::new()],
        constants: HashMap::new(),
        specials: HashMap::new(),
        labels: HashMap::new(),
        jumps: Vec::new(),
        tables: HashMap::new(),
        indexed: Vec::new(),
    };
    lowerer.parameters(function)?;
    for statement in function.body.iter().flatten() {
        lowerer.statement(statement)?;
    }
    let end = if function.entry { Op::Exit } else { Op::Return };
    lowerer.body.code.push(Inst::new(end, Ty::B32, 0));
    lowerer.resolve()?;
    Ok(lowerer.body)
}

fn place(top: &mut u32, variable: &Variable<'_>) -> Result<u32, PtxError> {
    let too_large = || PtxError::new(variable.line, format!("variable {} is too large", variable.name));
    let start = (*top as usize).next_multiple_of(variable.align);
    let end = start.checked_add(variable.size).filter(|end| *end < 1 << 30).ok_or_else(too_large)?;
    *top = end as u32;
    Ok(start as u32)
}

impl<'a> Lowerer<'a, '_> {
    fn parameters(&mut self, function: &Function<'a>) -> Result<(), PtxError> {
        for variable in &function.params {
            let top = if function.entry { &mut self.body.param_bytes } else { &mut self.body.frame };
            let at = place(top, variable)?;
            self.body.params.push((at, variable.size as u32));
            let symbol = if function.entry { Symbol::KernelParam(at) } else { Symbol::Frame(at, variable.size as u32) };
            self.declare(variable.name, symbol);
        }
        for variable in &function.results {
            let at = place(&mut self.body.frame, variable)?;
            self.body.results.push((at, variable.size as u32));
            self.declare(variable.name, Symbol::Frame(at, variable.size as u32));
        }
        Ok(())
    }

    fn statement(&mut self, statement: &Statement<'a>) -> Result<(), PtxError> {
        match statement {
            Statement::Open => self.scopes.push(HashMap::new()),
            Statement::Close => {
                self.scopes.pop();
            }
            Statement::Label(name) => {
                self.labels.insert(name, self.body.code.len() as u32);
            }
            Statement::Registers(ty, name, count) => self.registers(ty, name, *count)?,
            Statement::Variable(variable) => {
                let symbol = if variable.space == Space::Shared {
                    Symbol::Shared(place(&mut self.body.shared, variable)?)
                } else {
                    Symbol::Frame(place(&mut self.body.frame, variable)?, variable.size as u32)
                };
                self.declare(variable.name, symbol);
            }
            Statement::BranchTargets(name, targets) => {
                self.tables.insert(name, targets.clone());
            }
            Statement::Instruction(instruction) => {
                let fail = |what: String| PtxError::new(instruction.line, what);
                let guard = match instruction.guard {
                    None => None,
                    Some((name, negated)) => Some((self.register(name).map_err(fail)?.index, negated)),
                };
                let first = self.body.code.len();
                self.instruction(instruction).map_err(fail)?;
                for inst in &mut self.body.code[first..] {
                    inst.guard = guard;
                }
            }
        }
        Ok(())
    }

    fn registers(&mut self, ty: &str, name: &str, count: Option<u32>) -> Result<(), PtxError> {
        let file = match (ty, type_bytes(ty)) {
            (".pred", _) => File::Pred,
            (_, Some(8)) => File::Wide,
            (_, Some(1..=4)) => File::Word,
            _ => return Err(PtxError::new(0, format!("registers of type {ty} are not supported"))),
        };
        match count {
            None => {
                let reg = self.fresh(file);
                self.declare(name, Symbol::Register(reg));
            }
            Some(count) => {
                for i in 0..count {
                    let reg = self.fresh(file);
                    self.declare(&format!("{name}{i}"), Symbol::Register(reg));
                }
            }
        }
        Ok(())
    }

    fn declare(&mut self, name: &str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), symbol);
        }
    }

    /// A new register.
    pub fn fresh(&mut self, file: File) -> Reg {
        let count = match file {
            File::Pred => &mut self.body.counts[0],
            File::Word => &mut self.body.counts[1],
            File::Wide => &mut self.body.counts[2],
            File::None => return Reg::default(),
        };
        *count += 1;
        Reg { file, index: *count - 1 }
    }

    /// The register that holds this value in every lane.
    pub fn constant(&mut self, file: File, value: u64) -> Reg {
        let value = match file {
            File::Pred => u64::from(value != 0),
            File::Word => value & 0xffff_ffff,
            _ => value,
        };
        if let Some(reg) = self.constants.get(&(file, value)) {
            return *reg;
        }
        let reg = self.fresh(file);
        self.constants.insert((file, value), reg);
        self.body.constants.push((reg, value));
        reg
    }

    fn special(&mut self, special: Special) -> Reg {
        if let Some(reg) = self.specials.get(&special) {
            return *reg;
        }
        let reg = self.fresh(File::Word);
        self.specials.insert(special, reg);
        self.body.specials.push((reg, special));
        reg
    }

    /// What a name stands for, the innermost scope first.
    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).or_else(|| self.module.get(name)).copied()
    }

    /// A declared register.
    pub fn register(&self, name: &str) -> Result<Reg, String> {
        match self.symbol(name) {
            _ if name == "_" => Ok(Reg::default()),
            Some(Symbol::Register(reg)) => Ok(reg),
            _ => Err(format!("'{name}' is not a register")),
        }
    }

    /// The register from which an operand is read; `file` says where a literal goes.
    pub fn source(&mut self, operand: &Operand<'a>, file: File) -> Result<Reg, String> {
        match operand {
            Operand::Literal(value) => Ok(self.constant(file, *value)),
            Operand::Name("WARP_SZ") => Ok(self.constant(file, 32)),
            Operand::Name(name) | Operand::Not(name) => match self.symbol(name) {
                Some(Symbol::Register(reg)) => Ok(reg),
                Some(Symbol::Shared(at) | Symbol::KernelParam(at)) => Ok(self.constant(File::Wide, u64::from(at))),
                Some(Symbol::DynamicShared) => Ok(self.special(Special::DynamicSharedBase)),
                Some(Symbol::Global(address)) => Ok(self.constant(File::Wide, address)),
                Some(Symbol::Function(index)) => {
                    self.body.calls = true;
                    Ok(self.constant(File::Wide, FUNCTION_ADDRESS | u64::from(index)))
                }
                Some(Symbol::Frame(at, _)) => {
                    let reg = self.fresh(File::Wide);
                    self.frame_address(reg, at);
                    Ok(reg)
                }
                None => match Special::named(name) {
                    Some(special) => Ok(self.special(special)),
                    None => Err(format!("'{name}' is not declared")),
                },
            },
            other => Err(format!("operand {other:?} has no place here")),
        }
    }

    /// The register into which a result goes.
    pub fn destination(&mut self, operand: &Operand<'a>) -> Result<Reg, String> {
        match operand {
            Operand::Name(name) => self.register(name),
            other => Err(format!("operand {other:?} cannot take a result")),
        }
    }

    fn frame_address(&mut self, dst: Reg, offset: u32) {
        let mut inst = Inst::new(Op::FrameAddress, Ty::U64, 0);
        inst.dst = dst;
        inst.offset = i64::from(offset);
        self.body.code.push(inst);
    }

    /// Base register and offset of `[…]`, and whether the base is this thread's frame.
    pub fn address(&mut self, operand: &Operand<'a>) -> Result<(Reg, i64, bool), String> {
        let Operand::Address(base, offset) = operand else {
            return Err(format!("operand {operand:?} is not an address"));
        };
        let Some(name) = base else {
            return Ok((self.constant(File::Wide, *offset as u64), 0, false));
        };
        if let Some(Symbol::Frame(at, _)) = self.symbol(name) {
            return Ok((Reg::default(), offset + i64::from(at), true));
        }
        Ok((self.source(&Operand::Name(name), File::Wide)?, *offset, false))
    }

    /// Emits a jump to a label.
    pub fn jump(&mut self, label: &'a str, line: u32) {
        self.jumps.push((self.body.code.len(), label, line));
        self.body.code.push(Inst::new(Op::Branch, Ty::B32, line));
    }

    /// Emits a jump through a table of labels.
    pub fn jump_indexed(&mut self, index: Reg, table: &'a str, line: u32) {
        self.indexed.push((self.body.code.len(), table, line));
        let mut inst = Inst::new(Op::BranchIndexed, Ty::U32, line);
        inst.src[0] = index;
        self.body.code.push(inst);
    }

    /// Frame slots named in a call's parentheses.
    pub fn slots(&self, names: &[&str]) -> Result<Vec<Slot>, String> {
        let slot = |name: &&str| match self.symbol(name) {
            Some(Symbol::Frame(at, bytes)) => Ok((at, bytes)),
            _ => Err(format!("'{name}' is not a parameter declared here")),
        };
        names.iter().map(slot).collect()
    }

    /// Line-numbered error for an opcode that is not executed here.
    pub fn unsupported(instruction: &Instruction<'_>) -> String {
        format!("instruction '{}' is not supported by the simulated driver", instruction.opcode)
    }

    fn resolve(&mut self) -> Result<(), PtxError> {
        let find = |labels: &HashMap<&str, u32>, label: &str, line: u32| {
            labels.get(label).copied().ok_or_else(|| PtxError::new(line, format!("label '{label}' is not defined")))
        };
        for (at, label, line) in &self.jumps {
            self.body.code[*at].target = find(&self.labels, label, *line)?;
        }
        for (at, table, line) in &self.indexed {
            let labels = self
                .tables
                .get(table)
                .ok_or_else(|| PtxError::new(*line, format!("branch targets '{table}' are not declared")))?;
            let targets: Result<Box<[u32]>, _> = labels.iter().map(|label| find(&self.labels, label, *line)).collect();
            self.body.code[*at].targets = targets?;
        }
        Ok(())
    }
}
