//! `weft-runtime serve` and its clients.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in helpers of tests too, a failed expectation is the message"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use common::{Server, bare_runtime, folder, runtime};
use tonic::Code;
use weft_client::wire::{self, DType};
use weft_client::{Client, Error, Region};

const SAXPY: &str = "extern \"C\" __global__ void saxpy(float a, const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}";
const WILD: &str = "extern \"C\" __global__ void wild(float *x) { x[1ull << 40] = 1; }";

async fn floats(client: &mut Client, values: &[f32]) -> Region {
    let mut region = client.region(values.len() * 4).await.unwrap();
    region.bytes_mut().copy_from_slice(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    region
}

fn read(region: &Region) -> Vec<f32> {
    region.bytes().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn all(region: &Region) -> wire::Operand {
    region.operand(0, DType::F32, &[region.bytes().len() as u64 / 4])
}

async fn load(client: &mut Client, cuda: &str) -> Result<wire::LoadModuleResponse, tonic::Status> {
    let source = Some(wire::load_module_request::Source::Cuda(cuda.to_owned()));
    let request = wire::LoadModuleRequest { gpu: 0, name: "test".into(), options: vec![], source };
    client.rpc().load_module(request).await.map(tonic::Response::into_inner)
}

fn launch(module: u64, function: &str, arguments: Vec<wire::argument::Value>) -> wire::LaunchRequest {
    let one = wire::Extent { x: 1, y: 0, z: 0 };
    wire::LaunchRequest {
        module,
        function: function.to_owned(),
        grid: Some(wire::Extent { x: 4, ..one }),
        block: Some(wire::Extent { x: 256, ..one }),
        shared_bytes: 0,
        arguments: arguments.into_iter().map(|value| wire::Argument { value: Some(value) }).collect(),
    }
}

#[tokio::test]
async fn a_kernel_reads_and_writes_the_clients_own_memory() {
    use wire::argument::Value::{Array, F32, U32};
    let server = Server::start();
    let mut client = server.client().await;
    let x = floats(&mut client, &(0..1000).map(|i| i as f32).collect::<Vec<_>>()).await;
    let y = floats(&mut client, &[1.0; 1000]).await;
    let module = load(&mut client, SAXPY).await.unwrap();
    assert_eq!(module.functions, ["saxpy"]);
    let arguments = vec![F32(2.0), Array(all(&x)), Array(all(&y)), U32(1000)];
    client.rpc().launch(launch(module.module, "saxpy", arguments)).await.unwrap();
    assert!(read(&y).iter().enumerate().all(|(i, y)| *y == 2.0 * i as f32 + 1.0));
    assert!(std::fs::read_dir(server.shm()).unwrap().next().is_none(), "a region's file keeps its name");
    assert_eq!(server.terminate(), 0);
}

#[tokio::test]
async fn library_calls_take_regions_and_buffers() {
    let server = Server::start();
    let mut client = server.client().await;
    // (1 2; 3 4)·(1 1; 0 2) = (1 5; 3 11)
    let a = floats(&mut client, &[1.0, 2.0, 3.0, 4.0]).await;
    let b = floats(&mut client, &[1.0, 1.0, 0.0, 2.0]).await;
    let c = floats(&mut client, &[0.0; 4]).await;
    let matrix = |region: &Region| Some(region.operand(0, DType::F32, &[2, 2]));
    let product = wire::GemmRequest { a: matrix(&a), b: matrix(&b), c: matrix(&c), ..Default::default() };
    client.rpc().gemm(product.clone()).await.unwrap();
    assert_eq!(read(&c), [1.0, 5.0, 3.0, 11.0]);
    // The old c, doubled, and twice the product of b transposed.
    let turned = wire::GemmRequest { transpose_b: true, alpha: Some(2.0), beta: 2.0, ..product };
    client.rpc().gemm(turned).await.unwrap();
    assert_eq!(read(&c), [2.0 * 1.0 + 2.0 * 3.0, 10.0 + 2.0 * 4.0, 6.0 + 2.0 * 7.0, 22.0 + 2.0 * 8.0]);

    // An impulse has a flat spectrum.
    let mut signal = vec![0.0; 16];
    signal[0] = 1.0;
    let signal = floats(&mut client, &signal).await;
    let buffer = client.rpc().alloc(wire::AllocRequest { gpu: 0, bytes: 64 }).await.unwrap().into_inner().buffer;
    let on_gpu = wire::Operand {
        place: Some(wire::operand::Place::Buffer(buffer)),
        offset: 0,
        dtype: DType::C32.into(),
        shape: vec![8],
    };
    let input = Some(signal.operand(0, DType::C32, &[8]));
    client
        .rpc()
        .fft(wire::FftRequest { input: input.clone(), output: Some(on_gpu.clone()), ..Default::default() })
        .await
        .unwrap();
    client.rpc().copy(wire::CopyRequest { gpu: 0, from: Some(on_gpu), to: input }).await.unwrap();
    assert_eq!(read(&signal), [[1.0, 0.0]; 8].concat());

    let mut index = client.region(32).await.unwrap();
    index.bytes_mut().copy_from_slice(&[0i32, 1, 3, 0, 1, 0, 1, 0].map(i32::to_le_bytes).concat());
    let integers = |offset: u64, count: u64| Some(index.operand(offset, DType::I32, &[count]));
    let (x, y) = (floats(&mut client, &[10.0, 100.0]).await, floats(&mut client, &[0.0; 2]).await);
    // (0 1; 5 0)… as rows: one entry, then two.
    let sparse = wire::SpmvRequest {
        rows: 2,
        columns: 2,
        row_offsets: integers(0, 3),
        column_indices: integers(16, 3),
        values: Some(a.operand(0, DType::F32, &[3])),
        x: Some(all(&x)),
        y: Some(all(&y)),
        ..Default::default()
    };
    client.rpc().spmv(sparse).await.unwrap();
    assert_eq!(read(&y), [100.0, 2.0 * 10.0 + 3.0 * 100.0]);
    assert!(server.metric("weft_runtime_transferred_bytes_total") > 0.0);
}

#[tokio::test]
async fn a_wrong_request_is_refused_with_the_arguments_name() {
    let server = Server::start();
    let mut client = server.client().await;
    let region = floats(&mut client, &[0.0; 8]).await;
    let operand = |offset, dtype, shape: &[u64]| Some(region.operand(offset, dtype, shape));
    let gemm = |a: Option<wire::Operand>, b: Option<wire::Operand>, c: Option<wire::Operand>| wire::GemmRequest {
        a,
        b,
        c,
        ..Default::default()
    };
    let f32s = |offset, shape: &[u64]| operand(offset, DType::F32, shape);
    let cases = [
        (
            gemm(f32s(0, &[2, 2]), f32s(16, &[1, 2]), f32s(0, &[2, 2])),
            "b: a is 2×2 but b is 1×2: inner dimensions 2 and 1 differ",
        ),
        (gemm(f32s(0, &[2, 2]), f32s(16, &[2, 2]), f32s(0, &[1, 2])), "c: it is 1×2, but the product is 2×2"),
        (gemm(f32s(0, &[2, 2]), f32s(16, &[2, 2]), f32s(8, &[2, 2])), "c: it overlaps a"),
        (gemm(f32s(0, &[2, 2]), f32s(20, &[2, 2]), f32s(0, &[2, 2])), "b: bytes 20 to 36 of region"),
        (
            gemm(f32s(2, &[1, 1]), f32s(0, &[1, 1]), f32s(0, &[1, 1])),
            "a: offset 2 is no multiple of the 4 bytes of f32",
        ),
        (gemm(f32s(0, &[u64::MAX, 2]), f32s(0, &[1]), f32s(0, &[1])), "a: its shape is too large"),
        (gemm(f32s(0, &[0, 2]), f32s(0, &[1]), f32s(0, &[1])), "a: its shape is empty"),
        (gemm(None, f32s(0, &[1]), f32s(0, &[1])), "a: it is missing"),
        (gemm(f32s(0, &[4]), f32s(16, &[2, 2]), f32s(0, &[2, 2])), "a: it is 4, a matrix has two dimensions"),
        (gemm(operand(0, DType::F64, &[1, 1]), f32s(8, &[1, 1]), f32s(12, &[1, 1])), "dtype: a is f64, b is f32"),
    ];
    for (request, expected) in cases {
        let status = client.rpc().gemm(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(expected), "{} lacks {expected:?}", status.message());
    }
    let far = wire::GemmRequest { gpu: 99, ..gemm(f32s(0, &[1, 1]), f32s(4, &[1, 1]), f32s(8, &[1, 1])) };
    assert!(client.rpc().gemm(far).await.unwrap_err().message().contains("there is no GPU 99: this runtime has 8"));
    let status = load(&mut client, "int f() {\n  return missing;\n}").await.unwrap_err();
    assert!(
        status.message().contains("test: ") && status.message().contains("line 2: identifier"),
        "{}",
        status.message()
    );
}

#[tokio::test]
async fn what_another_connection_made_is_unknown() {
    let server = Server::start();
    let (mut one, mut other) = (server.client().await, server.client().await);
    let region = floats(&mut one, &[0.0; 8]).await;
    let module = load(&mut one, SAXPY).await.unwrap().module;
    let status = other.rpc().launch(launch(module, "saxpy", vec![])).await.unwrap_err();
    assert_eq!((status.code(), status.message().contains("not known to this connection")), (Code::NotFound, true));
    let copy = wire::CopyRequest { gpu: 0, from: Some(all(&region)), to: Some(all(&region)) };
    assert_eq!(other.rpc().copy(copy).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn no_name_leads_out_of_the_shared_folder() {
    let server = Server::start();
    let mut client = server.client().await;
    std::fs::write(server.folder().join("secret"), "outside").unwrap();
    symlink(server.folder().join("secret"), server.shm().join("link")).unwrap();
    std::fs::create_dir(server.shm().join("folder")).unwrap();
    std::fs::write(server.shm().join("empty"), "").unwrap();
    assert!(Command::new("mkfifo").arg(server.shm().join("pipe")).status().unwrap().success());
    for (name, expected) in [
        ("../secret", "a region's name has"),
        ("/etc/passwd", "a region's name has"),
        ("..", "a region's name has"),
        ("", "a region's name has"),
        ("a/b", "a region's name has"),
        ("a\0b", "a region's name has"),
        ("link", "links are not followed"),
        ("folder", "it cannot be opened"),
        ("pipe", "it is no plain file"),
        ("empty", "it is empty"),
        ("none", "there is no such file"),
    ] {
        let status = client.rpc().open_region(wire::OpenRegionRequest { name: name.into() }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{name}: {}", status.message());
    }
}

#[tokio::test]
async fn a_kernel_that_leaves_its_memory_ends_the_runtime_with_a_sentence_and_the_next_one_serves() {
    use wire::argument::Value::Array;
    let server = Server::start();
    let (mut wild, mut bystander) = (server.client().await, server.client().await);
    let theirs = floats(&mut bystander, &[1.0; 8]).await;
    let region = floats(&mut wild, &[0.0; 8]).await;
    let module = load(&mut wild, WILD).await.unwrap().module;
    let status = wild.rpc().launch(launch(module, "wild", vec![Array(all(&region))])).await.unwrap_err();
    assert!(status.message().contains("running wild: CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{}", status.message());
    let (code, said, folder) = server.ends();
    assert_eq!(code, 1);
    let sentence = "weft-runtime: GPU 0 is out of service: CUDA works no more in this process after running wild: \
                    CUDA_ERROR_ILLEGAL_ADDRESS (700), an illegal memory access was encountered\n";
    assert!(format!("{said}\n").contains(sentence), "{said}");

    // Kubelet starts it again. A client of before finds its way back, and that its objects are gone.
    let server = Server::start_in(folder);
    let mut fresh = server.client().await;
    let (x, y) = (floats(&mut fresh, &[3.0; 8]).await, floats(&mut fresh, &[0.0; 8]).await);
    fresh.rpc().copy(wire::CopyRequest { gpu: 0, from: Some(all(&x)), to: Some(all(&y)) }).await.unwrap();
    assert_eq!(read(&y), [3.0; 8]);
    let copy = wire::CopyRequest { gpu: 0, from: Some(all(&theirs)), to: Some(all(&theirs)) };
    let status = loop {
        let status = bystander.rpc().copy(copy.clone()).await.unwrap_err();
        if status.code() != Code::Unavailable {
            break status;
        }
    };
    assert_eq!((status.code(), status.message().contains("not known to this connection")), (Code::NotFound, true));
}

/// A kernel that does not end, begun on GPU 0.
async fn spin(client: &mut Client) -> tokio::task::JoinHandle<Result<(), tonic::Status>> {
    let flag = floats(client, &[0.0]).await;
    let source = "extern \"C\" __global__ void spin(volatile float *x) { while (*x == 0) {} }";
    let module = load(client, source).await.unwrap().module;
    let mut request = launch(module, "spin", vec![wire::argument::Value::Array(all(&flag))]);
    (request.grid, request.block) = (Some(wire::Extent { x: 1, y: 1, z: 1 }), Some(wire::Extent { x: 1, y: 1, z: 1 }));
    let mut client = client.clone();
    tokio::spawn(async move {
        let _keep = flag;
        client.rpc().launch(request).await.map(drop)
    })
}

#[tokio::test]
async fn a_kernel_that_never_ends_is_told_to_its_client_and_to_those_who_wait_and_ends_the_runtime() {
    let server = Server::start_with(folder(), &["--operation-timeout", "1"]);
    let (mut endless, mut other) = (server.client().await, server.client().await);
    let region = floats(&mut other, &[0.0; 8]).await;
    let spinning = spin(&mut endless).await;
    let copy = wire::CopyRequest {
        gpu: 0,
        from: Some(region.operand(0, DType::F32, &[4])),
        to: Some(region.operand(16, DType::F32, &[4])),
    };
    // Before the kernel has begun it is served, after that it waits.
    let waited = loop {
        match other.rpc().copy(copy.clone()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(status) => break status,
        }
    };
    assert_eq!(waited.code(), Code::Unavailable, "{waited:?}");
    assert!(waited.message().contains("an operation has run for more than 1 s, and CUDA cannot stop it"), "{waited:?}");
    let status = spinning.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(
        status.message().contains("GPU 0: the operation did not end within 1 s, and CUDA cannot stop it"),
        "{status:?}"
    );
    let (code, said, folder) = server.ends();
    assert_eq!(code, 1);
    assert!(said.contains("weft-runtime: GPU 0 is out of service: an operation has run for more than 1 s"), "{said}");
    let server = Server::start_in(folder);
    floats(&mut server.client().await, &[1.0]).await;
}

// The test asks pages while its clients wait: on threads of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_gpu_shows_in_the_metrics_and_scrapes_do_not_fill_its_queue() {
    let server = Server::start_with(folder(), &["--operation-timeout", "0"]);
    let mut client = server.client().await;
    assert_eq!(server.metric("weft_runtime_device_busy_seconds"), 0.0);
    let spinning = spin(&mut client).await;
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while server.metric("weft_runtime_device_busy_seconds") < 1.0 {
        assert!(std::time::Instant::now() < deadline, "the GPU never became busy");
    }
    // One question at most was asked before the GPU counted as busy.
    let queued = server.metric("weft_runtime_device_queue");
    for _ in 0..5 {
        server.page("/metrics");
    }
    assert_eq!(server.metric("weft_runtime_device_queue"), queued);
    assert_eq!(server.metric("weft_runtime_device_healthy"), 8.0, "long is not yet stuck");
    assert!(!spinning.is_finished());
}

/// The part of the next test that is killed: it holds memory of every kind and has a request under way.
#[test]
#[ignore = "started by a_client_killed_in_the_middle_leaves_nothing"]
fn doomed_client() {
    let Ok(socket) = std::env::var("WEFT_TEST_SOCKET") else { return };
    let shm = std::path::Path::new(&socket).with_file_name("shm");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut client = Client::connect(socket.as_ref(), &shm, common::PATIENCE).await.unwrap();
        let region = floats(&mut client, &[0.0; 1 << 16]).await;
        client.rpc().alloc(wire::AllocRequest { gpu: 0, bytes: 1 << 20 }).await.unwrap();
        let source =
            "extern \"C\" __global__ void slow(volatile float *x) { for (int i = 0; i < 2000000; i++) x[0] += 1; }";
        let module = load(&mut client, source).await.unwrap().module;
        let mut request = launch(module, "slow", vec![wire::argument::Value::Array(all(&region))]);
        (request.grid, request.block) =
            (Some(wire::Extent { x: 1, y: 1, z: 1 }), Some(wire::Extent { x: 1, y: 1, z: 1 }));
        let mut second = client.clone();
        let running = tokio::spawn(async move { second.rpc().launch(request).await });
        println!("\nholding");
        let _ = running.await;
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn a_client_killed_in_the_middle_leaves_nothing() {
    let server = Server::start();
    let free = server.metric("weft_runtime_device_memory_free_bytes");
    let mut doomed = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "doomed_client", "--nocapture"])
        .env("WEFT_TEST_SOCKET", server.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(doomed.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "holding"));
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    server.wait_for("weft_runtime_clients", 0.0);
    server.wait_for("weft_runtime_regions", 0.0);
    server.wait_for("weft_runtime_region_bytes", 0.0);
    server.wait_for("weft_runtime_device_buffer_bytes", 0.0);
    server.wait_for("weft_runtime_device_memory_free_bytes", free);
    assert!(std::fs::read_dir(server.shm()).unwrap().next().is_none(), "a file is left in the shared folder");
    // And the next client is served.
    let mut client = server.client().await;
    floats(&mut client, &[1.0]).await;
}

#[tokio::test]
async fn two_runtimes_on_one_socket_are_one_too_many() {
    let server = Server::start();
    let output = Server::command(server.folder()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("another runtime already serves") && errors.contains("--socket"), "{errors}");
    // The first one did not notice.
    server.client().await.info().await.unwrap();
}

#[tokio::test]
async fn a_killed_runtimes_socket_is_taken_over() {
    let folder = Server::start().kill();
    assert!(folder.path().join("runtime.sock").exists());
    let server = Server::start_in(folder);
    assert_eq!(server.client().await.info().await.unwrap().gpus.len(), 8);
}

#[tokio::test]
async fn a_file_in_the_sockets_place_is_not_removed() {
    let folder = folder();
    std::fs::write(folder.path().join("runtime.sock"), "precious").unwrap();
    let output = Server::command(folder.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("exists and is no socket"));
    assert_eq!(std::fs::read_to_string(folder.path().join("runtime.sock")).unwrap(), "precious");
}

#[tokio::test]
async fn a_client_without_a_runtime_says_so() {
    let folder = folder();
    let patience = std::time::Duration::from_millis(200);
    let error = Client::connect(&folder.path().join("none"), folder.path(), patience).await.err().unwrap();
    assert!(matches!(&error, Error::NoRuntime { .. }) && error.to_string().contains("is spec.runtime enabled?"));
}

#[test]
fn a_runtime_without_gpu_or_with_a_busy_port_stops_with_a_sentence() {
    let folder = folder();
    let output = bare_runtime().arg("serve").arg("--socket").arg(folder.path().join("s")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no NVIDIA driver"));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = runtime();
    command.arg("serve").arg("--socket").arg(folder.path().join("s")).arg("--shm-dir").arg(folder.path().join("shm"));
    let output = command.args(["--metrics-listen", &address]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(&format!("metrics cannot be served on {address}")), "{errors}");
}
