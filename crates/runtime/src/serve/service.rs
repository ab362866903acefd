//! The gRPC methods.

use std::sync::Arc;
use std::time::Instant;

use tonic::{Code, Request, Response, Status};
use weft_proto::runtime as wire;
use weft_proto::runtime::runtime_server::Runtime;

use super::metrics::Metrics;
use super::operand::check;
use super::operations;
use super::region::{Region, SharedFolder};
use super::session::{Held, Session, next_number};
use crate::Error;
use crate::device::DeviceHandle;
use crate::driver::{self, Argument, Launch, Library};

/// Answers the requests of all connections.
pub(super) struct Service {
    devices: Arc<[DeviceHandle]>,
    folder: SharedFolder,
    metrics: Arc<Metrics>,
}

impl Service {
    pub(super) fn new(devices: Arc<[DeviceHandle]>, folder: SharedFolder, metrics: Arc<Metrics>) -> Self {
        Self { devices, folder, metrics }
    }

    /// Counts and times `work`, and turns its error into a status.
    async fn answer<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let arrived = Instant::now();
        let result = work.await.map_err(|error| status(&error));
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.answered(method, code_name(code), arrived.elapsed());
        if let Err(status) = &result {
            tracing::debug!(method, code = code_name(code), message = status.message(), "request refused");
        }
        result.map(Response::new)
    }

    async fn operation(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<f64, Error>>,
    ) -> Result<Response<wire::OperationResponse>, Status> {
        self.answer(method, async {
            let seconds = work.await?;
            self.metrics.ran(method, seconds);
            Ok(wire::OperationResponse { seconds })
        })
        .await
    }

    async fn info(&self) -> Result<wire::InfoResponse, Error> {
        let mut gpus = Vec::new();
        for device in self.devices.iter() {
            let info = device.info();
            let free = device.call(|device| device.context().memory_free_bytes()).await?;
            gpus.push(wire::Gpu {
                index: u32::try_from(info.index).unwrap_or(u32::MAX),
                uuid: info.uuid.clone(),
                name: info.name.clone(),
                compute_major: info.compute.0,
                compute_minor: info.compute.1,
                memory_bytes: info.memory_bytes,
                memory_free_bytes: free,
            });
        }
        Ok(wire::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            driver_cuda_version: driver::driver_cuda_version()?,
            gpus,
            libraries: Library::ALL
                .iter()
                .map(|library| wire::Library { name: library.soname().to_owned(), present: library.is_present() })
                .collect(),
            shm_dir: self.folder.path().display().to_string(),
        })
    }

    async fn load(
        &self,
        session: &Session,
        request: wire::LoadModuleRequest,
    ) -> Result<wire::LoadModuleResponse, Error> {
        let gpu = request.gpu as usize;
        let source = request.source.ok_or_else(|| Error::argument("source", "give cuda or ptx"))?;
        let name = if request.name.is_empty() { "source".to_owned() } else { request.name };
        let (wire::load_module_request::Source::Cuda(text) | wire::load_module_request::Source::Ptx(text)) = &source;
        if text.contains('\0') || request.options.iter().any(|option| option.contains('\0')) {
            return Err(Error::argument("source", "text and options hold no zero byte"));
        }
        let (number, handle) = (session.number(), next_number());
        let functions = session
            .call(gpu, move |device| {
                let module = match source {
                    wire::load_module_request::Source::Cuda(text) => {
                        device.load_cuda(&name, &text, &request.options)?
                    }
                    wire::load_module_request::Source::Ptx(text) => device.load_ptx(&name, &text)?,
                };
                let functions = module.kernels().iter().map(|kernel| kernel.name.clone()).collect();
                device.keep_module(number, handle, module);
                Ok(functions)
            })
            .await?;
        session.hold(handle, Held::Module { gpu });
        Ok(wire::LoadModuleResponse { module: handle, functions })
    }

    async fn run_kernel(&self, session: &Session, request: wire::LaunchRequest) -> Result<f64, Error> {
        let Held::Module { gpu } = session.held("module", request.module)? else {
            return Err(Error::UnknownHandle { kind: "module", handle: request.module });
        };
        let grid = extent("grid", request.grid, [2_147_483_647, 65_535, 65_535])?;
        let block = extent("block", request.block, [1024, 1024, 64])?;
        if block.iter().product::<u32>() > 1024 {
            return Err(Error::argument("block", format!("{block:?} threads: a block has at most 1024")));
        }
        let launch = Launch { grid, block, shared_bytes: request.shared_bytes };
        let mut arguments = Vec::with_capacity(request.arguments.len());
        for (i, argument) in request.arguments.into_iter().enumerate() {
            use wire::argument::Value;
            let name = format!("arguments[{i}]");
            arguments.push(match argument.value {
                Some(Value::Array(operand)) => Passed::Array(check(session, gpu, &name, Some(operand))?),
                Some(Value::F32(value)) => Passed::Scalar(Argument::F32(value)),
                Some(Value::F64(value)) => Passed::Scalar(Argument::F64(value)),
                Some(Value::I32(value)) => Passed::Scalar(Argument::I32(value)),
                Some(Value::U32(value)) => Passed::Scalar(Argument::U32(value)),
                Some(Value::I64(value)) => Passed::Scalar(Argument::I64(value)),
                Some(Value::U64(value)) => Passed::Scalar(Argument::U64(value)),
                None => return Err(Error::argument(name, "it has no value")),
            });
        }
        let number = session.number();
        session
            .call(gpu, move |device| {
                let module = device.module(number, request.module)?;
                let resolved: Result<Vec<Argument>, Error> = arguments
                    .iter()
                    .map(|argument| match argument {
                        Passed::Scalar(scalar) => Ok(*scalar),
                        Passed::Array(operand) => {
                            Ok(Argument::Pointer(operand.resolve(device, number)?.kernel_address()))
                        }
                    })
                    .collect();
                // `arguments` keeps the regions open until the kernel has ended.
                device.launch(&module, &request.function, launch, &resolved?)
            })
            .await
    }
}

enum Passed {
    Scalar(Argument),
    Array(super::operand::Checked),
}

fn extent(name: &str, extent: Option<wire::Extent>, limits: [u32; 3]) -> Result<[u32; 3], Error> {
    let extent = extent.ok_or_else(|| Error::argument(name, "it is missing"))?;
    let sizes = [extent.x, extent.y.max(1), extent.z.max(1)];
    if sizes[0] == 0 || sizes.iter().zip(limits).any(|(size, limit)| *size > limit) {
        return Err(Error::argument(name, format!("{sizes:?} is not within 1 and {limits:?}")));
    }
    Ok(sizes)
}

/// The session of the connection on which a request came.
fn session<T>(request: &Request<T>) -> Result<Arc<Session>, Status> {
    let session = request.extensions().get::<Arc<Session>>().cloned();
    session.ok_or_else(|| Status::internal("this connection has no session"))
}

fn status(error: &Error) -> Status {
    let code = match error {
        Error::Argument { .. } | Error::Compile { .. } | Error::NoSuchGpu { .. } | Error::File { .. } => {
            Code::InvalidArgument
        }
        Error::UnknownHandle { .. } => Code::NotFound,
        Error::MissingLibrary(_) | Error::MissingSymbol(_) | Error::NoDriver | Error::NoGpu(_) => {
            Code::FailedPrecondition
        }
        Error::Cuda { error, .. } if error.is_out_of_memory() => Code::ResourceExhausted,
        Error::Cuda { .. } => Code::Internal,
        Error::Stuck { .. } => Code::DeadlineExceeded,
        Error::OutOfService { .. } => Code::Unavailable,
    };
    let message = match error {
        // What the client can do. A program and a probe, which meet this error too, are not started again.
        Error::OutOfService { .. } => format!("{error}; the runtime starts again, connect again"),
        error => error.to_string(),
    };
    Status::new(code, message)
}

/// As gRPC writes its codes.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unavailable => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}

#[tonic::async_trait]
impl Runtime for Service {
    async fn info(&self, _request: Request<wire::InfoRequest>) -> Result<Response<wire::InfoResponse>, Status> {
        self.answer("Info", self.info()).await
    }

    async fn open_region(
        &self,
        request: Request<wire::OpenRegionRequest>,
    ) -> Result<Response<wire::OpenRegionResponse>, Status> {
        let session = session(&request)?;
        let name = request.into_inner().name;
        self.answer("OpenRegion", async {
            let map = self.folder.map(&name)?;
            let region = Region::pin(session.home()?.clone(), self.metrics.clone(), map).await?;
            let response = wire::OpenRegionResponse { region: region.number(), bytes: region.bytes() as u64 };
            session.add_region(Arc::new(region));
            Ok(response)
        })
        .await
    }

    async fn close_region(
        &self,
        request: Request<wire::CloseRegionRequest>,
    ) -> Result<Response<wire::CloseRegionResponse>, Status> {
        let session = session(&request)?;
        let handle = request.into_inner().region;
        self.answer("CloseRegion", async { session.close_region(handle).map(|()| wire::CloseRegionResponse {}) }).await
    }

    async fn alloc(&self, request: Request<wire::AllocRequest>) -> Result<Response<wire::AllocResponse>, Status> {
        let session = session(&request)?;
        let wire::AllocRequest { gpu, bytes } = request.into_inner();
        self.answer("Alloc", async {
            let gpu = gpu as usize;
            let size = usize::try_from(bytes).ok().filter(|&bytes| bytes > 0);
            let bytes = size.ok_or_else(|| Error::argument("bytes", "a buffer has at least one byte"))?;
            let (number, buffer) = (session.number(), next_number());
            session.call(gpu, move |device| device.alloc(number, buffer, bytes)).await?;
            session.hold(buffer, Held::Buffer { gpu, bytes });
            Ok(wire::AllocResponse { buffer })
        })
        .await
    }

    async fn free(&self, request: Request<wire::FreeRequest>) -> Result<Response<wire::FreeResponse>, Status> {
        let session = session(&request)?;
        let handle = request.into_inner().buffer;
        self.answer("Free", async {
            release(&session, "buffer", handle).await?;
            Ok(wire::FreeResponse {})
        })
        .await
    }

    async fn copy(&self, request: Request<wire::CopyRequest>) -> Result<Response<wire::OperationResponse>, Status> {
        let session = session(&request)?;
        self.operation("Copy", operations::copy(&session, &self.metrics, request.into_inner())).await
    }

    async fn load_module(
        &self,
        request: Request<wire::LoadModuleRequest>,
    ) -> Result<Response<wire::LoadModuleResponse>, Status> {
        let session = session(&request)?;
        self.answer("LoadModule", self.load(&session, request.into_inner())).await
    }

    async fn unload_module(
        &self,
        request: Request<wire::UnloadModuleRequest>,
    ) -> Result<Response<wire::UnloadModuleResponse>, Status> {
        let session = session(&request)?;
        let handle = request.into_inner().module;
        self.answer("UnloadModule", async {
            release(&session, "module", handle).await?;
            Ok(wire::UnloadModuleResponse {})
        })
        .await
    }

    async fn launch(&self, request: Request<wire::LaunchRequest>) -> Result<Response<wire::OperationResponse>, Status> {
        let session = session(&request)?;
        self.operation("Launch", self.run_kernel(&session, request.into_inner())).await
    }

    async fn gemm(&self, request: Request<wire::GemmRequest>) -> Result<Response<wire::OperationResponse>, Status> {
        let session = session(&request)?;
        self.operation("Gemm", operations::gemm(&session, &self.metrics, request.into_inner())).await
    }

    async fn fft(&self, request: Request<wire::FftRequest>) -> Result<Response<wire::OperationResponse>, Status> {
        let session = session(&request)?;
        self.operation("Fft", operations::fft(&session, &self.metrics, request.into_inner())).await
    }

    async fn spmv(&self, request: Request<wire::SpmvRequest>) -> Result<Response<wire::OperationResponse>, Status> {
        let session = session(&request)?;
        self.operation("Spmv", operations::spmv(&session, &self.metrics, request.into_inner())).await
    }
}

/// Frees a buffer or unloads a module, after what was asked of it before.
async fn release(session: &Session, kind: &'static str, handle: u64) -> Result<(), Error> {
    let (Held::Buffer { gpu, .. } | Held::Module { gpu }) = session.held(kind, handle)?;
    session.forget(handle);
    let number = session.number();
    session
        .call(gpu, move |device| {
            device.release(number, handle);
            Ok(())
        })
        .await
}
