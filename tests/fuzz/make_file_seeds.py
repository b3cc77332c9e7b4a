"""Makes seeds of small text files for the fuzzers: make_file_seeds.py REPOSITORY SEEDS, with a folder in SEEDS for each fuzzer."""
import json
import pathlib
import struct
import sys

repository, seeds = map(pathlib.Path, sys.argv[1:])
MARK = b"\n--8<--\n"
LETTERS = {"config.json": b"c", "tokenizer.json": b"t", "tokenizer.model": b"m", "vocab.json": b"v", "merges.txt": b"r", "tokenizer_config.json": b"k", "special_tokens_map.json": b"s", "added_tokens.json": b"a", "generation_config.json": b"g", "chat_template.jinja": b"j"}


def put(fuzzer, name, content):
    folder = seeds / fuzzer
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def put_files(name, files):
    """Text, bytes, or what becomes JSON, by file name: as fuzz_tokenizer_files reads them."""
    contents = {file: value if isinstance(value, (str, bytes)) else json.dumps(value) for file, value in files.items()}
    put("tokenizer_files", name, MARK.join(LETTERS[file] + (value if isinstance(value, bytes) else value.encode()) for file, value in contents.items()))


def side_files(added):
    """What transformers saves beside a tokenizer whose added tokens these are: id by text."""
    first = next(iter(added), "<|endoftext|>")
    config = {"bos_token": first, "eos_token": {"content": first, "lstrip": False}, "unk_token": None, "add_bos_token": True, "add_prefix_space": False, "added_tokens_decoder": {str(id): {"content": text, "special": True} for text, id in added.items()}, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}
    ids = {"bos_token_id": 0, "eos_token_id": [0, 1], "pad_token_id": None, "suppress_tokens": [3], "forced_decoder_ids": [[1, 2]]}
    return {"tokenizer_config.json": config, "special_tokens_map.json": {"bos_token": first}, "added_tokens.json": added, "generation_config.json": ids | {"temperature": 0.5}, "config.json": ids | {"model_type": "gpt2"}}


def field(number, content):
    """A field of a protocol buffer: an int or bytes shorter than 128, or a float."""
    if isinstance(content, int):
        return bytes([number << 3, content])
    return bytes([number << 3 | 5]) + struct.pack("<f", content) if isinstance(content, float) else bytes([number << 3 | 2, len(content)]) + content


# A SentencePiece BPE model for the fuzzer's text: control pieces, bytes, characters and two merges.
pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<0x0A>", 6), ("th", 1), ("the", 1)] + [(character, 1) for character in "\u2581It'shend"]
model = b"".join(field(1, field(1, piece.encode()) + field(2, -float(i)) + field(3, kind)) for i, (piece, kind) in enumerate(pieces)) + field(2, field(3, 2))
put_files("sentencepiece", {"tokenizer.model": model} | side_files({"<s>": 1}))

# A byte-level vocabulary, just large enough for the fuzzer's text, as both kinds of files say it.
end = "<|endoftext|>"
tokens = ["I", "t", "'", "s", "\u0120", "h", "e", "n", "d", "\u010a", "th", "the", "\u0120the", "x", end]
vocabulary = {token: id for id, token in enumerate(tokens)}
merges = ["t h", "th e", "\u0120 the"]
two_files = {"vocab.json": vocabulary, "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n"}
side = side_files({end: len(tokens) - 1})
byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": end, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {end: {"id": end, "ids": [len(tokens) - 1], "tokens": [end]}}}
roberta = {"type": "RobertaProcessing", "cls": [end, len(tokens) - 1], "sep": [end, len(tokens) - 1], "trim_offsets": True, "add_prefix_space": False}
added = [{"id": len(tokens) - 1, "content": end, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]
for name, processor in {"byte-level": template, "roberta": {"type": "Sequence", "processors": [byte_level, roberta]}}.items():
    tokenizer = {"added_tokens": added, "normalizer": None, "pre_tokenizer": byte_level, "post_processor": processor, "decoder": byte_level, "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}}
    put_files(name, {"tokenizer.json": tokenizer} | two_files | side)
    for file in side:
        for i, odd in enumerate(([["x"]], {"x": "y"}, 5)):
            put_files(f"{name}-{i}-{file}", {"tokenizer.json": tokenizer} | two_files | side | {file: odd})
put_files("two-files", two_files | {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}, "config.json": side["config.json"], "generation_config.json": side["generation_config.json"]})

put("texts", "texts", '{"text": "It\'s the end."}\n\n{"text": "na\u00efve \u6771\u4eac", "other": [1]}\n'.encode())
put("texts", "questions", b'{"sentence_good": "They walk.", "sentence_bad": "They walks."}\n{"context": "One and one is", "choices": [" three", " two"], "answer": 1}\n')
put("texts", "ids", bytes([1, 0, 0, 0, 2, 1, 0, 0]))

for path in sorted((repository / "tests/golden/tiny").glob("*/config.json")):
    put("json", path.parent.name, path.read_bytes())
put("json", "numbers", b'[0, -0, -0.0, 1e-400, 1.7976931348623157e308, 18446744073709551615, -9223372036854775808, 36893488147419103232, 5e-324, 0.1]')
put("json", "texts", '["\\u0000\\ud834\\udd1e\\/\\b", "\u6771\U0001d11e", {"": null, "a\\nb": [true, false, {}]}]'.encode())
put("json", "levels", b"[" * 64 + b"]" * 64)
