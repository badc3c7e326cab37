"""The built-in page in a real browser: type, start, see tokens, cancel, see the state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from support.gateway import Gateway, start_gateway

pytestmark = pytest.mark.edge

CONFIG = """
backends: {demo: {driver: demo}}
routes: [{model: "*", to: demo}]
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    running = start_gateway(CONFIG)
    yield running
    running.stop()


def text(browser: webdriver.Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).text


def test_start_and_cancel(browser: webdriver.Chrome, gateway: Gateway) -> None:
    """If the page, its policy, the stream or the cancel is broken, a newcomer's first minute is."""
    browser.get(f"{gateway.url}/")
    box = browser.find_element(By.ID, "message")
    box.clear()
    box.send_keys("Tell me a story.")
    browser.find_element(By.ID, "start").click()
    wait = WebDriverWait(browser, 10)
    wait.until(lambda b: len(text(b, "output").split()) >= 3)
    first = text(browser, "output")
    wait.until(lambda b: len(text(b, "output")) > len(first))
    browser.find_element(By.ID, "cancel").click()
    wait.until(lambda b: "cancelled" in text(b, "state").lower())
    after = text(browser, "output")
    assert after.startswith(first)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]
