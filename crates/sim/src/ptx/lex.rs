//! Splits PTX text into tokens.

use super::PtxError;

/// One token: its text and the line it stands on (from 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// A word (name, opcode with its dots, directive, number), a quoted string with its quotes, or one punctuation mark.
    pub text: &'a str,
    /// Line in the source, from 1.
    pub line: u32,
}

fn in_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// Tokens of `source`, without comments and white space. A minus sign directly before a digit belongs to the number.
pub fn tokens(source: &str) -> Result<Vec<Token<'_>>, PtxError> {
    let bytes = source.as_bytes();
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let (mut i, mut line, mut out) = (0, 1u32, Vec::with_capacity(source.len() / 4));
    while i < bytes.len() {
        let c = bytes[i];
        let start = i;
        match c {
            b'\n' => {
                line += 1;
                i += 1;
                continue;
            }
            // Drivers accept a text that ends in NUL.
            0 => break,
            _ if c.is_ascii_whitespace() => {
                i += 1;
                continue;
            }
            b'/' if at(i + 1) == b'/' => {
                while i < bytes.len() && bytes[i] != b'\n' {
                    i += 1;
                }
                continue;
            }
            b'/' if at(i + 1) == b'*' => {
                let end = source[i + 2..].find("*/").ok_or_else(|| PtxError::new(line, "comment without end"))?;
                line += source[i..i + 2 + end].matches('\n').count() as u32;
                i += end + 4;
                continue;
            }
            b'"' => {
                let end = source[i + 1..].find('"').ok_or_else(|| PtxError::new(line, "string without end"))?;
                i += end + 2;
            }
            b'-' if at(i + 1).is_ascii_digit() => {
                i += 1;
                while in_word(at(i)) {
                    i += 1;
                }
            }
            _ if in_word(c) => loop {
                if in_word(at(i)) {
                    i += 1;
                } else if at(i) == b':' && at(i + 1) == b':' {
                    i += 2;
                } else {
                    break;
                }
            },
            _ if c.is_ascii() => i += 1,
            _ => return Err(PtxError::new(line, "character outside ASCII")),
        }
        out.push(Token { text: &source[start..i], line });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_dots_and_numbers_their_sign() {
        let text = "@!%p1 ld.shared::cta.u32 %r1, [%rd2+-8]; // note\n/* a\nb */ $L:";
        let all: Vec<_> = tokens(text).unwrap().iter().map(|t| (t.text, t.line)).collect();
        assert_eq!(
            all,
            [
                ("@", 1),
                ("!", 1),
                ("%p1", 1),
                ("ld.shared::cta.u32", 1),
                ("%r1", 1),
                (",", 1),
                ("[", 1),
                ("%rd2", 1),
                ("+", 1),
                ("-8", 1),
                ("]", 1),
                (";", 1),
                ("$L", 3),
                (":", 3)
            ]
        );
    }

    #[test]
    fn an_unfinished_comment_is_named_with_its_line() {
        assert_eq!(tokens("\n/* never").unwrap_err().line, 2);
    }
}
