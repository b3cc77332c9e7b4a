"""Files of a folder are compiled as one (cmake/unity.cmake), so no two of them may define the same name for themselves: of two functions
with different parameters the compiler would silently take the better match. Usage: distinct_names_test.py SOURCE_DIR"""

import re
import sys
from collections import defaultdict
from pathlib import Path

FOLDERS = ["core", "formats", "model", "calib", "verify", "passes", "plan", "cli", "tests"]
TYPE = re.compile(r"^(?:struct|class|enum class|union) (\w+)")
ALIAS = re.compile(r"^using (\w+) =")
FUNCTION = re.compile(r"^(?:\[\[\w+\]\] )?[\w:<>,&*\[\] ]+?[ &*](\w+)\((?!.*\)\s*;$)[^=]*$|^(?:\[\[\w+\]\] )?[\w:<>,&*\[\] ]+?[ &*](\w+)\(.*\) (?:const )?\{")
VALUE = re.compile(r"^(?:constexpr|const|static|inline|thread_local)\b[^()=]*?[ &*](\w+)(?:\[[^\]]*\])* ?[={]")


def own_names(path):
    """What the file's anonymous namespaces define at the start of a line: name → line."""
    names, inside = {}, False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line == "namespace {":
            inside = True
        elif line == "}  // namespace":
            inside = False
        elif inside and line[:1] not in ("", " ", "}", "/", "#"):
            for kind in (TYPE, ALIAS, VALUE, FUNCTION):
                if found := kind.match(line):
                    names[next(group for group in found.groups() if group)] = line
                    break
    return names


def main():
    source, wrong = Path(sys.argv[1]), []
    for folder in FOLDERS:
        by_folder = defaultdict(lambda: defaultdict(list))
        for path in sorted((source / folder).rglob("*.cc")):
            if "HWY_TARGET_INCLUDE" in path.read_text(encoding="utf-8"):
                continue  # compiled alone
            for name, line in own_names(path).items():
                by_folder[path.parent][name].append((path.name, line))
        for parent, names in by_folder.items():
            for name, places in sorted(names.items()):
                same_alias = ALIAS.match(places[0][1]) and len({line for _, line in places}) == 1
                if len(places) > 1 and not same_alias:
                    wrong.append(f"{parent.relative_to(source)}: {name} in {', '.join(file for file, _ in places)}")
    print("\n".join(wrong) or "all names are distinct")
    sys.exit(bool(wrong))


main()
