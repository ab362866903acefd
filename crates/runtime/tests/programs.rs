//! `weft-runtime run` and `probe`, as a user types them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in helpers of tests too, a failed expectation is the message"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use common::{bare_runtime, example, result_of, run_file, run_program, runtime, signal};
use serde_json::Value;

fn error(result: &Value) -> &str {
    result["error"].as_str().unwrap_or_else(|| panic!("no error in {result}"))
}

#[test]
fn saxpy_runs_and_its_result_is_reported() {
    let (result, code) = run_file(&example("saxpy.yaml"));
    assert_eq!((code, &result["ok"], &result["error"]), (0, &Value::Bool(true), &Value::Null), "{result}");
    assert_eq!(result["gpus"].as_array().unwrap().len(), 8);
    assert!(result["note"].as_str().unwrap().contains("this one had 8 and used the first"), "{result}");
    assert_eq!(result["steps"][0]["name"], "saxpy");
    assert_eq!((&result["checks"][0]["name"], &result["checks"][0]["ok"]), (&"y is 2x+1".into(), &true.into()));
    // Computed apart from Weft: the bytes of numpy.arange(1048576, dtype='<f4') * 2 + 1.
    let expected: Vec<u8> = (0..1_048_576u32).flat_map(|i| (2.0 * i as f32 + 1.0).to_le_bytes()).collect();
    use sha2::{Digest, Sha256};
    let digest: String = Sha256::digest(&expected).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(result["saved"][0]["sha256"], digest);
    assert_eq!(result["saved"][0]["head"][3], 7.0);
}

#[test]
fn library_calls_agree_with_the_cpu() {
    let (result, code) = run_file(&example("gemm-fft-spmv.yaml"));
    assert_eq!((code, &result["ok"]), (0, &Value::Bool(true)), "{result}");
    assert_eq!(result["checks"].as_array().unwrap().len(), 3);
    let kinds: Vec<&str> =
        result["steps"].as_array().unwrap().iter().map(|step| step["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["gemm", "fft", "spmv"]);
    assert_eq!(result["steps"][0]["rate"]["unit"], "GFLOP/s");
}

#[test]
fn every_type_shape_and_option_agrees_with_the_cpu() {
    let (result, code) = run_program(
        "
arrays:
  - {name: a, dtype: f64, shape: [7, 5], fill: {random: {seed: 1}}}
  - {name: at, dtype: f64, shape: [5, 7], fill: {random: {seed: 2}}}
  - {name: b, dtype: f64, shape: [5, 9], fill: {random: {seed: 3}}}
  - {name: bt, dtype: f64, shape: [9, 5], fill: {random: {seed: 4}}}
  - {name: c, dtype: f64, shape: [7, 9], fill: {random: {seed: 5}}}
  - {name: h1, dtype: f16, shape: [16, 8], fill: {random: {seed: 6}}}
  - {name: h2, dtype: f16, shape: [8, 24], fill: {random: {seed: 7}}}
  - {name: h3, dtype: f16, shape: [16, 24]}
  - {name: g1, dtype: bf16, shape: [16, 8], fill: {random: {seed: 6}}}
  - {name: g2, dtype: bf16, shape: [8, 24], fill: {random: {seed: 7}}}
  - {name: g3, dtype: bf16, shape: [16, 24]}
  - {name: r, dtype: f64, shape: [3, 10], fill: {random: {seed: 8}}}
  - {name: s, dtype: c64, shape: [3, 6]}
  - {name: t, dtype: f64, shape: [3, 10]}
  - {name: z, dtype: c32, shape: [2, 5, 12], fill: {random: {seed: 9}}}
  - {name: x, dtype: f64, shape: [3], fill: {values: [1, 10, 100]}}
  - {name: y, dtype: f64, shape: [2], fill: {values: [1, 2]}}
matrices:
  - {name: m, dtype: f64, shape: [2, 3], csr: {rowOffsets: [0, 2, 3], columns: [0, 2, 1], values: [2, 3, 4]}}
steps:
  - {name: plain, gemm: {a: a, b: b, c: c}}
  - {name: both, gemm: {a: at, b: bt, c: c, transposeA: true, transposeB: true, alpha: -0.5, beta: 2}}
  - {name: half, gemm: {a: h1, b: h2, c: h3}}
  - {name: brain, gemm: {a: g1, b: g2, c: g3}}
  - {name: real, fft: {input: r, output: s}}
  - {name: back, fft: {input: s, output: t, direction: inverse}}
  - {name: in place, fft: {input: z, output: z}}
  - {name: sparse, spmv: {matrix: m, x: x, y: y, alpha: 2, beta: 3}}
  - {check: {step: plain, against: cpu}}
  - {check: {step: both, against: cpu}}
  - {check: {step: half, against: cpu}}
  - {check: {step: brain, against: cpu}}
  - {check: {step: real, against: cpu}}
  - {check: {step: back, against: cpu}}
  - {check: {step: in place, against: cpu}}
  - {check: {step: sparse, against: cpu}}
save: [{array: y}]
",
    );
    assert_eq!((code, &result["ok"]), (0, &Value::Bool(true)), "{result:#}");
    // 2·(2·1 + 3·100) + 3·1 and 2·(4·10) + 3·2
    assert_eq!(result["saved"][0]["head"], serde_json::json!([607.0, 86.0]));
}

#[test]
fn a_wrong_result_fails_the_check_and_names_the_place() {
    for (dtype, value) in
        [("f32", "0.5"), ("f16", "0.5"), ("bf16", "0.5"), ("f64", "0.5"), ("i32", "7"), ("u8", "7"), ("c64", "0.5")]
    {
        let program = |constant: &str| {
            format!(
                "arrays: [{{name: x, dtype: {dtype}, shape: [3000], fill: {{constant: {value}}}}}]\n\
                 steps: [{{name: same, check: {{array: x, equals: {{constant: {constant}}}}}}}]\n"
            )
        };
        let (result, code) = run_program(&program(value));
        assert_eq!(code, 0, "{dtype}: {result}");
        let (result, code) = run_program(&program("2"));
        assert_eq!((code, &result["ok"], &result["checks"][0]["ok"]), (1, &false.into(), &false.into()), "{dtype}");
        let message = result["checks"][0]["message"].as_str().unwrap();
        assert!(message.starts_with("x[0] is ") && message.contains("3000 of 3000 values"), "{dtype}: {message}");
        assert!(error(&result).contains("\"same\" does not hold"));
    }
}

#[test]
fn one_wrong_element_among_many_is_found() {
    let source = "extern \"C\" __global__ void spoil(float *x) { x[70001] = 1; }";
    let (result, code) = run_program(&format!(
        "arrays: [{{name: x, dtype: f32, shape: [100000]}}]\nsources: [{{name: s, cuda: '{source}'}}]\n\
         steps:\n  - launch: {{source: s, function: spoil, grid: [1], block: [1], args: [{{array: x}}]}}\n  \
         - check: {{array: x, equals: {{constant: 0}}}}\n"
    ));
    assert_eq!(code, 1);
    let message = result["checks"][0]["message"].as_str().unwrap();
    assert!(message.contains("x[70001] is 1") && message.contains("1 of 100000"), "{message}");
}

#[test]
fn cuda_that_does_not_compile_is_reported_with_the_users_line() {
    let (result, code) = run_program(
        "
sources:
  - name: saxpy
    cuda: |
      extern \"C\" __global__ void saxpy(float *y) {
          int unused = 1;
          y[0] = missing;
      }
steps: [{launch: {source: saxpy, function: saxpy, grid: [1], block: [1]}}]
",
    );
    assert_eq!(code, 1);
    assert_eq!(error(&result), "program.sources[0] \"saxpy\": line 3: identifier \"missing\" is undefined");
}

#[test]
fn a_kernel_called_wrongly_is_refused_before_it_runs() {
    let call = |source: &str, function: &str, args: &str| {
        let (result, code) = run_program(&format!(
            "arrays: [{{name: x, dtype: f32, shape: [4]}}]\nsources: [{{name: s, cuda: '{source}'}}]\n\
             steps: [{{launch: {{source: s, function: {function}, grid: [1], block: [1], args: [{args}]}}}}]\n"
        ));
        assert_eq!(code, 1);
        error(&result).to_owned()
    };
    let right = "extern \"C\" __global__ void k(float *x, int n) {}";
    assert!(call(right, "k", "{array: x}").contains("it takes 2 arguments of 8, 4 bytes, but 1 of 8 bytes"));
    assert!(call(right, "k", "{array: x}, {f64: 1}").contains("8, 8 bytes"));
    assert!(call(right, "q", "").contains("no kernel is named q; there are: k"));
    assert!(call("__global__ void k(float *x) {}", "k", "{array: x}").contains("extern \"C\""));
}

#[test]
fn a_kernel_that_leaves_its_memory_fails_the_program_with_the_step() {
    let source = "extern \"C\" __global__ void wild(float *x) { x[1ull << 40] = 1; }";
    let (result, code) = run_program(&format!(
        "arrays: [{{name: x, dtype: f32, shape: [4]}}]\nsources: [{{name: s, cuda: '{source}'}}]\n\
         steps: [{{name: run wild, launch: {{source: s, function: wild, grid: [1], block: [1], args: [{{array: x}}]}}}}]\n"
    ));
    assert_eq!(code, 1);
    let message = error(&result);
    assert!(message.starts_with("program.steps[0] \"run wild\"") && message.contains("700"), "{message}");
}

#[test]
fn a_wrong_program_is_refused_without_a_gpu_and_names_its_fields() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("program.yaml");
    std::fs::write(
        &file,
        "arrays: [{name: a, dtype: f32, shape: [256, 128]}, {name: b, dtype: f32, shape: [64, 192]}]\n\
         steps: [{gemm: {a: a, b: b, c: c}}, {gemm: {a: a, b: b, c: a}}]\n",
    )
    .unwrap();
    let (result, code) = result_of(bare_runtime().arg("run").arg(&file).arg("--json").output().unwrap());
    assert_eq!(code, 2);
    assert!(error(&result).contains("program.steps[0].gemm.c: no array is named \"c\""), "{result}");
    assert!(error(&result).contains("inner dimensions 128 and 64 differ"), "{result}");
}

#[test]
fn arrays_that_no_gpu_holds_are_refused_before_one_is_filled() {
    // The file does not exist: whoever fills the first array before the sum is known says so instead.
    let (result, code) = run_program(
        "
arrays:
  - {name: small, dtype: f32, shape: [4], file: {path: none.raw}}
  - {name: large, dtype: f32, shape: [15000000000]}
  - {name: as large, dtype: f32, shape: [15000000000]}
steps: [{check: {array: small, equals: {constant: 0}}}]
",
    );
    assert_eq!(code, 1);
    let sentence = error(&result);
    let free = sentence
        .strip_prefix("program.arrays[1] \"large\": the arrays take 120.0 GB and GPU 0 has ")
        .and_then(|rest| rest.strip_suffix(" GB free: use smaller arrays"))
        .unwrap_or_else(|| panic!("{sentence}"));
    assert!((1.0..120.0).contains(&free.parse::<f64>().unwrap()), "{sentence}");
}

#[test]
fn files_are_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("v.raw"), [1.0f32, 2.0, 3.0].map(f32::to_le_bytes).concat()).unwrap();
    std::fs::write(path("m.mtx"), "%%MatrixMarket matrix coordinate real general\n3 3 3\n1 3 1\n2 2 1\n3 1 1\n")
        .unwrap();
    let program = "
arrays:
  - {name: v, dtype: f32, shape: [3], file: {path: v.raw}}
  - {name: w, dtype: f32, shape: [3]}
matrices:
  - {name: m, dtype: f32, shape: [3, 3], file: {path: m.mtx}}
steps: [{spmv: {matrix: m, x: v, y: w}}]
save: [{array: w, file: {path: w.npy}}]
";
    std::fs::write(path("p.yaml"), program).unwrap();
    let (result, code) = run_file(&path("p.yaml"));
    assert_eq!(code, 0, "{result}");
    assert_eq!(result["saved"][0]["head"], serde_json::json!([3.0, 2.0, 1.0]));
    let again = "arrays: [{name: w, dtype: f32, shape: [3], file: {path: w.npy}}]\nsteps: [{check: {array: w, equals: {constant: 3}}}]\n";
    std::fs::write(path("q.yaml"), again).unwrap();
    let (result, _) = run_file(&path("q.yaml"));
    assert!(error(&result).contains("w[1] is 2"), "{result}");
    std::fs::write(path("r.yaml"), again.replace("[3]", "[4]")).unwrap();
    assert!(error(&run_file(&path("r.yaml")).0).contains("w.npy: its shape is [3]"));
}

#[test]
fn a_file_that_cannot_be_written_whole_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let program = "arrays: [{name: w, dtype: f32, shape: [5000000]}]\n\
                   steps: [{check: {array: w, equals: {constant: 0}}}]\n\
                   save: [{array: w, file: {path: w.npy}}]\n";
    std::fs::write(path("p.yaml"), program).unwrap();
    std::fs::write(path("w.npy"), "of before").unwrap();
    // A limit on the size of files, as a full disk: 8 or 16 MiB, by the shell's blocks, of 20 MB. The simulator needs some.
    let limited = runtime();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 16384; exec \"$@\"", "sh"]).arg(limited.get_program());
    command.envs(limited.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (result, code) = result_of(command.arg("run").arg(path("p.yaml")).arg("--json").output().unwrap());
    assert_eq!(code, 1);
    assert!(error(&result).starts_with("program.save[0]: w.npy: File too large"), "{result}");
    let names = || {
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(std::fs::read_to_string(path("w.npy")).unwrap(), "of before");
    assert_eq!(names(), ["p.yaml", "w.npy"]);

    std::fs::remove_file(path("w.npy")).unwrap();
    std::os::unix::fs::symlink("there.npy", path("w.npy")).unwrap();
    std::fs::write(path("there.npy"), "of before").unwrap();
    let (result, code) = run_file(&path("p.yaml"));
    assert_eq!(code, 0, "{result}");
    let there = std::fs::symlink_metadata(path("there.npy")).unwrap();
    assert!(there.is_file() && there.len() > 20_000_000, "a link is followed, and stays");
    assert_eq!(there.mode(), std::fs::metadata(path("p.yaml")).unwrap().mode(), "others may read it as any new file");
    assert_eq!(names(), ["p.yaml", "there.npy", "w.npy"]);
}

/// A pipe that nobody reads any more.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn an_answer_that_nobody_wants_is_no_failure_and_one_that_cannot_be_written_is() {
    let program = example("saxpy.yaml").display().to_string();
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    for arguments in [&["probe"][..], &["probe", "--json"], &["run", &program], &["run", &program, "--json"]] {
        let run = |out: Stdio| runtime().args(arguments).stdout(out).stderr(Stdio::piped()).spawn().unwrap();
        let output = run(closed_pipe()).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
        let output = run(full()).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        let sentence = "weft-runtime: cannot print the answer: No space left on device (os error 28)\n";
        assert_eq!(said, sentence, "{arguments:?}");
    }
}

#[test]
fn the_result_is_left_for_kubelet_where_it_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("termination-log");
    std::fs::write(&log, "").unwrap();
    let output = runtime()
        .arg("run")
        .arg(example("saxpy.yaml"))
        .args(["--json", "--termination-log"])
        .arg(&log)
        .output()
        .unwrap();
    let left = std::fs::read_to_string(&log).unwrap();
    assert_eq!(left, String::from_utf8(output.stdout).unwrap().trim_end());
    assert!(left.len() <= 4096);
}

#[test]
fn sigterm_ends_a_program_with_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("program.yaml");
    std::fs::write(
        &file,
        "sources: [{name: s, cuda: 'extern \"C\" __global__ void forever(volatile int *x) { while (*x == 0) {} }'}]\n\
         arrays: [{name: x, dtype: i32, shape: [1]}]\n\
         steps: [{name: loop, launch: {source: s, function: forever, grid: [1], block: [1], args: [{array: x}]}}]\n",
    )
    .unwrap();
    let mut command = runtime();
    command.env("RUST_LOG", "weft_runtime=debug").arg("run").arg(&file).arg("--json");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The step is logged when it begins.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.by_ref().map(Result::unwrap).find(|line| line.contains("step begins")).expect("the step began");
    signal(child.id(), "TERM");
    let (result, code) = result_of(child.wait_with_output().unwrap());
    assert_eq!(code, 143);
    assert_eq!(error(&result), "stopped by SIGTERM in program.steps[0] \"loop\", before it was done");
}

#[test]
fn without_a_driver_or_a_gpu_a_sentence_says_so() {
    let (result, code) =
        result_of(bare_runtime().arg("run").arg(example("saxpy.yaml")).arg("--json").output().unwrap());
    assert_eq!(code, 1);
    assert!(error(&result).starts_with("no NVIDIA driver: libcuda.so.1 cannot be loaded"), "{result}");
    let (result, code) = result_of(
        runtime().env_remove("WEFT_SIM_PROFILE").arg("run").arg(example("saxpy.yaml")).arg("--json").output().unwrap(),
    );
    assert_eq!(code, 1);
    assert!(error(&result).contains("the NVIDIA driver sees no GPU"), "{result}");
}

#[test]
fn probe_tells_a_good_machine_from_a_bad_one() {
    let (result, code) = result_of(runtime().args(["probe", "--json"]).output().unwrap());
    assert_eq!((code, &result["ok"]), (0, &true.into()), "{result}");
    assert_eq!(result["gpus"].as_array().unwrap().len(), 8);
    assert!(result["gpus"].as_array().unwrap().iter().all(|gpu| gpu["ok"] == true));
    assert!(result["libraries"].as_array().unwrap().iter().all(|library| library["present"] == true));

    let output = bare_runtime().args(["probe", "--json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no NVIDIA driver"));
    let (result, code) = result_of(output);
    assert_eq!((code, &result["ok"]), (1, &false.into()));
}
