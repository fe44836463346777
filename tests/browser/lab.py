"""A real JupyterLab and a headless Chromium on it, for tests that use a notebook as a reader does."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

T = TypeVar("T")
PATIENCE = 300  #: seconds for one step; some tens of them on a loaded machine
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
    "--window-size=1440,1100",
)  # fmt: skip
SERVER = (
    "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
    "--ServerApp.password=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
)  # fmt: skip


def missing() -> str:
    """What these tests need and this machine lacks, "" if nothing."""
    lacking = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


class Lab:
    """JupyterLab on `folder` (`put` notebooks there), seen through `driver`."""

    def __init__(self, folder: Path, url: str, driver: webdriver.Chrome) -> None:
        self.folder, self.url, self.driver = folder, url, driver

    def open(self, notebook: str) -> None:
        """Open a notebook of the folder and wait for its kernel."""
        self.driver.get(f"{self.url}/lab/tree/{notebook}?reset")
        self.until(self._ready, "cells and an idle kernel")

    def _ready(self) -> bool:
        if ask := self.find(".jp-Dialog .jp-mod-accept"):  # a notebook that names no kernel gets the one there is
            ask.click()
        wanted = (".jp-Cell", ".jp-Notebook-ExecutionIndicator[data-status=idle]", ".jp-Toolbar-kernelName")
        found = [self.find(css) for css in wanted]
        return all(each and each.is_displayed() for each in found) and "Python" in (found[-1].text if found[-1] else "")

    def run_all(self) -> None:
        """Run > Run All Cells; returns when the first has begun."""
        self.menu("Run", "Run All Cells")
        prompts = partial(self.driver.find_elements, By.CSS_SELECTOR, ".jp-CodeCell .jp-InputPrompt")
        self.until(lambda: any(prompt.text not in ("", "[ ]:") for prompt in prompts()), "a cell that runs")

    def menu(self, *words: str) -> None:
        """Choose from the menu bar as a reader would."""
        for place, word in zip(("lm-MenuBar-itemLabel", "lm-Menu-itemLabel"), words, strict=True):
            self.until(partial(self._choose_from, place, word), word)

    def _choose_from(self, place: str, word: str) -> bool:
        for entry in self.driver.find_elements(By.XPATH, f"//div[contains(@class, '{place}') and text()='{word}']"):
            if entry.is_displayed():
                entry.click()
                return True
        return False

    def find(self, css: str) -> WebElement | None:
        """The first element, if there is one."""
        return next(iter(self.driver.find_elements(By.CSS_SELECTOR, css)), None)

    def output(self, css: str) -> WebElement:
        """An element of an output, scrolled to: far cells are in the page only when they are near the window."""

        def look() -> WebElement | None:
            if failed := self.find(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr'] .ansi-red-fg"):
                raise AssertionError(failed.text)
            found = self.find(css)
            if not found:
                self.driver.execute_script(
                    "for (const e of document.querySelectorAll('.jp-WindowedPanel-outer')) e.scrollTop = e.scrollHeight"
                )
            return found

        element = self.until(look, css)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        return element

    def until(self, look: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
        """What `look` gives as soon as it is true; elements that are redrawn meanwhile are looked for again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(WebDriverException):
                if found := look():
                    return found
            time.sleep(0.25)
        raise AssertionError(f"waited {seconds} s for {what}; the page says:\n{self.text()[-3000:]}")

    def changes(self, look: Callable[[], T], act: Callable[[], Any], what: str) -> T:
        """What `look` gives after `act` has changed it."""
        before = look()
        act()
        return self.until(lambda: (new,) if (new := look()) != before else None, f"another {what} than {before!r:.80}")[0]

    def click_at(self, element: WebElement, across: float, down: float) -> None:
        """Click into an element, at fractions (0..1) of its width and height."""
        x, y = (across - 0.5) * element.size["width"], (down - 0.5) * element.size["height"]
        ActionChains(self.driver).move_to_element_with_offset(element, round(x), round(y)).click().perform()

    def choose(self, css: str, words: str) -> None:
        """Choose from a drop-down list of an output by what can be read there."""
        Select(self.output(css)).select_by_visible_text(words)

    def text(self) -> str:
        """All that can be read on the page."""
        body = self.find("body")
        return body.text if body else ""


@contextmanager
def running_lab(folder: Path, environment: dict[str, str] | None = None) -> Iterator[Lab]:
    """JupyterLab with settings of its own on `folder / "notebooks"`, and Chromium; both end with what they started."""
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false"}')  # or it asks, in front of what is to be clicked
    url, log = f"http://127.0.0.1:{port}", folder / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", *SERVER, f"--ServerApp.port={port}", f"--ServerApp.root_dir={notebooks}"]
    with log.open("wb") as file:
        env = {**os.environ, **own, **(environment or {})}
        server = subprocess.Popen(command, cwd=notebooks, env=env, stdout=file, stderr=file)
    try:
        with _chromium(folder / "profile") as driver:
            _wait_for(url, server, log)
            yield Lab(notebooks, url, driver)
    finally:
        _end(server)


@contextmanager
def _chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        with suppress(OSError), opener.open(f"{url}/api", timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()}")


def _end(server: subprocess.Popen[bytes]) -> None:
    """The server and its kernels, which lie in process groups of their own."""
    with suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    server.wait(30)
