# SPDX-License-Identifier: Apache-2.0
"""The package's one exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Error(ValueError):
    """A refused argument, file or request.

    The message is one sentence that names the argument, its value, the rule it breaks and the way out. It is raised
    before any output is written.
    """


@contextmanager
def _as_error() -> Iterator[None]:
    try:
        yield
    except Error:
        raise
    except (ValueError, RuntimeError) as error:
        message = str(error)
        start = message.find("vmoba: ")
        if start < 0:
            raise
        raise Error(message[start:].split("\n", 1)[0]) from None


def call(operator: Callable[..., Any], *arguments: Any) -> Any:
    """operator(*arguments), its refusals raised as Error. While torch.compile traces, the operator alone."""
    if torch.compiler.is_compiling():
        return operator(*arguments)
    with _as_error():
        return operator(*arguments)
