"""The state of all random generators, taken and brought back."""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


def random_state(generators: Iterable[torch.Generator] = ()) -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's generators, and of these, in types a checkpoint can hold."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else [],
        "own": [generator.get_state() for generator in generators],
    }


def set_random_state(state: dict[str, Any], generators: Iterable[torch.Generator] = ()) -> None:
    """Bring all generators to what :func:`random_state` returned."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
    if state["mps"] and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"][0])
    for generator, own in zip(generators, state["own"], strict=True):
        generator.set_state(own)
