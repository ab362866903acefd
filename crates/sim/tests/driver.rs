//! The driver's C interface, as a program sees it: everything here goes through the exported functions.
//!
//! One machine of eight H100 serves all tests of this process; each test has a GPU of its own where it counts memory or breaks it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod alone;

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::{BufRead, BufReader};
use std::ptr::null_mut;
use std::sync::LazyLock;

use weft_sim::profile::Profile;
use weft_sim::state::{Fault, Isolation, Machine, machine};

type Handle = u64;

// SAFETY: the signatures are those of the functions that weft-sim exports.
unsafe extern "C" {
    fn cuInit(flags: u32) -> c_int;
    fn cuDeviceGetCount(count: *mut c_int) -> c_int;
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> c_int;
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> c_int;
    fn cuDevicePrimaryCtxReset_v2(device: c_int) -> c_int;
    fn cuDeviceCanAccessPeer(answer: *mut c_int, device: c_int, peer: c_int) -> c_int;
    fn cuCtxCreate_v2(context: *mut Handle, flags: u32, device: c_int) -> c_int;
    fn cuCtxSetCurrent(context: Handle) -> c_int;
    fn cuCtxSynchronize() -> c_int;
    fn cuCtxEnablePeerAccess(context: Handle, flags: u32) -> c_int;
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int;
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int;
    fn cuMemFree_v2(address: u64) -> c_int;
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> c_int;
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> c_int;
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> c_int;
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) -> c_int;
    fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, flags: u32) -> c_int;
    fn cuMemHostUnregister(pointer: *mut c_void) -> c_int;
    fn cuMemHostGetDevicePointer_v2(address: *mut u64, pointer: *mut c_void, flags: u32) -> c_int;
    fn cuMemsetD32_v2(address: u64, value: u32, count: usize) -> c_int;
    fn cuModuleLoadData(module: *mut Handle, image: *const c_char) -> c_int;
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> c_int;
    fn cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int) -> c_int;
    #[rustfmt::skip]
    fn cuLaunchKernel(
        function: Handle,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        shared: u32,
        stream: Handle,
        params: *const *const c_void,
        extra: *const *const c_void,
    ) -> c_int;
    fn cuLaunchHostFunc(stream: Handle, call: extern "C" fn(*mut c_void), data: *mut c_void) -> c_int;
    fn cuStreamCreate(stream: *mut Handle, flags: u32) -> c_int;
    fn cuStreamSynchronize(stream: Handle) -> c_int;
    fn cuStreamQuery(stream: Handle) -> c_int;
    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> c_int;
    fn cuEventCreate(event: *mut Handle, flags: u32) -> c_int;
    fn cuEventDestroy_v2(event: Handle) -> c_int;
    fn cuEventRecord(event: Handle, stream: Handle) -> c_int;
    fn cuEventQuery(event: Handle) -> c_int;
    fn cuEventSynchronize(event: Handle) -> c_int;
    fn cuEventElapsedTime_v2(ms: *mut f32, start: Handle, end: Handle) -> c_int;
    fn cuGetExportTable(table: *mut *const c_void, id: *const u8) -> c_int;
    fn cuGetErrorName(error: c_int, name: *mut *const c_char) -> c_int;
}

static STARTED: LazyLock<()> = LazyLock::new(|| {
    // A part of a test with a machine of its own has that one: it is looked for first.
    // SAFETY: runs before any other thread of this test reads the environment through the driver; the harness does not write it.
    unsafe { std::env::set_var("WEFT_SIM_PROFILE", "h100x8") };
    // SAFETY: takes no pointer.
    assert_eq!(unsafe { cuInit(0) }, 0);
});

/// Calls a driver function and checks that it succeeded.
macro_rules! ok {
    ($call:expr) => {{
        // SAFETY: each pointer is to a live local of the right type.
        let code = unsafe { $call };
        assert_eq!(code, 0, stringify!($call));
    }};
}

/// Calls a driver function for its code.
macro_rules! code {
    ($call:expr) => {{
        // SAFETY: each pointer is null or to a live local of the right type.
        unsafe { $call }
    }};
}

/// Makes GPU `ordinal` current on this thread.
fn device(ordinal: c_int) -> Handle {
    LazyLock::force(&STARTED);
    let mut context = 0;
    ok!(cuDevicePrimaryCtxRetain(&mut context, ordinal));
    ok!(cuCtxSetCurrent(context));
    context
}

fn text(kernel: &str) -> CString {
    let path = format!("{}/tests/kernels/{kernel}.sm_90.ptx", env!("CARGO_MANIFEST_DIR"));
    CString::new(std::fs::read_to_string(path).unwrap()).unwrap()
}

fn load(text: &CString) -> Result<Handle, c_int> {
    let mut module = 0;
    match code!(cuModuleLoadData(&mut module, text.as_ptr())) {
        0 => Ok(module),
        error => Err(error),
    }
}

fn function(kernel: &str, name: &str) -> Handle {
    let module = load(&text(kernel)).unwrap();
    let (mut function, name) = (0, CString::new(name).unwrap());
    ok!(cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

fn buffer<T: Copy>(values: &[T]) -> u64 {
    let mut address = 0;
    ok!(cuMemAlloc_v2(&mut address, size_of_val(values)));
    ok!(cuMemcpyHtoD_v2(address, values.as_ptr().cast(), size_of_val(values)));
    address
}

fn read<T: Copy + Default>(address: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    ok!(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, count * size_of::<T>()));
    values
}

fn launch(function: Handle, blocks: u32, threads: u32, shared: u32, stream: Handle, params: &[*const c_void]) -> c_int {
    code!(cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared, stream, params.as_ptr(), null_mut()))
}

macro_rules! params {
    ($($value:expr),*) => { [$((&raw const $value).cast::<c_void>()),*] };
}

fn saxpy(a: f32, x: u64, y: u64, n: i32, stream: Handle) -> c_int {
    launch(function("saxpy", "saxpy"), 4, 128, 0, stream, &params!(a, x, y, n))
}

extern "C" fn wait_for_gate(gate: *mut c_void) {
    // SAFETY: the tests pass a receiver that lives until they synchronised.
    let gate = unsafe { &*gate.cast::<std::sync::mpsc::Receiver<()>>() };
    gate.recv().unwrap();
}

#[test]
fn a_kernel_reads_and_writes_device_memory() {
    device(0);
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let (dx, dy) = (buffer(&x), buffer(&x));
    assert_eq!(saxpy(2.0, dx, dy, 1000, 0), 0);
    assert_eq!(read::<f32>(dy, 1000), x.iter().map(|v| 3.0 * v).collect::<Vec<_>>());
    ok!(cuMemsetD32_v2(dy, 7, 1000));
    assert_eq!(read::<u32>(dy, 1000), [7; 1000]);
}

#[test]
fn work_waits_in_its_stream_and_events_tell_when_it_is_done() {
    device(0);
    let (mut one, mut two, mut event) = (0, 0, 0);
    ok!(cuStreamCreate(&mut one, 1));
    ok!(cuStreamCreate(&mut two, 1));
    ok!(cuEventCreate(&mut event, 0));
    let x = buffer(&[1f32; 64]);
    let y = buffer(&[0f32; 64]);
    let (open, gate) = std::sync::mpsc::channel::<()>();
    ok!(cuLaunchHostFunc(one, wait_for_gate, (&raw const gate).cast_mut().cast()));
    assert_eq!(saxpy(1.0, x, y, 64, one), 0);
    ok!(cuEventRecord(event, one));
    ok!(cuStreamWaitEvent(two, event, 0));
    assert_eq!(saxpy(1.0, x, y, 64, two), 0);
    // Nothing of it can have happened: the first stream's gate is shut.
    assert_eq!(code!(cuEventQuery(event)), 600);
    assert_eq!(code!(cuStreamQuery(one)), 600);
    assert_eq!(code!(cuStreamQuery(two)), 600);
    open.send(()).unwrap();
    ok!(cuStreamSynchronize(two));
    ok!(cuEventSynchronize(event));
    ok!(cuEventQuery(event));
    assert_eq!(read::<f32>(y, 64), [2.0; 64]);
    let (mut end, mut ms) = (0, -1f32);
    ok!(cuEventCreate(&mut end, 0));
    assert_eq!(code!(cuEventElapsedTime_v2(&mut ms, event, end)), 400);
    ok!(cuEventRecord(end, two));
    ok!(cuEventSynchronize(end));
    ok!(cuEventElapsedTime_v2(&mut ms, event, end));
    assert!(ms >= 0.0);
}

#[test]
fn a_pageable_source_may_change_after_the_call_and_a_pinned_one_may_not() {
    device(0);
    let (mut stream, target) = (0, buffer(&[0u32; 16]));
    ok!(cuStreamCreate(&mut stream, 1));
    for (pinned, expected) in [(false, 1), (true, 2)] {
        let mut source = [1u32; 16];
        if pinned {
            ok!(cuMemHostRegister_v2(source.as_mut_ptr().cast(), 64, 0));
        }
        let (open, gate) = std::sync::mpsc::channel::<()>();
        ok!(cuLaunchHostFunc(stream, wait_for_gate, (&raw const gate).cast_mut().cast()));
        ok!(cuMemcpyHtoDAsync_v2(target, source.as_ptr().cast(), 64, stream));
        // SAFETY: the only other reader is the queue behind the gate.
        unsafe { source.as_mut_ptr().write_volatile(2) };
        open.send(()).unwrap();
        ok!(cuStreamSynchronize(stream));
        assert_eq!(read::<u32>(target, 1), [expected]);
        if pinned {
            ok!(cuMemHostUnregister(source.as_mut_ptr().cast()));
        }
    }
}

#[test]
fn registered_memory_is_device_memory_at_the_same_address() {
    device(0);
    let mut shared = vec![1f32; 256];
    let pointer = shared.as_mut_ptr();
    ok!(cuMemHostRegister_v2(pointer.cast(), 1024, 0));
    assert_eq!(code!(cuMemHostRegister_v2(pointer.cast(), 64, 0)), 712);
    let mut address = 0;
    ok!(cuMemHostGetDevicePointer_v2(&mut address, pointer.cast(), 0));
    assert_eq!(address, pointer as u64);
    assert_eq!(saxpy(4.0, address, address, 256, 0), 0);
    ok!(cuCtxSynchronize());
    ok!(cuMemHostUnregister(pointer.cast()));
    assert_eq!(code!(cuMemHostUnregister(pointer.cast())), 713);
    assert_eq!(shared, [5f32; 256]);
}

#[test]
fn memory_is_accounted_and_runs_out() {
    device(1);
    let info = || {
        let (mut free, mut total) = (0, 0);
        ok!(cuMemGetInfo_v2(&mut free, &mut total));
        (free, total)
    };
    let (before, total) = info();
    assert!(before < total, "a context takes memory too");
    let (mut large, mut more) = (0, 0);
    ok!(cuMemAlloc_v2(&mut large, before - (1 << 20)));
    assert_eq!(info().0, 1 << 20);
    assert_eq!(machine().unwrap().gpu(1).memory().free_bytes, 1 << 20);
    assert_eq!(code!(cuMemAlloc_v2(&mut more, 2 << 20)), 2);
    ok!(cuMemFree_v2(large));
    assert_eq!(info().0, before);
    assert_eq!(code!(cuMemFree_v2(large)), 1);
    assert_eq!(code!(cuMemAlloc_v2(&mut more, 0)), 1);
}

#[test]
fn an_illegal_address_ends_cuda_for_the_process_on_every_gpu() {
    if alone::elsewhere() {
        return;
    }
    let other = device(3);
    device(2);
    let (x, far, mut event) = (buffer(&[0f32; 64]), 64i32, 0);
    ok!(cuEventCreate(&mut event, 0));
    assert_eq!(launch(function("faults", "out_of_bounds"), 1, 32, 0, 0, &params!(x, far)), 0);
    assert_eq!(code!(cuCtxSynchronize()), 700);
    let (mut more, mut context, mut count) = (0, 0, 0);
    assert_eq!(code!(cuMemAlloc_v2(&mut more, 64)), 700);
    assert_eq!(code!(cuMemFree_v2(x)), 700);
    assert_eq!(code!(cuEventDestroy_v2(event)), 700);
    ok!(cuCtxSetCurrent(other));
    assert_eq!(code!(cuMemAlloc_v2(&mut more, 64)), 700, "another GPU's context");
    // A reset succeeds and does not help.
    for gpu in [2, 3, 4] {
        ok!(cuDevicePrimaryCtxReset_v2(gpu));
        assert_eq!(code!(cuDevicePrimaryCtxRetain(&mut context, gpu)), 700);
    }
    assert_eq!(code!(cuCtxCreate_v2(&mut context, 0, 2)), 700);
    // What needs no context still answers.
    ok!(cuDeviceGetCount(&mut count));
    ok!(cuInit(0));
}

#[test]
fn an_illegal_address_of_one_process_is_nothing_to_another() {
    match alone::part().as_deref() {
        None => {
            let folder = tempfile::tempdir().unwrap();
            let state = folder.path().join("machine");
            Machine::create(&state, Profile::load("h100x8").unwrap(), "node-1", Isolation::Off).unwrap();
            let start = |part: &str| alone::start(part, Some(&state));
            let mut wild = start("wild");
            let mut lines = BufReader::new(wild.stdout.take().unwrap()).lines().map_while(Result::ok);
            assert!(lines.any(|line| line == "ruined"), "it never came to its fault");
            assert!(start("orderly").wait().unwrap().success(), "while the other one still holds its context");
            drop(wild.stdin.take());
            assert!(wild.wait().unwrap().success());
            assert!(start("orderly").wait().unwrap().success(), "after it has ended");
        }
        Some(part) => {
            device(2);
            let x = buffer(&[0f32; 64]);
            let far = if part == "wild" { 64i32 } else { 0 };
            assert_eq!(launch(function("faults", "out_of_bounds"), 1, 32, 0, 0, &params!(x, far)), 0);
            assert_eq!(code!(cuCtxSynchronize()), if part == "wild" { 700 } else { 0 });
            if part == "wild" {
                println!("\nruined");
                std::io::stdin().read_line(&mut String::new()).unwrap();
            }
        }
    }
}

#[test]
fn a_misaligned_address_has_the_drivers_number() {
    ends_with("misaligned", 716);
}

#[test]
fn a_failed_assertion_has_the_drivers_number() {
    ends_with("asserts", 710);
}

#[test]
fn a_trap_has_the_drivers_number() {
    ends_with("trap", 719);
}

fn ends_with(kernel: &str, expected: c_int) {
    if alone::elsewhere() {
        return;
    }
    device(3);
    let x = buffer(&[0u64; 8]);
    assert_eq!(launch(function("faults", kernel), 1, 1, 0, 0, &params!(x)), 0);
    assert_eq!(code!(cuCtxSynchronize()), expected);
    ok!(cuDevicePrimaryCtxReset_v2(3));
    assert_eq!(code!(cuDevicePrimaryCtxRetain(&mut 0, 3)), expected);
}

#[test]
fn an_injected_xid_ends_contexts_and_recovery_allows_new_ones() {
    device(4);
    let gpu = machine().unwrap().gpu(4);
    gpu.raise(Fault::Xid(79)).unwrap();
    assert_eq!(code!(cuCtxSynchronize()), 999);
    ok!(cuDevicePrimaryCtxReset_v2(4));
    let mut context = 0;
    assert_eq!(code!(cuDevicePrimaryCtxRetain(&mut context, 4)), 999);
    gpu.raise(Fault::Recover).unwrap();
    device(4);
    ok!(cuCtxSynchronize());
    gpu.raise(Fault::Xid(48)).unwrap();
    assert_eq!(code!(cuCtxSynchronize()), 214);
    ok!(cuDevicePrimaryCtxReset_v2(4));
    gpu.raise(Fault::Recover).unwrap();
}

#[test]
fn launches_that_cannot_be_are_refused() {
    device(0);
    let (x, n) = (buffer(&[0f32; 4]), 4i32);
    let vecadd = function("vecadd", "vecadd");
    let params = params!(x, x, x, n);
    assert_eq!(launch(vecadd, 0, 32, 0, 0, &params), 1);
    assert_eq!(launch(vecadd, 1, 1025, 0, 0, &params), 1);
    assert_eq!(launch(vecadd, 1, 32, 49_153, 0, &params), 1);
    ok!(cuFuncSetAttribute(vecadd, 8, 65_536));
    assert_eq!(launch(vecadd, 1, 32, 65_536, 0, &params), 0);
    assert_eq!(code!(cuFuncSetAttribute(vecadd, 8, 1 << 20)), 1);
    assert_eq!(launch(999, 1, 32, 0, 0, &params), 400);
    ok!(cuCtxSynchronize());
}

#[test]
fn ptx_that_this_driver_or_gpu_is_too_old_for_is_refused() {
    device(0);
    let change = |from: &str, to: &str| CString::new(text("vecadd").to_str().unwrap().replace(from, to)).unwrap();
    assert_eq!(load(&change(".version 9.0", ".version 9.9")), Err(222));
    assert_eq!(load(&change("sm_90", "sm_100")), Err(209));
    assert_eq!(load(&change("sm_90", "sm_80")).map(|_| ()), Ok(()));
    assert_eq!(load(&change("add.f32", "frobnicate.f32")), Err(218));
    assert_eq!(load(&CString::new("hello").unwrap()), Err(200));
}

#[test]
fn a_kernel_reaches_a_peer_s_memory_when_allowed() {
    let peer = device(6);
    let there = buffer(&[1f32; 32]);
    device(5);
    let mut can = 0;
    ok!(cuDeviceCanAccessPeer(&mut can, 5, 6));
    assert_eq!(can, 1);
    ok!(cuCtxEnablePeerAccess(peer, 0));
    assert_eq!(code!(cuCtxEnablePeerAccess(peer, 0)), 704);
    assert_eq!(saxpy(1.0, there, there, 32, 0), 0);
    ok!(cuCtxSynchronize());
    assert_eq!(read::<f32>(there, 32), [2.0; 32]);
}

#[test]
fn a_peer_s_memory_is_an_illegal_address_when_not_allowed() {
    if alone::elsewhere() {
        return;
    }
    device(6);
    let there = buffer(&[1f32; 32]);
    device(5);
    assert_eq!(saxpy(1.0, there, there, 32, 0), 0);
    assert_eq!(code!(cuCtxSynchronize()), 700);
}

#[test]
fn the_device_is_what_the_profile_says() {
    LazyLock::force(&STARTED);
    let mut count = 0;
    ok!(cuDeviceGetCount(&mut count));
    assert_eq!(count, 8);
    let attribute = |number| {
        let mut value = -1;
        ok!(cuDeviceGetAttribute(&mut value, number, 0));
        value
    };
    assert_eq!([75, 76, 10, 16, 97, 41].map(attribute), [9, 0, 32, 132, 227 << 10, 1]);
    let mut name = null_mut::<c_char>().cast_const();
    ok!(cuGetErrorName(700, &mut name));
    // SAFETY: the driver's names are static.
    assert_eq!(unsafe { std::ffi::CStr::from_ptr(name) }, c"CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(code!(cuGetExportTable(null_mut(), [0u8; 16].as_ptr())), 500);
}

#[test]
fn a_copy_that_leaves_its_buffer_is_refused() {
    device(0);
    let x = buffer(&[0u8; 100]);
    let mut host = [0u8; 200];
    assert_eq!(code!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), x, 101)), 1);
    assert_eq!(code!(cuMemcpyDtoHAsync_v2(host.as_mut_ptr().cast(), x + 50, 51, 0)), 1);
    assert_eq!(code!(cuMemcpyHtoD_v2(host.as_ptr() as u64, host.as_ptr().cast(), 10)), 1);
}
