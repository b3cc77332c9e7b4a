"""Owns running a GGUF file in llama.cpp: logits of token ids through the low-level API, which models without a vocabulary need."""

import ctypes
import subprocess

import numpy

_log = []  # llama.cpp calls it as long as the process lives


def silence():
    """llama.cpp tells nothing from here on."""
    import llama_cpp

    if not _log:
        _log.append(llama_cpp.llama_log_callback(lambda level, text, data: None))
        llama_cpp.llama_log_set(_log[0], ctypes.c_void_p(0))


class Running:
    """A file as a model for sequences of up to so many tokens, with keys and values kept in f32; `watch` sees every tensor computed.

    One thread by default: more of them wait for each other by spinning, which on a busy machine takes far longer than the work.
    """

    def __init__(self, path, longest, watch=None, threads=1):
        import llama_cpp

        self.llama_cpp, self.path = llama_cpp, path
        silence()
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise AssertionError(f"llama.cpp does not load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = longest
        options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
        options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.n_threads = options.n_threads_batch = threads
        if watch:
            options.cb_eval = watch
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.batch = llama_cpp.llama_batch_init(longest, 0, 1)

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.llama_cpp.llama_batch_free(self.batch)
        self.llama_cpp.llama_free(self.context)
        self.llama_cpp.llama_model_free(self.model)

    def decode(self, tokens):
        """Runs one sequence from its start."""
        self.llama_cpp.llama_memory_clear(self.llama_cpp.llama_get_memory(self.context), True)
        self.batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i], self.batch.n_seq_id[i], self.batch.logits[i] = int(token), i, 1, 1
            self.batch.seq_id[i][0] = 0
        if self.llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise AssertionError(f"llama.cpp does not run {self.path}")

    def logits(self, tokens):
        """f32 [tokens, vocabulary]."""
        self.decode(tokens)
        width = self.llama_cpp.llama_vocab_n_tokens(self.llama_cpp.llama_model_get_vocab(self.model))
        flat = self.llama_cpp.llama_get_logits(self.context)
        return numpy.ctypeslib.as_array(flat, shape=(len(tokens) * width,)).reshape(len(tokens), width).copy()


def logits(path, tokens):
    with Running(path, len(tokens)) as running:
        return running.logits(tokens)


def run(*args):
    done = subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, args))}\n{done.stderr}")
    return done.stdout


def compare_logits(llmc, path, tokens, work, bound):
    """The largest difference between `llmc evaluate`'s logits and llama.cpp's, as a share of the largest of ours; above `bound` it fails."""
    numpy.save(work / "ids.npy", tokens[None])
    run(llmc, "evaluate", path, "--data", work / "ids.npy", "--seqlen", len(tokens), "--logits", work / "logits.npy")
    ours, theirs = numpy.load(work / "logits.npy"), logits(path, tokens)
    difference = float(numpy.abs(ours - theirs).max() / numpy.abs(ours).max())
    if not difference <= bound:
        raise AssertionError(f"{path}: logits differ from llama.cpp's by {difference:.2e} of the largest, over {bound:.0e}")
    return difference
