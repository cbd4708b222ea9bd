"""Limits the threads of NumPy's and SciPy's BLAS, which only slow small optimizations down."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


@functools.cache
def _controller() -> ThreadpoolController:
    import numpy as np  # noqa: F401 - loads its BLAS
    import scipy.linalg  # noqa: F401

    return ThreadpoolController().select(user_api="blas")


def one_blas_thread() -> AbstractContextManager[object]:
    """Return a context in which NumPy and SciPy call BLAS in one thread.

    L-BFGS calls BLAS thousands of times for a few hundred numbers each. BLAS threads spin while they wait for
    the next call, which takes many times the time of the calls if other processes use the cores. In one
    thread, the result does not depend on the number of cores either. PyTorch's own threads are not affected.
    If blocks of several Python threads overlap, the limit may remain after the last one.

    >>> from threadpoolctl import threadpool_info
    >>> with one_blas_thread():
    ...     {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    {1}
    """
    context: AbstractContextManager[object] = _controller().limit(limits=1)
    return context
