"""The Debian package: `cpack` makes it, it unpacks, its program runs, and what it depends on is here.

    python3 tests/package_test.py BUILD_DIR CPACK
"""

import gzip
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def run(*args, **options):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, args))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main():
    build, cpack = sys.argv[1:]
    if not all(shutil.which(tool) for tool in ("dpkg-deb", "dpkg-shlibdeps", "dpkg-query")):
        print("skipped: Debian's packaging tools are not here")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        run(cpack, "--config", Path(build) / "CPackConfig.cmake", "-B", folder)
        package, = Path(folder).glob("llmc_*.deb")
        root = Path(folder) / "root"
        run("dpkg-deb", "--extract", package, root)
        fields = {key: run("dpkg-deb", "--field", package, key).strip() for key in ("Package", "Version", "Architecture", "Depends")}
        assert fields["Package"] == "llmc", fields
        assert all(name in fields["Depends"] for name in ("libtbb", "libc6", "libpcre2")), fields
        for dependency in fields["Depends"].split(","):
            names = [alternative.split()[0].split(":")[0] for alternative in dependency.split("|")]
            assert any(subprocess.run(["dpkg-query", "--status", name], capture_output=True).returncode == 0 for name in names), f"{dependency} is not installed"
        program = root / "usr/bin/llmc"
        assert run(program, "--version") == f"llmc {fields['Version']}\n", fields
        assert gzip.decompress((root / "usr/share/man/man1/llmc.1.gz").read_bytes()).decode() == run(program, "manual")
        source = Path(__file__).resolve().parents[1]
        assert gzip.decompress((root / "usr/share/doc/llmc/changelog.gz").read_bytes()) == (source / "CHANGELOG.md").read_bytes(), "the changelog is that of the last build"
        assert (root / "usr/share/doc/llmc/copyright").read_bytes() == (source / "LICENSE").read_bytes()
        longest = max(run("dpkg-deb", "--field", package, "Description").splitlines(), key=len)
        assert len(longest) <= 80, longest
        for file in ("bash-completion/completions/llmc", "zsh/site-functions/_llmc", "fish/vendor_completions.d/llmc.fish", "doc/llmc/README.md", "doc/llmc/docs/evaluation.md"):
            assert (root / "usr/share" / file).stat().st_size > 0, file
        print(f"{package.name}: {package.stat().st_size} bytes, depends on {fields['Depends']}")


main()
