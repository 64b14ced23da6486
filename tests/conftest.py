"""How the tests run: in several processes, whole files each; those that measure come first, apart from all others.

`-n 0` runs them in one process, for a debugger or for `-s`.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import signal
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from hypothesis import settings

from tests import forks, postgres, stores
from tests.alone import Company, Room, Visitor

# Containers often set this variable. Then nothing keeps compiled modules, so every process that a test starts compiles
# Relay (0.3 s of CPU), and every worker compiles the tests (5 s).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A script's background job ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
VISITOR = Visitor(Room(gate=HERE / "__init__.py", timed=HERE / "alone.py", others=Path(__file__)))
"""Every process of each run of this checkout locks the same files."""
COLLECTIONS = sorted(HERE.glob("test_*.py"))
"""As many processes collect as there are processors, each with one of these files locked. The first of them compile the
tests for the others."""
SPARE_WORKERS = 6
"""More processes than processors: a test waits for sockets, disks and deadlines about half of its time."""
QUICK_SPARE_WORKERS = 1
"""The same without the slow tests: the others wait little, and each process takes 4 s of CPU to import them."""
EXAMPLE_SECONDS = 0.2
"""Seconds of its thread that an example of Hypothesis may take after the first, unless its test says `deadline=None`."""
EXAMPLE_LIMIT = timedelta(seconds=10)
"""The deadline of Hypothesis itself, which counts the time that other processes run, and the first import of a module."""
LATE = 0.95
"""The share of all files after which they are short, so that a test which waits for others waits for a second at most."""
STAND_IN = "stand_in"
"""The property in which a test records the stand-in that it used, and why."""
GROUP_FRAMES = 8
"""Calls that are shown of each error in an exception group: the last ones."""
SLOW_SECONDS = 1.0
"""A test that takes longer is reported if it is not marked `slow`. The mark is for tests from 0.15 s on an idle machine."""
QUICK_SECONDS = 0.02
"""A test that is not marked takes about as long."""


settings.register_profile("relay", deadline=EXAMPLE_LIMIT)
settings.load_profile("relay")


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for a few files that are named, else a little more than there are processors."""
    if all("::" in name or name.endswith(".py") for name in config.args):
        return 0
    spare = QUICK_SPARE_WORKERS if config.option.markexpr == "not slow" else SPARE_WORKERS
    return len(os.sched_getaffinity(0)) + spare


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mix files that mostly wait with files that mostly compute, the longest first. Before them come those that measure."""
    slow: dict[Path, float] = defaultdict(float)
    quick: dict[Path, float] = defaultdict(float)
    for item in items:
        if (mark := item.get_closest_marker("slow")) is not None:
            slow[item.path] += mark.args[0] if mark.args else SLOW_SECONDS
        else:
            quick[item.path] += QUICK_SECONDS
    begins = _begins({path: took for path, took in quick.items() if path not in slow}) | _begins(slow)
    companies: dict[Path, list[Company]] = defaultdict(list)
    for item in items:
        companies[item.path].append(_company(item))
    timed = {path: slow[path] for path, found in companies.items() if min(found) > Company.ANY}
    first = {path: float(place - len(timed)) for place, path in enumerate(_for_processes(timed))}
    late = {path: max(begins[path], LATE) for path, found in companies.items() if max(found) > min(found)}
    turns = {**begins, **late, **first}  # `begins` is 0 at least, `first` is less
    items.sort(key=lambda item: turns[item.path])


def _for_processes(seconds: Mapping[Path, float]) -> list[Path]:
    """Return files so that all processes end them at about the same time: each is given one in turn, then one more.

    The process with the shortest of the first is the first to be given another.
    """
    longest = sorted(seconds, key=lambda path: -seconds[path])
    number = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return [*reversed(longest[:number]), *longest[number:]]


def _company(item: pytest.Item) -> Company:
    if item.get_closest_marker("alone") is not None:
        return Company.NONE
    return Company.ANY if item.get_closest_marker("timed") is None else Company.TIMED


def _begins(seconds: Mapping[Path, float]) -> dict[Path, float]:
    """Return when each file begins if they run one after the other, the longest first: 0 is the start, 1 the end."""
    begins: dict[Path, float] = {}
    total = sum(seconds.values())
    before = 0.0
    for path in sorted(seconds, key=lambda path: -seconds[path]):
        begins[path] = before / total
        before += seconds[path]
    return begins


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the tests and all that they import from the garbage collector, which would examine them for 130 ms each time."""
    gc.disable()
    try:
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        with COLLECTIONS[worker % len(os.sched_getaffinity(0)) % len(COLLECTIONS)].open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Let a test that measures run while no other test does that could disturb it."""
    VISITOR.enter(_company(item))
    try:
        return (yield)
    finally:
        VISITOR.leave(_company(item), None if nextitem is None else _company(nextitem))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Bound the time of each example of Hypothesis. It calls `inner_test` for each, which pytest-trio has replaced by now."""
    given = getattr(pyfuncitem.obj, "hypothesis", None)
    if given is not None and not hasattr(given.inner_test, "bounded"):
        given.inner_test = _bounded(given.inner_test)
    return (yield)


def _bounded(example: Callable[..., None]) -> Callable[..., None]:
    is_first = True  # it imports modules, and builds what is built once

    @functools.wraps(example)
    def run(*args: object, **kwargs: object) -> None:
        nonlocal is_first
        began = time.thread_time()
        example(*args, **kwargs)
        took = time.thread_time() - began
        assert is_first or took < EXAMPLE_SECONDS or settings().deadline is None, f"an example took {took:.2f} s"
        is_first = False

    run.bounded = True  # type: ignore[attr-defined]
    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the errors at the bottom of exception groups: Python prints ten levels, and a server in a test has more."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, BaseExceptionGroup):
        for error in _errors_in(call.excinfo.value):
            lines = traceback.format_exception(
                type(error), error, error.__traceback__, limit=-GROUP_FRAMES, chain=False
            )
            report.sections.append(("an error in the groups", "".join(lines)))
    return report


def _errors_in(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _errors_in(error)
        else:
            if isinstance(error.__context__, BaseExceptionGroup):  # it came up while these were handled
                yield from _errors_in(error.__context__)
            if not isinstance(error, trio.Cancelled):
                yield error


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that had to use a stand-in, and those that are slow and do not say so."""
    _name_stand_ins(terminalreporter)
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and "slow" not in report.keywords:
                seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
    unmarked = sorted((took, nodeid) for nodeid, took in seconds.items() if took > SLOW_SECONDS)
    if unmarked:
        terminalreporter.section(f"slower than {SLOW_SECONDS:g} s and not marked slow")
        for took, nodeid in reversed(unmarked):
            terminalreporter.line(f"{took:6.2f} s  {nodeid}")


def _name_stand_ins(terminalreporter: pytest.TerminalReporter) -> None:
    stand_ins = {
        f"{report.nodeid}: {text}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
        for name, text in report.user_properties
        if name == STAND_IN
    }
    if stand_ins:
        terminalreporter.section("tested with a stand-in, because this machine does not permit the real part")
        for line in sorted(stand_ins):
            terminalreporter.line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch."""
    parser.addoption(
        "--store",
        choices=stores.STORES,
        default=os.environ.get("RELAY_TEST_STORE", "sqlite"),
        help="The database of servers in tests. Tests of SQLite itself always run on SQLite.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that is marked so on each kind of database."""
    marked = metafunc.definition.get_closest_marker
    if marked("each_store") is not None and marked("sqlite") is None:
        metafunc.parametrize("store", stores.STORES, indirect=True)


@pytest.fixture(autouse=True)
def store(request: pytest.FixtureRequest) -> str:
    """The kind of database of the test."""
    name = str(getattr(request, "param", request.config.getoption("store")))
    if request.node.get_closest_marker("sqlite") is not None:
        name = "sqlite"
    stores.use(name)
    return name


@pytest.fixture(autouse=True, scope="session")
def _shared_processes_end() -> Iterator[None]:
    yield
    postgres.close_shared_server()
    forks.close()
