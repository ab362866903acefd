//! What can be read off PTX text without a driver: its version, its kernels, and the sizes of their arguments.
//!
//! `cuLaunchKernel` takes an array of pointers without a length and reads as many as the kernel has parameters. Only newer
//! drivers can be asked how many that is, so the declarations in the text are read instead (PTX ISA, "Kernel Function Parameters").

use crate::Error;

/// A `.entry` of PTX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As the code calls it: mangled, if it is not `extern "C"`.
    pub name: String,
    /// Bytes of each argument.
    pub argument_bytes: Vec<usize>,
}

impl Kernel {
    /// # Errors
    /// The sentence that names both lists, if the given sizes are not the kernel's.
    pub fn check_arguments(&self, given: &[usize]) -> Result<(), Error> {
        if given == self.argument_bytes {
            return Ok(());
        }
        let list = |sizes: &[usize]| sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        Err(Error::argument(
            format!("kernel {}", self.name),
            format!(
                "it takes {} arguments of {} bytes, but {} of {} bytes are given (an array or a 64-bit number is 8)",
                self.argument_bytes.len(),
                list(&self.argument_bytes),
                given.len(),
                list(given)
            ),
        ))
    }
}

/// Finds a kernel by the name that the user wrote.
///
/// # Errors
/// The sentence with the names that there are; for a mangled match, how to have it found.
pub fn find<'a>(kernels: &'a [Kernel], name: &str) -> Result<&'a Kernel, Error> {
    if let Some(kernel) = kernels.iter().find(|kernel| kernel.name == name) {
        return Ok(kernel);
    }
    let mangled = format!("_Z{}{name}", name.len());
    let hint = if kernels.iter().any(|kernel| kernel.name.starts_with(&mangled)) {
        format!("; declare it as extern \"C\" __global__ void {name}(…), so that its name is kept")
    } else {
        let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        match names[..] {
            [] => "; the source has no __global__ function".to_owned(),
            _ => format!("; there are: {}", names.join(", ")),
        }
    };
    Err(Error::argument("function", format!("no kernel is named {name}{hint}")))
}

/// The version that `.version` states.
pub fn version(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.trim().strip_prefix(".version")).map(str::trim)
}

/// All kernels of a module, in order.
pub fn kernels(text: &str) -> Vec<Kernel> {
    let text = without_comments(text);
    let mut kernels = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(".entry") {
        rest = &rest[at + ".entry".len()..];
        let end = rest.find(['(', '{', ';']).unwrap_or(rest.len());
        let name = rest[..end].split_whitespace().next().unwrap_or_default().to_owned();
        let mut argument_bytes = Vec::new();
        if rest[end..].starts_with('(')
            && let Some(close) = rest[end..].find(')')
        {
            let list = &rest[end + 1..end + close];
            argument_bytes = list.split(',').filter(|item| item.contains(".param")).map(parameter_bytes).collect();
            rest = &rest[end + close..];
        }
        if !name.is_empty() && !kernels.iter().any(|kernel: &Kernel| kernel.name == name) {
            kernels.push(Kernel { name, argument_bytes });
        }
    }
    kernels
}

/// `.param .align 8 .b8 name[24]` is 24 bytes, `.param .u64 .ptr .align 1 name` is 8.
fn parameter_bytes(declaration: &str) -> usize {
    let element =
        declaration.split_whitespace().filter_map(|word| word.strip_prefix('.')).find_map(type_bytes).unwrap_or(0);
    let count = declaration
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .and_then(|(count, _)| count.trim().parse::<usize>().ok())
        .unwrap_or(1);
    element * count
}

fn type_bytes(word: &str) -> Option<usize> {
    let digits = word.trim_start_matches(['b', 'u', 's', 'f']);
    let kind = &word[..word.len() - digits.len()];
    match (kind, digits) {
        ("b" | "u" | "s", "8") => Some(1),
        ("b" | "u" | "s" | "f", "16") => Some(2),
        ("b" | "u" | "s" | "f", "32") => Some(4),
        ("b" | "u" | "s" | "f", "64") => Some(8),
        ("b", "128") => Some(16),
        _ => None,
    }
}

fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let (line, block) = (rest.find("//"), rest.find("/*"));
        let (at, end) = match (line, block) {
            (Some(line), block) if block.is_none_or(|block| line < block) => (line, rest[line..].find('\n')),
            (_, Some(block)) => (block, rest[block..].find("*/").map(|end| end + 2)),
            _ => break,
        };
        out.push_str(&rest[..at]);
        match end {
            Some(end) => rest = &rest[at + end..],
            None => return out,
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
//
// Generated by NVIDIA NVVM Compiler .entry no
.version 9.0
.target sm_90
.visible .entry saxpy(
	.param .f32 saxpy_param_0,
	.param .u64 .ptr .align 1 saxpy_param_1,
	.param .align 8 .b8 saxpy_param_2[24], /* a struct, by value */
	.param .u32 saxpy_param_3
)
{
	ret;
}
.weak .entry _Z3fooi(.param .u32 p)
{ ret; }
.entry none() .maxntid 32 { ret; }
.entry bare { ret; }
";

    #[test]
    fn kernels_and_argument_sizes_are_read() {
        let found = kernels(TEXT);
        let names: Vec<&str> = found.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, ["saxpy", "_Z3fooi", "none", "bare"]);
        assert_eq!(found[0].argument_bytes, [4, 8, 24, 4]);
        assert!(found[2].argument_bytes.is_empty());
        assert_eq!(version(TEXT), Some("9.0"));
    }

    #[test]
    fn a_wrong_call_is_refused_with_both_lists() {
        let found = kernels(TEXT);
        assert!(found[0].check_arguments(&[4, 8, 24, 4]).is_ok());
        let message = found[0].check_arguments(&[4, 8]).unwrap_err().to_string();
        assert!(message.contains("takes 4 arguments of 4, 8, 24, 4 bytes, but 2 of 4, 8 bytes"), "{message}");
    }

    #[test]
    fn a_mangled_kernel_is_explained() {
        let found = kernels(TEXT);
        assert!(find(&found, "foo").unwrap_err().to_string().contains("extern \"C\""));
        assert!(find(&found, "bar").unwrap_err().to_string().contains("there are: saxpy"));
        assert_eq!(find(&found, "none").unwrap().name, "none");
    }
}
