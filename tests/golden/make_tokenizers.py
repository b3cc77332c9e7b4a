#!/usr/bin/env python3
"""Makes tokenizer/<name>/tokenizer.json, small tokenizers of every kind in use, and what Hugging Face's library answers.

    python make_tokenizers.py [--out DIR] [NAME …]

They are trained on calib/data/calibration.txt and on texts.json. Five are
SentencePiece's own models. expected.json holds, of tokenizers 0.23.3 and sentencepiece 0.2.3:
  ids      of every text of texts.json, with the post-processor's tokens
  decoded  what these ids decode to; of a tokenizer.model the pieces one after the other
  random   hashes of the ids of 10,000 random texts without the post-processor's tokens, one of each 100 texts
  text     hashes of the ids of calibration.txt in pieces of 40,000 characters
The random texts are made by `random_texts`, and by the same rule in tests/calib/tokenizer_kinds_test.cc, of characters that are the
same in Unicode 3.2 and 14. The hash is FNV-1a over the ids as 32-bit little-endian integers, −1 after each text.
"""

import argparse
import io
import json
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parents[1] / "calib/data/calibration.txt"
RANDOM_COUNT, RANDOM_GROUP, PIECE = 10_000, 100, 40_000
MASK = (1 << 64) - 1

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

TEXTS = [
    "", " ", "  ", "\n", "\t", "a", " a", "a ", "  a  b  ", "Hello world", "Hello, world! How are you?", "It's  a truth we'll\n\n acknowledge… I'M",
    "▁", "a▁b ▁c", "▁▁a", "<0x41>", "<s>a</s> b", "<unk> x", "a<s> b", "x1234567890y 12 345,678.90", "½ ² ³ ١٢٣ Ⅷ 一二三", "naïve café Ångström brûlée", "nai\u0308ve cafe\u0301 A\u030a",
    "Straße ẞ İstanbul ıI ΌΣΟΣ ὈΔΥΣΣΕΎΣ", "здравствуй, мир! Ёлка", "東京都 こんにちは 世界 カタカナ ｶﾀｶﾅ", "한국어 \u1112\u1161\u11ab", "שָׁלוֹם עולם", "مرحبا بالعالم ﷺ", "हिन्दी किताब", "ภาษาไทย", "ᚠᛇᚻ 𐍈 𝔘𝔫𝔦 𝟘𝟙",
    "😀👍🏽 👨‍👩‍👧‍👦 🇫🇷", "ﬁ ﬀ ℃ Ａｂｃ １２３", "a\u00a0b\u3000c\u2003d\u200be\u2028f", "tab\tand\r\nnewline\r", "\u00adsoft\u200dhyphen\ufeff", "a\x00b\x01c\x7f\x85", "e\u0301\u0301 q\u0307\u0323 q\u0323\u0307",
    "don't can't I've they're he's we'd you'll", "foo_bar(baz, qux) == {'k': [1, 2]} // x++ && !y", "https://example.org/a?b=c&d=%20#e", "price: $12.50 (50% off), €3 £4 ¥5", "«quoted» “curly” ‘single’ — dash – en … ¿qué?",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa b", "mixedСмешанный混合text", "The   quick\tbrown\n\n\nfox", "end with spaces   ",
    "<|end|>", "a <|end|> b", "a<|end|><|end|>", "[MASK] a [MASK]b", " [MASK]", "[CLS] a [SEP]", "!!! ??? ...", "a.b,c;d", "1,000.5 -3 +4", "\\n \\t \"q\" `code`", "x" * 70 + " y",
]


def stable_ranges():
    """Ranges of characters whose category is the same in Unicode 3.2 and in Python's Unicode, surrogates and private ones left out."""
    ranges, table = [], unicodedata.ucd_3_2_0
    for value in range(0x20, 0x30000):
        old = table.category(chr(value))
        same = old == unicodedata.category(chr(value)) and old not in ("Cn", "Cs", "Co")
        same = same and unicodedata.combining(chr(value)) == table.combining(chr(value))
        if not same:
            continue
        if ranges and ranges[-1][1] == value - 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])
    return ranges


class SplitMix:
    """Steele, Lea, Flood 2014: splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, most):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        return (z ^ z >> 31) % most


OFTEN = list("   \n\t\r.,'\"!-(1234▁") + ["\u00a0", "\u3000", "\u0301", "\u200d", "'s", "'ll", "<s>", "<|end|>", "[MASK]", "##", "</w>"]


def random_texts(ranges):
    random = SplitMix(1)
    for _ in range(RANDOM_COUNT):
        text = ""
        for _ in range(random.below(24)):
            kind = random.below(8)
            if kind < 3:
                text += chr(0x61 + random.below(26))
            elif kind < 5:
                text += OFTEN[random.below(len(OFTEN))]
            else:
                first, last = ranges[random.below(len(ranges))]
                text += chr(first + random.below(last - first + 1))
        yield text


def hash_ids(sequences):
    value = 0xCBF29CE484222325
    for ids in sequences:
        for byte in b"".join(i.to_bytes(4, "little", signed=True) for i in [*ids, -1]):
            value = ((value ^ byte) * 0x100000001B3) & MASK
    return f"{value:016x}"


def expect(texts, encode, encode_with_special, decode, dropped=()):
    """What expected.json holds. `dropped`: strings that are taken out of every text first."""
    def without(text):
        for part in dropped:
            text = text.replace(part, "")
        return text

    ids = [encode_with_special(without(text)) for text in texts["texts"]]
    many = [encode(without(text)) for text in random_texts(texts["ranges"])]
    corpus = CORPUS.read_text(encoding="utf-8")
    return {
        "dropped": list(dropped),
        "ids": ids,
        "decoded": [decode(row) for row in ids],
        "random": [hash_ids(many[i:i + RANDOM_GROUP]) for i in range(0, len(many), RANDOM_GROUP)],
        "text": [hash_ids([encode(corpus[i:i + PIECE])]) for i in range(0, len(corpus), PIECE)],
    }


def expect_of(folder, texts):
    """expected.json of a folder, from its tokenizer.json or tokenizer.model."""
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return expect(texts, lambda text: tokenizer.encode(text, add_special_tokens=False).ids, lambda text: tokenizer.encode(text).ids,
                      lambda ids: tokenizer.decode(ids, skip_special_tokens=False))
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    # The pieces of special tokens are found in texts as transformers finds them, which SentencePiece does not.
    return expect(texts, model.encode, model.encode, lambda ids: "".join(model.id_to_piece(ids)), ("<s>", "</s>", "<unk>"))


# ---------------------------------------------------------------- the tokenizers


def lines():
    text = CORPUS.read_text(encoding="utf-8")
    return text[:150_000].splitlines() + TEXTS * 3


def train(tokenizer, kind, size, special, **options):
    trainer = {"bpe": trainers.BpeTrainer, "unigram": trainers.UnigramTrainer, "wordpiece": trainers.WordPieceTrainer,
               "wordlevel": trainers.WordLevelTrainer}[kind](vocab_size=size, special_tokens=special, show_progress=False, **options)
    tokenizer.train_from_iterator(lines(), trainer)
    return tokenizer


def edit(tokenizer, change):
    """The tokenizer of a changed file."""
    file = json.loads(tokenizer.to_str())
    change(file)
    return Tokenizer.from_str(json.dumps(file))


def sentencepiece_bpe(name):
    """Llama 2's, Gemma's and Mistral's: pieces of characters with U+2581 for spaces, byte tokens for the rest."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fallback = [decoders.ByteFallback(), decoders.Fuse()]
    if name == "llama2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), *fallback, decoders.Strip(" ", 1, 0)])
    elif name == "gemma":
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), *fallback])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), *fallback, decoders.Strip(" ", 1, 0)])
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    train(trained, "bpe", 330, [])
    model = json.loads(trained.to_str())["model"]

    def fill(file):
        vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))])}
        rare = set("中ẞ😀" if name == "llama2" else "")
        for token in sorted(model["vocab"], key=model["vocab"].get):
            if not set(token) & rare:
                vocab.setdefault(token, len(vocab))
        for spaces in ("▁▁", "▁▁▁▁"):
            vocab.setdefault(spaces, len(vocab))
        merges = [pair for pair in model["merges"] if all(part in vocab for part in (*pair, "".join(pair)))]
        file["model"].update(vocab=vocab, merges=[["▁", "▁"], ["▁▁", "▁▁"], *merges])

    tokenizer = edit(tokenizer, fill)
    tokenizer.add_special_tokens([AddedToken(token, normalized=name == "gemma") for token in ("<unk>", "<s>", "</s>")])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)])
    return tokenizer


def byte_level(pre, post=None, normalizer=None, ignores_merges=False, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pre)
    tokenizer.decoder = decoders.ByteLevel()
    more = {"end_of_word_suffix": options["end_of_word_suffix"]} if "end_of_word_suffix" in options else {}
    train(tokenizer, "bpe", 420 if not more else 700, ["<|end|>"] if "unk_token" in options else [], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **more)
    tokenizer.add_special_tokens(["<|end|>"])
    end = ("<|end|>", tokenizer.token_to_id("<|end|>"))
    if post == "template":
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(single="<|end|> $A", special_tokens=[end])])
    elif post == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(end, end)

    def whole_words(file):
        file["model"]["ignore_merges"] = True
        for word in ("Ġacknowledge", "Hello", "Ċ"):
            file["model"]["vocab"].setdefault(word, len(file["model"]["vocab"]))
        file["added_tokens"][0]["id"] = len(file["model"]["vocab"])
        if post == "template":
            file["post_processor"]["processors"][1]["special_tokens"]["<|end|>"]["ids"] = [len(file["model"]["vocab"])]

    return edit(tokenizer, whole_words) if ignores_merges else tokenizer


def split(expression, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(expression), behavior, invert)


def last_byte_level(**options):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, **options)


def clip():
    tokenizer = byte_level([split(CLIP, "removed", True), last_byte_level()], "roberta", normalizers.Sequence([
        normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]), unk_token="<|end|>", end_of_word_suffix="</w>")
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def find_field(message, wanted):
    """The bytes of a length-delimited field of a protocol buffer."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 2:
            size = varint()
            at += size
            if tag >> 3 == wanted:
                return message[at - size:at]
        elif tag & 7 == 0:
            varint()
        else:
            at += 8 if tag & 7 == 1 else 4


def train_sentencepiece(**options):
    """A tokenizer.model with a few normalization rules, the longest of two characters."""
    import sentencepiece

    rules = {"ﬁ": "fi", "ﬀ": "ff", "℃": "°C", "½": "1/2", "Ａ": "A", "e\u0301": "é", "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ", "ß": "ss", "\u0301": "´", "東": "东", "\u00ad": ""}
    options = {"normalization_rule_tsv": "rules"} | options
    table = HERE / "rules.tsv"
    table.write_text("".join(" ".join(f"{ord(c):X}" for c in source) + "\t" + " ".join(f"{ord(c):X}" for c in target) + "\n" for source, target in rules.items()))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines()), model_writer=model, character_coverage=0.98, minloglevel=2, **(options | {"normalization_rule_tsv": str(table) if options["normalization_rule_tsv"] else ""}))
    finally:
        table.unlink()
    return model.getvalue()


def charsmap():
    return find_field(find_field(train_sentencepiece(vocab_size=400), 3), 2)  # ModelProto.normalizer_spec.precompiled_charsmap


def t5():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap()), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    tokenizer.decoder = decoders.Metaspace()
    train(tokenizer, "unigram", 600, ["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    return tokenizer


def albert():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Nmt()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    train(tokenizer, "unigram", 500, ["<unk>", *(f"<0x{b:02X}>" for b in range(256))], unk_token="<unk>")

    def fall_back(file):
        file["model"]["byte_fallback"] = True
        file["added_tokens"] = []

    tokenizer = edit(tokenizer, fall_back)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


def bert(**normalizer):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    train(tokenizer, "wordpiece", 700, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], limit_alphabet=300)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tokenizer


def words():
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.CharDelimiterSplit("x")])
    train(tokenizer, "wordlevel", 500, ["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def characters():
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(length=1)
    tokenizer.decoder = decoders.Fuse()
    return train(tokenizer, "wordlevel", 150, ["[UNK]", "|"])


def bpe_words():
    """BPE over words without bytes: a prefix within words, unknown characters one by one."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return train(tokenizer, "bpe", 600, ["[UNK]"], limit_alphabet=80, continuing_subword_prefix="##", end_of_word_suffix="</w>")


TOKENIZERS = {
    "llama2": lambda: sentencepiece_bpe("llama2"),
    "gemma": lambda: sentencepiece_bpe("gemma"),
    "mistral": lambda: sentencepiece_bpe("mistral"),
    "llama3": lambda: byte_level([split(LLAMA3), last_byte_level()], "template", ignores_merges=True),
    "qwen2": lambda: byte_level([split(QWEN2), last_byte_level()], normalizer=normalizers.NFC()),
    "tekken": lambda: byte_level([split(TEKKEN), last_byte_level()]),
    "deepseek": lambda: byte_level([split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), last_byte_level()]),
    "falcon": lambda: byte_level([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(), split("[0-9][0-9][0-9]")]),
    "starcoder": lambda: byte_level([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "clip": clip,
    "t5": t5,
    "albert": albert,
    "bert": bert,
    "bert-cased": lambda: bert(lowercase=False, clean_text=True, handle_chinese_chars=False, strip_accents=None),
    "words": words,
    "characters": characters,
    "bpe-words": bpe_words,
}


SYMBOLS = ["<|end|>", "[MASK]", "▁▁", "ing", "the", "1", "é"]
SENTENCEPIECE = {
    "sentencepiece-bpe": {"model_type": "bpe", "vocab_size": 700, "byte_fallback": True, "remove_extra_whitespaces": False, "normalization_rule_tsv": "", "normalization_rule_name": "identity"},
    "sentencepiece-unigram": {"model_type": "unigram", "vocab_size": 600, "normalization_rule_tsv": "", "normalization_rule_name": "identity"},
    "sentencepiece-symbols": {"model_type": "unigram", "vocab_size": 800, "byte_fallback": True, "user_defined_symbols": SYMBOLS},
    "sentencepiece-bpe-symbols": {"model_type": "bpe", "vocab_size": 800, "byte_fallback": True, "user_defined_symbols": SYMBOLS, "treat_whitespace_as_suffix": True},
    "sentencepiece-characters": {"model_type": "char", "vocab_size": 120},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--out", type=Path, default=HERE / "tokenizer")
    args = parser.parse_args()
    texts = {"texts": TEXTS, "often": OFTEN, "ranges": stable_ranges()}
    (args.out / "texts.json").write_text(json.dumps(texts, separators=(",", ":")) + "\n")
    for name in args.names or [*TOKENIZERS, *SENTENCEPIECE]:
        folder = args.out / name
        folder.mkdir(exist_ok=True)
        if name in SENTENCEPIECE:
            (folder / "tokenizer.model").write_bytes(train_sentencepiece(**SENTENCEPIECE[name]))
        else:
            (folder / "tokenizer.json").write_text(json.dumps(json.loads(TOKENIZERS[name]().to_str()), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        (folder / "expected.json").write_text(json.dumps(expect_of(folder, texts), separators=(",", ":")) + "\n")
        print(f"{name}: {sum(f.stat().st_size for f in folder.iterdir()):,} bytes", flush=True)


if __name__ == "__main__":
    main()
