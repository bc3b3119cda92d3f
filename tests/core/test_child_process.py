"""Children that answer, die, hang or print, and children whose starter is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.core.child_process import ChildDiedError, Children, ask

HEAD = "import os, signal, sys, time\nfrom bench.core.child_process import Starter, answer_one\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module that a child can run, and gives its name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))

    def write(body: str) -> str:
        (tmp_path / "made_for_a_test.py").write_text(HEAD + body)
        return "made_for_a_test"

    return write


def test_an_answer_is_not_mixed_with_what_is_printed(module) -> None:
    body = "print('early')\ndef twice(n):\n  print('noise'); os.system('echo more'); return 2 * n\n"
    assert ask(module(body + "answer_one(twice)"), "é" * 100_000) == "é" * 200_000
    assert ask(module(body + "answer_one(lambda n: None)"), 1) is None


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        (
            "os.kill(os.getpid(), signal.SIGRTMIN + 3)",
            f"was killed by signal {signal.SIGRTMIN + 3}",
        ),
        ("sys.exit(7)", "ended with status 7"),
        ("raise KeyError('gone')", "ended with status 1"),
    ],
)
def test_a_death_is_named_with_the_last_lines(module, body: str, how: str) -> None:
    with pytest.raises(ChildDiedError) as caught:
        ask(module(f"for n in range(20): print('line', n, file=sys.stderr, flush=True)\n{body}"), 1)
    assert caught.value.how == how
    assert "line 19" in caught.value.hint
    assert "line 2\n" not in caught.value.hint
    assert caught.value.hint.startswith("most often memory ran out") == ("SIGKILL" in how)


def test_one_that_takes_too_long_is_ended(module) -> None:
    begun = time.monotonic()
    body = "def slow(_):\n  print('thinking'); sys.stdout.flush(); time.sleep(60)\nanswer_one(slow)"
    with pytest.raises(ChildDiedError, match="gave no answer in 1 s\nthinking"):
        ask(module(body), 1, timeout_s=1.0)
    assert time.monotonic() - begun < 10


def test_the_last_messages_of_the_dead_arrive(module) -> None:
    body = "s = Starter()\nfor n in range(20_000): s.send({'n': n})\nos._exit(3)"
    with Children(module(body)) as children:
        child, seen = children.start(), []
        while not child.is_dead:
            seen += [message["n"] for _, message in children.listen(0.1)]
        seen += [message["n"] for message in child.read()]
        assert seen == list(range(20_000))
        assert child.how == "ended with status 3"


def test_none_is_left_when_the_context_ends(module) -> None:
    """Not the idle, who see the end of their input, nor one that has stopped to look."""
    name = module("s = Starter(); s.send(1)\nif s.messages.get(): os.kill(os.getpid(), 19)")
    with Children(name, grace_s=0.5) as children:
        processes = [children.start() for _ in range(2)]
        heard: list[object] = []
        while len(heard) < 2:
            heard += children.listen(1.0)
        processes[0].send("stand still")
        time.sleep(0.2)
    assert [child.how for child in processes] == ["was killed by SIGKILL", "ended with status 1"]


def test_a_child_ends_with_its_starter(module, tmp_path: Path) -> None:
    name = module(
        "open(f'{sys.path[0]}/pid-' + str(os.getpid()), 'w').close(); Starter()\ntime.sleep(60)"
    )
    code = (
        "import os, time; from bench.core.child_process import Children\n"
        f"from pathlib import Path\nfolder = Path({str(tmp_path)!r})\n"
        f"Children({name!r}).start()\n"
        "while not list(folder.glob('pid-*')): time.sleep(0.05)\n"
        "time.sleep(0.3); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", code], check=False, env=environment, cwd=tmp_path)
    (number,) = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    deadline = time.monotonic() + 10
    while Path(f"/proc/{number}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{number}").exists()
