"""A pytest plugin that prints one line a test, in the form tests/run.sh counts, and all there is to say of failures."""

import io

import pytest
from _pytest.terminal import TerminalReporter


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """pytest's own report, which assertions ask for its colours, goes nowhere."""
    config.pluginmanager.unregister(name="terminalreporter")
    config.pluginmanager.register(TerminalReporter(config, io.StringIO()), "terminalreporter")


def _say(mark, name, detail=""):
    print(f"{mark} - {name}" + (f": {detail}" if detail else ""), flush=True)


def _indented(text):
    print("\n".join("    " + line for line in str(text).splitlines()), flush=True)


def _failed(report, name):
    _say("not ok", name)
    _indented(report.longreprtext)
    for title, content in report.sections:
        _indented(f"{title}\n{content}")


def pytest_runtest_logreport(report):
    """A test is what its call says; a set-up or tear-down that fails counts by itself."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _say("skip", report.nodeid, report.longrepr[2] if isinstance(report.longrepr, tuple) else "")
    elif report.failed:
        _failed(report, report.nodeid + ("" if report.when == "call" else f" ({report.when})"))
    elif report.when == "call":
        _say("ok", report.nodeid)


def pytest_collectreport(report):
    """Files that cannot be read fail; files that skip themselves say so."""
    if report.failed:
        _failed(report, report.nodeid or "collection")
    elif report.skipped:
        _say("skip", report.nodeid, report.longrepr[2] if isinstance(report.longrepr, tuple) else "")
