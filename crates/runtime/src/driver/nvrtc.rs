//! CUDA C++ to PTX, for the GPU at hand.

use std::ffi::{CStr, CString, c_char};

use cudarc::nvrtc::{result, sys};

use super::Library;
use crate::Error;
use crate::error::Doing;

/// What the compiler made.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// PTX text.
    pub ptx: String,
}

/// The compiler's version, such as (13, 0).
///
/// # Errors
/// A missing library.
pub fn version() -> Result<(u32, u32), Error> {
    Library::Nvrtc.require()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are valid for the call.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result().doing("asking NVRTC for its version")?;
    Ok((major.unsigned_abs(), minor.unsigned_abs()))
}

/// Compiles `source` for a GPU of compute capability `compute`. Takes tens of milliseconds; needs no context.
///
/// # Errors
/// [`Error::Compile`] with the user's lines, a missing library, or a GPU older than the compiler serves.
pub fn compile(source_name: &str, source: &str, options: &[String], compute: (u32, u32)) -> Result<Compiled, Error> {
    Library::Nvrtc.require()?;
    let architecture = architecture(compute)?;
    let text = CString::new(source).map_err(|_| Error::argument(source_name, "the source holds a zero byte"))?;
    let mut all = vec![format!("--gpu-architecture=compute_{architecture}")];
    all.extend(options.iter().cloned());

    let program = Program(result::create_program(&text, Some(FILE)).doing(format!("compiling {source_name}"))?);
    // SAFETY: the program was just made and lives until the end of this function.
    let compiled = unsafe { result::compile_program(program.0, &all) };
    if let Err(error) = compiled {
        // SAFETY: as above; NVRTC keeps the log of a failed compilation.
        let log = unsafe { result::get_program_log(program.0) }.map(|log| text_of(&log)).unwrap_or_default();
        let mut diagnostics = diagnostics(&log);
        if diagnostics.is_empty() {
            diagnostics.push(format!("{:?}", error.0));
        }
        return Err(Error::Compile { source_name: source_name.to_owned(), diagnostics });
    }
    // SAFETY: as above, and it has been compiled.
    let ptx = unsafe { result::get_ptx(program.0) }.doing(format!("compiling {source_name}"))?;
    Ok(Compiled { ptx: text_of(&ptx) })
}

/// What diagnostics call the source; [`diagnostics`] takes it off again.
const FILE: &CStr = c"source.cu";

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `create_program` and destroyed nowhere else.
        if let Err(error) = unsafe { result::destroy_program(self.0) } {
            tracing::warn!(?error, "NVRTC did not take its program back");
        }
    }
}

/// The newest architecture that both the compiler and the GPU know, as the digits of `compute_90`.
fn architecture((major, minor): (u32, u32)) -> Result<u32, Error> {
    let what = "asking NVRTC for its architectures";
    let mut count = 0;
    // SAFETY: the pointer is valid for the call.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) }.result().doing(what)?;
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the list has as many places as the library just said it needs.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result().doing(what)?;
    let gpu = major * 10 + minor;
    known.iter().map(|arch| arch.unsigned_abs()).filter(|&arch| arch <= gpu).max().ok_or_else(|| {
        Error::argument(
            "the GPU",
            format!(
                "compute capability {major}.{minor} is older than this NVRTC compiles for: use an older runtime image"
            ),
        )
    })
}

fn text_of(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The errors of a log, each as `line 3: identifier "foo" is undefined`, without carets and counts.
fn diagnostics(log: &str) -> Vec<String> {
    let prefix = format!("{}(", FILE.to_string_lossy());
    let mut found = Vec::new();
    let mut loose = Vec::new();
    for line in log.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let located = line.strip_prefix(&prefix).and_then(|rest| rest.split_once("): "));
        match located {
            // `error: text`, `error #20: text` or `catastrophic error: text`; warnings and remarks do not stop a program.
            Some((number, rest)) if rest.contains("error") => {
                let text = rest.split_once(": ").map_or(rest, |(_, text)| text);
                found.push(format!("line {number}: {text}"));
            }
            Some(_) => {}
            None => loose.push(line.to_owned()),
        }
    }
    if found.is_empty() { loose } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_the_line_and_warnings_are_left_out() {
        let log = "source.cu(2): warning #177-D: variable \"q\" was declared but never referenced\n      int q;\n          ^\n\n\
                   source.cu(3): error: identifier \"foo\" is undefined\n      foo(1);\n      ^\n\n\
                   source.cu(5): error #20: expected a \";\"\n  }\n  ^\n\n2 errors detected in the compilation of \"source.cu\".\n";
        assert_eq!(diagnostics(log), ["line 3: identifier \"foo\" is undefined", "line 5: expected a \";\""]);
    }

    #[test]
    fn a_log_without_lines_is_kept_whole() {
        let log = "nvrtc: error: failed to open libnvrtc-builtins.so.13.0.\n";
        assert_eq!(diagnostics(log), ["nvrtc: error: failed to open libnvrtc-builtins.so.13.0."]);
    }
}
