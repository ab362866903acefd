//! Instructions in the form in which they are executed: every operand a register, immediates included.

use super::syntax::Space;

/// Type suffix of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

impl Ty {
    /// Type named by a suffix without its dot.
    pub fn named(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    /// Bytes in memory.
    pub fn bytes(self) -> usize {
        match self {
            Self::Pred | Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B32 | Self::U32 | Self::S32 | Self::F32 | Self::F16x2 | Self::Bf16x2 => 4,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
        }
    }

    /// Whether values are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F16x2 | Self::Bf16 | Self::Bf16x2 | Self::F32 | Self::F64)
    }

    /// Whether values are signed integers.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// The register file that holds it.
    pub fn file(self) -> File {
        match self {
            Self::Pred => File::Pred,
            _ if self.bytes() == 8 => File::Wide,
            _ => File::Word,
        }
    }
}

/// Register files of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum File {
    /// No register: `_`, or an operand that is not there.
    #[default]
    None,
    /// One bit a lane.
    Pred,
    /// 32 bits a lane; narrower values lie in the low bits.
    Word,
    /// 64 bits a lane.
    Wide,
}

/// A register of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Reg {
    pub file: File,
    pub index: u32,
}

/// Rounding of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Round {
    /// To nearest, ties to even; for conversions to integers, toward zero.
    #[default]
    Default,
    Nearest,
    Zero,
    Down,
    Up,
    /// To an integer (`.rni`, `.rzi`, `.rmi`, `.rpi`).
    IntegerNearest,
    IntegerZero,
    IntegerDown,
    IntegerUp,
}

/// Comparison of `setp`, `set` and their like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Both operands are numbers.
    Num,
    /// An operand is not a number.
    Nan,
}

/// How a comparison is combined with a further predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    And,
    Or,
    Xor,
}

/// Which part of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Low,
    High,
    Wide,
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
    Increment,
    Decrement,
}

/// How a lane finds the lane it reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Down,
    Up,
    Butterfly,
    Index,
}

/// What a vote answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    Any,
    All,
    Uniform,
    Ballot,
}

/// Functions that the hardware approximates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approx {
    Exp2,
    Log2,
    Reciprocal,
    Sqrt,
    ReciprocalSqrt,
    Sin,
    Cos,
    Tanh,
}

/// What an instruction does; its operand type is in [`Inst::ty`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Nop,
    Mov,
    /// Joins the registers of the list, first in the low bits.
    Pack,
    /// Splits into the registers of the list.
    Unpack,
    Add,
    Sub,
    Mul(Part),
    Mad(Part),
    /// With carry: whether it reads the flag, whether it writes it.
    AddCarry {
        reads: bool,
        writes: bool,
    },
    SubCarry {
        reads: bool,
        writes: bool,
    },
    MadCarry {
        part: Part,
        reads: bool,
        writes: bool,
    },
    Fma,
    Div,
    Rem,
    Min,
    Max,
    Neg,
    Abs,
    Sad,
    Copysign,
    TestFinite,
    TestInfinite,
    TestNumber,
    TestNan,
    TestNormal,
    TestSubnormal,
    Approx(Approx),
    And,
    Or,
    Xor,
    Not,
    /// C's logical not: 1 for zero.
    Cnot,
    Lop3(u8),
    Shl,
    Shr,
    /// Funnel shift left or right; whether the amount wraps (else it is clamped).
    FunnelLeft {
        wrap: bool,
    },
    FunnelRight {
        wrap: bool,
    },
    Popc,
    Clz,
    Brev,
    Bfind {
        shift: bool,
    },
    Bfe,
    Bfi,
    Prmt(PermuteMode),
    Dp4a {
        left_signed: bool,
    },
    Dp2a {
        left_signed: bool,
        high: bool,
    },
    SetPred {
        compare: Compare,
        unordered: bool,
        with: Option<Logic>,
        negate: bool,
    },
    /// `set`: all ones or 1.0, of the type in the field.
    Set {
        compare: Compare,
        unordered: bool,
        result: Ty,
    },
    Select,
    /// `slct`: by the sign of the third operand, which has the type in the field.
    SelectSign(Ty),
    /// From the type in the field.
    Convert {
        from: Ty,
        relu: bool,
    },
    /// `cvt.rn.f16x2.f32 d, high, low`
    ConvertPair,
    Load(Space),
    Store(Space),
    Atomic(Space, Atomic),
    /// `cp.async`: copies of `ty`-less bytes held in [`Inst::offset2`].
    CopyAsync,
    /// To a generic address (true) or from one (false) of this space.
    ToGeneric(Space),
    FromGeneric(Space),
    IsSpace(Space),
    /// Address of a variable in this thread's frame.
    FrameAddress,
    Branch,
    /// `brx.idx`: through [`Inst::targets`].
    BranchIndexed,
    Call,
    CallIndirect,
    Return,
    Exit,
    Trap,
    /// `__assertfail`
    AssertFail,
    /// `vprintf`
    Printf,
    /// Device-side `malloc` and `free`.
    Malloc,
    Free,
    Barrier {
        arrive: bool,
    },
    /// `bar.red`: popc is None.
    BarrierReduce(Option<Logic>),
    WarpBarrier,
    Shuffle(Shuffle),
    Vote {
        vote: Vote,
        negate: bool,
    },
    MatchAny,
    MatchAll,
    Redux(Atomic),
    ActiveMask,
    /// `membar`, `fence`
    Fence,
    /// Lets others run.
    Yield,
    /// `elect.sync`
    Elect,
    /// `%clock64` and its like.
    Clock,
}

/// Modes of `prmt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermuteMode {
    Index,
    Forward4,
    Backward4,
    Replicate8,
    EdgeLeft,
    EdgeRight,
    Replicate16,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    pub op: Op,
    pub ty: Ty,
    /// Runs in lanes where this predicate register is not equal to the flag.
    pub guard: Option<(u32, bool)>,
    pub dst: Reg,
    /// Second result: the predicate of `shfl`, the complement of `setp`.
    pub dst2: Reg,
    pub src: [Reg; 4],
    /// Registers of a vector, or of a pack; else empty.
    pub list: Box<[Reg]>,
    /// Bytes added to the address.
    pub offset: i64,
    /// Bytes of a `cp.async`.
    pub bytes: u32,
    pub round: Round,
    /// Subnormal inputs and results become zero.
    pub flush: bool,
    /// Results are clamped to the type, or to [0, 1].
    pub saturate: bool,
    /// Results that are not a number stay so, in `min` and `max`.
    pub nan: bool,
    /// Branch target, or the function called.
    pub target: u32,
    /// Targets of an indexed branch, or index 0: the call site's slots.
    pub targets: Box<[u32]>,
    /// Frame slots of a call: (offset, bytes) of its arguments, then of its results.
    pub call: Option<Box<CallSlots>>,
    pub line: u32,
}

/// Where a call finds its arguments and puts its results, in the caller's frame: offset and bytes of each.
#[derive(Clone, Debug, Default)]
pub struct CallSlots {
    pub arguments: Vec<(u32, u32)>,
    pub results: Vec<(u32, u32)>,
}

impl Inst {
    /// An instruction that does nothing yet.
    pub fn new(op: Op, ty: Ty, line: u32) -> Self {
        Self {
            op,
            ty,
            guard: None,
            dst: Reg::default(),
            dst2: Reg::default(),
            src: [Reg::default(); 4],
            list: Box::default(),
            offset: 0,
            bytes: 0,
            round: Round::Default,
            flush: false,
            saturate: false,
            nan: false,
            target: 0,
            targets: Box::default(),
            call: None,
            line,
        }
    }

    /// Every register it names, for relocation.
    pub fn registers_mut(&mut self) -> impl Iterator<Item = &mut Reg> {
        [&mut self.dst, &mut self.dst2].into_iter().chain(self.src.iter_mut()).chain(self.list.iter_mut())
    }
}
