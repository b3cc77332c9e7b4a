"""Owns watching llama.cpp run a GGUF file: the sums of squares of every product's inputs, as its imatrix tool adds them up."""

import ctypes
import pathlib

import numpy
from llama_cpp_logits import Running


class Tensor(ctypes.Structure):
    """struct ggml_tensor of ggml.h, up to the name."""

    _fields_ = [("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4), ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32),
                ("src", ctypes.c_void_p * 10), ("view_src", ctypes.c_void_p), ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64)]


def input_squares(path, sequences):
    """Of each weight of a block and of the head, by name: Σ x² by column, and the count of rows, over sequences of token ids."""
    import llama_cpp

    library = ctypes.CDLL(str(next((pathlib.Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so*"))))
    library.ggml_op_desc.restype, library.ggml_op_desc.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    sums, counts, odd = {}, {}, []

    @llama_cpp.ggml_backend_sched_eval_callback
    def watch(address, ask, _):
        tensor = Tensor.from_address(address)
        if library.ggml_op_desc(address) != b"MUL_MAT":
            return not ask
        weight, x = (Tensor.from_address(source) for source in tensor.src[:2])
        name = weight.name.decode()
        if not name.endswith(".weight"):
            return not ask
        if not ask:
            if x.type != 0 or x.nb[0] != 4 or x.nb[1] != 4 * x.ne[0] or x.ne[2] != 1 or x.ne[3] != 1:  # f32, rows one after the other
                odd.append(name)
                return False
            values = numpy.ctypeslib.as_array(ctypes.cast(x.data, ctypes.POINTER(ctypes.c_float)), shape=(x.ne[1], x.ne[0])).astype(numpy.float64)
            sums[name] = sums.get(name, 0) + (values * values).sum(axis=0)
            counts[name] = counts.get(name, 0) + x.ne[1]
        return True

    with Running(path, max(len(sequence) for sequence in sequences), watch) as running:
        for sequence in sequences:
            running.decode(sequence)
    if odd:
        raise AssertionError(f"{path}: inputs of {odd} are no plain rows of f32")
    return {name: (sums[name], counts[name]) for name in sums}
