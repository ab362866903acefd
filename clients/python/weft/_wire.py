"""The messages of weft.runtime.v1, made from the protocol's descriptor.

There is no generated code: that would tie the package to one range of protobuf versions.
"""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_files = descriptor_pb2.FileDescriptorSet.FromString(resources.files(__package__).joinpath("runtime.binpb").read_bytes())
# A pool of our own: the application may have loaded another version of the same file.
_pool = descriptor_pool.DescriptorPool()
for _file in _files.file:
    _pool.Add(_file)

SERVICE = _pool.FindServiceByName("weft.runtime.v1.Runtime")


def message(name):
    """The class of a message."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"weft.runtime.v1.{name}"))


def method(name):
    """Path, request class and response class of a method."""
    found = SERVICE.methods_by_name[name]
    request = message_factory.GetMessageClass(found.input_type)
    response = message_factory.GetMessageClass(found.output_type)
    return f"/{SERVICE.full_name}/{name}", request, response


DTYPES = {value.name.lower(): value.number for value in _pool.FindEnumTypeByName("weft.runtime.v1.DType").values}
