"""What the peers' scripts share: the job that compare.py hands them, and how their seconds go back."""

import json
import pathlib


def read_job(path):
    return json.loads(pathlib.Path(path).read_text())


def write_result(job, seconds):
    pathlib.Path(job["result"]).write_text(json.dumps({"compress_seconds": seconds}))
