"""Fails when a file includes a folder above its own, or a library that only one folder may know."""
import pathlib
import re
import sys

ORDER = ["core", "formats", "model", "calib", "verify", "passes", "plan", "cli"]
ONLY_IN = {"CLI/": ["cli"], "yaml-cpp/": ["passes"], "Eigen/": ["model", "passes"], "dnnl": ["model"], "hwy/": ["model", "passes"], "tbb/": ["core"]}
ORACLE_MAY_NOT = ("model/forward.h", "model/linear.h", "model/kernels.h", "core/parallel.h", "Eigen/", "dnnl", "tbb/")

root = pathlib.Path(sys.argv[1])
problems = []
for rank, folder in enumerate(ORDER):
    for path in sorted(root.joinpath(folder).rglob("*")):
        if path.suffix not in (".h", ".cc"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
            if not match:
                continue
            included, where = match.group(1), f"{path.relative_to(root)}:{number}"
            top = included.split("/")[0]
            if top in ORDER and ORDER.index(top) > rank:
                problems.append(f"{where}: {folder}/ includes {included}, which is above it")
            for library, allowed in ONLY_IN.items():
                if included.startswith(library) and folder not in allowed:
                    problems.append(f"{where}: <{included}> belongs to {', '.join(allowed)}")
            if path.stem == "oracle" and included.startswith(ORACLE_MAY_NOT):
                problems.append(f"{where}: the oracle must stay independent of {included}")
            if "nlohmann/json.hpp" in included and path.suffix == ".h" and rank < ORDER.index("formats"):
                problems.append(f"{where}: the full JSON header does not belong in a low header")
print("\n".join(problems) or f"{len(ORDER)} folders in order")
sys.exit(1 if problems else 0)
