"""The connection to the runtime, and what can be asked of it."""

import collections
import mmap
import os
import secrets
import time
import weakref
from dataclasses import dataclass
from typing import Any, Sequence

import grpc
import numpy as np

from . import _wire

_SOCKET = "/run/weft/runtime.sock"
_SHM_DIR = "/run/weft/shm"

_METHODS = (
    "Info OpenRegion CloseRegion Alloc Free Copy LoadModule UnloadModule Launch Gemm Fft Spmv".split()
)
_KINDS = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16",
    "int64": "i64", "int32": "i32", "int8": "i8", "uint64": "u64", "uint32": "u32", "uint8": "u8",
    "complex64": "c32", "complex128": "c64",
}  # fmt: skip
_SCALARS = {"float32": "f32", "float64": "f64", "int32": "i32", "uint32": "u32", "int64": "i64", "uint64": "u64"}

_Operand = _wire.message("Operand")
_Argument = _wire.message("Argument")
_Extent = _wire.message("Extent")


class Error(RuntimeError):
    """What the runtime refused, in its own sentence. `code` is gRPC's name of the kind, such as `INVALID_ARGUMENT`."""

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT"):
        super().__init__(message)
        self.code = code


def connect(socket: str | None = None, shm_dir: str | None = None, timeout: float = 60.0) -> "Client":
    """Connects to the runtime of this pod, waiting up to `timeout` seconds for it to come up.

    The paths come from WEFT_RUNTIME_SOCKET and WEFT_SHM_DIR, else they are where Weft's operator mounts them.
    """
    socket = socket or os.environ.get("WEFT_RUNTIME_SOCKET", _SOCKET)
    shm_dir = shm_dir or os.environ.get("WEFT_SHM_DIR", _SHM_DIR)
    return Client(socket, shm_dir, timeout)


@dataclass(frozen=True)
class Csr:
    """A sparse matrix in compressed rows, its parts in shared memory or on the GPU."""

    shape: tuple[int, int]
    indptr: Any
    indices: Any
    data: Any


class Client:
    """One connection. What it makes on the GPU ends with it."""

    def __init__(self, socket: str, shm_dir: str, timeout: float):
        deadline = time.monotonic() + timeout
        while not os.path.exists(socket):
            if time.monotonic() > deadline:
                raise Error(f"no runtime came up at {socket} within {timeout:g} s: is spec.runtime enabled?", "UNAVAILABLE")
            time.sleep(0.05)
        self._channel = grpc.insecure_channel(
            f"unix:{socket}",
            options=[
                # HTTP/2 servers refuse a path as authority.
                ("grpc.default_authority", "localhost"),
                # An idle connection that gRPC closed on its own would take its regions and buffers with it.
                ("grpc.client_idle_timeout_ms", 2**31 - 1),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._calls = {}
        for name in _METHODS:
            path, request, response = _wire.method(name)
            serialize, parse = request.SerializeToString, response.FromString
            self._calls[name] = (request, self._channel.unary_unary(path, serialize, parse))
        self._shm_dir = shm_dir
        # Start address -> (end address, handle) of each open region.
        self._regions: dict[int, tuple[int, int]] = {}
        # What the garbage collector let go. Calls from inside it could wait for themselves, so the next call releases them.
        self._dead: collections.deque[tuple[str, int, int]] = collections.deque()
        #: Seconds that the last operation took on the GPU, without the transfers of regions.
        self.last_seconds = 0.0
        try:
            grpc.channel_ready_future(self._channel).result(timeout=max(deadline - time.monotonic(), 1.0))
        except grpc.FutureTimeoutError:
            self._channel.close()
            raise Error(f"the runtime at {socket} does not answer", "UNAVAILABLE") from None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. Arrays in shared memory stay readable until they are dropped."""
        self._channel.close()

    def info(self):
        """The runtime's version, GPUs and libraries."""
        return self._call("Info")

    # Memory

    def empty(self, shape: int | Sequence[int], dtype=np.float32) -> np.ndarray:
        """A NumPy array of zeros in shared memory."""
        shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        dtype = np.dtype(dtype)
        _kind(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        if count <= 0:
            raise Error(f"an array in shared memory has at least one element, not shape {shape}")
        memory = self._open_region(count * dtype.itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def array(self, values, dtype=None) -> np.ndarray:
        """A copy of `values` in shared memory."""
        values = np.asarray(values, dtype)
        shared = self.empty(values.shape, values.dtype)
        shared[...] = values
        return shared

    def buffer(self, shape: int | Sequence[int], dtype=np.float32, gpu: int = 0) -> "Buffer":
        """Zeroed device memory."""
        shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        dtype = np.dtype(dtype)
        _kind(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return Buffer(self, self._call("Alloc", gpu=gpu, bytes=size).buffer, shape, dtype, gpu)

    def copy(self, source, target, gpu: int | None = None) -> None:
        """Copies all elements of one array or buffer to another of the same type and number of elements."""
        operands = {"from": self._operand(source, "source"), "to": self._operand(target, "target")}
        self._operate("Copy", gpu=_gpu(gpu, source, target), **operands)

    # Operations

    def gemm(self, a, b, out=None, *, transpose_a=False, transpose_b=False, alpha=1.0, beta=0.0, gpu=None):
        """`alpha·a·b + beta·out`, into `out` or a new array in shared memory. Returns it."""
        if out is None:
            if a.ndim != 2 or b.ndim != 2:
                raise Error(f"a has {a.ndim} dimensions and b has {b.ndim}: a product takes matrices")
            rows, columns = a.shape[1 if transpose_a else 0], b.shape[0 if transpose_b else 1]
            out = self.empty((rows, columns), a.dtype)
        self._operate(
            "Gemm",
            gpu=_gpu(gpu, a, b, out),
            a=self._operand(a, "a"),
            b=self._operand(b, "b"),
            c=self._operand(out, "out"),
            transpose_a=transpose_a,
            transpose_b=transpose_b,
            alpha=alpha,
            beta=beta,
        )
        return out

    def fft(self, x, out=None, gpu=None):
        """Complex transforms of the last axis (exponent −2πi), not scaled. Returns `out`."""
        return self._fft(x, self.empty(x.shape, x.dtype) if out is None else out, 0, gpu)

    def ifft(self, x, out=None, gpu=None):
        """Complex transforms of the last axis (exponent +2πi), not scaled: `ifft(fft(x))` is n·x. Returns `out`."""
        return self._fft(x, self.empty(x.shape, x.dtype) if out is None else out, 1, gpu)

    def rfft(self, x, out=None, gpu=None):
        """Transforms of a real last axis to n/2+1 complex values, not scaled. Returns `out`."""
        if out is None:
            out = self.empty((*x.shape[:-1], x.shape[-1] // 2 + 1), np.result_type(x.dtype, np.complex64))
        return self._fft(x, out, 0, gpu)

    def irfft(self, x, n, out=None, gpu=None):
        """Transforms n/2+1 complex values of the last axis to n real ones, not scaled. Returns `out`."""
        if out is None:
            out = self.empty((*x.shape[:-1], n), np.zeros(0, x.dtype).real.dtype)
        return self._fft(x, out, 1, gpu)

    def _fft(self, x, out, direction, gpu):
        operands = {"input": self._operand(x, "x"), "output": self._operand(out, "out")}
        self._operate("Fft", gpu=_gpu(gpu, x, out), direction=direction, **operands)
        return out

    def csr(self, matrix) -> Csr:
        """Puts a sparse matrix (anything with `indptr`, `indices`, `data`, `shape`) into shared memory."""
        indptr, indices = self.array(matrix.indptr, np.int32), self.array(matrix.indices, np.int32)
        return Csr(tuple(matrix.shape), indptr, indices, self.array(matrix.data))

    def spmv(self, matrix, x, out=None, *, alpha=1.0, beta=0.0, gpu=None):
        """`alpha·matrix·x + beta·out`, into `out` or a new array in shared memory. Returns it."""
        if not isinstance(matrix, Csr):
            matrix = self.csr(matrix)
        if out is None:
            out = self.empty(matrix.shape[0], matrix.data.dtype)
        self._operate(
            "Spmv",
            gpu=_gpu(gpu, matrix.indptr, matrix.indices, matrix.data, x, out),
            rows=matrix.shape[0],
            columns=matrix.shape[1],
            row_offsets=self._operand(matrix.indptr, "matrix.indptr"),
            column_indices=self._operand(matrix.indices, "matrix.indices"),
            values=self._operand(matrix.data, "matrix.data"),
            x=self._operand(x, "x"),
            y=self._operand(out, "out"),
            alpha=alpha,
            beta=beta,
        )
        return out

    def compile(self, cuda: str, options: Sequence[str] = (), name: str = "source", gpu: int = 0) -> "Module":
        """Compiles CUDA C++. Kernels are `extern "C" __global__`. Errors name the line."""
        return Module(self, self._call("LoadModule", gpu=gpu, name=name, cuda=cuda, options=list(options)))

    def load(self, ptx: str, name: str = "source", gpu: int = 0) -> "Module":
        """Loads PTX."""
        return Module(self, self._call("LoadModule", gpu=gpu, name=name, ptx=ptx))

    # Below: how requests are made.

    def _operate(self, method: str, **fields) -> None:
        self.last_seconds = self._call(method, **fields).seconds

    def _call(self, method: str, **fields):
        while self._dead:
            kind, field, handle = self._dead.popleft()
            self._send(kind, **{field: handle})
        return self._send(method, **fields)

    def _send(self, method: str, **fields):
        request, call = self._calls[method]
        try:
            return call(request(**fields))
        except grpc.RpcError as error:
            raise Error(error.details() or str(error.code()), error.code().name) from None
        except ValueError as error:
            # What grpc says of a closed channel, and protobuf of a number that does not fit.
            raise Error(f"{method}: {error}") from None

    def _open_region(self, size: int) -> mmap.mmap:
        name = f"py-{os.getpid()}-{secrets.token_hex(8)}"
        path = os.path.join(self._shm_dir, name)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # The runtime may run under another user.
            os.fchmod(file, 0o666)
            # Taken now, by this process: a full volume is an error here, and not a crash or the runtime's memory later.
            os.posix_fallocate(file, 0, size)
            memory = mmap.mmap(file, size)
            region = self._call("OpenRegion", name=name).region
        finally:
            os.close(file)
            # Both sides have it mapped: without a name, nothing is left behind however this process ends.
            os.unlink(path)
        start = np.frombuffer(memory, np.uint8).ctypes.data
        self._regions[start] = (start + size, region)
        weakref.finalize(memory, _let_go, self._regions, self._dead, start, region)
        return memory

    def _operand(self, array, name: str):
        if isinstance(array, Buffer):
            return _Operand(buffer=array.handle, dtype=_kind(array.dtype), shape=array.shape)
        if not isinstance(array, np.ndarray):
            raise Error(f"{name} is a {type(array).__name__}: an array of gpu.empty, gpu.array or gpu.buffer is needed")
        if not array.flags.c_contiguous:
            raise Error(f"{name} is not contiguous: copy it with gpu.array first")
        start = array.ctypes.data
        # A snapshot: the garbage collector may let a region go at any moment, in this thread too.
        for begin, (end, region) in list(self._regions.items()):
            if begin <= start and start + array.nbytes <= end:
                return _Operand(region=region, offset=start - begin, dtype=_kind(array.dtype), shape=array.shape)
        raise Error(f"{name} is in this process's own memory: make it with gpu.empty or gpu.array")


class Buffer:
    """Device memory. Dropped, it is freed."""

    def __init__(self, client: Client, handle: int, shape, dtype, gpu: int):
        self.handle, self.shape, self.dtype, self.gpu = handle, shape, dtype, gpu
        self.ndim, self.size = len(shape), int(np.prod(shape, dtype=np.int64))
        self._client = client
        weakref.finalize(self, client._dead.append, ("Free", "buffer", handle))


class Module:
    """Compiled kernels."""

    def __init__(self, client: Client, loaded):
        self._client, self._handle = client, loaded.module
        #: Names of the kernels.
        self.functions = list(loaded.functions)
        weakref.finalize(self, client._dead.append, ("UnloadModule", "module", loaded.module))

    def launch(self, function: str, grid, block, args: Sequence[Any] = (), shared_bytes: int = 0) -> float:
        """Runs a kernel and waits. Arrays are passed as addresses, scalars as NumPy scalars. Returns seconds on the GPU.

        A kernel reads and writes an array in shared memory over PCIe; for data that it uses often, take a `buffer`.
        """
        self._client._operate(
            "Launch",
            module=self._handle,
            function=function,
            grid=_extent(grid),
            block=_extent(block),
            shared_bytes=shared_bytes,
            arguments=[self._argument(i, value) for i, value in enumerate(args)],
        )
        return self._client.last_seconds

    def _argument(self, i: int, value):
        if isinstance(value, np.generic) and value.dtype.name in _SCALARS:
            return _Argument(**{_SCALARS[value.dtype.name]: value.item()})
        if isinstance(value, (np.ndarray, Buffer)):
            return _Argument(array=self._client._operand(value, f"args[{i}]"))
        known = ", ".join(f"np.{name}" for name in _SCALARS)
        raise Error(f"args[{i}] is a {type(value).__name__}: say which C type it is, with one of {known}")


def _let_go(regions: dict, dead, start: int, region: int) -> None:
    regions.pop(start, None)
    dead.append(("CloseRegion", "region", region))


def _kind(dtype: np.dtype) -> int:
    try:
        return _wire.DTYPES[_KINDS[dtype.name]]
    except KeyError:
        raise Error(f"{dtype.name} is no element type of Weft: there are {', '.join(_KINDS)}") from None


def _extent(value):
    sizes = (value,) if isinstance(value, (int, np.integer)) else tuple(value)
    x, y, z = (*(int(n) for n in sizes), 1, 1)[:3]
    return _Extent(x=x, y=y, z=z)


def _gpu(gpu: int | None, *operands) -> int:
    """The GPU asked for, else that of the first operand on a GPU, else the first."""
    if gpu is not None:
        return gpu
    return next((operand.gpu for operand in operands if isinstance(operand, Buffer)), 0)
