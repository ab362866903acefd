//! What kernels ask of the driver: `printf`, `assert`, `malloc`.

use super::Fault;
use super::run::Core;
use super::warp::{Warp, lanes};
use crate::ptx::inst::{Inst, Op};

impl Core<'_, '_> {
    /// The message of a failed assertion, from the arguments of `__assertfail(message, file, line, function, size)`.
    pub(super) fn assertion(&mut self, warp: &mut Warp, inst: &Inst, mask: u32) -> Fault {
        let lane = mask.trailing_zeros() as usize;
        let slots = inst.call.as_ref().map(|call| call.arguments.clone()).unwrap_or_default();
        let argument = |core: &mut Self, warp: &mut Warp, n: usize| {
            slots.get(n).map_or(0, |slot| core.frame_value(warp, *slot, lane))
        };
        let [message, file, line, function] = [0, 1, 2, 3].map(|n| argument(self, warp, n));
        let (message, file, function) =
            (self.text(warp, message, lane), self.text(warp, file, lane), self.text(warp, function, lane));
        let message = format!("{file}:{line}: {function}: Assertion `{message}` failed.");
        self.launch.memory.print(&format!("{message}\n"));
        Fault::Assert { message }
    }

    pub(super) fn system_call(&mut self, warp: &mut Warp, inst: &Inst, mask: u32) -> Result<(), Fault> {
        let Some(call) = inst.call.as_deref() else {
            return Err(Fault::IllegalInstruction { line: inst.line });
        };
        for lane in lanes(mask) {
            let first = call.arguments.first().map_or(0, |slot| self.frame_value(warp, *slot, lane));
            let result = match inst.op {
                Op::Malloc => self.launch.memory.malloc(first),
                Op::Free => {
                    self.launch.memory.free(first);
                    continue;
                }
                _ => {
                    let values = call.arguments.get(1).map_or(0, |slot| self.frame_value(warp, *slot, lane));
                    let text = self.format(warp, first, values, lane);
                    self.launch.memory.print(&text);
                    text.len() as u64
                }
            };
            if let Some(slot) = call.results.first() {
                self.set_frame_value(warp, *slot, lane, result);
            }
        }
        Ok(())
    }

    /// C's `printf` with the arguments in a buffer, each at a multiple of its size.
    fn format(&mut self, warp: &mut Warp, format: u64, values: u64, lane: usize) -> String {
        let format = self.text(warp, format, lane);
        let (mut out, mut at) = (String::new(), values);
        let mut next = |core: &mut Self, warp: &mut Warp, bytes: u64| {
            at = at.next_multiple_of(bytes);
            let value = core.peek(warp, at, lane, bytes as usize).unwrap_or(0);
            at += bytes;
            value
        };
        let mut chars = format.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let (mut flags, mut width, mut precision, mut long) = (String::new(), 0, None, false);
            while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
                flags.push(flag);
            }
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                width = width * 10 + digit as usize - '0' as usize;
            }
            if chars.next_if_eq(&'.').is_some() {
                let mut digits = 0;
                while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                    digits = digits * 10 + digit as usize - '0' as usize;
                }
                precision = Some(digits);
            }
            while let Some(length) = chars.next_if(|c| "hljzt".contains(*c)) {
                long |= length != 'h';
            }
            let integer = if long { 8 } else { 4 };
            let text = match chars.next() {
                Some('d' | 'i') => {
                    let value = next(self, warp, integer);
                    let value = if long { value as i64 } else { i64::from(value as i32) };
                    if flags.contains('+') && value >= 0 { format!("+{value}") } else { value.to_string() }
                }
                Some('u') => next(self, warp, integer).to_string(),
                Some('x') => format!("{:x}", next(self, warp, integer)),
                Some('X') => format!("{:X}", next(self, warp, integer)),
                Some('o') => format!("{:o}", next(self, warp, integer)),
                Some('p') => format!("{:#x}", next(self, warp, 8)),
                Some('c') => char::from(next(self, warp, 4) as u8).to_string(),
                Some('s') => {
                    let address = next(self, warp, 8);
                    let text = self.text(warp, address, lane);
                    precision.map_or(text.clone(), |most| text.chars().take(most).collect())
                }
                Some('f' | 'F') => format!("{:.*}", precision.unwrap_or(6), f64::from_bits(next(self, warp, 8))),
                Some('e' | 'E') => exponential(f64::from_bits(next(self, warp, 8)), precision.unwrap_or(6)),
                Some('g' | 'G') => general(f64::from_bits(next(self, warp, 8)), precision.unwrap_or(6).max(1)),
                Some('%') => "%".to_owned(),
                other => format!("%{}", other.map(String::from).unwrap_or_default()),
            };
            let missing = width.saturating_sub(text.chars().count());
            if flags.contains('-') {
                out += &text;
                out.extend(std::iter::repeat_n(' ', missing));
            } else if flags.contains('0') {
                let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
                out += sign;
                out.extend(std::iter::repeat_n('0', missing));
                out += digits;
            } else {
                out.extend(std::iter::repeat_n(' ', missing));
                out += &text;
            }
        }
        out
    }
}

/// C's `%e`: at least two digits of exponent.
fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        None => text,
    }
}

/// C's `%g`: the shorter of `%f` and `%e`, without trailing zeros.
fn general(value: f64, digits: usize) -> String {
    let exponent = if value == 0.0 || !value.is_finite() { 0 } else { value.abs().log10().floor() as i32 };
    let trim = |text: String| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    if exponent < -4 || exponent >= digits as i32 {
        let text = exponential(value, digits - 1);
        return match text.split_once('e') {
            Some((mantissa, rest)) => format!("{}e{rest}", trim(mantissa.to_owned())),
            None => text,
        };
    }
    trim(format!("{:.*}", (digits as i32 - 1 - exponent).max(0) as usize, value))
}
