//! Every rule once, and the examples that people copy.

use super::*;
use crate::{StepId, parse};

fn problems(yaml: &str) -> Vec<String> {
    match validate(&parse(yaml).unwrap()) {
        Ok(_) => vec![],
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

const DATA: &str = "
arrays:
  - {name: a, dtype: f32, shape: [256, 128]}
  - {name: b, dtype: f32, shape: [64, 192]}
  - {name: c, dtype: f32, shape: [256, 192]}
  - {name: d, dtype: f64, shape: [128, 192]}
  - {name: e, dtype: f32, shape: [128, 192]}
  - {name: v, dtype: f32, shape: [16]}
  - {name: w, dtype: f32, shape: [9]}
  - {name: z, dtype: c32, shape: [9]}
  - {name: i, dtype: i32, shape: [16]}
  - {name: v2, dtype: f32, shape: [16]}
matrices:
  - {name: m, dtype: f32, laplace2d: {side: 4}}
sources:
  - {name: s, cuda: 'extern \"C\" __global__ void k() {}'}
";

#[test]
fn each_wrong_step_is_named_with_its_field_and_reason() {
    let table = [
        (
            "gemm: {a: a, b: b, c: c}",
            "program.steps[0].gemm: a is 256×128 but b is 64×192: inner dimensions 128 and 64 differ",
        ),
        ("gemm: {a: a, b: e, c: c}", ""),
        (
            "gemm: {a: a, b: e, c: e}",
            "program.steps[0].gemm: a is 256×128 and e is 128×192, so e must be 256×192, not 128×192",
        ),
        (
            "gemm: {a: a, b: e, c: c, transposeB: true}",
            "a is 256×128 but e is 192×128 transposed: inner dimensions 128 and 192 differ",
        ),
        ("gemm: {a: a, b: d, c: c}", "d is f64"),
        ("gemm: {a: v, b: e, c: c}", "program.steps[0].gemm.a: v is 16: a product takes two dimensions"),
        ("gemm: {a: x, b: e, c: c}", "program.steps[0].gemm.a: no array is named \"x\"; there are \"a\", \"b\""),
        ("gemm: {a: m, b: e, c: c}", "\"m\" is a sparse matrix, an array is needed here"),
        ("fft: {input: v, output: z}", ""),
        ("fft: {input: w, output: z}", "w is 9 but z is 9: the complex side has n/2+1"),
        ("fft: {input: z, output: v, direction: inverse}", ""),
        ("fft: {input: z, output: v}", "no forward transform takes z (c32) to v (f32)"),
        ("fft: {input: z, output: z}", ""),
        ("spmv: {matrix: m, x: v, y: v2}", ""),
        ("spmv: {matrix: m, x: v, y: v}", "the result v is also the operand"),
        (
            "spmv: {matrix: m, x: w, y: v}",
            "program.steps[0].spmv.x: w is 9 but m has 16 columns: the shape must be [16]",
        ),
        ("spmv: {matrix: a, x: v, y: v2}", "no matrix is named \"a\"; there is \"m\""),
        ("copy: {from: v, to: v2}", ""),
        ("copy: {from: v, to: i}", "program.steps[0].copy: v has 16 elements of f32 but i has 16 of i32"),
        ("launch: {source: s, function: k, grid: [1], block: [32, 2]}", ""),
        (
            "launch: {source: t, function: k, grid: [1], block: [32]}",
            "program.steps[0].launch.source: no source is named \"t\"; there is \"s\"",
        ),
        (
            "launch: {source: s, function: k, grid: [0], block: [32]}",
            "program.steps[0].launch.grid[0]: 0 is not in 1 to 2147483647",
        ),
        ("launch: {source: s, function: k, grid: [1, 70000], block: [32]}", "grid[1]: 70000 is not in 1 to 65535"),
        ("launch: {source: s, function: k, grid: [1], block: [32, 64]}", "32×64×1 threads: a block has at most 1024"),
        (
            "launch: {source: s, function: k, grid: [1], block: [1], args: [{f32: 1, i32: 1}]}",
            "args[0]: give exactly one of array",
        ),
        (
            "launch: {source: s, function: k, grid: [1], block: [1], args: [{array: q}]}",
            "args[0].array: no array is named \"q\"",
        ),
        ("launch: {source: s, function: k, grid: [1], block: [1], sharedBytes: 999999}", "sharedBytes"),
        ("check: {array: v, equals: {array: v2}}", ""),
        ("check: {array: v, equals: {array: w}}", "v is 16 but w is 9"),
        ("check: {array: v, equals: {array: i}}", "v is f32 but i is i32"),
        ("check: {array: v, equals: {}}", "check.equals: give exactly one of array and constant"),
        ("check: {array: v}", "program.steps[0].check: give either array with equals, or step with against"),
        ("check: {step: later, against: cpu}", "no earlier step is named \"later\""),
        ("check: {array: v, equals: {constant: 1}, relativeTolerance: -1}", "relativeTolerance: a tolerance"),
        ("name: nothing", "program.steps[0]: a step is exactly one of"),
        ("{fft: {input: z, output: z}, copy: {from: v, to: v2}}", "program.steps[0]: a step is exactly one of"),
    ];
    for (step, expected) in table {
        let found = problems(&format!("{DATA}steps:\n  - {step}\n"));
        if expected.is_empty() {
            assert!(found.is_empty(), "{step}: {found:?}");
        } else {
            assert!(found.len() == 1 && found[0].contains(expected), "{step}: {found:?} lacks {expected:?}");
        }
    }
}

#[test]
fn each_wrong_declaration_is_named_with_its_field_and_reason() {
    let step = "steps: [{check: {array: ok, equals: {constant: 0}}}]\n";
    let ok = "{name: ok, dtype: f32, shape: [2]}";
    let arrays = [
        ("{name: a, dtype: f32, shape: [4, 0]}", "program.arrays[1].shape[1]: a dimension is at least 1"),
        ("{name: a, dtype: f32, shape: []}", "1 to 8 dimensions"),
        ("{name: a, dtype: f32, shape: [4294967296, 4294967296]}", "larger than 1 TiB"),
        ("{name: ok, dtype: f32, shape: [1]}", "program.arrays[1].name: another array is already named \"ok\""),
        ("{name: '', dtype: f32, shape: [1]}", "a name has 1 to 63"),
        ("{name: a, dtype: f32, shape: [1], fill: {constant: 1, iota: {}}}", "exactly one of constant"),
        ("{name: a, dtype: f32, shape: [1], fill: {constant: 1}, file: {path: x.npy}}", "both fill and file"),
        ("{name: a, dtype: u8, shape: [1], fill: {constant: 256}}", "fill.constant: 256 is no u8"),
        ("{name: a, dtype: i32, shape: [1], fill: {constant: 0.5}}", "0.5 is no i32"),
        ("{name: a, dtype: u8, shape: [300], fill: {iota: {}}}", "fill.iota: 299 is no u8"),
        (
            "{name: a, dtype: c32, shape: [2], fill: {values: [1, 2]}}",
            "2 values, but the shape has room for 4 (a complex",
        ),
        ("{name: a, dtype: f32, shape: [2], fill: {random: {low: 2, high: 2}}}", "low must be less than high"),
        ("{name: a, dtype: f32, shape: [2], file: {path: x.mtx}}", "list it under program.matrices"),
    ];
    for (array, expected) in arrays {
        let found = problems(&format!("arrays: [{ok}, {array}]\n{step}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{array}: {found:?} lacks {expected:?}");
    }
    let matrices = [
        ("{name: m, dtype: f16, laplace2d: {side: 4}}", "dtype: a sparse matrix is f32 or f64"),
        ("{name: m, dtype: f32}", "exactly one of laplace2d"),
        ("{name: ok, dtype: f32, laplace2d: {side: 4}}", "an array is already named \"ok\""),
        ("{name: m, dtype: f32, laplace2d: {side: 0}}", "laplace2d.side"),
        ("{name: m, dtype: f32, file: {path: m.mtx}}", "needs its shape"),
        ("{name: m, dtype: f32, shape: [2, 2], file: {path: m.npy}}", "Matrix Market"),
        (
            "{name: m, dtype: f32, shape: [2, 2], csr: {rowOffsets: [0, 1], columns: [0], values: [1]}}",
            "2 offsets, but 2 rows need 3",
        ),
        (
            "{name: m, dtype: f32, shape: [2, 2], csr: {rowOffsets: [0, 2, 1], columns: [0], values: [1]}}",
            "rowOffsets[2]: 1 after 2",
        ),
        (
            "{name: m, dtype: f32, shape: [1, 2], csr: {rowOffsets: [0, 1], columns: [2], values: [1]}}",
            "columns[0]: column 2",
        ),
    ];
    for (matrix, expected) in matrices {
        let found = problems(&format!("arrays: [{ok}]\nmatrices: [{matrix}]\n{step}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{matrix}: {found:?} lacks {expected:?}");
    }
    let sources = [
        ("{name: s}", "program.sources[0]: give exactly one of cuda and ptx"),
        ("{name: s, cuda: ' '}", "program.sources[0].cuda: the text is empty"),
        ("{name: s, cuda: x, options: ['--gpu-architecture=sm_70']}", "options[0]: --gpu-architecture=sm_70 is set by"),
        ("{name: s, cuda: x, options: [rm]}", "options start with a dash"),
        ("{name: s, ptx: x, options: ['-DN=1']}", "PTX takes none"),
    ];
    for (source, expected) in sources {
        let found = problems(&format!("arrays: [{ok}]\nsources: [{source}]\n{step}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{source}: {found:?} lacks {expected:?}");
    }
}

#[test]
fn all_problems_are_reported_at_once_and_one_cause_is_reported_once() {
    let found = problems(
        "arrays: [{name: a, dtype: f32, shape: [0]}]\nsteps: [{copy: {from: a, to: q}}, {check: {array: a}}]\nsave: [{array: r}]\n",
    );
    assert_eq!(found.len(), 4, "{found:#?}");
}

#[test]
fn the_examples_are_right() {
    for (file, steps) in [("saxpy.yaml", 2), ("gemm-fft-spmv.yaml", 6)] {
        let path = format!("{}/../../deploy/examples/{file}", env!("CARGO_MANIFEST_DIR"));
        let program = parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(validate(&program).unwrap().steps.len(), steps);
    }
}

#[test]
fn a_program_survives_the_api_server() {
    let path = format!("{}/../../deploy/examples/gemm-fft-spmv.yaml", env!("CARGO_MANIFEST_DIR"));
    let program = parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    let json = serde_json::to_string(&program).unwrap();
    assert_eq!(serde_json::from_str::<Program>(&json).unwrap(), program);
    assert_eq!(parse(&json).unwrap(), program, "a ConfigMap may hold JSON");
}

#[test]
fn unnamed_steps_get_names_and_checks_find_them() {
    let yaml = format!("{DATA}steps:\n  - gemm: {{a: a, b: e, c: c}}\n  - check: {{step: gemm 1, against: cpu}}\n");
    let plan = validate(&parse(&yaml).unwrap()).unwrap();
    assert_eq!(plan.steps[0].name, "gemm 1");
    assert!(plan.is_checked_on_cpu(StepId(0)) && !plan.is_checked_on_cpu(StepId(1)));
}

/// Kubernetes takes structural schemas only: no references, and no alternatives with properties of their own.
#[test]
fn the_schema_is_structural() {
    fn walk(value: &serde_json::Value, path: &str) {
        if let Some(object) = value.as_object() {
            for word in ["$ref", "oneOf", "anyOf", "allOf", "not", "const"] {
                assert!(!object.contains_key(word), "{word} at {path}");
            }
            for (key, value) in object {
                walk(value, &format!("{path}.{key}"));
            }
        } else if let Some(list) = value.as_array() {
            list.iter().enumerate().for_each(|(i, value)| walk(value, &format!("{path}[{i}]")));
        }
    }
    let mut settings = schemars::generate::SchemaSettings::openapi3();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<Program>();
    let value = schema.as_value();
    assert!(value["properties"]["steps"]["items"]["properties"]["gemm"]["properties"]["transposeA"].is_object());
    walk(value, "program");
}
