//! The grammar of PTX: module directives, variables, functions, and instructions with their operands still as names.

use super::PtxError;
use super::lex::{Token, tokens};

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
    Generic,
}

/// A declared variable or parameter.
#[derive(Clone, Debug)]
pub struct Variable<'a> {
    pub space: Space,
    pub name: &'a str,
    pub align: usize,
    /// Bytes of one element.
    pub element: usize,
    /// Bytes of the whole; 0 for an array without a length.
    pub size: usize,
    pub initial: Vec<Initial<'a>>,
    pub line: u32,
}

/// One element of an initialiser.
#[derive(Clone, Copy, Debug)]
pub enum Initial<'a> {
    Value(u64),
    /// Address of a symbol plus bytes; `generic` asks for the generic address.
    Address(&'a str, i64),
}

/// A kernel (`.entry`) or a device function (`.func`).
#[derive(Clone, Debug)]
pub struct Function<'a> {
    pub name: &'a str,
    pub entry: bool,
    pub params: Vec<Variable<'a>>,
    pub results: Vec<Variable<'a>>,
    /// None for a declaration.
    pub body: Option<Vec<Statement<'a>>>,
    /// Most threads in a block, from `.maxntid` or `.reqntid`; 0 when not said.
    pub max_threads: u32,
}

#[derive(Clone, Debug)]
pub enum Statement<'a> {
    Open,
    Close,
    Label(&'a str),
    /// `.reg .b32 %r<5>`: type, name, and how many (None: the name itself).
    Registers(&'a str, &'a str, Option<u32>),
    Variable(Variable<'a>),
    BranchTargets(&'a str, Vec<&'a str>),
    Instruction(Instruction<'a>),
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub struct Instruction<'a> {
    /// Guard predicate, and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    pub line: u32,
}

#[derive(Clone, Debug)]
pub enum Operand<'a> {
    /// A register, symbol, label or special register.
    Name(&'a str),
    /// `!%p`
    Not(&'a str),
    /// Bits of a literal, and whether it was a float literal of 32 bits (`0f…`).
    Literal(u64),
    /// `[base+offset]`; the base is a name or a literal.
    Address(Option<&'a str>, i64),
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `d|p`
    Pair(&'a str, &'a str),
    /// `(a, b)` of a call.
    List(Vec<&'a str>),
}

/// A whole text.
#[derive(Clone, Debug, Default)]
pub struct Source<'a> {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// `.target`, its first word, such as `sm_90`.
    pub target: &'a str,
    pub variables: Vec<Variable<'a>>,
    pub functions: Vec<Function<'a>>,
}

/// Value of a literal: integer (decimal, `0x`, octal, binary, `U`), `0f…` or `0d…` bits.
pub fn literal(text: &str) -> Option<u64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if !digits.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0f").or_else(|| digits.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).ok().map(u64::from);
    }
    if let Some(hex) = digits.strip_prefix("0d").or_else(|| digits.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    let digits = digits.trim_end_matches('U');
    let value = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()?
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8).ok()?
    } else {
        digits.parse().ok()?
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

/// Bytes of a fundamental type such as `.b32`.
pub fn type_bytes(directive: &str) -> Option<usize> {
    Some(match directive.strip_prefix('.')? {
        "b8" | "u8" | "s8" | "e4m3" | "e5m2" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

/// Reads a whole text.
pub fn parse(text: &str) -> Result<Source<'_>, PtxError> {
    let tokens = tokens(text)?;
    let last_line = tokens.last().map_or(1, |t| t.line);
    Parser { tokens, next: 0, last_line }.module()
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
    last_line: u32,
}

type Parsed<T> = Result<T, PtxError>;

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.next).map_or("", |t| t.text)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.next).map_or(self.last_line, |t| t.line)
    }

    fn take(&mut self) -> Parsed<&'a str> {
        let token =
            self.tokens.get(self.next).ok_or_else(|| PtxError::new(self.last_line, "the text ends too early"))?;
        self.next += 1;
        Ok(token.text)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.peek() == text;
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, text: &str) -> Parsed<()> {
        if self.eat(text) { Ok(()) } else { Err(self.error(format!("expected '{text}', found '{}'", self.peek()))) }
    }

    fn error(&self, what: impl Into<String>) -> PtxError {
        PtxError::new(self.line(), what)
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Parsed<T> {
        let text = self.take()?;
        let value = literal(text).and_then(|v| T::try_from(v).ok());
        value.ok_or_else(|| self.error(format!("'{text}' is not a number that fits here")))
    }

    fn skip_statement(&mut self) -> Parsed<()> {
        while self.take()? != ";" {}
        Ok(())
    }

    fn skip_braces(&mut self) -> Parsed<()> {
        let mut depth = 0;
        loop {
            match self.take()? {
                "{" => depth += 1,
                "}" if depth == 1 => return Ok(()),
                "}" => depth -= 1,
                _ => {}
            }
        }
    }

    fn module(mut self) -> Parsed<Source<'a>> {
        let mut source = Source::default();
        while self.next < self.tokens.len() {
            match self.peek() {
                ".version" => {
                    self.next += 1;
                    let text = self.take()?;
                    let version = text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                    source.version = version.ok_or_else(|| self.error(format!("'{text}' is not a PTX version")))?;
                }
                ".target" => {
                    self.next += 1;
                    source.target = self.take()?;
                    while self.eat(",") {
                        self.take()?;
                    }
                }
                ".address_size" => {
                    self.next += 1;
                    if self.take()? != "64" {
                        return Err(self.error("only 64-bit addresses are supported"));
                    }
                }
                ".visible" | ".extern" | ".weak" | ".common" => self.next += 1,
                ".entry" | ".func" => {
                    let function = self.function()?;
                    source.functions.push(function);
                }
                ".global" | ".const" | ".shared" => {
                    let list = self.variables()?;
                    source.variables.extend(list);
                }
                ".file" => {
                    let line = self.line();
                    while self.next < self.tokens.len() && self.line() == line {
                        self.next += 1;
                    }
                }
                ".section" => self.skip_braces()?,
                ".alias" | ".pragma" => self.skip_statement()?,
                ";" => self.next += 1,
                other => return Err(self.error(format!("unexpected '{other}' at module level"))),
            }
        }
        if source.version == (0, 0) {
            return Err(PtxError::new(1, "no .version directive: this is not PTX"));
        }
        Ok(source)
    }

    fn function(&mut self) -> Parsed<Function<'a>> {
        let entry = self.take()? == ".entry";
        let results = if self.peek() == "(" { self.parameters()? } else { Vec::new() };
        let name = self.take()?;
        let params = if self.peek() == "(" { self.parameters()? } else { Vec::new() };
        let mut max_threads = 0u32;
        loop {
            match self.peek() {
                ".maxntid" | ".reqntid" => {
                    self.next += 1;
                    max_threads = self.number()?;
                    while self.eat(",") {
                        max_threads = max_threads.saturating_mul(self.number()?);
                    }
                }
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".maxclusterrank" => {
                    self.next += 1;
                    self.take()?;
                }
                ".reqnctapercluster" => {
                    self.next += 1;
                    self.take()?;
                    while self.eat(",") {
                        self.take()?;
                    }
                }
                ".noreturn" | ".explicitcluster" | ".blocksareclusters" => self.next += 1,
                ".pragma" => self.skip_statement()?,
                _ => break,
            }
        }
        let body = if self.eat(";") {
            None
        } else {
            self.expect("{")?;
            Some(self.body()?)
        };
        Ok(Function { name, entry, params, results, body, max_threads })
    }

    fn parameters(&mut self) -> Parsed<Vec<Variable<'a>>> {
        self.expect("(")?;
        let mut list = Vec::new();
        while !self.eat(")") {
            if self.peek() == ".reg" {
                return Err(self.error("parameters in registers are not supported"));
            }
            list.push(self.variable()?);
            self.eat(",");
        }
        Ok(list)
    }

    /// A declaration with its semicolon; several names may share it.
    fn variables(&mut self) -> Parsed<Vec<Variable<'a>>> {
        let first = self.variable()?;
        let mut list = vec![first];
        while self.eat(",") {
            let mut more = list[0].clone();
            more.initial.clear();
            more.size = more.element;
            self.declarator(&mut more)?;
            list.push(more);
        }
        self.expect(";")?;
        Ok(list)
    }

    fn variable(&mut self) -> Parsed<Variable<'a>> {
        let line = self.line();
        let space = match self.take()? {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            other => return Err(self.error(format!("unexpected '{other}' in a declaration"))),
        };
        let (mut align, mut element, mut vector) = (None, 0, 1);
        loop {
            match self.peek() {
                ".align" => {
                    self.next += 1;
                    align = Some(self.number()?);
                }
                // Attributes of the memory pointed to, not of the parameter.
                ".ptr" => {
                    self.next += 1;
                    while self.peek().starts_with('.') {
                        if self.take()? == ".align" {
                            self.take()?;
                        }
                    }
                }
                ".v2" => {
                    self.next += 1;
                    vector = 2;
                }
                ".v4" => {
                    self.next += 1;
                    vector = 4;
                }
                ".attribute" => while self.take()? != ")" {},
                word if word.starts_with('.') => {
                    element = type_bytes(word).ok_or_else(|| self.error(format!("unknown type '{word}'")))?;
                    self.next += 1;
                }
                _ => break,
            }
        }
        let element = element * vector;
        let mut variable = Variable {
            space,
            name: "",
            align: align.unwrap_or(element).max(1),
            element,
            size: element,
            initial: Vec::new(),
            line,
        };
        self.declarator(&mut variable)?;
        Ok(variable)
    }

    /// Name, dimensions and initialiser.
    fn declarator(&mut self, variable: &mut Variable<'a>) -> Parsed<()> {
        variable.name = self.take()?;
        while self.eat("[") {
            let count = if self.peek() == "]" { 0 } else { self.number::<usize>()? };
            variable.size = variable.size.checked_mul(count).ok_or_else(|| self.error("array too large"))?;
            self.expect("]")?;
        }
        if self.eat("=") {
            self.initialiser(variable)?;
        }
        Ok(())
    }

    fn initialiser(&mut self, variable: &mut Variable<'a>) -> Parsed<()> {
        if self.eat("{") {
            while !self.eat("}") {
                self.initialiser(variable)?;
                self.eat(",");
            }
            return Ok(());
        }
        let word = self.take()?;
        let value = match literal(word) {
            Some(value) => Initial::Value(value),
            None if word == "generic" => {
                self.expect("(")?;
                let name = self.take()?;
                self.expect(")")?;
                Initial::Address(name, self.plus()?)
            }
            None => Initial::Address(word, self.plus()?),
        };
        variable.initial.push(value);
        Ok(())
    }

    fn plus(&mut self) -> Parsed<i64> {
        if self.eat("+") { Ok(self.number::<u64>()? as i64) } else { Ok(0) }
    }

    fn body(&mut self) -> Parsed<Vec<Statement<'a>>> {
        let (mut list, mut depth) = (Vec::new(), 0);
        loop {
            match self.peek() {
                "{" => {
                    self.next += 1;
                    depth += 1;
                    list.push(Statement::Open);
                }
                "}" => {
                    self.next += 1;
                    if depth == 0 {
                        return Ok(list);
                    }
                    depth -= 1;
                    list.push(Statement::Close);
                }
                ";" => self.next += 1,
                ".reg" => self.registers(&mut list)?,
                ".local" | ".shared" | ".param" => list.extend(self.variables()?.into_iter().map(Statement::Variable)),
                ".loc" => {
                    let line = self.line();
                    while self.line() == line {
                        self.take()?;
                    }
                }
                ".pragma" => self.skip_statement()?,
                word => {
                    if self.tokens.get(self.next + 1).is_some_and(|t| t.text == ":") {
                        self.next += 2;
                        match self.peek() {
                            ".callprototype" => self.skip_statement()?,
                            ".branchtargets" => {
                                self.next += 1;
                                let mut targets = vec![self.take()?];
                                while self.eat(",") {
                                    targets.push(self.take()?);
                                }
                                self.expect(";")?;
                                list.push(Statement::BranchTargets(word, targets));
                            }
                            _ => list.push(Statement::Label(word)),
                        }
                    } else {
                        let instruction = self.instruction()?;
                        list.push(Statement::Instruction(instruction));
                    }
                }
            }
        }
    }

    fn registers(&mut self, list: &mut Vec<Statement<'a>>) -> Parsed<()> {
        self.expect(".reg")?;
        let ty = self.take()?;
        loop {
            let name = self.take()?;
            let count = if self.eat("<") {
                let count = self.number()?;
                self.expect(">")?;
                Some(count)
            } else {
                None
            };
            list.push(Statement::Registers(ty, name, count));
            if !self.eat(",") {
                return self.expect(";");
            }
        }
    }

    fn instruction(&mut self) -> Parsed<Instruction<'a>> {
        let line = self.line();
        let guard = if self.eat("@") {
            let negated = self.eat("!");
            Some((self.take()?, negated))
        } else {
            None
        };
        let opcode = self.take()?;
        let mut operands = Vec::new();
        while !self.eat(";") {
            operands.push(self.operand()?);
            if !self.eat(",") {
                self.expect(";")?;
                break;
            }
        }
        Ok(Instruction { guard, opcode, operands, line })
    }

    fn operand(&mut self) -> Parsed<Operand<'a>> {
        match self.peek() {
            "[" => {
                self.next += 1;
                let base = self.take()?;
                let operand = match literal(base) {
                    Some(value) => Operand::Address(None, value as i64),
                    None => Operand::Address(Some(base), self.plus()?),
                };
                self.expect("]")?;
                Ok(operand)
            }
            "{" => {
                self.next += 1;
                let mut list = Vec::new();
                while !self.eat("}") {
                    list.push(self.operand()?);
                    self.eat(",");
                }
                Ok(Operand::Vector(list))
            }
            "(" => {
                self.next += 1;
                let mut list = Vec::new();
                while !self.eat(")") {
                    list.push(self.take()?);
                    self.eat(",");
                }
                Ok(Operand::List(list))
            }
            "!" => {
                self.next += 1;
                Ok(Operand::Not(self.take()?))
            }
            _ => {
                let word = self.take()?;
                if let Some(value) = literal(word) {
                    return Ok(Operand::Literal(value));
                }
                if self.eat("|") { Ok(Operand::Pair(word, self.take()?)) } else { Ok(Operand::Name(word)) }
            }
        }
    }
}
