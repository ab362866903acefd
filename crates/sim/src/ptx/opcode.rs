//! What each PTX opcode means: mnemonic and suffixes to [`Inst`].

use super::inst::{
    Approx, Atomic, CallSlots, Compare, File, Inst, Logic, Op, Part, PermuteMode, Reg, Round, Shuffle, Ty, Vote,
};
use super::lower::{Lowerer, Symbol};
use super::syntax::{Instruction, Operand, Space};

/// Suffixes of an opcode.
struct Suffixes<'a>(Vec<&'a str>);

impl<'a> Suffixes<'a> {
    fn has(&self, suffix: &str) -> bool {
        self.0.contains(&suffix)
    }

    fn types(&self) -> Vec<Ty> {
        self.0.iter().filter_map(|s| Ty::named(s)).collect()
    }

    fn first(&self) -> &'a str {
        self.0.first().copied().unwrap_or("")
    }

    fn space(&self) -> Space {
        let space = |s: &&str| {
            Some(match s.split("::").next().unwrap_or(s) {
                "global" => Space::Global,
                "shared" => Space::Shared,
                "local" => Space::Local,
                "param" => Space::Param,
                "const" => Space::Const,
                _ => return None,
            })
        };
        self.0.iter().find_map(space).unwrap_or(Space::Generic)
    }

    fn part(&self) -> Part {
        if self.has("wide") {
            Part::Wide
        } else if self.has("hi") {
            Part::High
        } else {
            Part::Low
        }
    }

    fn round(&self) -> Round {
        let round = |s: &&str| {
            Some(match *s {
                "rn" => Round::Nearest,
                "rz" => Round::Zero,
                "rm" => Round::Down,
                "rp" => Round::Up,
                "rni" => Round::IntegerNearest,
                "rzi" => Round::IntegerZero,
                "rmi" => Round::IntegerDown,
                "rpi" => Round::IntegerUp,
                _ => return None,
            })
        };
        self.0.iter().find_map(round).unwrap_or_default()
    }

    fn atomic(&self) -> Option<Atomic> {
        let operation = |s: &&str| {
            Some(match *s {
                "add" => Atomic::Add,
                "min" => Atomic::Min,
                "max" => Atomic::Max,
                "and" => Atomic::And,
                "or" => Atomic::Or,
                "xor" => Atomic::Xor,
                "exch" => Atomic::Exchange,
                "cas" => Atomic::CompareSwap,
                "inc" => Atomic::Increment,
                "dec" => Atomic::Decrement,
                _ => return None,
            })
        };
        self.0.iter().find_map(operation)
    }

    fn logic(&self) -> Option<Logic> {
        let logic = |s: &&str| {
            Some(match *s {
                "and" => Logic::And,
                "or" => Logic::Or,
                "xor" => Logic::Xor,
                _ => return None,
            })
        };
        self.0.iter().find_map(logic)
    }

    fn compare(&self) -> Option<(Compare, bool)> {
        let compare = |s: &&str| {
            Some(match *s {
                "eq" => (Compare::Eq, false),
                "ne" => (Compare::Ne, false),
                "lt" | "lo" => (Compare::Lt, false),
                "le" | "ls" => (Compare::Le, false),
                "gt" | "hi" => (Compare::Gt, false),
                "ge" | "hs" => (Compare::Ge, false),
                "equ" => (Compare::Eq, true),
                "neu" => (Compare::Ne, true),
                "ltu" => (Compare::Lt, true),
                "leu" => (Compare::Le, true),
                "gtu" => (Compare::Gt, true),
                "geu" => (Compare::Ge, true),
                "num" => (Compare::Num, false),
                "nan" => (Compare::Nan, false),
                _ => return None,
            })
        };
        self.0.iter().find_map(compare)
    }
}

/// Files of up to four sources, for their literals.
fn same(file: File) -> [File; 4] {
    [file; 4]
}

impl<'a> Lowerer<'a, '_> {
    /// Emits what `instruction` means.
    pub fn instruction(&mut self, instruction: &Instruction<'a>) -> Result<(), String> {
        let mut words = instruction.opcode.split('.');
        let base = words.next().unwrap_or("");
        let suffixes = Suffixes(words.collect());
        let types = suffixes.types();
        let ty = types.first().copied().unwrap_or(Ty::B32);
        let mut inst = Inst::new(Op::Nop, ty, instruction.line);
        inst.round = suffixes.round();
        inst.flush = suffixes.has("ftz");
        inst.saturate = suffixes.has("sat");
        inst.nan = suffixes.has("NaN");
        let file = ty.file();
        let (reads, writes) = (base.ends_with('c'), suffixes.has("cc"));
        match base {
            "mov" => self.mov(instruction, inst),
            "ld" | "ldu" => self.load(instruction, inst, suffixes.space()),
            "st" => self.store(instruction, inst, suffixes.space()),
            "atom" | "red" => {
                let operation = suffixes.atomic().ok_or_else(|| Self::unsupported(instruction))?;
                self.atomic(instruction, inst, suffixes.space(), operation, base == "atom")
            }
            "cp" => self.copy_async(instruction, inst, &suffixes),
            "cvta" => {
                let space = suffixes.space();
                inst.op = if suffixes.has("to") { Op::FromGeneric(space) } else { Op::ToGeneric(space) };
                self.plain(instruction, inst, same(File::Wide))
            }
            "isspacep" => {
                inst.op = Op::IsSpace(suffixes.space());
                self.plain(instruction, inst, same(File::Wide))
            }
            "add" | "addc" if writes || base == "addc" => {
                inst.op = Op::AddCarry { reads, writes };
                self.plain(instruction, inst, same(file))
            }
            "sub" | "subc" if writes || base == "subc" => {
                inst.op = Op::SubCarry { reads, writes };
                self.plain(instruction, inst, same(file))
            }
            "mad" | "madc" if writes || base == "madc" => {
                inst.op = Op::MadCarry { part: suffixes.part(), reads, writes };
                self.plain(instruction, inst, same(file))
            }
            "mul" => {
                inst.op = Op::Mul(suffixes.part());
                self.plain(instruction, inst, same(file))
            }
            "mad" if ty.is_float() => {
                inst.op = Op::Fma;
                self.plain(instruction, inst, same(file))
            }
            "mad" => {
                inst.op = Op::Mad(suffixes.part());
                let third = if suffixes.part() == Part::Wide && ty.bytes() == 4 { File::Wide } else { file };
                self.plain(instruction, inst, [file, file, third, file])
            }
            "set" | "setp" => {
                let (compare, unordered) = suffixes.compare().ok_or_else(|| Self::unsupported(instruction))?;
                let operands = &instruction.operands;
                let negate = matches!(operands.get(3), Some(Operand::Not(_)));
                if base == "setp" {
                    inst.op = Op::SetPred { compare, unordered, with: suffixes.logic(), negate };
                } else {
                    let [result, from] = types[..] else {
                        return Err(Self::unsupported(instruction));
                    };
                    if suffixes.logic().is_some() {
                        return Err(Self::unsupported(instruction));
                    }
                    inst.op = Op::Set { compare, unordered, result };
                    inst.ty = from;
                }
                let file = inst.ty.file();
                self.plain(instruction, inst, [file, file, File::Pred, File::None])
            }
            "selp" => {
                inst.op = Op::Select;
                self.plain(instruction, inst, [file, file, File::Pred, File::None])
            }
            "slct" => {
                let by = types.get(1).copied().unwrap_or(Ty::S32);
                inst.op = Op::SelectSign(by);
                self.plain(instruction, inst, [file, file, by.file(), File::None])
            }
            "cvt" => {
                let from = types.get(1).copied().ok_or_else(|| Self::unsupported(instruction))?;
                if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
                    inst.op = Op::ConvertPair;
                } else {
                    inst.op = Op::Convert { from, relu: suffixes.has("relu") };
                }
                self.plain(instruction, inst, same(from.file()))
            }
            "shl" | "shr" => {
                inst.op = if base == "shl" { Op::Shl } else { Op::Shr };
                self.plain(instruction, inst, [file, File::Word, file, file])
            }
            "bfe" | "bfi" => {
                inst.op = if base == "bfe" { Op::Bfe } else { Op::Bfi };
                let word = File::Word;
                self.plain(
                    instruction,
                    inst,
                    if base == "bfe" { [file, word, word, word] } else { [file, file, word, word] },
                )
            }
            "lop3" => {
                let Some(Operand::Literal(table)) = instruction.operands.get(4) else {
                    return Err(Self::unsupported(instruction));
                };
                inst.op = Op::Lop3(*table as u8);
                self.plain(instruction, inst, same(file))
            }
            "dp4a" | "dp2a" => {
                let left_signed = ty.is_signed();
                inst.ty = types.get(1).copied().unwrap_or(ty);
                inst.op = if base == "dp4a" {
                    Op::Dp4a { left_signed }
                } else {
                    Op::Dp2a { left_signed, high: suffixes.has("hi") }
                };
                self.plain(instruction, inst, same(File::Word))
            }
            "bra" => {
                let [Operand::Name(label)] = instruction.operands[..] else {
                    return Err(Self::unsupported(instruction));
                };
                self.jump(label, instruction.line);
                Ok(())
            }
            "brx" => {
                let [index, Operand::Name(table)] = &instruction.operands[..] else {
                    return Err(Self::unsupported(instruction));
                };
                let index = self.source(index, File::Word)?;
                self.jump_indexed(index, table, instruction.line);
                Ok(())
            }
            "call" => self.call(instruction, inst),
            "ret" | "exit" | "trap" | "brkpt" => {
                inst.op = match base {
                    "ret" => Op::Return,
                    "exit" => Op::Exit,
                    _ => Op::Trap,
                };
                self.body.code.push(inst);
                Ok(())
            }
            "bar" | "barrier" => self.barrier(instruction, inst, &suffixes),
            "shfl" => {
                inst.op = Op::Shuffle(match () {
                    () if suffixes.has("down") => Shuffle::Down,
                    () if suffixes.has("up") => Shuffle::Up,
                    () if suffixes.has("bfly") => Shuffle::Butterfly,
                    () => Shuffle::Index,
                });
                self.across(instruction, inst, same(File::Word), suffixes.has("sync"), 3)
            }
            "vote" => {
                let vote = match () {
                    () if suffixes.has("any") => Vote::Any,
                    () if suffixes.has("all") => Vote::All,
                    () if suffixes.has("uni") => Vote::Uniform,
                    () => Vote::Ballot,
                };
                inst.op = Op::Vote { vote, negate: matches!(instruction.operands.get(1), Some(Operand::Not(_))) };
                self.across(
                    instruction,
                    inst,
                    [File::Pred, File::Word, File::Word, File::Word],
                    suffixes.has("sync"),
                    1,
                )
            }
            "match" => {
                inst.op = if suffixes.has("any") { Op::MatchAny } else { Op::MatchAll };
                self.across(instruction, inst, [file, File::Word, File::Word, File::Word], true, 1)
            }
            "redux" => {
                let operation = suffixes.atomic().ok_or_else(|| Self::unsupported(instruction))?;
                inst.op = Op::Redux(operation);
                self.across(instruction, inst, same(File::Word), true, 1)
            }
            "elect" => {
                inst.op = Op::Elect;
                self.across(instruction, inst, same(File::Word), true, 0)
            }
            "activemask" => {
                inst.op = Op::ActiveMask;
                self.plain(instruction, inst, same(File::Word))
            }
            "membar" | "fence" => {
                inst.op = Op::Fence;
                self.body.code.push(inst);
                Ok(())
            }
            // Hints change nothing.
            "prefetch" | "prefetchu" | "discard" | "applypriority" | "griddepcontrol" | "setmaxnreg" | "pmevent" => {
                Ok(())
            }
            "nanosleep" => {
                inst.op = Op::Yield;
                self.body.code.push(inst);
                Ok(())
            }
            _ => {
                inst.op = plain_op(base, &suffixes).ok_or_else(|| Self::unsupported(instruction))?;
                let word_amount = matches!(inst.op, Op::FunnelLeft { .. } | Op::FunnelRight { .. } | Op::Prmt(_));
                self.plain(instruction, inst, same(if word_amount { File::Word } else { file }))
            }
        }
    }

    /// Destination (and a second one after `|`) first, then sources.
    fn plain(&mut self, instruction: &Instruction<'a>, mut inst: Inst, files: [File; 4]) -> Result<(), String> {
        let (first, rest) = instruction.operands.split_first().ok_or("an operand is missing")?;
        (inst.dst, inst.dst2) = match first {
            Operand::Pair(one, two) => (self.register(one)?, self.register(two)?),
            other => (self.destination(other)?, Reg::default()),
        };
        for ((slot, operand), file) in inst.src.iter_mut().zip(rest).zip(files) {
            *slot = self.source(operand, file)?;
        }
        self.body.code.push(inst);
        Ok(())
    }

    /// Instructions across the lanes of a warp: their member mask moves to the fourth source.
    fn across(
        &mut self,
        instruction: &Instruction<'a>,
        inst: Inst,
        files: [File; 4],
        sync: bool,
        mask: usize,
    ) -> Result<(), String> {
        self.plain(instruction, inst, files)?;
        let everyone = self.constant(File::Word, u64::from(u32::MAX));
        if let Some(inst) = self.body.code.last_mut() {
            inst.src[3] = if sync { inst.src[mask] } else { everyone };
        }
        Ok(())
    }

    fn mov(&mut self, instruction: &Instruction<'a>, mut inst: Inst) -> Result<(), String> {
        let [to, from] = &instruction.operands[..] else {
            return Err("mov takes two operands".into());
        };
        match (to, from) {
            (Operand::Vector(parts), from) => {
                inst.op = Op::Unpack;
                inst.src[0] = self.source(from, inst.ty.file())?;
                inst.list = parts.iter().map(|part| self.destination(part)).collect::<Result<_, _>>()?;
            }
            (to, Operand::Vector(parts)) => {
                inst.op = Op::Pack;
                inst.dst = self.destination(to)?;
                let bytes = inst.ty.bytes() / parts.len().max(1);
                let file = if bytes == 8 { File::Wide } else { File::Word };
                inst.list = parts.iter().map(|part| self.source(part, file)).collect::<Result<_, _>>()?;
            }
            (
                to,
                Operand::Name(
                    "%clock" | "%clock64" | "%globaltimer" | "%clock_hi" | "%globaltimer_lo" | "%globaltimer_hi",
                ),
            ) => {
                inst.op = Op::Clock;
                inst.dst = self.destination(to)?;
            }
            (to, Operand::Name(name)) if matches!(self.symbol(name), Some(Symbol::Frame(..))) => {
                let Some(Symbol::Frame(at, _)) = self.symbol(name) else {
                    return Err(format!("'{name}' is not declared"));
                };
                inst.op = Op::FrameAddress;
                inst.dst = self.destination(to)?;
                inst.offset = i64::from(at);
            }
            (to, from) => {
                inst.op = Op::Mov;
                inst.dst = self.destination(to)?;
                inst.src[0] = self.source(from, inst.ty.file())?;
            }
        }
        self.body.code.push(inst);
        Ok(())
    }

    /// Fills base, offset and space; parameters of functions and calls are in the frame, which is local memory.
    fn locate(&mut self, operand: &Operand<'a>, inst: &mut Inst, space: Space) -> Result<Space, String> {
        let (base, offset, in_frame) = self.address(operand)?;
        inst.src[0] = base;
        inst.offset = offset;
        Ok(if in_frame { Space::Local } else { space })
    }

    fn load(&mut self, instruction: &Instruction<'a>, mut inst: Inst, space: Space) -> Result<(), String> {
        let [to, from, ..] = &instruction.operands[..] else {
            return Err("ld takes two operands".into());
        };
        inst.op = Op::Load(self.locate(from, &mut inst, space)?);
        inst.list = match to {
            Operand::Vector(parts) => parts.iter().map(|part| self.destination(part)).collect::<Result<_, _>>()?,
            one => [self.destination(one)?].into(),
        };
        self.body.code.push(inst);
        Ok(())
    }

    fn store(&mut self, instruction: &Instruction<'a>, mut inst: Inst, space: Space) -> Result<(), String> {
        let [to, from, ..] = &instruction.operands[..] else {
            return Err("st takes two operands".into());
        };
        inst.op = Op::Store(self.locate(to, &mut inst, space)?);
        let file = inst.ty.file();
        inst.list = match from {
            Operand::Vector(parts) => parts.iter().map(|part| self.source(part, file)).collect::<Result<_, _>>()?,
            one => [self.source(one, file)?].into(),
        };
        self.body.code.push(inst);
        Ok(())
    }

    fn atomic(
        &mut self,
        instruction: &Instruction<'a>,
        mut inst: Inst,
        space: Space,
        operation: Atomic,
        returns: bool,
    ) -> Result<(), String> {
        let operands = &instruction.operands[..];
        let operands = if returns {
            let (to, rest) = operands.split_first().ok_or("atom takes a destination")?;
            inst.dst = self.destination(to)?;
            rest
        } else {
            operands
        };
        let (address, values) = operands.split_first().ok_or("an address is missing")?;
        inst.op = Op::Atomic(self.locate(address, &mut inst, space)?, operation);
        let file = inst.ty.file();
        for (slot, operand) in inst.src[1..3].iter_mut().zip(values) {
            *slot = self.source(operand, file)?;
        }
        self.body.code.push(inst);
        Ok(())
    }

    /// `cp.async`: done at once, so that groups have nothing to wait for.
    fn copy_async(
        &mut self,
        instruction: &Instruction<'a>,
        mut inst: Inst,
        suffixes: &Suffixes<'_>,
    ) -> Result<(), String> {
        if suffixes.first() != "async" || suffixes.has("bulk") || suffixes.has("mbarrier") {
            return Err(Self::unsupported(instruction));
        }
        if suffixes.has("commit_group") || suffixes.has("wait_group") || suffixes.has("wait_all") {
            return Ok(());
        }
        let [to, from, Operand::Literal(bytes), rest @ ..] = &instruction.operands[..] else {
            return Err(Self::unsupported(instruction));
        };
        let (base, offset, _) = self.address(to)?;
        let target = if offset == 0 {
            base
        } else {
            let sum = self.fresh(File::Wide);
            let mut add = Inst::new(Op::Add, Ty::U64, instruction.line);
            add.dst = sum;
            add.src = [base, self.constant(File::Wide, offset as u64), Reg::default(), Reg::default()];
            self.body.code.push(add);
            sum
        };
        let (source, offset, _) = self.address(from)?;
        inst.op = Op::CopyAsync;
        inst.bytes = *bytes as u32;
        inst.offset = offset;
        let given = match rest.first() {
            Some(size) => self.source(size, File::Word)?,
            None => self.constant(File::Word, *bytes),
        };
        inst.src = [source, target, given, Reg::default()];
        self.body.code.push(inst);
        Ok(())
    }

    fn call(&mut self, instruction: &Instruction<'a>, mut inst: Inst) -> Result<(), String> {
        let mut operands = instruction.operands.iter().peekable();
        let mut slots = CallSlots::default();
        if let Some(Operand::List(names)) = operands.peek() {
            slots.results = self.slots(names)?;
            operands.next();
        }
        let Some(Operand::Name(callee)) = operands.next() else {
            return Err(Self::unsupported(instruction));
        };
        if let Some(Operand::List(names)) = operands.next() {
            slots.arguments = self.slots(names)?;
        }
        inst.op = match (*callee, self.symbol(callee)) {
            ("__assertfail", _) => Op::AssertFail,
            ("vprintf", _) => Op::Printf,
            ("malloc", _) => Op::Malloc,
            ("free", _) => Op::Free,
            (_, Some(Symbol::Function(index))) => {
                inst.target = index;
                self.body.calls = true;
                Op::Call
            }
            (_, Some(Symbol::Register(reg))) => {
                inst.src[0] = reg;
                self.body.calls = true;
                Op::CallIndirect
            }
            _ => return Err(format!("function '{callee}' is not declared")),
        };
        inst.call = Some(Box::new(slots));
        self.body.code.push(inst);
        Ok(())
    }

    fn barrier(
        &mut self,
        instruction: &Instruction<'a>,
        mut inst: Inst,
        suffixes: &Suffixes<'_>,
    ) -> Result<(), String> {
        let operands = &instruction.operands[..];
        if suffixes.has("cluster") {
            // A cluster is one block here: arriving needs nobody else, waiting is the block's own barrier.
            if suffixes.has("arrive") {
                return Ok(());
            }
            inst.op = Op::Barrier { arrive: false };
            inst.src[0] = self.constant(File::Word, 15);
            self.body.code.push(inst);
            return Ok(());
        }
        if suffixes.has("warp") {
            inst.op = Op::WarpBarrier;
            inst.src[3] = self.source(operands.first().ok_or("a member mask is missing")?, File::Word)?;
            self.body.code.push(inst);
            return Ok(());
        }
        if suffixes.has("red") {
            let [to, id, middle @ .., predicate] = operands else {
                return Err(Self::unsupported(instruction));
            };
            inst.op = Op::BarrierReduce(suffixes.logic());
            inst.dst = self.destination(to)?;
            inst.src[0] = self.source(id, File::Word)?;
            if let Some(threads) = middle.first() {
                inst.src[1] = self.source(threads, File::Word)?;
            }
            inst.src[2] = self.source(predicate, File::Pred)?;
            inst.saturate = matches!(predicate, Operand::Not(_));
            self.body.code.push(inst);
            return Ok(());
        }
        inst.op = Op::Barrier { arrive: suffixes.has("arrive") };
        inst.src[0] = match operands.first() {
            Some(id) => self.source(id, File::Word)?,
            None => self.constant(File::Word, 0),
        };
        if let Some(threads) = operands.get(1) {
            inst.src[1] = self.source(threads, File::Word)?;
        }
        self.body.code.push(inst);
        Ok(())
    }
}

/// Opcodes whose operands are a destination and sources of one type.
fn plain_op(base: &str, suffixes: &Suffixes<'_>) -> Option<Op> {
    let wrap = suffixes.has("wrap");
    Some(match base {
        "add" => Op::Add,
        "sub" => Op::Sub,
        "fma" => Op::Fma,
        "div" => Op::Div,
        "rem" => Op::Rem,
        "min" => Op::Min,
        "max" => Op::Max,
        "neg" => Op::Neg,
        "abs" => Op::Abs,
        "sad" => Op::Sad,
        "copysign" => Op::Copysign,
        "testp" => match suffixes.first() {
            "finite" => Op::TestFinite,
            "infinite" => Op::TestInfinite,
            "number" => Op::TestNumber,
            "notanumber" => Op::TestNan,
            "normal" => Op::TestNormal,
            _ => Op::TestSubnormal,
        },
        "ex2" => Op::Approx(Approx::Exp2),
        "lg2" => Op::Approx(Approx::Log2),
        "rcp" => Op::Approx(Approx::Reciprocal),
        "sqrt" => Op::Approx(Approx::Sqrt),
        "rsqrt" => Op::Approx(Approx::ReciprocalSqrt),
        "sin" => Op::Approx(Approx::Sin),
        "cos" => Op::Approx(Approx::Cos),
        "tanh" => Op::Approx(Approx::Tanh),
        "and" => Op::And,
        "or" => Op::Or,
        "xor" => Op::Xor,
        "not" => Op::Not,
        "cnot" => Op::Cnot,
        "shf" if suffixes.has("l") => Op::FunnelLeft { wrap },
        "shf" => Op::FunnelRight { wrap },
        "popc" => Op::Popc,
        "clz" => Op::Clz,
        "brev" => Op::Brev,
        "bfind" => Op::Bfind { shift: suffixes.has("shiftamt") },
        "prmt" => Op::Prmt(match () {
            () if suffixes.has("f4e") => PermuteMode::Forward4,
            () if suffixes.has("b4e") => PermuteMode::Backward4,
            () if suffixes.has("rc8") => PermuteMode::Replicate8,
            () if suffixes.has("ecl") => PermuteMode::EdgeLeft,
            () if suffixes.has("ecr") => PermuteMode::EdgeRight,
            () if suffixes.has("rc16") => PermuteMode::Replicate16,
            () => PermuteMode::Index,
        }),
        _ => return None,
    })
}
