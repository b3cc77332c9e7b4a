"""Owns watching llama.cpp run a GGUF file: the sums of squares of every product's inputs, as its imatrix tool adds them up."""

import ctypes
import pathlib

import numpy
from llama_cpp_logits import silence


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

    silence()
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise AssertionError(f"llama.cpp does not load {path}")
    longest = max(len(sequence) for sequence in sequences)
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = longest
    options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
    options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    options.cb_eval = watch
    context = llama_cpp.llama_init_from_model(model, options)
    batch = llama_cpp.llama_batch_init(longest, 0, 1)
    try:
        for sequence in sequences:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            batch.n_tokens = len(sequence)
            for i, token in enumerate(sequence):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
                batch.seq_id[i][0] = 0
            if llama_cpp.llama_decode(context, batch) != 0:
                raise AssertionError(f"llama.cpp does not run {path}")
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
    if odd:
        raise AssertionError(f"{path}: inputs of {odd} are no plain rows of f32")
    return {name: (sums[name], counts[name]) for name in sums}
