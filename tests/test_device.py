"""Freed memory is kept where the C library can do so; errors of too little memory are recognised."""

import ctypes
import platform
import sys

import pytest
import torch

from instseg.device import keep_freed_memory, ran_out


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has the setting")
def test_malloc_accepts_the_setting() -> None:
    assert keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_too_little_memory_is_known_and_nothing_else() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**15)
    why = ran_out(error.value)
    assert why is not None and why.startswith("can't allocate memory: you tried to allocate 4000000000000000 bytes")
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory.\nSee the manual")) == "CUDA out of memory."
    assert ran_out(MemoryError()) == "no memory left"
    assert ran_out(RuntimeError("shapes don't match")) is None
    assert ran_out(ValueError("can't allocate memory")) is None
