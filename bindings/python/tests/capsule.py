"""A DLPack tensor made by hand, over any memory and on any device that is claimed."""

import ctypes

from salf import _dlpack

_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)


class Capsule:
    """A NumPy array as another library would show it; counts how often its memory was given out and given back."""

    def __init__(self, values, version=None, device=(1, 0), code=2, bits=32, lanes=1, strides=True, flags=0, offset=0):
        self.values, self.version, self.device, self.given_back = values, version, device, 0
        self.given_out, self.arguments = 0, {}
        self.shape = (ctypes.c_int64 * values.ndim)(*values.shape)
        self.strides = (ctypes.c_int64 * values.ndim)(*(step // values.itemsize for step in values.strides))
        self.managed = _dlpack._Versioned() if version else _dlpack._Managed()
        if version:
            self.managed.major, self.managed.minor, self.managed.flags = *version, flags
        t = self.managed.tensor
        t.data, t.byte_offset = values.ctypes.data - offset, offset
        t.device_type, t.device_id, t.ndim = *device, values.ndim
        t.code, t.bits, t.lanes = code, bits, lanes
        t.shape = self.shape
        t.strides = self.strides if strides else None
        self.name = b"dltensor_versioned" if version else b"dltensor"
        self.destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self._destroy)

    def _destroy(self, _):
        self.given_back += 1

    def __dlpack__(self, **arguments):
        if self.version is None and "max_version" in arguments:
            raise TypeError("max_version")
        self.arguments = arguments
        self.given_out += 1
        return _new(ctypes.addressof(self.managed), self.name, ctypes.cast(self.destructor, ctypes.c_void_p))

    def __dlpack_device__(self):
        return self.device
