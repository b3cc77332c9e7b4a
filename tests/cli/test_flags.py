"""Holds the flags that --help names against the tests that show what each of them does."""

import unittest

import support
import test_calibrated
import test_checkpoints
import test_commands
import test_compress
import test_distill
import test_experts
import test_fail_closed
import test_generate
import test_gguf
import test_grids
import test_heal
import test_imatrix
import test_judge
import test_output
import test_prune
import test_quantize
import test_structured
import test_transform
from support import COVERED, EVERY
from test_commands import long_flags

FILES = (test_calibrated, test_checkpoints, test_commands, test_compress, test_distill, test_experts, test_fail_closed, test_generate, test_gguf, test_grids, test_heal, test_imatrix, test_judge, test_output, test_prune, test_quantize, test_structured, test_transform)


class Flags(unittest.TestCase):
    def test_every_flag_has_a_test(self):
        for command in EVERY.split():
            with self.subTest(command):
                flags = long_flags(command)
                self.assertIn("--help", flags)
                self.assertEqual([f for f in flags if (command, f) not in COVERED], [], "flags without a test")
                self.assertEqual([f for c, f in COVERED if c == command and f not in flags], [], "tests of flags that are gone")

    def test_the_marks_are_on_tests_that_run(self):
        tests = {f"{name}.{method}" for file in FILES for name, case in vars(file).items() if isinstance(case, type) and issubclass(case, unittest.TestCase) for method in dir(case) if method.startswith("test_")}
        self.assertEqual({test for marks in COVERED.values() for test in marks} - tests, set())


if __name__ == "__main__":
    support.main()
