"""Owns running a GGUF file in llama.cpp: logits of token ids through the low-level API, which models without a vocabulary need."""

import ctypes

import numpy

_log = []  # llama.cpp calls it as long as the process lives


def silence():
    """llama.cpp tells nothing from here on."""
    import llama_cpp

    if not _log:
        _log.append(llama_cpp.llama_log_callback(lambda level, text, data: None))
        llama_cpp.llama_log_set(_log[0], ctypes.c_void_p(0))


def logits(path, tokens):
    """f32 [tokens, vocabulary], with keys and values kept in f32."""
    import llama_cpp

    silence()
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise AssertionError(f"llama.cpp does not load {path}")
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = len(tokens)
    options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
    options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, options)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
        batch.seq_id[i][0] = 0
    try:
        if llama_cpp.llama_decode(context, batch) != 0:
            raise AssertionError(f"llama.cpp does not run {path}")
        width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        flat = llama_cpp.llama_get_logits(context)
        return numpy.ctypeslib.as_array(flat, shape=(len(tokens) * width,)).reshape(len(tokens), width).copy()
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
