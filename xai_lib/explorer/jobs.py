"""A computation on a thread of its own that counts the images sent through networks and can be cancelled.

Explainers do not ask whether they should go on. But all of them send images through modules of torch, and torch calls
hooks before and after each: there a cancelled job raises `Cancelled`, and the explainer's own clearing up does the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.nn.modules import module as modules

T = TypeVar("T")


class Cancelled(BaseException):
    """Raised in a cancelled job at its next forward pass; no `Exception`, so that no method takes it for its own."""


class Job(threading.Thread, Generic[T]):
    """`work()` on a thread, once `turn` is free: jobs that share a network take turns.

    `calls`: images that went forward so far. Afterwards `result` holds what came back, None if cancelled, and `failure`
    what was raised.
    """

    def __init__(self, work: Callable[[], T], turn: threading.Lock | None = None) -> None:
        super().__init__(daemon=True)  # a kernel that is shut down does not wait for it
        self._work, self._turn = work, turn or threading.Lock()
        self._asked = threading.Event()
        self._depth = 0
        self.calls = 0
        self.result: T | None = None
        self.failure: Exception | None = None

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called; the thread may still be on its way to the next forward pass."""
        return self._asked.is_set()

    def cancel(self) -> None:
        """Ask to stop; does not wait."""
        self._asked.set()

    def run(self) -> None:
        with self._turn:
            before = modules.register_module_forward_pre_hook(self._before)
            after = modules.register_module_forward_hook(self._after, always_call=True)
            try:
                if not self.cancelled:
                    self.result = self._work()
            except Cancelled:
                pass
            except Exception as error:
                self.failure = error
            finally:
                before.remove()
                after.remove()

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if threading.get_ident() != self.ident:  # hooks are the whole process's: other threads go on undisturbed
            return
        if self.cancelled:
            raise Cancelled
        if self._depth == 0 and inputs and isinstance(inputs[0], Tensor):
            self.calls += len(inputs[0])
        self._depth += 1

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if threading.get_ident() == self.ident:
            self._depth -= 1
