#!/usr/bin/env python3
"""Writes calib/unicode_scripts.h, the script of every character as Hugging Face's pre-tokenizer UnicodeScripts has it.

    python make_unicode_scripts.py > ../../calib/unicode_scripts.h

The library (tokenizers 0.23.3) is asked: which characters it drops from the start of a text have no script (its tables are older than those
of most else here), and which it does not cut from a character of a script are of that script.
"""

from tokenizers import pre_tokenizers

PRE_TOKENIZER = pre_tokenizers.UnicodeScripts()


def are_joined(text):
    return len(PRE_TOKENIZER.pre_tokenize_str(text)) == 1


def main():
    found = []  # one character of each script
    ranges = []  # [first, script], to the next
    for value in range(0x110000):
        character = "" if 0xD800 <= value <= 0xDFFF else chr(value)
        script = 0
        if character and PRE_TOKENIZER.pre_tokenize_str(character):
            last = ranges[-1][1] if ranges else 0
            near = ([last] if last else []) + list(range(1, len(found) + 1))
            script = next((s for s in near if are_joined(found[s - 1] + character)), 0)
            if not script:
                found.append(character)
                script = len(found)
        if not ranges or ranges[-1][1] != script:
            ranges.append([value, script])
    print("// Owns the script of every character, as Hugging Face's UnicodeScripts has it; made by tests/golden/make_unicode_scripts.py.")
    print("#pragma once\n\n#include <array>\n#include <cstdint>\n\nnamespace llmc {\n")
    print("struct ScriptRange {\n  uint32_t first = 0;  ///< to the first of the next\n  uint8_t script = 0;  ///< 0: none, which joins all\n};\n")
    print(f"inline constexpr std::array<ScriptRange, {len(ranges)}> script_ranges = {{{{")
    entries = [f"{{0x{first:X}, {script}}}," for first, script in ranges]
    for i in range(0, len(entries), 10):
        print("    " + " ".join(entries[i:i + 10]))
    print("}};\n\n}  // namespace llmc")


if __name__ == "__main__":
    main()
