"""A real Chromium without a window: scripts, waiting, and a network that goes and comes back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(folder: Path, *more: str) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own in this folder; `more`: flags."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, *more, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def run(browser: webdriver.Chrome, script: str) -> Any:
    """Run a script in the page; what it returns."""
    return browser.execute_script(script)  # type: ignore[no-untyped-call]


def until(browser: webdriver.Chrome, script: str, seconds: float = 25) -> None:
    """Until the expression is true in the page. Raises TimeoutException."""
    WebDriverWait(browser, seconds, 0.05).until(lambda b: run(b, f"return {script}"))


def network(browser: webdriver.Chrome, *, offline: bool) -> None:
    """The browser can make no connections, and knows it; or can again. Open ones are not touched."""
    browser.execute_cdp_cmd("Network.enable", {})
    rates = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": offline, **rates})
