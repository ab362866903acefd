"""GPU operations on NumPy arrays through the Weft runtime, without CUDA in the application."""

from ._client import Buffer, Client, Csr, Error, Module, connect

__all__ = ["Buffer", "Client", "Csr", "Error", "Module", "connect"]
