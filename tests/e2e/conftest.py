import subprocess
import sys

import pytest
from toys import TINY

from fastgan.cli import main


@pytest.fixture
def fastgan(monkeypatch, capsys):
    """Run a command in this process; its exit code and what it printed come back."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fastgan", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", "--run-dir", folder, "--steps", "4", "--set", *TINY]
    done = subprocess.run(["fastgan", *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder
